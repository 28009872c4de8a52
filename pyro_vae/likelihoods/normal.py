"""Normal likelihood."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_vae.likelihoods.in_units import weighted_mean
from pyro_vae.likelihoods.location_scale import LocationScale, ScaleMode

__all__ = ["Normal"]


class Normal(LocationScale):
    r"""Creates independent normal variables, for real data.

    .. math:: p(x \mid z) = \prod_d \mathcal{N}(x_d \mid \mu_d(z), \sigma_d^2)

    Learned scales are ``softplus(raw) + 1e-4``, in units of the training data. A scale that is
    shared or of a dimension has its optimum in closed form, :meth:`fit_scale`. Computed from each
    batch, as in the paper, it would make the density of an observation depend on the rest of its
    batch; here it is a parameter instead, which starts at its optimum without z and which
    :func:`pyro_vae.fit` puts back there, for held-out residuals if there are some, as they shrink.

    References:
        Simple and Effective VAE Training with Calibrated Decoders (Rybkin et al., 2021),
        https://arxiv.org/abs/2006.13202

    Args:
        event_shape: Shape of one x.
        scale: A fixed number, in the units of the data; ``shared``, one learned number;
            ``per-dimension``, one learned number for each entry; ``per-channel``, one for each
            channel of series ``(C, T)`` or images ``(C, H, W)``, which then has a unit of its own,
            too; ``predicted``, given by the decoder beside the mean; None is
            ``per-dimension`` for vectors and ``shared`` for images.

    Raises:
        ValueError: If ``scale`` is neither a positive number nor one of these words.

    Example:
        >>> Normal((12,), scale="predicted").param_shape
        torch.Size([24])
    """

    def __init__(self, event_shape: Sequence[int], scale: float | ScaleMode | None = None) -> None:
        super().__init__(event_shape, scale)

    def fit_scale(
        self, x: Tensor, params: Tensor, mask: Tensor | None = None, weights: Tensor | None = None
    ) -> None:
        r"""Sets a learned scale to its maximum-likelihood value, given the means.

        .. math:: \sigma^2 = \operatorname{mean} \{x_d - \mu_d(z)\}^2,

        over draws, data and, if it is shared, entries: with z drawn from the guide, the maximum of
        the evidence lower bound in the scale.

        Args:
            x: Data, shape ``(N, *event_shape)``.
            params: What the decoder returned for draws of z, shape ``(*, N, *event_shape)``.
            mask: Which entries are observed, of the shape of ``x``; all if not given.
            weights: Of the draws, shape ``(*, N)``; alike if not given.

        Raises:
            ValueError: If the scale is fixed or predicted.

        Example:
            >>> import torch
            >>> likelihood = Normal((2,))
            >>> likelihood.fit_scale(torch.full((5, 2), 3.0), torch.zeros(7, 5, 2))
            >>> likelihood(torch.zeros(2)).stddev.detach()
            tensor([3., 3.])
        """
        super().fit_scale(x, params, mask, weights)

    def fit_spread(self, residuals: Tensor, weights: Tensor, dims: tuple[int, ...]) -> Tensor:
        return weighted_mean(residuals.square(), weights, dims).sqrt()

    def distribution(self, loc: Tensor, scale: Tensor) -> TorchDistributionMixin:
        return dist.Normal(loc, scale)

    def fit_marginal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean(0), x.std(0, correction=0)

    def pooled(self, scale: Tensor) -> Tensor:
        return scale.square().mean().sqrt()
