"""What kind a column is of, by its name and its values, and the reason.

Names count where values allow for what they say; what neither shows is left to a person, who has
the last word through a schema.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import gammaln

from pyro_vae._errors import plural
from pyro_vae.data.extent import distinct_of, extent_of
from pyro_vae.data.schema import Kind
from pyro_vae.data.vocabulary import (
    evidence,
    has_id,
    in_order,
    is_logarithm,
    is_plural,
    parts_of_name,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Found", "kind_of_numbers", "kind_of_words"]

_FEW = 10  # observations, of fewer values say little about a kind
_LEVELS = 10  # whole numbers that are few enough for codes
_CODES = 40  # levels of codes, where the name says so
_MOST_LEVELS = 1000  # of words
_TEXT = 5  # words of a cell from which on it is text
_EXACT = 2**24  # float32 holds every smaller integer
_SUMS = ["n"], ["total"], ["tot"]  # whole numbers of whatever it is
_ROUND = 0.95  # of amounts, multiples of 10
_RARE = 2  # the lowest of counts that are never 0
_DAYS = 31  # of a month
_YEARS = 1800, 2100
_FIRST_YEAR, _LAST_YEAR = 1000, 2200  # that a name of times allows for
_YEARS_OF_TIMES = 1700, 2100  # that a name of times and of durations allows for
_AFTER_DATES = 22_000_000  # as 20261129 writes one
_LARGEST_LOG = 25.0  # e to it is 7e10
_EPOCH = 6e8, 2.3e9  # seconds from 1970: 1989 to 2042


@dataclass(frozen=True)
class Found:
    """A kind, what about the column calls for it, and what a person should know."""

    kind: Kind
    reason: str
    warning: str = ""


@dataclass(frozen=True)
class _Numbers:
    """The observed values of a column of numbers, and what there is to know about them."""

    values: np.ndarray
    whole: bool
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> _Numbers:
        extent = extent_of(values)
        seen = values if extent.complete else values[~np.isnan(values)]
        low, high = (float(extent.low), float(extent.high)) if extent.observed else (0.0, 0.0)
        return cls(seen, extent.whole, low, high)

    @cached_property
    def _levels(self) -> tuple[np.ndarray, np.ndarray]:
        return distinct_of(self.values)

    @property
    def distinct(self) -> np.ndarray:
        return self._levels[0]

    @property
    def counts(self) -> np.ndarray:
        return self._levels[1]

    @property
    def two(self) -> bool:
        """Whether there are two different numbers, which takes no sorting to see."""
        ends = (self.values == self.low) | (self.values == self.high)
        return self.low < self.high and bool(ends.all())

    def __len__(self) -> int:
        return len(self.values)

    @property
    def levels(self) -> int:
        return len(self.distinct)

    @property
    def consecutive(self) -> bool:
        return self.whole and self.high - self.low == self.levels - 1

    @property
    def span(self) -> str:
        return f"{self.low:.6g} to {self.high:.6g}"

    @property
    def round_share(self) -> float:
        return float((self.values % 10 == 0).mean())

    @property
    def dispersion(self) -> float:
        mean = float(self.values.mean())
        return float(self.values.var()) / mean if mean > 0 else np.inf


def kind_of_numbers(
    name: str, values: np.ndarray, *, counter: bool = False, others: Collection[str] = ()
) -> Found:
    """Returns the kind of a column of numbers.

    Args:
        name: Of the column.
        values: Shape ``(N,)``, NaN where one is missing.
        counter: Whether they are the numbers of the rows.
        others: Names of the other columns.

    Example:
        >>> print(kind_of_numbers("age", np.array([31.0, 45, 27, 60] * 5)).kind)
        positive
    """
    x, hint = _Numbers.of(values), evidence(name)
    if len(x) == 0:
        return Found("ignore", "never observed")
    if x.low == x.high:
        return Found("ignore", f"constant, always {x.low:g}")
    for rule in (_two, _identifier, _time, _angle):
        if (found := rule(name, x, hint, counter)) is not None:
            return found
    if x.whole:
        # Things that are counted have names of many, and their numbers are not round.
        many = is_plural(name) or parts_of_name(name)[-1:] in _SUMS
        many = not hint and many and x.low >= 0 and x.high < _EXACT
        return _whole(x, "count" if many and x.round_share <= _ROUND else hint)
    if x.high < _LARGEST_LOG and is_logarithm(name, others):
        return Found("real", "a logarithm by its name")
    return _fractions(x, hint)


def _two(name: str, x: _Numbers, hint: str, counter: bool) -> Found | None:
    if not x.two:
        return None
    recurring = len(x) >= _FEW and int(x.counts.min()) >= 2
    if recurring or set(x.distinct.tolist()) == {0, 1}:
        return Found("binary", f"two values, {x.low:g} and {x.high:g}")
    return None


def _identifier(name: str, x: _Numbers, hint: str, counter: bool) -> Found | None:
    if not x.whole or hint == "time" or len(x) < _FEW:
        return None
    if counter and hint not in ("count", "positive", "real", "angle", "ordinal", "step"):
        return Found("id", f"counts the rows, {x.span}")
    coded = hint in ("id", "category") and x.levels > _CODES
    if hint == "id" and (x.levels > 0.5 * len(x) or coded):
        return Found("id", f"a name of identifiers, {x.levels:,} of them")
    if hint == "category" and coded and x.levels <= 0.5 * len(x):
        return Found("id", f"a name of codes, {x.levels:,} of them, more than {_CODES}")
    if not hint and has_id(name) and x.levels > _CODES:
        return Found("id", f"a name of identifiers, {x.levels:,} of them")
    if hint == "id" and x.low >= 0:
        return Found("category", f"identifiers by their name, {x.levels} of them")
    digits = len(f"{x.low:.0f}"), len(f"{x.high:.0f}")
    if not hint and x.low > 0 and x.levels == len(x) and digits[0] == digits[1] >= 9:
        return None if _EPOCH[0] <= x.low <= x.high <= _EPOCH[1] else Found(
            "id", f"whole numbers of {digits[0]} digits that all differ"
        )  # fmt: skip
    return None


def _time(name: str, x: _Numbers, hint: str, counter: bool) -> Found | None:
    parts, ordered = set(parts_of_name(name)), bool((np.diff(x.values) >= 0).all())
    says = hint == "time" or bool(parts & {"t", "ts", "time", "timestamp"})
    if _EPOCH[0] <= x.low and x.high <= _EPOCH[1] and (says or (ordered and x.levels > 2)):
        return Found("time", "seconds since 1970")
    if says and 1e3 * _EPOCH[0] <= x.low and x.high <= 1e3 * _EPOCH[1]:
        return Found("time", "milliseconds since 1970")
    first, last = (_FIRST_YEAR, _LAST_YEAR) if hint == "time" else _YEARS_OF_TIMES
    if says and first <= x.low and x.high <= last:
        return Found("time", f"years, {x.span}")
    if parts & {"year", "yr"} and x.whole and x.low >= 0 and x.high <= 99:
        return Found("time", f"years of two digits, {x.span}")
    of_one = any(part.isdigit() for part in parts)  # what there was in a year that is named
    if parts & {"year", "yr", "date"} and not of_one and x.low >= 0 and x.high < _AFTER_DATES:
        return Found("time", f"dates by their name, {x.span}")
    if not x.whole:
        return None
    if not hint and _YEARS[0] <= x.low and x.high <= _YEARS[1] and x.high - x.low <= 150:
        return Found("time", f"years by their values, {x.span}")
    if counter and (says or hint == "step"):
        return Found("time", f"steps in time, {x.span}")
    return _step(parts, x) if hint == "step" and x.low >= 0 else None


def _step(parts: set[str], x: _Numbers) -> Found:
    """The kind of days, weeks, rounds and the like."""
    of_month = "day" in parts and x.low >= 1 and x.high <= _DAYS and x.levels >= 0.8 * _DAYS
    if of_month:
        return Found("ordinal", f"days of the month, {x.span}")
    if x.levels <= _LEVELS and x.consecutive:
        return Found("ordinal", f"places in a sequence by their name, {x.span}")
    return Found("time", f"steps in time by their name, {x.span}")


def _angle(name: str, x: _Numbers, hint: str, counter: bool) -> Found | None:
    if hint != "angle" or x.levels <= 2:
        return None
    turn = 2 * np.pi * (1 + 1e-6)
    # Less than half a turn may as well be a ratio, as the hue of a wine is.
    wide = turn / 2 < x.high - x.low <= turn
    if -turn / 2 <= x.low and x.high <= turn and wide and not x.whole:
        return Found("angle", f"directions in radians, {x.span}")
    if x.low >= -180 and x.high <= 360 and x.high - x.low <= 360 and x.high > 10:
        return Found("angle", f"directions in degrees, {x.span}")
    return None


def _whole(x: _Numbers, hint: str) -> Found:
    """The kind of whole numbers."""
    small = x.levels <= _LEVELS and x.high - x.low <= 2 * _LEVELS
    if hint == "category" and x.low >= 0 and x.levels <= min(_CODES, max(_FEW, 0.5 * len(x))):
        return Found("category", f"codes by their name, {x.levels} of them")
    if hint == "schooling":
        return _schooling(x)
    if hint == "ordinal" and x.levels <= _CODES and x.high - x.low < _CODES:
        return Found("ordinal", f"levels by their name, {x.span}")
    if x.low < 0:
        if small and x.consecutive and not hint and x.low >= -_LEVELS / 2:
            return Found("ordinal", f"levels {x.span}")
        return Found("real", f"whole numbers {x.span}, some negative")
    if hint == "real":
        return Found("real", f"an interval scale by its name, {x.span}")
    if hint == "count" and x.high < _EXACT:
        return Found("count", f"counts by their name, {x.span}")
    if hint == "positive" and small and x.low == 0:
        return Found("count", f"whole units by their name, {x.span}")
    if hint == "positive" or (hint == "count" and x.low > 0):
        some = ", some of them 0" if x.low == 0 else ""
        return Found("positive", f"amounts by their name, {x.span}{some}")
    if small and x.low > 0:
        return _codes(x)
    if small and x.low == 0:
        if not x.consecutive and x.levels <= 4 and x.high > 2 * x.levels:
            return Found("category", f"codes {', '.join(f'{v:g}' for v in x.distinct)}")
        if _like_counts(x):
            return Found("count", f"whole numbers {x.span}, spread as counts are")
        return Found("ordinal", f"levels {x.span}, not spread as counts are")
    if x.low == 0 and x.levels > 3 and x.round_share > _ROUND:
        return Found("positive", f"whole amounts {x.span}, most of them round, some of them 0")
    if x.low == 0 and x.dispersion >= 0.8 and x.high < _EXACT:
        return Found("count", f"whole numbers from 0, up to {x.high:,.0f}")
    if x.low == 0:
        return Found("real", f"whole numbers {x.span}, spread less than counts are")
    if x.low <= _RARE and x.dispersion >= 0.8 and x.high < 1000:
        return Found("count", f"whole numbers {x.span}, spread as counts are")
    return Found("positive", f"whole amounts {x.span}")


def _schooling(x: _Numbers) -> Found:
    """The kind of schooling: levels up to a few, or years."""
    if x.high <= _LEVELS - 1:
        return Found("ordinal", f"levels by their name, {x.span}")
    kind: Kind = "count" if x.low == 0 else "positive"
    return Found(kind, f"years of schooling by their name, {x.span}")


def _codes(x: _Numbers) -> Found:
    """The kind of a few whole numbers above 0."""
    if not x.consecutive and x.levels <= 4 and x.high - x.low > 2 * (x.levels - 1):
        return Found("category", f"codes {', '.join(f'{v:g}' for v in x.distinct)}")
    falling = x.low == 1 and x.levels > 5 and x.counts[0] > 1.5 * x.counts.mean()
    falling = falling and int(x.counts.argmax()) == 0
    if falling:
        return Found("count", f"whole numbers {x.span}, most of them 1")
    return Found("ordinal", f"levels {x.span}")


def _fractions(x: _Numbers, hint: str) -> Found:
    """The kind of numbers that are not all whole."""
    if x.low < 0:
        return Found("real", f"numbers {x.span}, some negative")
    if hint == "real":
        return Found("real", f"an interval scale by its name, {x.span}")
    if x.high <= 1 and hint not in ("positive", "count") and (hint == "proportion" or x.high > 0.7):
        return Found("proportion", f"shares {x.span}")
    some = ", some of them 0" if x.low == 0 else ""
    return Found("positive", f"amounts {x.span}{some}")


def _like_counts(x: _Numbers) -> bool:
    """Whether small whole numbers from 0 are spread as counts, by the information criterion.

    A Poisson and a negative binomial distribution, one with additional zeros, and one with a
    probability for each level.
    """
    values, n = x.distinct.astype(np.float64), x.counts.astype(np.float64)
    size, top = n.sum(), int(x.high)
    mean, variance = float(x.values.mean()), float(x.values.var())
    free = float(np.log(size) * top - 2 * (n * np.log(n / size)).sum())

    def poisson(rate: float) -> np.ndarray:
        return values * np.log(rate) - rate - gammaln(values + 1)

    criteria = [np.log(size) - 2 * float(n @ poisson(mean))]
    if variance > mean:
        r = mean**2 / (variance - mean)
        log_prob = gammaln(values + r) - gammaln(r) - gammaln(values + 1)
        log_prob += r * np.log(r / (r + mean)) + values * np.log(mean / (r + mean))
        criteria.append(2 * np.log(size) - 2 * float(n @ log_prob))
        rate = (variance + mean**2) / mean - 1
        inflated = poisson(rate) + np.log(mean / rate)
        if values[0] == 0 and mean < rate:
            inflated[0] = np.log1p(mean / rate * np.expm1(-rate))
        criteria.append(2 * np.log(size) - 2 * float(n @ inflated))
    return min(criteria) <= free


def kind_of_words(name: str, cells: pd.Series) -> tuple[Found, list[str]]:
    """Returns the kind of a column of words, and these in order.

    Args:
        name: Of the column.
        cells: Its words, missing where there is none.
    """
    seen = cells.dropna()
    counts = seen.value_counts(sort=False)
    words = sorted(map(str, counts.index)) if len(counts) <= _MOST_LEVELS else []
    size, hint = len(seen), evidence(name)
    if size == 0:
        return Found("ignore", "never observed"), []
    if len(counts) == 1:
        return Found("ignore", f"constant, always {str(counts.index[0])[:20]!r}"), []
    if len(counts) == 2 and size > 2:
        return Found("binary", "two words"), in_two(words)
    if words and (ordered := in_order(words, name)) is not None:
        return Found("ordinal", "words of a scale"), ordered
    some = seen.iloc[:: max(1, size // 1000)].astype(str)
    if float(some.str.count(r"\S+").mean()) >= _TEXT and len(counts) > 0.5 * size:
        return Found("ignore", "free text"), []
    differ = len(counts) > (0.3 if hint == "id" else 0.5) * size
    if size >= _FEW and differ:
        return Found("id", f"texts that differ, {len(counts):,} of {size:,}"), []
    if len(counts) > _MOST_LEVELS:
        return Found("id", f"{len(counts):,} different texts, more than {_MOST_LEVELS:,}"), []
    return Found("category", f"{plural(len(counts), 'word')} without a known order"), words


def in_two(words: list[str]) -> list[str]:
    """Returns two words, the one that denies first, else in alphabetical order.

    Example:
        >>> in_two(["absent", "present"]), in_two(["Yes", "no"])
        (['absent', 'present'], ['no', 'Yes'])
    """
    denies = ("no", "n", "false", "f", "absent", "negative", "neg", "off", "never", "0", "none")
    return sorted(words, key=lambda word: (word.lower().strip() not in denies, word))
