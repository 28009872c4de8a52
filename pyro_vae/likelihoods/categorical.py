"""Categorical likelihood over levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae._errors import expected
from pyro_vae.distributions import Levels
from pyro_vae.likelihoods.likelihood import Likelihood

__all__ = ["Categorical"]


class Categorical(Likelihood):
    r"""Creates independent categorical variables, for levels 0 to K - 1 such as 8-bit pixels.

    .. math:: p(x \mid z) = \prod_d \pi_{d, x_d}, \quad \pi_d = \mathrm{softmax}(\mathrm{params}_d)

    The most flexible distribution of a single level, and the one with the most parameters. The mean
    is that of the levels as numbers.

    References:
        Pixel Recurrent Neural Networks (van den Oord et al., 2016),
        https://arxiv.org/abs/1601.06759, section 3.4

    Args:
        event_shape: Shape of one x.
        levels: Number of levels, K; or their names: data are their places, from 0.

    Raises:
        ValueError: If there are fewer than 2 levels, or their names are not all different.

    Example:
        >>> Categorical((1, 8, 8), levels=17).param_shape
        torch.Size([17, 8, 8])
    """

    support: constraints.Constraint = constraints.nonnegative_integer
    measure: Literal["counting"] = "counting"

    def __init__(self, event_shape: Sequence[int], levels: int | Sequence[str] = 256) -> None:
        self.levels, self.names = named_levels(levels)
        super().__init__(event_shape, num_params=self.levels)
        self.support = constraints.integer_interval(0, self.levels - 1)

    @property
    def words(self) -> tuple[tuple[str, ...], ...]:
        return (self.names,) * self.event_shape.numel() if self.names else ()

    @torch.no_grad()
    def init_params(self, x_train: Tensor) -> Tensor:
        """Returns the logs of the frequencies, half a count added to each level."""
        counts = torch.stack([(x_train == level).sum(0) for level in range(self.levels)], -1)
        logits = ((counts + 0.5) / (len(x_train) + self.levels / 2)).log().to(x_train)
        return torch.cat(logits.unbind(-1))

    def forward(self, params: Tensor) -> Distribution:
        """Returns p(x|z) from logits of shape ``(*, B, *param_shape)``."""
        logits = torch.stack(self.split(params), -1)
        return Levels(logits=logits).to_event(len(self.event_shape))


def at_least_two_levels(levels: object) -> int:
    """Returns a number of levels.

    Raises:
        ValueError: If it is no integer, or less than 2.
    """
    if not isinstance(levels, int) or isinstance(levels, bool) or levels < 2:
        raise expected("levels", "an integer >= 2", levels)
    return levels


def named_levels(levels: object) -> tuple[int, tuple[str, ...]]:
    """Returns a number of levels and their names, of which there are none if a number was given.

    Raises:
        ValueError: If it is neither, there are fewer than 2, or two have one name.

    Example:
        >>> named_levels(["low", "high"]), named_levels(5)
        ((2, ('low', 'high')), (5, ()))
    """
    if not isinstance(levels, list | tuple):
        return at_least_two_levels(levels), ()
    if not all(isinstance(name, str) for name in levels) or len(set(levels)) != len(levels):
        raise expected("levels", "a number of levels, or their names, all different", levels)
    if len(levels) < 2:
        raise expected("levels", "an integer >= 2, or two names or more", levels)
    return len(levels), tuple(levels)
