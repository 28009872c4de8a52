"""The field of a column: its kind, and what it takes to encode and decode it."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pyro_vae.data.cells import Cells
from pyro_vae.data.extent import distinct_of, spread_above
from pyro_vae.data.inference import Found, kind_of_numbers, kind_of_words
from pyro_vae.data.schema import Field, Kind
from pyro_vae.data.vocabulary import in_order

__all__ = ["DAYS_OF", "EXACT", "FINE", "ULP", "described", "is_nameless", "kind_of", "of_counts"]

EXACT = 2**24
"""Float32 holds every smaller integer."""
ULP = 2.0**-24
"""The largest relative error of rounding to float32."""
FINE = 1e-4
"""Of a standard deviation, what rounding may cost."""
DAYS_OF = {
    "D": 1.0, "h": 1 / 24, "min": 1 / 1440, "s": 1 / 86_400, "ms": 1e-3 / 86_400,
    "us": 1e-6 / 86_400,
}  # fmt: skip
"""The units that dates are rounded to, from the largest on, in days."""
_UNITS = {"D": "day", "h": "hour", "min": "minute", "s": "second", "ms": "millisecond",
          "us": "microsecond"}  # fmt: skip
_MOST_DECIMALS, _FIRST = 6, 1000  # numbers that are looked at before all are
_SAMPLE = 20_000  # rows that a kind is inferred from
_FEWEST_ROWS = 3  # of which numbers in order are no chance
_WIDE = 20  # columns from which on a table is of counts, if a quarter of them are


def kind_of(name: str, cells: Cells, others: Collection[str] = ()) -> tuple[Found, list[Any]]:
    """Returns the kind of a column by its name and values, and its levels in order, if any.

    Args:
        name: Of the column.
        cells: What it holds.
        others: Names of the other columns.
    """
    if cells.form == "levels":
        seen = cells.values.dropna().nunique()
        if seen < 2:
            return Found("ignore", "never observed" if seen == 0 else "constant"), []
        two = len(cells.levels) == 2
        kind: Kind = "ordinal" if cells.ordered else "binary" if two else "category"
        words = [str(level) for level in cells.levels]
        if kind == "category" and (scale := in_order(words, name)) is not None:
            places = {word: at for at, word in enumerate(scale)}
            levels = sorted(cells.levels, key=lambda level: places[str(level)])
            return Found("ordinal", "levels of a scale"), list(levels)
        order = "in an order" if cells.ordered else "without an order"
        return Found(kind, f"{len(words)} categories {order}"), list(cells.levels)
    if cells.form == "words":
        return kind_of_words(name, cells.values)
    values = _some(cells)
    if cells.form == "truths":
        seen = np.unique(values[~np.isnan(values)])
        if len(seen) < 2:
            return Found("ignore", "constant" if len(seen) else "never observed"), []
        return Found("binary", "true or false"), [False, True]
    if cells.form == "dates":
        seen = values[~np.isnan(values)]
        if len(seen) == 0 or seen.min() == seen.max():
            return Found("ignore", "constant" if len(seen) else "never observed"), []
        return Found("time", f"dates, {_date(seen.min())} to {_date(seen.max())}"), []
    counter = _counts_rows(cells.values)
    if counter and is_nameless(name):
        return Found("id", "counts the rows, and has no name"), []
    counter = counter and len(cells.values) >= _FEWEST_ROWS
    found = kind_of_numbers(name, values, counter=counter, others=others)
    whole = found.kind in ("binary", "category", "ordinal")
    if whole and len(values) < len(cells.values):
        # A level may be too rare for a sample.
        found = kind_of_numbers(name, cells.values, others=others)
        whole = found.kind in ("binary", "category", "ordinal")
    return found, _numbered(found.kind, cells.values) if whole else []


def _some(cells: Cells) -> np.ndarray:
    """Values of a column, not too many, in order, with those that decide what it can be."""
    values: np.ndarray = cells.values
    if len(values) <= _SAMPLE:
        return values
    extent = cells.extent
    if not extent.observed:
        return values[:1]
    step = len(values) // _SAMPLE
    which = np.arange(0, len(values), step)
    # Where all are whole, the first one is in the sample anyway.
    ends = {extent.at_low, extent.at_high, max(extent.at_part, 0)}
    others = sorted(each for each in ends if each % step)
    return values[np.insert(which, which.searchsorted(others), others)]


def is_nameless(name: str) -> bool:
    """Returns whether a column has the name that one without a name is given, as pandas does."""
    return bool(re.fullmatch(r"Unnamed: \d+|", name))


def _date(days: float) -> str:
    return str(np.datetime64(int(days), "D"))


def _counts_rows(values: np.ndarray) -> bool:
    """Whether values number the rows from 0 or 1."""
    if len(values) == 0 or values[0] not in (0, 1):
        return False
    return bool((np.diff(values[:1000]) == 1).all() and (np.diff(values) == 1).all())


def _numbered(kind: str, values: np.ndarray) -> list[Any]:
    """The levels of a column of numbers: those between others are there in an order of integers."""
    seen = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    distinct, _ = distinct_of(seen)
    if not (distinct == np.round(distinct)).all():
        return [float(value) for value in distinct]
    if kind == "binary" or len(distinct) == 0:
        return [int(value) for value in distinct]
    low, high = int(distinct[0]), int(distinct[-1])
    close = high - low < 2 * len(distinct)
    if (kind == "ordinal" and 0 < low <= 1) or (kind == "ordinal" and close):
        return list(range(low, high + 1))
    if low == 0 and kind == "ordinal":
        return list(range(high + 1))
    return [int(value) for value in distinct]


def described(
    name: str, cells: Cells, found: Found, levels: Sequence[Any], *, forced: bool
) -> Field:
    """Returns the field of a column of a kind, with what it takes to encode and decode it."""
    kind, dtype = found.kind, cells.dtype
    if forced and kind in ("binary", "category", "ordinal") and not levels:
        levels = _forced_levels(name, cells, kind)
    warning = cells.warning or found.warning
    made = Field(name, kind, dtype, reason=found.reason, warning=warning, format=cells.format,
                 zone=cells.zone)  # fmt: skip
    if kind in ("binary", "category", "ordinal"):
        if kind == "binary" and list(levels) == [0, 1] and cells.form == "numbers":
            return made  # as they are
        made = replace(made, levels=tuple(levels))
        return _told(made, cells)
    if kind in ("id", "ignore"):
        return made
    if cells.form in ("words", "levels") and forced:
        return made  # refused where they are encoded
    if cells.form == "dates":
        return _dated(made, cells)
    if cells.form == "numbers" and (kind == "angle" or dtype.lower().startswith("float")):
        made = replace(made, decimals=_decimals(cells.values))
    if kind == "angle":
        return _on_circle(made, cells, found, forced=forced)
    return _rounded(_centred(made, cells, forced=forced), cells.values)


def _dated(made: Field, cells: Cells) -> Field:
    """The field of dates, and the unit that float32 keeps of them."""
    seen = cells.values[~np.isnan(cells.values)]
    middle = float(np.floor(np.median(seen))) if len(seen) else 0.0
    made = replace(made, kind="time", offset=middle, unit=cells.unit or "D")
    farthest = float(np.abs(seen - middle).max(initial=0.0))
    # Rounding to a unit puts right what float32 is less than half of it off.
    kept = [each for each, days in DAYS_OF.items() if 2 * farthest * ULP < days]
    own = DAYS_OF.get(made.unit, 0.0)
    if not kept or own >= DAYS_OF[kept[-1]]:
        return made
    why = f"times are rounded to the {_UNITS[kept[-1]]}, as float32 keeps no more over their span"
    return replace(made, unit=kept[-1], warning="; ".join(filter(None, (made.warning, why))))


def _on_circle(made: Field, cells: Cells, found: Found, *, forced: bool) -> Field:
    """The field of directions: their unit, and where their circle begins."""
    degrees = "radians" not in found.reason
    if forced and cells.form == "numbers":
        degrees = float(np.nanmax(np.abs(cells.values))) > 2 * np.pi * (1 + 1e-6)
    unit, turn = ("degrees", 360.0) if degrees else ("radians", 2 * math.pi)
    low, high = float(np.nanmin(cells.values)), float(np.nanmax(cells.values))
    start, warning = -turn / 2 if low < 0 else 0.0, made.warning
    if high == turn == 360.0 and low > 0 and made.decimals >= 0:
        start = 10.0**-made.decimals  # they are written from 1 to 360, say
    elif high == turn and not warning:
        warning = f"{turn:g} and 0 are one direction, which is decoded as 0"
    return replace(made, unit=unit, start=start, warning=warning)


def _decimals(values: np.ndarray) -> int:
    """How many digits numbers have after the point; -1 if they have more than `_MOST_DECIMALS`."""
    if values.dtype.kind in "iu":
        return 0
    seen = values[np.isfinite(values)]
    some = seen[:: max(1, len(seen) // _FIRST)]
    for decimals in range(_MOST_DECIMALS + 1):
        if (some == some.round(decimals)).all():
            some = seen
            if (seen == seen.round(decimals)).all():
                return decimals if len(seen) else -1
    return -1


def _rounded(made: Field, values: np.ndarray) -> Field:
    """The field of numbers, with a warning where whole ones are no longer what they were."""
    if not len(values) or (made.decimals != 0 and made.dtype.lower().startswith("float")):
        return made
    ends = float(np.nanmin(values)), float(np.nanmax(values))
    largest = max(abs(end - made.offset) for end in ends)
    if largest < EXACT or not np.isfinite(largest):
        return made
    why = f"whole numbers from {EXACT:,} on are rounded, as float32 has 7 digits"
    return replace(made, warning="; ".join(filter(None, (made.warning, why))))


def _told(made: Field, cells: Cells) -> Field:
    """The field of levels, with a warning where numbers are no longer what they were."""
    numbers = list(made.levels)
    if cells.form != "numbers" or numbers == list(range(len(numbers))) or made.warning:
        return made
    what = f"x has the places 0 to {len(numbers) - 1} of its levels; decoding puts them back"
    return replace(made, reason=f"{made.reason}; {what}")


def _forced_levels(name: str, cells: Cells, kind: str) -> list[Any]:
    if cells.form == "numbers":
        return _numbered(kind, cells.values)
    if cells.form in ("levels", "truths"):
        return list(cells.levels)
    words = sorted({str(each) for each in cells.values.dropna().unique()})
    return in_order(words, name) or words


def _centred(made: Field, cells: Cells, *, forced: bool) -> Field:
    """The field of numbers, less an offset where float32 would merge some of them."""
    values, extent = cells.values, cells.extent
    if not (extent.observed and extent.finite):
        return made
    low, high, largest = extent.low, extent.high, extent.largest
    if largest < EXACT and spread_above(extent, largest * ULP / FINE):
        return made  # which saves a look at all of them
    seen = values if extent.complete else values[~np.isnan(values)]
    spread = float(np.std(seen.astype(np.float64) - float(low)))
    whole = values.dtype.kind in "iu" or bool((seen[:1000] == np.round(seen[:1000])).all())
    merged = largest * ULP > FINE * spread or (
        whole and largest >= EXACT and float(high) - float(low) < 2 * EXACT
    )
    if not merged or spread == 0:
        return made
    middle = np.median(seen)
    offset: float = round(float(middle)) if whole else float(middle)
    if made.kind in ("real", "time"):
        return replace(made, offset=offset)
    if forced:
        return made  # refused where they are encoded
    why = f"{made.reason}; less an offset, as float32 would merge them"
    return replace(made, kind="real", offset=offset, reason=why)


def of_counts(fields: list[Field], inferred: Sequence[bool]) -> list[Field]:
    """Takes what is 0 or 1 in a wide table of counts for counts, too: they were never 2 by chance.

    Args:
        fields: The columns of a table.
        inferred: Which of them nobody said anything about.
    """
    inside = [each for each in fields if each.in_x]
    counts = sum(each.kind == "count" for each in inside)
    small = sum(each.kind in ("binary", "count") and not each.levels for each in inside)
    if len(inside) <= _WIDE or 4 * counts < len(inside) or small < 0.9 * len(inside):
        return fields
    why = "0 and 1 in a table of counts"
    return [
        replace(each, kind="count", reason=why)
        if own and each.kind == "binary" and not each.levels and each.in_x
        else each
        for each, own in zip(fields, inferred, strict=True)
    ]
