"""The diagonal normal guide."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae._errors import positive_integer
from pyro_vae.distributions import diagonal_normal
from pyro_vae.guides.guide import Guide

__all__ = ["Normal"]


class Normal(Guide):
    r"""Creates a diagonal normal guide.

    .. math:: q(z \mid x) = \mathcal{N}(z \mid \mu(x), \mathrm{diag}\,\sigma^2(x))

    The encoder ends in ``loc`` and a raw scale; ``scale = softplus(raw) + 1e-4``.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014),
        https://arxiv.org/abs/1312.6114

    Args:
        dim: Number of latent dimensions.

    Raises:
        ValueError: If ``dim`` is not a positive integer.

    Example:
        >>> Normal(8)(torch.zeros(5, 16)).batch_shape
        torch.Size([5])
    """

    support = constraints.real_vector

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.event_shape = torch.Size([positive_integer("dim", dim)])
        self.param_shape = torch.Size([2 * dim])

    def forward(self, features: Tensor) -> Distribution:
        """Returns q(z|x) from features of shape ``(*, B, 2 * dim)``."""
        return diagonal_normal(features)
