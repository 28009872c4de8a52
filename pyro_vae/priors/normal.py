"""The standard normal prior."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae._errors import positive_integer
from pyro_vae.priors.prior import Prior

__all__ = ["Normal"]


class Normal(Prior):
    r"""Creates a standard normal prior.

    .. math:: p(z) = \mathcal{N}(z \mid 0, I)

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014),
        https://arxiv.org/abs/1312.6114

    Args:
        dim: Number of latent dimensions.

    Raises:
        ValueError: If ``dim`` is not a positive integer.

    Example:
        >>> Normal(8)().event_shape
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
        return dist.Normal(self.loc, self.scale).to_event(1)
