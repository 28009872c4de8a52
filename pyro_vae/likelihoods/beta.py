"""Beta likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae.distributions import EdgedBeta, inverse_positive, positive
from pyro_vae.likelihoods.likelihood import Likelihood

__all__ = ["Beta"]


class Beta(Likelihood):
    r"""Creates independent beta variables, for proportions, ends included.

    .. math:: p(x \mid z) = \prod_d \frac{x_d^{\alpha_d - 1} (1 - x_d)^{\beta_d - 1}}
        {B(\alpha_d, \beta_d)}, \quad
        \alpha, \beta = \mathrm{softplus}(\mathrm{params}) + 10^{-4}

    The mass within 1e-6 of either end is spread evenly there, so that the density of an exact 0
    or 1 is finite; see :class:`pyro_vae.distributions.EdgedBeta`.

    References:
        Beta Regression for Modelling Rates and Proportions (Ferrari and Cribari-Neto, 2004),
        https://doi.org/10.1080/0266476042000214501

    Args:
        event_shape: Shape of one x.

    Example:
        >>> Beta((2,)).param_shape, float(Beta((1,))(torch.zeros(2)).log_prob(torch.zeros(1))) > 0
        (torch.Size([4]), True)
    """

    support = constraints.unit_interval
    measure: Literal["lebesgue"] = "lebesgue"

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__(event_shape, num_params=2)

    @torch.no_grad()
    def init_params(self, x_train: Tensor) -> Tensor:
        """Returns the raw concentrations with the mean and the variance of the data."""
        mean = x_train.mean(0).clamp(1e-3, 1 - 1e-3)
        spread = mean * (1 - mean)
        variance = x_train.var(0, correction=0).clamp_min(1e-6)
        total = (spread / variance - 1).clamp_min(1e-2)
        return inverse_positive(torch.cat([mean * total, (1 - mean) * total]))

    def forward(self, params: Tensor) -> Distribution:
        """Returns p(x|z) from raw concentrations of shape ``(*, B, *param_shape)``."""
        alpha, beta = map(positive, self.split(params))
        return EdgedBeta(alpha, beta).to_event(len(self.event_shape))
