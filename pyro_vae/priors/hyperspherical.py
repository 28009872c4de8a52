"""The uniform prior on a sphere."""

from __future__ import annotations

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae._errors import expected, positive_integer
from pyro_vae.distributions import SphericalUniform
from pyro_vae.priors.prior import Prior

__all__ = ["Hyperspherical"]


class Hyperspherical(Prior):
    r"""Creates a uniform prior on the unit sphere, where no region is far from the others.

    .. math:: p(z) = \frac{\Gamma(d / 2)}{2 \pi^{d / 2}}, \quad z \in S^{d - 1}

    References:
        Hyperspherical Variational Auto-Encoders (Davidson et al., 2018),
        https://arxiv.org/abs/1804.00891

    Args:
        dim: Number of coordinates of z, d, one more than the sphere has dimensions.

    Raises:
        ValueError: If ``dim`` is not an integer of at least 2.

    Example:
        >>> z = Hyperspherical(3)().sample()
        >>> bool(torch.isclose(z.norm(), torch.tensor(1.0)))
        True
    """

    support = constraints.sphere
    loc: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        if positive_integer("dim", dim) < 2:
            raise expected("dim", "at least 2, since a sphere in one dimension is two points", dim)
        self.event_shape = torch.Size([dim])
        self.register_buffer("loc", torch.zeros(dim), persistent=False)

    def forward(self, cond: Tensor | None = None) -> Distribution:
        """Returns p(z), unit vectors, event shape ``(dim,)``."""
        return SphericalUniform(self.loc)
