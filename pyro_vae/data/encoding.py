"""Columns as numbers: x, what lies beside it, labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae._errors import expected, unknown_name
from pyro_vae.data.cells import Cells
from pyro_vae.data.fields import EXACT, FINE, ULP
from pyro_vae.data.schema import Field

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["all_numbers", "beside", "encoded", "labels_of"]


def encoded(field: Field, cells: Cells, *, checked: bool = True) -> np.ndarray:
    """Returns a column as x has it, float32 of shape ``(N,)``; NaN where an entry is missing.

    Args:
        field: What is known of the column.
        cells: What it holds.
        checked: Whether numbers that float32 would merge are refused.

    Raises:
        ValueError: If it holds what the field does not know, or float32 would merge its numbers.
    """
    if field.levels:
        return _places(field, cells)
    values = cells.values
    if not isinstance(values, np.ndarray):
        values = _as_numbers(field, cells)
    if field.kind == "angle":
        turn = 360.0 if field.unit == "degrees" else 2 * np.pi
        turns = np.asarray(values, dtype=np.float64) / turn
        # The float32 of π is above it: a little less than a turn stays on the circle.
        angles = (turns - np.floor(turns + 0.5)) * 2 * np.pi * (1 - 2 * ULP)
        return angles.astype(np.float32)
    if field.offset:
        values = _less(values, field.offset)
    with np.errstate(over="ignore"):  # what overflows float32 is infinite, and refused as such
        held: np.ndarray = values.astype(np.float32)
    if checked:
        _check_held(field, values, held)
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


def _places(field: Field, cells: Cells) -> np.ndarray:
    """The places of levels, NaN where one is missing."""
    import pandas as pd

    if not all_numbers(field.levels):
        values = cells.values
        if not isinstance(values, pd.Series):
            values = pd.Series(_written(values), dtype=object)
        texts = values.astype(object).map(str, na_action="ignore")
        codes = pd.Categorical(texts, categories=list(map(str, field.levels))).codes
        lacking = values.isna().to_numpy()
        if (unknown := (codes < 0) & ~lacking).any():
            raise _unknown_level(field, texts[unknown].iloc[0], map(str, field.levels))
        return np.where(lacking, np.nan, codes).astype(np.float32)
    if isinstance(cells.values, pd.Series):
        values = _as_numbers(field, cells)
    else:
        values = cells.values.astype(np.float64)
    levels = np.array([float(level) for level in field.levels])
    order = np.argsort(levels)
    lacking = np.isnan(values)
    places = np.searchsorted(levels[order], values).clip(0, len(levels) - 1)
    if (unknown := (levels[order][places] != values) & ~lacking).any():
        known = [f"{level:g}" for level in levels]
        raise _unknown_level(field, f"{values[unknown][0]:g}", known)
    return np.where(lacking, np.nan, order[places]).astype(np.float32)


def _written(values: np.ndarray) -> list[str | None]:
    """Numbers as words, as a file has them."""
    distinct, back = np.unique(values, return_inverse=True)
    texts = [None if np.isnan(v) else f"{v:.0f}" if v == round(v) else repr(float(v)) for v in
             distinct.tolist()]  # fmt: skip
    return [texts[i] for i in back.tolist()]


def _unknown_level(field: Field, found: str, known: Any) -> ValueError:
    return ValueError(f"{unknown_name('data', found, known)}, in {field.name}")


def _less(values: np.ndarray, offset: float) -> np.ndarray:
    """Values less an offset, without a rounding of integers before."""
    if values.dtype.kind == "i" and isinstance(offset, int):
        return (values - offset).astype(np.float64)
    return values.astype(np.float64) - offset


def _check_held(field: Field, values: np.ndarray, held: np.ndarray) -> None:
    """Refuses whole numbers that float32 does not hold, and numbers that it would merge."""
    largest = float(np.nanmax(np.abs(held))) if not np.isnan(held).all() else 0.0
    if not np.isfinite(largest) or largest == 0:
        return
    if field.kind == "count":
        merged, what = largest >= EXACT, f"integers below 2**24 in {field.name}"
        what += ", which float32 holds exactly"
    else:
        seen = values[~np.isnan(values)].astype(np.float64)
        merged = np.ptp(seen) > 0 and largest * ULP > FINE * float(seen.std())
        what = f"numbers in {field.name} that float32 can tell apart"
    if merged:
        hint = f"`kinds` (--kind {field.name}=real) subtracts an offset"
        raise ValueError(f"{expected('data', what, float(np.nanmax(values)))}; {hint}")


def labels_of(field: Field, cells: Cells) -> Tensor:
    """Labels as integers, -1 where one is missing."""
    if field.levels:
        places = _places(field, cells)
    else:
        values = cells.values if isinstance(cells.values, np.ndarray) else None
        if values is None or (values[~np.isnan(values)] != np.round(values[~np.isnan(values)])).any():
            raise expected("label", "words or whole numbers (`kinds`, --kind NAME=category)", field.name)
        places = values.astype(np.float64)
    filled = np.where(np.isnan(places), -1, places)
    return torch.from_numpy(filled.astype(np.int64))


def beside(cells: Cells) -> tuple[np.ndarray, list[str]]:
    """A column beside x as numbers, and the words that these count, if it holds words."""
    import pandas as pd

    if isinstance(cells.values, np.ndarray):
        return cells.values.astype(np.float64), []
    if cells.form == "levels" and all_numbers(cells.levels):
        return pd.to_numeric(cells.values.astype(object)).to_numpy(dtype=np.float64), []
    texts = cells.values.astype(object).map(str, na_action="ignore")
    words = sorted(set(texts.dropna()))
    codes = pd.Categorical(texts, categories=words).codes.astype(np.float64)
    return np.where(codes < 0, np.nan, codes), words
