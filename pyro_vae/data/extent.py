"""Where the numbers of a column lie: what every check of a column asks, found in one pass."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["Extent", "distinct_of", "extent_of", "spread_above"]

_PIECE = 2**15  # numbers, so that passes over a piece find it in the processor's cache
_RANGE = 2**16  # whole numbers between the ends, up to which counting is faster than sorting
_SAFE = 1 - 1e-6  # of a bound that is computed with rounding


@dataclass(frozen=True)
class Extent:
    """What one pass over a column of numbers finds.

    Attributes:
        size: How many numbers there are, missing ones among them.
        low: The smallest one, NaN where all are missing.
        high: The largest one.
        at_low: Where the smallest is first, -1 where all are missing.
        at_high: Where the largest is first.
        at_part: Where the first is that is not whole, -1 where all are.
        complete: Whether none is missing.
    """

    size: int
    low: float
    high: float
    at_low: int
    at_high: int
    at_part: int
    complete: bool

    @property
    def observed(self) -> bool:
        """Whether there is a number."""
        return self.at_low >= 0

    @property
    def finite(self) -> bool:
        """Whether no number is infinite."""
        return not self.observed or (self.low > -math.inf and self.high < math.inf)

    @property
    def whole(self) -> bool:
        """Whether all numbers are whole."""
        return self.at_part < 0

    @property
    def largest(self) -> float:
        """The largest absolute value."""
        return max(abs(self.low), abs(self.high))


def extent_of(values: np.ndarray) -> Extent:
    """Returns where numbers lie.

    Args:
        values: Shape ``(N,)``, NaN where one is missing.

    Example:
        >>> found = extent_of(np.array([2.0, np.nan, -1.0, 0.5]))
        >>> found.low, found.high, found.at_low, found.at_part, found.complete
        (-1.0, 2.0, 2, 3, False)
    """
    floating = values.dtype.kind == "f"
    low = high = None
    at_low = at_high = at_part = -1
    complete = True
    for start in range(0, len(values), _PIECE):
        piece = np.ascontiguousarray(values[start : start + _PIECE])
        smallest, largest = piece.min(), piece.max()
        if floating and np.isnan(smallest):  # as minimum and maximum are if any number is
            complete = False
            piece = np.where(np.isnan(piece), np.nan, piece)
            smallest, largest = np.fmin.reduce(piece), np.fmax.reduce(piece)
            if np.isnan(smallest):
                continue
        if low is None or smallest < low:
            low, at_low = smallest, start + int((piece == smallest).argmax())
        if high is None or largest > high:
            high, at_high = largest, start + int((piece == largest).argmax())
        if floating and at_part < 0:
            parts = piece != np.rint(piece)
            if not complete:
                parts &= ~np.isnan(piece)
            if parts.any():
                at_part = start + int(parts.argmax())
    if low is None or high is None:
        return Extent(len(values), math.nan, math.nan, -1, -1, -1, complete)
    return Extent(len(values), low.item(), high.item(), at_low, at_high, at_part, complete)


def spread_above(extent: Extent, bound: float) -> bool:
    """Returns whether the standard deviation is surely above a bound, by the ends alone.

    That of ``n`` numbers is smallest where all but the two ends are in the middle between them:
    ``(high - low) / sqrt(2 n)``.

    Example:
        >>> spread_above(extent_of(np.array([0.0, 1, 2])), 0.8)
        True
        >>> spread_above(extent_of(np.array([0.0, 1, 2])), 0.9)
        False
    """
    width = float(extent.high) - float(extent.low)
    return width * _SAFE > bound * math.sqrt(2 * extent.size)


def distinct_of(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the different numbers in their order, and how often each is there.

    Args:
        values: Shape ``(N,)``, none of them missing.

    Example:
        >>> [found.tolist() for found in distinct_of(np.array([3.0, 1, 3]))]
        [[1.0, 3.0], [1, 2]]
    """
    extent = extent_of(values)
    small = extent.observed and extent.high - extent.low < min(_RANGE, 8 * extent.size)
    if not (small and extent.whole and values.dtype.itemsize == 8):
        return np.unique(values, return_counts=True)
    low = values.dtype.type(extent.low)
    counts = np.bincount((values - low).astype(np.intp))
    there = np.flatnonzero(counts)
    return there.astype(values.dtype) + low, counts[there]
