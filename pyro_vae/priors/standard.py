"""What priors of independent standard variables have in common."""

from __future__ import annotations

from abc import abstractmethod

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae._errors import positive_integer
from pyro_vae.priors.prior import Prior

__all__ = ["Standard"]


class Standard(Prior):
    """Independent real variables of location 0 and scale 1; what follows is their distribution.

    Args:
        dim: Number of latent dimensions.

    Raises:
        ValueError: If ``dim`` is not a positive integer.
    """

    support = constraints.real_vector
    loc: Tensor
    scale: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.event_shape = torch.Size([positive_integer("dim", dim)])
        self.register_buffer("loc", torch.zeros(dim), persistent=False)
        self.register_buffer("scale", torch.ones(dim), persistent=False)

    @abstractmethod
    def entries(self) -> TorchDistributionMixin:
        """Returns the distribution of single entries, batch shape ``(dim,)``."""

    def forward(self, cond: Tensor | None = None) -> Distribution:
        """Returns p(z), event shape ``(dim,)``."""
        return self.entries().to_event(1)
