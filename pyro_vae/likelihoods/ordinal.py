"""Ordinal likelihood: cumulative logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae.distributions import Levels, inverse_positive, positive
from pyro_vae.likelihoods.categorical import named_levels
from pyro_vae.likelihoods.likelihood import Likelihood

__all__ = ["Ordinal"]


class Ordinal(Likelihood):
    r"""Creates independent ordinal variables, for levels 0 to K - 1 such as answers of a survey.

    .. math:: P(x_d \le k \mid z) = \sigma(c_{dk} - \mathrm{params}_d), \quad
        c_{d0} < c_{d1} < \dots < c_{d,K - 2}

    The decoder gives one number an entry, which moves all levels up or down together; the
    thresholds c between levels are learned, for each entry its own. That is the proportional odds
    model: far fewer parameters than :class:`Categorical`, and neighbouring levels are alike. The
    mean is that of the levels as numbers.

    References:
        Regression Models for Ordinal Data (McCullagh, 1980),
        https://doi.org/10.1111/j.2517-6161.1980.tb01109.x

    Args:
        event_shape: Shape of one x.
        levels: Number of levels, K; or their names, from the lowest to the highest: data are their
            places, from 0.

    Raises:
        ValueError: If there are fewer than 2 levels, or their names are not all different.

    Example:
        >>> likelihood = Ordinal((3,), levels=["low", "middle", "high"])
        >>> likelihood.param_shape, likelihood.levels
        (torch.Size([3]), 3)
    """

    support: constraints.Constraint = constraints.nonnegative_integer
    measure: Literal["counting"] = "counting"

    def __init__(self, event_shape: Sequence[int], levels: int | Sequence[str] = 5) -> None:
        self.levels, self.names = named_levels(levels)
        super().__init__(event_shape)
        self.support = constraints.integer_interval(0, self.levels - 1)
        self.first = nn.Parameter(torch.zeros(self.event_shape))
        between = torch.ones(*self.event_shape, self.levels - 2)
        self.raw_steps = nn.Parameter(inverse_positive(between))

    @property
    def words(self) -> tuple[tuple[str, ...], ...]:
        return (self.names,) * self.event_shape.numel() if self.names else ()

    def thresholds(self) -> Tensor:
        """Returns the thresholds between levels, shape ``(*event_shape, K - 1)``."""
        steps = torch.cat([self.first[..., None], positive(self.raw_steps)], -1)
        return steps.cumsum(-1)

    @torch.no_grad()
    def init_params(self, x_train: Tensor) -> Tensor:
        """Returns zeros; thresholds start at the frequencies, half a count added to each level."""
        counts = torch.stack([(x_train == level).sum(0) for level in range(self.levels)], -1)
        shares = (counts.cpu().double() + 0.5) / (len(x_train) + self.levels / 2)
        below = shares.cumsum(-1)[..., :-1]
        # From above, where what is rare would be lost in a sum that is nearly 1.
        above = shares.flip(-1).cumsum(-1).flip(-1)[..., 1:]
        thresholds = (below / above).log().to(self.first)
        self.first.copy_(thresholds[..., 0])
        self.raw_steps.copy_(inverse_positive(thresholds.diff(dim=-1)))
        return x_train.new_zeros(self.param_shape)

    def forward(self, params: Tensor) -> Distribution:
        """Returns p(x|z) from what moves levels, of shape ``(*, B, *event_shape)``."""
        steps = positive(self.raw_steps)
        above = params[..., None] - self.thresholds()
        over, not_over = F.logsigmoid(above), F.logsigmoid(-above)
        # Of the difference of two probabilities, the logarithm of which is finite however small
        # they are: sigma(b) - sigma(a) = sigma(b) sigma(-a) (1 - exp(a - b)).
        between = over[..., :-1] + not_over[..., 1:] + torch.log(-torch.expm1(-steps))
        logits = torch.cat([not_over[..., :1], between, over[..., -1:]], -1)
        return Levels(logits=logits).to_event(len(self.event_shape))
