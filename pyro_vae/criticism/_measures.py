"""One test statistic, and what statistics are made of: moments, shares, correlations, distances."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pyro_vae._errors import expected
from pyro_vae.data.entries import Entry, figure

__all__ = ["Reads", "Statistic"]

_LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)  # where marginals are compared
_EXTREME = 0.005  # of the model's own draws lie beyond each end
_PAIRS = 2000  # of entries whose correlation is looked at; more add nothing to a maximum but noise
_AT_ONCE = 250  # of these pairs are multiplied at a time
_ROWS = 150  # data among which neighbours are sought: the cost is quadratic

Reads = Literal["", "value", "spread"]


@dataclass(frozen=True)
class Statistic:
    """A named function of whole data sets.

    However many columns it has it is one test, of the column that deviates most: so the number of
    tests does not grow with the dimension of the data. It is called with N observations and with
    half of them, in any order.

    Attributes:
        name: What a table calls it.
        function: From data sets ``(R, N, *event_shape)`` to values ``(R, S)``, or ``(R,)``.
        columns: Names of the S columns; they are numbered where there are none.
        of: For each column the entries of x that it is about, where it is about some alone.
        reads: For each column whether it is a value of its entry, or a difference of values, and
            so has its unit; empty where it has none.
        titles: What each column is in words; its name and that of the column where there are none.
        rows: How many observations it looks at, the first; all of them if None.

    Example:
        >>> spread = Statistic("range", lambda x: x.amax(-2) - x.amin(-2))
        >>> spread(torch.zeros(7, 100, 3)).shape
        torch.Size([7, 3])
    """

    name: str
    function: Callable[[Tensor], Tensor]
    columns: tuple[str, ...] = ()
    of: tuple[tuple[Entry, ...], ...] = ()
    reads: tuple[Reads, ...] = ()
    titles: tuple[str, ...] = ()
    rows: int | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the values, ``(R, S)``, of data sets ``(R, N, *event_shape)``.

        Raises:
            ValueError: If they have another shape, or one is not finite.
        """
        values = self.function(x)
        if not isinstance(values, Tensor) or values.shape[:1] != x.shape[:1] or values.ndim > 2:
            what = f"values of shape ({len(x)}, S), a row for each data set"
            raise expected(f"statistics: {self.name}", what, values)
        if not values.isfinite().all():
            raise expected(f"statistics: {self.name}", "finite values", f"{values.flatten()}")
        return values.reshape(len(x), -1)

    def column(self, index: int, of: int) -> str:
        """Returns the name of a column; empty where there is only one without a name.

        Args:
            index: Of the column, from 0.
            of: How many columns there are, S.
        """
        if self.columns:
            return self.columns[index]
        return f"[{index}]" if of > 1 else ""

    def about(self, index: int) -> tuple[Entry, ...]:
        """Returns the entries of x that a column is about; none if it is about all.

        Args:
            index: Of the column, from 0.
        """
        return self.of[index] if self.of else ()

    def title(self, index: int) -> str:
        """Returns what a column is, in words; empty where its names say all there is.

        Args:
            index: Of the column, from 0.
        """
        if self.titles:
            return self.titles[index]
        return f"{self.name} of {self.columns[index]}" if self.about(index) else ""

    def in_units(
        self, index: int, values: Sequence[float]
    ) -> tuple[Sequence[float], str, tuple[str, ...]]:
        """Returns values of a column as the table has them, their unit, and how they are written.

        Args:
            index: Of the column.
            values: Computed from x.
        """
        reads = self.reads[index] if self.reads else ""
        if not reads or len(entries := self.about(index)) != 1:
            return values, "", ()
        (entry,) = entries
        if reads == "spread":
            unit = "days" if entry.kind == "date" else entry.unit
            numbers = [entry.spread(value) for value in values]
            return numbers, unit, tuple(map(figure, numbers))
        if entry.kind == "level":
            numbers = [entry.between(value) for value in values]
            return numbers, "", tuple(map(figure, numbers))
        numbers = entry.numbers(np.asarray(values), wrapped=False).tolist()
        return numbers, entry.unit, tuple(map(entry.text, numbers))


