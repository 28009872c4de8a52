"""Discretised logistic likelihood, single or mixed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae import distributions
from pyro_vae._errors import positive_integer
from pyro_vae.distributions import inverse_positive, positive
from pyro_vae.likelihoods.categorical import at_least_two_levels
from pyro_vae.likelihoods.likelihood import Likelihood

__all__ = ["DiscretizedLogistic"]


class DiscretizedLogistic(Likelihood):
    r"""Creates independent levels 0 to K - 1, each the interval that a logistic variable falls in.

    .. math:: p(x_d \mid z) = \sum_m \pi_{dm} \left[
        \sigma\!\left(\frac{x_d + 1/2 - \mu_{dm}}{s_{dm}}\right)
        - \sigma\!\left(\frac{x_d - 1/2 - \mu_{dm}}{s_{dm}}\right)\right]

    What is below the lowest interval counts as the lowest level, and what is above the highest as
    the highest. Locations and scales are read in units of half the range of the levels, locations
    from its middle; scales are ``softplus(raw) + 1e-4`` of these units.

    References:
        PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood
        (Salimans et al., 2017), https://arxiv.org/abs/1701.05517

    Args:
        event_shape: Shape of one x.
        levels: Number of levels, K.
        components: Number of logistic variables that are mixed, M.

    Raises:
        ValueError: If there are fewer than 2 levels, or no component.

    Example:
        >>> DiscretizedLogistic((3, 32, 32), components=5).param_shape
        torch.Size([45, 32, 32])
    """

    support: constraints.Constraint = constraints.nonnegative_integer
    measure: Literal["counting"] = "counting"

    def __init__(self, event_shape: Sequence[int], levels: int = 256, components: int = 1) -> None:
        self.levels = at_least_two_levels(levels)
        self.components = positive_integer("components", components)
        # The weight of a single component is no parameter.
        super().__init__(event_shape, num_params=3 * components if components > 1 else 2)
        self.support = constraints.integer_interval(0, levels - 1)

    @torch.no_grad()
    def init_params(self, x_train: Tensor) -> Tensor:
        """Returns locations, raw scales and the logits of the weights, fitted by the likelihood."""
        half = (self.levels - 1) / 2
        x = (x_train - half) / half
        parts = torch.arange(self.components).to(x)
        centres = x.quantile((parts + 0.5) / self.components, dim=0)
        # Of a logistic variable; each of M components covers that share of the range.
        scale = x.std(0, correction=0) * math.sqrt(3) / math.pi / self.components
        scales = scale.clamp_min(0.1 / half).expand_as(centres)
        weights = torch.zeros_like(centres) if self.components > 1 else centres[:0]
        start = torch.cat([*centres, *inverse_positive(scales), *weights])
        return self.maximised(start, x_train)

    def forward(self, params: Tensor) -> Distribution:
        """Returns p(x|z) from parameters of shape ``(*, B, *param_shape)``."""
        each = torch.stack(self.split(params), -1)
        loc, raw, logits = each.split(
            [self.components] * 2 + [each.shape[-1] - 2 * self.components], -1
        )
        half = (self.levels - 1) / 2
        if self.components == 1:
            logits = torch.zeros_like(loc)
        d = distributions.DiscretizedLogistic(
            half * (1 + loc), half * positive(raw), logits, self.levels
        )
        return d.to_event(len(self.event_shape))
