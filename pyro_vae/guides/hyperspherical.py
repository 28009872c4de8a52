"""The guide on a sphere."""

from __future__ import annotations

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae._errors import expected, positive_integer
from pyro_vae.distributions import PowerSpherical, positive
from pyro_vae.guides.guide import Guide

__all__ = ["Hyperspherical"]

_START = 4.0  # with a raw concentration of 0 the mean has length 0.73


class Hyperspherical(Guide):
    r"""Creates a guide of directions: the power spherical distribution.

    .. math:: q(z \mid x) \propto \left(1 + \mu(x)^\top z\right)^{\kappa(x)},
        \quad z \in S^{d - 1}

    The encoder ends in a vector, whose direction is :math:`\mu` (the first axis, should it be
    zero), and a raw concentration; :math:`\kappa` is ``4 (d - 1) (softplus(raw) + 1e-4)``. Draws
    then start equally near to :math:`\mu` in any dimension, and inform the decoder.

    Nearly uniform draws hide x from the decoder, and where :math:`\kappa` is near zero the
    direction has no gradient that would bring it back: training that the KL brings there ends
    there. In more than a few dimensions give the KL time, by ``ELBO(warmup=500)`` for a short fit.

    References:
        The Power Spherical distribution (De Cao and Aziz, 2020), https://arxiv.org/abs/2006.04437
        Hyperspherical Variational Auto-Encoders (Davidson et al., 2018),
        https://arxiv.org/abs/1804.00891

    Args:
        dim: Number of coordinates of z, d, one more than the sphere has dimensions.

    Raises:
        ValueError: If ``dim`` is not an integer of at least 2.

    Example:
        >>> q = Hyperspherical(3)(torch.zeros(5, 4))
        >>> q.batch_shape, q.event_shape
        (torch.Size([5]), torch.Size([3]))
    """

    support = constraints.sphere
    first: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        if positive_integer("dim", dim) < 2:
            raise expected("dim", "at least 2, since a sphere in one dimension is two points", dim)
        self.event_shape = torch.Size([dim])
        self.param_shape = torch.Size([dim + 1])
        self.register_buffer("first", torch.eye(dim)[0], persistent=False)

    def forward(self, features: Tensor) -> Distribution:
        """Returns q(z|x) from features of shape ``(*, B, dim + 1)``."""
        vector, raw = features[..., :-1], features[..., -1]
        length = vector.square().sum(-1, keepdim=True)
        vector = torch.where(length > torch.finfo(length.dtype).tiny, vector, self.first)
        loc = vector / vector.norm(dim=-1, keepdim=True)
        return PowerSpherical(loc, _START * (vector.shape[-1] - 1) * positive(raw))
