"""Columns as numbers: x, what lies beside it, labels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pyro_vae._errors import expected, unknown_name
from pyro_vae.data.cells import Cells
from pyro_vae.data.extent import Extent, extent_of, spread_above
from pyro_vae.data.fields import DAYS_OF, EXACT, FINE, ULP
from pyro_vae.data.schema import Field

__all__ = ["Unseen", "all_numbers", "beside", "encoded", "labels_of"]

Unseen: TypeAlias = Literal["refuse", "missing"]
"""What becomes of a level that the training data do not have."""

log = logging.getLogger("pyro_vae")
_NAMED = 6  # levels, in a line

_NO_DAY = 1e-9  # days that float64 is off, of what is a whole number of a unit


def encoded(
    field: Field,
    cells: Cells,
    place: Callable[[int], str],
    *,
    checked: bool = True,
    unseen: Unseen = "refuse",
) -> np.ndarray:
    """Returns a column as x has it, float32 of shape ``(N,)``; NaN where an entry is missing.

    Args:
        field: What is known of the column.
        cells: What it holds.
        place: Where the entry of a row is, for errors.
        checked: Whether numbers that are not of the kind, or that float32 would merge, are refused.
        unseen: Whether a level that the field does not have is refused, or missing.

    Raises:
        ValueError: If it holds what the field does not know, or float32 would merge its numbers.
    """
    if field.levels:
        return _places(field, cells, place, unseen)
    values = cells.values
    if not isinstance(values, np.ndarray):
        values = _as_numbers(field, cells)
    if field.kind == "angle":
        turn = 360.0 if field.unit == "degrees" else 2 * np.pi
        turns = np.asarray(values, dtype=np.float64) / turn
        # The float32 of π is above it: a little less than a turn stays on the circle.
        angles = (turns - np.floor(turns + 0.5)) * 2 * np.pi * (1 - 2 * ULP)
        return angles.astype(np.float32)
    if cells.form == "dates" and field.unit in DAYS_OF and field.zone in ("", "UTC"):
        values = _to_unit(values, DAYS_OF[field.unit])
    if field.offset:
        values = _less(values, field.offset)
    with np.errstate(over="ignore"):  # what overflows float32 is infinite, and refused as such
        held: np.ndarray = values.astype(np.float32)
    if checked:
        same = values is cells.values
        _check_held(field, values, cells.extent if same else extent_of(values))
    return held


def all_numbers(levels: Sequence[object]) -> bool:
    """Returns whether there are levels, and all are numbers.

    Example:
        >>> all_numbers([1, 2]), all_numbers(["low", 2]), all_numbers([])
        (True, False, False)
    """
    return bool(levels) and not any(isinstance(level, str) for level in levels)


def _as_numbers(field: Field, cells: Cells) -> np.ndarray:
    """Words or levels, of which numbers were wanted."""
    import pandas as pd

    numbers = pd.to_numeric(cells.values.astype(object), errors="coerce")
    bad = numbers.isna() & cells.values.notna()
    if bad.any():
        raise expected(f"schema: {field.name}", f"numbers, as it is {field.kind}",
                       str(cells.values[bad].iloc[0]))  # fmt: skip
    return numbers.to_numpy(dtype=np.float64)


def _places(field: Field, cells: Cells, place: Callable[[int], str], unseen: Unseen) -> np.ndarray:
    """The places of levels, NaN where one is missing."""
    import pandas as pd

    if not all_numbers(field.levels):
        values = cells.values
        if not isinstance(values, pd.Series):
            values = pd.Series(_written(values), dtype=object)
        texts = values.astype(object).map(str, na_action="ignore")
        codes = pd.Index(list(map(str, field.levels))).get_indexer(texts)
        lacking = values.isna().to_numpy()
        if (unknown := (codes < 0) & ~lacking).any():
            row = int(unknown.argmax())
            if unseen == "refuse":
                raise _unknown_level(texts.iloc[row], map(str, field.levels), place(row))
            _taken_for_missing(field, texts[unknown].tolist())
        return np.where(codes < 0, np.nan, codes).astype(np.float32)
    numbers = cells.values
    numbers = _as_numbers(field, cells) if isinstance(numbers, pd.Series) else numbers.astype(float)
    levels = np.array([float(level) for level in field.levels])
    order, lacking = np.argsort(levels), np.isnan(numbers)
    places = np.searchsorted(levels[order], numbers).clip(0, len(levels) - 1)
    if (unknown := (levels[order][places] != numbers) & ~lacking).any():
        row = int(unknown.argmax())
        if unseen == "refuse":
            known = [f"{level:g}" for level in levels]
            raise _unknown_level(f"{numbers[row]:g}", known, place(row))
        _taken_for_missing(field, [f"{number:g}" for number in numbers[unknown]])
    return np.where(lacking | unknown, np.nan, order[places]).astype(np.float32)


def _taken_for_missing(field: Field, unknown: Sequence[str]) -> None:
    """Says which levels are taken for missing, and in how many cells."""
    names = sorted(set(unknown))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    shown = ", ".join(map(repr, names[:_NAMED])) + more
    log.warning("%s: took %s for missing in %s cells", field.name, shown, f"{len(unknown):,}")


def _written(values: np.ndarray) -> list[str | None]:
    """Numbers as words, as a file has them."""
    distinct, back = np.unique(values, return_inverse=True)
    texts = [None if np.isnan(v) else f"{v:.0f}" if v == round(v) else repr(float(v)) for v in
             distinct.tolist()]  # fmt: skip
    return [texts[i] for i in back.tolist()]


def _unknown_level(found: str, known: Iterable[str], place: str) -> ValueError:
    return ValueError(f"{unknown_name('data', found, known)}, in {place}")


def _less(values: np.ndarray, offset: float) -> np.ndarray:
    """Values less an offset, without a rounding of integers before."""
    if values.dtype.kind == "i" and isinstance(offset, int):
        return (values - offset).astype(np.float64)
    return values.astype(np.float64) - offset


def _to_unit(days: np.ndarray, unit: float) -> np.ndarray:
    """Days that are whole numbers of a unit: a float32 near the middle of two might be either."""
    rounded = np.round(days / unit) * unit
    return np.where(np.abs(rounded - days) > _NO_DAY, rounded, days)


def _check_held(field: Field, values: np.ndarray, extent: Extent) -> None:
    """Refuses numbers that are not of the kind, or that float32 would merge."""
    low, high = float(extent.low), float(extent.high)
    with np.errstate(over="ignore"):
        overflow = bool(np.isinf(np.array([low, high], dtype=np.float32)).any())
    if not extent.observed or overflow:
        return
    what, got = "", low
    if field.kind == "binary" and not np.isin(values[~np.isnan(values)], (0, 1)).all():
        what = "two values"
    elif field.kind == "proportion" and (low < 0 or high > 1):
        what, got = "shares in [0, 1]", low if low < 0 else high
    elif (field.kind in ("positive", "count") and low < 0) or (
        field.kind == "count" and not extent.whole
    ):
        what = "whole numbers from 0" if field.kind == "count" else "amounts, none below 0,"
    elif field.kind == "count" and high >= EXACT:
        what, got = "integers below 2**24, which float32 holds exactly,", high
    elif high > low and not field.offset and _merged(values, extent):
        what, got = "numbers that float32 can tell apart", high
    if what:
        hint = f"`kinds` (--kind {field.name}=real) takes any number, less an offset if need be"
        raise ValueError(f"{expected('data', f'{what} in {field.name}', got)}; {hint}")


def _merged(values: np.ndarray, extent: Extent) -> bool:
    """Whether float32 rounds numbers by more than a part of their standard deviation."""
    spread = extent.largest * ULP / FINE
    if spread_above(extent, spread):
        return False
    return bool(spread > float(values[~np.isnan(values)].astype(np.float64).std()))


def labels_of(
    field: Field, cells: Cells, place: Callable[[int], str], unseen: Unseen = "refuse"
) -> Tensor:
    """Returns labels as integers, shape ``(N,)``, -1 where one is missing.

    Raises:
        ValueError: If they are neither levels nor whole numbers.
    """
    if field.levels:
        places = _places(field, cells, place, unseen)
        return torch.from_numpy(np.where(np.isnan(places), -1, places).astype(np.int64))
    places = cells.values
    whole = (
        isinstance(places, np.ndarray) and not (places != np.round(places))[~cells.lacking].any()
    )
    if not whole:
        raise expected("label", f"words or whole numbers in {field.name}", str(field.kind))
    return torch.from_numpy(np.where(cells.lacking, -1, places).astype(np.int64))


def beside(cells: Cells) -> tuple[np.ndarray, list[str]]:
    """Returns a column beside x as numbers, and the words that these count, if it holds words."""
    import pandas as pd

    if isinstance(cells.values, np.ndarray):
        return cells.values.astype(np.float64), []
    if cells.form == "levels" and all_numbers(cells.levels):
        return pd.to_numeric(cells.values.astype(object)).to_numpy(dtype=np.float64), []
    texts = cells.values.astype(object).map(str, na_action="ignore")
    words = sorted(set(texts.dropna()))
    codes = pd.Categorical(texts, categories=words).codes.astype(np.float64)
    return np.where(codes < 0, np.nan, codes), words
