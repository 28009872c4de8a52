"""A small network that makes a normal distribution of a vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.distributions import diagonal_normal, inverse_positive
from pyro_vae.networks.mlp import MLP

__all__ = ["NormalGiven"]


class NormalGiven(nn.Module):
    """A diagonal normal distribution whose parameters a small network makes of a vector.

    It starts near the standard normal distribution, whatever the vector.

    Args:
        size: Entries of the vector.
        dim: Entries of the normal variable.
        hidden: Widths of the network's hidden layers.
    """

    def __init__(self, size: int, dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.size = size
        self.network = MLP(hidden)
        self.network.build((size,), (2 * dim,))
        start = torch.zeros(2, dim)
        start[1] = inverse_positive(torch.ones(dim))
        self.network.start_at(start)

    def forward(self, vector: Tensor) -> Distribution:
        """Returns the distribution given vectors ``(*, size)``, batch shape ``(*)``."""
        flat = self.network(vector.reshape(-1, vector.shape[-1]))
        return diagonal_normal(flat.reshape(*vector.shape[:-1], -1))
