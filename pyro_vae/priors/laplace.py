"""The Laplace prior."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae._errors import positive_integer
from pyro_vae.priors.prior import Prior

__all__ = ["Laplace"]


class Laplace(Prior):
    r"""Creates a prior of independent Laplace variables, which favours a few large entries.

    .. math:: p(z) = \prod_i \tfrac12 e^{-|z_i|}

    References:
        Emergence of simple-cell receptive field properties by learning a sparse code for natural
        images (Olshausen and Field, 1996), https://doi.org/10.1038/381607a0

    Args:
        dim: Number of latent dimensions.

    Raises:
        ValueError: If ``dim`` is not a positive integer.

    Example:
        >>> Laplace(8)().event_shape
        torch.Size([8])
    """

    support = constraints.real_vector
    loc: Tensor
    scale: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.event_shape = torch.Size([positive_integer("dim", dim)])
        self.register_buffer("loc", torch.zeros(dim), persistent=False)
        self.register_buffer("scale", torch.ones(dim), persistent=False)

    def forward(self) -> Any:
        """Returns p(z), event shape ``(dim,)``."""
        return dist.Laplace(self.loc, self.scale).to_event(1)
