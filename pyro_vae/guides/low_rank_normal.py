"""The normal guide with a covariance of low rank beside a diagonal."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae._errors import positive_integer
from pyro_vae.distributions import positive
from pyro_vae.guides.guide import Guide

__all__ = ["LowRankNormal"]


class LowRankNormal(Guide):
    r"""Creates a normal guide whose entries vary together along a few directions.

    .. math:: q(z \mid x) = \mathcal{N}(z \mid \mu(x),
        F(x) F(x)^\top + \mathrm{diag}\,\sigma^2(x))

    The encoder ends in the mean, the raw scales, of which ``softplus(raw) + 1e-4`` is
    :math:`\sigma`, and the factor F, row by row.

    References:
        Gaussian variational approximation with a factor covariance structure (Ong et al., 2018),
        https://arxiv.org/abs/1701.03208

    Args:
        dim: Number of latent dimensions.
        rank: Number of directions, the columns of F.

    Raises:
        ValueError: If either is not a positive integer.

    Example:
        >>> LowRankNormal(8, rank=2).param_shape
        torch.Size([32])
    """

    support = constraints.real_vector

    def __init__(self, dim: int, rank: int = 2) -> None:
        super().__init__()
        self.event_shape = torch.Size([positive_integer("dim", dim)])
        self.param_shape = torch.Size([(2 + positive_integer("rank", rank)) * dim])
        self.rank = rank

    def forward(self, features: Tensor) -> Distribution:
        """Returns q(z|x) from features of shape ``(*, B, (2 + rank) * dim)``."""
        d = self.event_shape[0]
        loc, raw, factor = features.split([d, d, self.rank * d], -1)
        factor = factor.unflatten(-1, (d, self.rank))
        return dist.LowRankMultivariateNormal(loc, factor, positive(raw).square())
