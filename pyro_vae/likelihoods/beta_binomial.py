"""Beta-binomial likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae.distributions import inverse_positive, positive
from pyro_vae.likelihoods.categorical import at_least_two_levels
from pyro_vae.likelihoods.likelihood import Likelihood

__all__ = ["BetaBinomial"]


class BetaBinomial(Likelihood):
    r"""Creates independent beta-binomial variables, for levels 0 to K - 1 such as 8-bit pixels.

    .. math:: p(x \mid z) = \prod_d \binom{n}{x_d}
        \frac{B(x_d + \alpha_d, n - x_d + \beta_d)}{B(\alpha_d, \beta_d)}, \quad n = K - 1, \quad
        \alpha, \beta = \mathrm{softplus}(\mathrm{params}) + 10^{-4}

    Two parameters a level, and yet peaks at either end.

    References:
        Practical Lossless Compression with Latent Variables using Bits Back Coding
        (Townsend et al., 2019), https://arxiv.org/abs/1901.04866

    Args:
        event_shape: Shape of one x.
        levels: Number of levels, K.

    Raises:
        ValueError: If there are fewer than 2 levels.

    Example:
        >>> BetaBinomial((1, 8, 8), levels=17).param_shape
        torch.Size([2, 8, 8])
    """

    support: constraints.Constraint = constraints.nonnegative_integer
    measure: Literal["counting"] = "counting"

    def __init__(self, event_shape: Sequence[int], levels: int = 256) -> None:
        self.levels = at_least_two_levels(levels)
        super().__init__(event_shape, num_params=2)
        self.support = constraints.integer_interval(0, levels - 1)

    @torch.no_grad()
    def init_params(self, x_train: Tensor) -> Tensor:
        """Returns the raw concentrations with the mean and the variance of the data."""
        n = self.levels - 1
        mean = (x_train.mean(0) / n).clamp(1e-3, 1 - 1e-3)
        # Between 1, as if binomial, and n, as if all or nothing.
        ratio = x_train.var(0, correction=0) / (n * mean * (1 - mean))
        total = ((n - ratio) / (ratio - 1).clamp_min(1e-6)).clamp(1e-2, 1e3)
        return inverse_positive(torch.cat([mean * total, (1 - mean) * total]))

    def forward(self, params: Tensor) -> Distribution:
        """Returns p(x|z) from raw concentrations of shape ``(*, B, *param_shape)``."""
        alpha, beta = map(positive, self.split(params))
        d = dist.BetaBinomial(alpha, beta, alpha.new_tensor(self.levels - 1))
        return d.to_event(len(self.event_shape))
