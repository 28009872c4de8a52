"""The normal guide with a full covariance."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae._errors import positive_integer
from pyro_vae.distributions import positive
from pyro_vae.guides.guide import Guide

__all__ = ["FullNormal"]


class FullNormal(Guide):
    r"""Creates a normal guide whose entries may vary together.

    .. math:: q(z \mid x) = \mathcal{N}(z \mid \mu(x), L(x) L(x)^\top)

    The encoder ends in the mean, the raw diagonal of the lower triangular L, of which
    ``softplus(raw) + 1e-4`` is the diagonal, and the entries below it, row by row.

    References:
        An Introduction to Variational Autoencoders (Kingma and Welling, 2019), section 2.5.1,
        https://arxiv.org/abs/1906.02691

    Args:
        dim: Number of latent dimensions, d; the encoder ends in ``d (d + 3) / 2`` numbers.

    Raises:
        ValueError: If ``dim`` is not a positive integer.

    Example:
        >>> FullNormal(8).param_shape
        torch.Size([44])
    """

    support = constraints.real_vector

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.event_shape = torch.Size([positive_integer("dim", dim)])
        self.param_shape = torch.Size([dim * (dim + 3) // 2])

    def forward(self, features: Tensor) -> Distribution:
        """Returns q(z|x) from features of shape ``(*, B, d (d + 3) / 2)``."""
        d = self.event_shape[0]
        loc, raw, below = features.split([d, d, d * (d - 1) // 2], -1)
        rows, columns = torch.tril_indices(d, d, -1, device=features.device)
        lower = torch.diag_embed(positive(raw))
        lower[..., rows, columns] = below
        return dist.MultivariateNormal(loc, scale_tril=lower)
