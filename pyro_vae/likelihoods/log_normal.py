"""Log-normal likelihood."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_vae.likelihoods.in_units import weighted_mean
from pyro_vae.likelihoods.positive import Positive, SpreadMode

__all__ = ["LogNormal"]


class LogNormal(Positive):
    r"""Creates independent log-normal variables, for positive data such as incomes.

    .. math:: p(x \mid z) = \prod_d \frac{1}{x_d} \,
        \mathcal{N}(\log x_d \mid \mu_d(z), \sigma_d^2)

    A model of x as :class:`Normal` would be of log x, with densities of x itself: the mean is
    :math:`e^{\mu + \sigma^2 / 2}`. Learned scales are ``softplus(raw) + 1e-4``, and the encoder
    sees log x.

    References:
        Handling Incomplete Heterogeneous Data using VAEs (Nazabal et al., 2020),
        https://arxiv.org/abs/1807.03653

    Args:
        event_shape: Shape of one x.
        scale: Of log x: a fixed number; ``shared``, one learned number; ``per-dimension``, one
            learned number for each entry; ``predicted``, given by the decoder beside the location.

    Raises:
        ValueError: If ``scale`` is neither a positive number nor one of these words.

    Example:
        >>> import torch
        >>> LogNormal((2,), scale=1.0)(torch.zeros(2)).mean
        tensor([1.6487, 1.6487])
    """

    def __init__(
        self, event_shape: Sequence[int], scale: float | SpreadMode = "per-dimension"
    ) -> None:
        super().__init__(event_shape, "scale", scale)

    def distribution(self, loc: Tensor, spread: Tensor) -> TorchDistributionMixin:
        return dist.LogNormal(loc, spread)

    def fit_spread(self, residuals: Tensor, weights: Tensor, dims: tuple[int, ...]) -> Tensor:
        return weighted_mean(residuals.square(), weights, dims).sqrt()

    def fit_logs(self, log_x: Tensor, *, pooled: bool) -> tuple[Tensor, Tensor]:
        variance = log_x.var(0, correction=0)
        return log_x.mean(0), (variance.mean() if pooled else variance).sqrt()
