"""The inverse autoregressive flow guide."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae._errors import positive_integer
from pyro_vae.distributions import Autoregressive, NormalizingFlow, positive
from pyro_vae.guides.guide import Guide

__all__ = ["Flow"]


class Flow(Guide):
    r"""Creates a guide by inverse autoregressive flow: a normal draw, carried on by maps.

    .. math:: z_0 \sim \mathcal{N}(\mu(x), \mathrm{diag}\,\sigma^2(x)), \quad
        z_t = m_t(z_{t-1}, h(x)) + s_t(z_{t-1}, h(x)) \odot z_{t-1}

    where the shift and the scale of an entry depend on the entries before it. The encoder ends in
    the mean, the raw scale, of which ``softplus(raw) + 1e-4`` is :math:`\sigma`, and the context h.
    A draw and its density take one pass through a network for each map; the density of another z
    takes as many as there are dimensions. The flow starts near the normal guide. Divergences are
    sampled, and the mean is that of 128 fixed points, carried on.

    References:
        Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
        https://arxiv.org/abs/1606.04934

    Args:
        dim: Number of latent dimensions.
        transforms: Number of maps, in alternating order of the entries.
        hidden: Widths of the hidden layers of the network of each map.
        context: Number of features h that the encoder gives to every map.

    Raises:
        ValueError: If a size is not positive.

    Example:
        >>> q = Flow(8)(torch.zeros(5, 32))
        >>> q.batch_shape, q.event_shape
        (torch.Size([5]), torch.Size([8]))
    """

    support = constraints.real_vector

    def __init__(
        self,
        dim: int,
        transforms: int = 2,
        hidden: Sequence[int] = (64, 64),
        context: int = 16,
    ) -> None:
        super().__init__()
        self.event_shape = torch.Size([positive_integer("dim", dim)])
        self.param_shape = torch.Size([2 * dim + positive_integer("context", context)])
        self.flow = Autoregressive(
            dim, context=context, transforms=transforms, hidden=hidden, spline=False
        )

    def forward(self, features: Tensor) -> Distribution:
        """Returns q(z|x) from features of shape ``(*, B, 2 * dim + context)``."""
        d = self.event_shape[0]
        loc, raw, context = features.split([d, d, features.shape[-1] - 2 * d], -1)
        base = dist.Normal(loc, positive(raw)).to_event(1)
        return NormalizingFlow(base, self.flow(context))
