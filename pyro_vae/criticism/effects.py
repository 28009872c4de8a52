r"""How far the data are from a model, beside whether chance explains it: effect sizes.

Of a statistic T of N observations, with replicates T_r of the model,

.. math:: d = \frac{T - \mathrm{mean}_r T_r}{\sqrt{N (s^2 + s_r^2) / 2}}

where s is the standard deviation of T over data like those observed, and s_r that over replicates.
Of a mean this is Cohen's d with a pooled standard deviation: the root of N s^2 is the standard
deviation of the data. Of any other statistic it is that of what one observation contributes. A
p-value falls as N grows, however little the model is off; d stays where it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import torch
from torch import Tensor

from pyro_vae.criticism._measures import Statistic

__all__ = ["Effects", "Severity", "Spread", "effects_of", "from_auc", "severity", "spreads_of"]

_HALVES = 100  # random halves of the data: the spread over them is known to 7%
_HELD = 2**22  # entries of x in halves that are held at a time
_TWO_SIDED = 1.96  # standard errors, 95%

Severity = Literal["", "negligible", "small", "moderate", "large"]


def severity(effect: float) -> Severity:
    """Names the size of an effect: negligible below 0.2, small below 0.5, moderate below 0.8.

    References:
        Statistical Power Analysis for the Behavioral Sciences (Cohen, 1988), section 2.2, which
        calls 0.2 small, 0.5 medium and 0.8 large, https://doi.org/10.4324/9780203771587

    Example:
        >>> severity(-0.1), severity(0.3), severity(math.nan)
        ('negligible', 'small', '')
    """
    size = abs(effect)
    if math.isnan(size):
        return ""
    if size < 0.2:
        return "negligible"
    return "small" if size < 0.5 else "moderate" if size < 0.8 else "large"


def from_auc(area: float) -> float:
    r"""The d between two normal distributions of that area under the ROC: sqrt(2) times its probit.

    References:
        A common language effect size statistic (McGraw and Wong, 1992),
        https://doi.org/10.1037/0033-2909.111.2.361

    Example:
        >>> round(from_auc(0.714), 2)
        0.8
    """
    return math.sqrt(2) * NormalDist().inv_cdf(area)


@dataclass(frozen=True)
class Spread:
    """How a statistic of the data observed varies over data like them.

    Attributes:
        scale: Its standard deviation, shape ``(S,)``. None where each row has its place, so that
            there are no halves of them: then that of replicates stands for it.
        size: How many observations it looks at.
    """

    scale: Tensor | None
    size: int


@dataclass(frozen=True)
class Effects:
    """Effect sizes of the columns of a statistic, with intervals of 95%; each of shape ``(S,)``.

    Infinite where neither data nor replicates vary, and yet they differ.
    """

    size: Tensor
    low: Tensor
    high: Tensor

    @property
    def worst(self) -> int:
        """The column of the largest effect."""
        return int(self.size.abs().argmax())


def spreads_of(statistics: Iterable[Statistic], x: Tensor, seed: int) -> list[Spread]:
    r"""Standard deviations of statistics of a data set, over data like it.

    By random halves of its rows: drawn without replacement, a half of N observations varies about
    the whole as much as N observations vary about what they were drawn from. No row is there
    twice, as in a bootstrap, which would put the distance to a nearest neighbour at zero.

    References:
        A general theory for jackknife variance estimation (Shao and Wu, 1989), of which this is
        the delete-d jackknife with d = N / 2, https://doi.org/10.1214/aos/1176347263

    Args:
        statistics: Functions of the rows in any order.
        x: A data set, shape ``(1, N, *event_shape)``.
        seed: Of the halves, which leave the caller's random state alone.
    """
    size = x.shape[1]
    half = size // 2
    generator = torch.Generator().manual_seed(seed)
    index = torch.rand(_HALVES, size, generator=generator).argsort(1)[:, :half].to(x.device)
    at_once = max(1, _HELD // x[0, :half].numel())
    chosen = list(statistics)
    tables: list[list[Tensor]] = [[] for _ in chosen]
    for rows in index.split(at_once):
        some = x[0][rows]
        for statistic, table in zip(chosen, tables, strict=True):
            table.append(statistic(some).cpu().double())
    spreads = []
    for statistic, table in zip(chosen, tables, strict=True):
        seen = min(size, statistic.rows or size)
        used = min(half, statistic.rows or size)
        # Exactly one for all rows of an even number; a statistic that sees few varies more.
        factor = used / seen / (1 - used / size)
        spreads.append(Spread(torch.cat(table).std(0) * math.sqrt(factor), seen))
    return spreads


def effects_of(observed: Tensor, replicated: Tensor, spread: Spread, rounding: float) -> Effects:
    """Effect sizes of each column; see the head of this module.

    The intervals cover the sampling of the observations, by the larger of both standard
    deviations: data that are all alike have none of their own. The error of the scale is added,
    as a normal statistic has it.

    References:
        Statistical Methods for Meta-Analysis (Hedges and Olkin, 1985), section 5.E

    Args:
        observed: Values, shape ``(S,)``.
        replicated: Values, shape ``(R, S)``.
        spread: Of the observed ones.
        rounding: The relative error of values, below which nothing is a difference.
    """
    own, size = replicated.std(0), spread.size
    varied = own if spread.scale is None else spread.scale
    largest = torch.maximum(replicated.amax(0), -replicated.amin(0))  # without a copy of them all
    floor = rounding * torch.maximum(observed.abs(), largest)
    away = observed - replicated.mean(0)
    away = torch.where(away.abs() > floor, away, 0.0)
    scale = ((varied.square() + own.square()) / 2).sqrt()
    known = scale > floor
    scale = torch.where(known, scale * math.sqrt(size), 1.0)
    sizes = torch.where(known | (away == 0), away / scale, away.sign() * math.inf)
    error = torch.maximum(varied, own).square() + own.square() / len(replicated)
    of_scale = (away / scale).square() * (1 / size + 1 / _HALVES) / 8
    half = torch.where(known, _TWO_SIDED * (error / scale.square() + of_scale).sqrt(), 0.0)
    return Effects(sizes, sizes - half, sizes + half)