def flat(
    function: Callable[[Tensor], Tensor], event_shape: torch.Size
) -> Callable[[Tensor], Tensor]:
    """Gives a function of ``(*, N, D)`` data of any event shape."""
    return lambda x: function(x.flatten(x.ndim - len(event_shape)))


def of_logs(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Gives a function of data that of their logarithms."""
    return lambda x: function(x.log())


def as_they_are(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return function


def mean(x: Tensor) -> Tensor:
    return x.mean(-2)


def spread(x: Tensor) -> Tensor:
    return x.std(-2)


def zeros(x: Tensor) -> Tensor:
    return (x == 0).to(x.dtype).mean(-2)


def dispersion(x: Tensor) -> Tensor:
    """Variance over mean, which is 1 for a Poisson distribution; 1 where nothing was counted."""
    mean = x.mean(-2)
    return torch.where(mean > 0, x.var(-2) / mean, 1.0)


def standardized(x: Tensor) -> Tensor:
    """Columns of mean 0 and variance 1; a constant one is 0."""
    mean = x.mean(-2, keepdim=True)
    centered = x - mean
    scale = centered.square().mean(-2, keepdim=True).sqrt()
    # What rounding leaves of a constant is no spread. Of what varies, no value is farther from the
    # mean than the root of N scales, so that the mean will do in place of the largest value.
    varies = scale > torch.finfo(x.dtype).eps * 8 * mean.abs()
    # In place, and constants divided by infinity: a pass over x is what costs.
    centered.div_(torch.where(varies, scale, math.inf))
    return centered.masked_fill_(~varies, 0.0) if bool(scale.isnan().any()) else centered


def skewness(x: Tensor) -> Tensor:
    return standardized(x).pow(3).mean(-2)


def kurtosis(x: Tensor) -> Tensor:
    """The fourth standardised moment, averaged over entries: 3 for normal ones."""
    return standardized(x).pow(4).mean(-2).mean(-1, keepdim=True)


def quantiles(reference: Tensor, levels: Sequence[float]) -> Tensor:
    """Thresholds for each column, shape ``(levels, D)``."""
    ordered = reference.sort(0).values
    return torch.stack([ordered[round(level * (len(ordered) - 1))] for level in levels])


def below(x: Tensor, thresholds: Tensor) -> Tensor:
    """Shares at or below each threshold, ``(*, levels * D)``."""
    return torch.cat([(x <= each).to(x.dtype).mean(-2) for each in thresholds], -1)


def marginals(reference: Tensor, event_shape: torch.Size, entries: Sequence[Entry]) -> Statistic:
    thresholds = quantiles(reference, _LEVELS)
    of = tuple((each,) for _ in thresholds for each in entries)
    columns = tuple(
        f"{each.name} <= {each.write(value)}"
        for row in thresholds.tolist()
        for each, value in zip(entries, row, strict=True)
    )
    function = flat(lambda x: below(x, thresholds), event_shape)
    titles = tuple(f"share of {column}" for column in columns)
    return Statistic("marginals", function, columns, of, titles=titles)


def extremes(reference: Tensor, event_shape: torch.Size) -> Statistic:
    low, high = quantiles(reference, (_EXTREME, 1 - _EXTREME))

    def function(x: Tensor) -> Tensor:
        beyond = [(x < low).to(x.dtype), (x > high).to(x.dtype)]
        return torch.stack([each.mean((-2, -1)) for each in beyond], -1)

    columns = ("share below the model's", "share above the model's")
    return Statistic("extremes", flat(function, event_shape), columns)


def correlations(
    event_shape: torch.Size, names: Sequence[str], entries: Sequence[Entry]
) -> Statistic:
    """Correlations of pairs of entries; of many pairs a fixed choice.

    Args:
        event_shape: Of what they are taken of.
        names: Of its entries.
        entries: What each is an entry of; levels of one do not make a pair.
    """
    size = event_shape.numel()
    pairs = torch.combinations(torch.arange(size)) if size < 1000 else None
    if pairs is not None and len({each.index for each in entries}) < size:
        of = torch.tensor([each.index for each in entries])
        pairs = pairs[of[pairs[:, 0]] != of[pairs[:, 1]]]
    generator = torch.Generator().manual_seed(0)
    if pairs is None:
        first = torch.randint(size, (_PAIRS,), generator=generator)
        second = (first + torch.randint(1, size, (_PAIRS,), generator=generator)) % size
        pairs = torch.stack([first, second], 1)
    elif len(pairs) > _PAIRS:
        pairs = pairs[torch.randperm(len(pairs), generator=generator)[:_PAIRS]]
    left, right = pairs.unbind(1)

    def function(x: Tensor) -> Tensor:
        standard = standardized(x)
        if size**2 <= 4 * _PAIRS:  # a matrix product is faster than gathering
            matrix = standard.mT @ standard / x.shape[-2]
            return matrix[..., left.to(x.device), right.to(x.device)]
        # Whole columns are copied from where they lie side by side, by `index_select`, which takes
        # a third of the time of brackets, and so few at a time that they stay in a cache.
        at = left.to(x.device).split(_AT_ONCE), right.to(x.device).split(_AT_ONCE)
        found = []
        for one in standard.mT.contiguous():
            for first, second in zip(*at, strict=True):
                product = one.index_select(0, first).mul_(one.index_select(0, second))
                found.append(product.mean(-1))
        return torch.cat(found).reshape(len(x), -1)

    columns = tuple(f"{names[i]} and {names[j]}" for i, j in pairs.tolist())
    of_each = tuple((entries[i], entries[j]) for i, j in pairs.tolist())
    return Statistic("correlation", flat(function, event_shape), columns, of_each)


def neighbours(event_shape: torch.Size) -> Statistic:
    """Correlation of entries side by side, averaged over the entries."""
    axes = range(max(0, len(event_shape) - 2), len(event_shape))
    long = [axis for axis in axes if event_shape[axis] > 1]

    def function(x: Tensor) -> Tensor:
        batch = x.ndim - len(event_shape)
        standard = standardized(x.flatten(batch)).reshape(x.shape)
        found = []
        for axis in long:
            size = event_shape[axis]
            left = standard.narrow(batch + axis, 0, size - 1)
            right = standard.narrow(batch + axis, 1, size - 1)
            found.append((left * right).flatten(batch - 1).mean(-1))
        return torch.stack(found, -1)

    columns = tuple(f"axis {axis}" for axis in long) if len(event_shape) > 1 else ()
    return Statistic("neighbours", function, columns)


def totals(reference: Tensor, event_shape: torch.Size) -> Statistic:
    """The sum over the entries of an observation: it spreads where entries vary together."""
    thresholds = quantiles(reference.sum(-1, keepdim=True), _LEVELS)

    def function(x: Tensor) -> Tensor:
        total = x.sum(-1, keepdim=True)
        return torch.cat([total.std(-2), below(total, thresholds)], -1)

    columns = ("spread", *(f"share <= {value:.3g}" for value in thresholds[:, 0].tolist()))
    return Statistic("totals", flat(function, event_shape), columns)


def nearest(function: Callable[[Tensor], Tensor]) -> Statistic:
    """The statistic of :func:`distances`, or of a function that calls it."""
    return Statistic("distances", function, ("mean", "spread"), rows=_ROWS)


def distances(x: Tensor) -> Tensor:
    """Mean and spread of the distance to the nearest other observation."""
    x = x[..., :_ROWS, :]
    distance = torch.cdist(x, x)
    distance.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
    nearest = distance.amin(-1)
    return torch.stack([nearest.mean(-1), nearest.std(-1)], -1)
