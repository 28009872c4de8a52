"""The field of a column: its kind, and what it takes to encode and decode it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pyro_vae.data.cells import Cells
from pyro_vae.data.extent import distinct_of, spread_above
from pyro_vae.data.inference import Found, kind_of_numbers, kind_of_words
from pyro_vae.data.schema import Field, Kind
from pyro_vae.data.vocabulary import in_order

__all__ = ["EXACT", "FINE", "ULP", "described", "kind_of", "of_counts"]

EXACT = 2**24
"""Float32 holds every smaller integer."""
ULP = 2.0**-24
"""The largest relative error of rounding to float32."""
FINE = 1e-4
"""Of a standard deviation, what rounding may cost."""
_SAMPLE = 20_000  # rows that a kind is inferred from
_WIDE = 20  # columns from which on a table is of counts, if a quarter of them are


def kind_of(name: str, cells: Cells) -> tuple[Found, list[Any]]:
    """Returns the kind of a column by its name and values, and its levels in order, if any."""
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
    found = kind_of_numbers(name, values, counter=_counts_rows(cells.values))
    whole = found.kind in ("binary", "category", "ordinal")
    if whole and len(values) < len(cells.values):
        # A level may be too rare for a sample.
        found = kind_of_numbers(name, cells.values)
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


def _date(days: float) -> str:
    return str(np.datetime64(int(days), "D"))


def _counts_rows(values: np.ndarray) -> bool:
    """Whether values number the rows from 0 or 1."""
    if len(values) < 3 or values[0] not in (0, 1):
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
        seen = cells.values[~np.isnan(cells.values)]
        middle = float(np.floor(np.median(seen))) if len(seen) else 0.0
        return replace(made, kind="time", offset=middle, unit=cells.unit or "D")
    if kind == "angle":
        degrees = "radians" not in found.reason
        if forced and cells.form == "numbers":
            degrees = float(np.nanmax(np.abs(cells.values))) > 2 * np.pi * (1 + 1e-6)
        unit, half = ("degrees", 180.0) if degrees else ("radians", math.pi)
        return replace(made, unit=unit, start=-half if np.nanmin(cells.values) < 0 else 0.0)
    return _centred(made, cells, forced=forced)


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
