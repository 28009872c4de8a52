"""Laplace likelihood."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_vae.distributions import robust_units_of
from pyro_vae.likelihoods.in_units import weighted_mean
from pyro_vae.likelihoods.location_scale import LocationScale, ScaleMode

__all__ = ["Laplace"]


class Laplace(LocationScale):
    r"""Creates independent Laplace variables, for real data with outliers or sharp edges.

    .. math:: p(x \mid z) = \prod_d \frac{1}{2 b_d} \exp\left(-\frac{|x_d - \mu_d(z)|}{b_d}\right)

    Learned scales are ``softplus(raw) + 1e-4``, in units of the training data.

    References:
        Autoencoding beyond pixels using a learned similarity metric (Larsen et al., 2016),
        https://arxiv.org/abs/1512.09300, on why the loss between pixels matters

    Args:
        event_shape: Shape of one x.
        scale: A fixed number, in the units of the data; ``shared``, one learned number;
            ``per-dimension``, one learned number for each entry; ``per-channel``, one for each
            channel of series ``(C, T)`` or images ``(C, H, W)``, which then has a unit of its own,
            too; ``predicted``, given by the decoder beside the median; None is
            ``per-dimension`` for vectors and ``shared`` for images.

    Raises:
        ValueError: If ``scale`` is neither a positive number nor one of these words.

    Example:
        >>> import torch
        >>> Laplace((12,))(torch.zeros(5, 12)).batch_shape
        torch.Size([5])
    """

    def __init__(self, event_shape: Sequence[int], scale: float | ScaleMode | None = None) -> None:
        super().__init__(event_shape, scale)

    @torch.no_grad()
    def take_units(self, x_train: Tensor) -> Tensor:
        # Those of most of the data: outliers are what this likelihood is for.
        self.keep_units(*self.by_channels(robust_units_of, x_train))
        return torch.zeros_like(self.unit_loc, dtype=torch.bool)

    def distribution(self, loc: Tensor, scale: Tensor) -> TorchDistributionMixin:
        return dist.Laplace(loc, scale)

    def fit_spread(self, residuals: Tensor, weights: Tensor, dims: tuple[int, ...]) -> Tensor:
        return weighted_mean(residuals.abs(), weights, dims)

    def fit_marginal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        loc = x.median(0).values
        return loc, (x - loc).abs().mean(0)
