"""Values of a model as a table again: names, words, dates, units and dtypes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vae._errors import expected
from pyro_vae.data.schema import Field

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

__all__ = ["decoded"]

_NANOSECONDS = 86_400 * 10**9  # of a day
_DAYS_OF_NS = 106_000  # which nanoseconds in int64 hold, from 1970 on and before
_YEARS = -719_162.0, 2_932_896.0  # days from 1970 to the years 1 and 9999


def decoded(fields: Sequence[Field], x: Tensor, *, means: bool = False) -> pd.DataFrame:
    """Returns values as a table, see :meth:`pyro_vae.data.Schema.decode`.

    Raises:
        ValueError: If there is not one column for each field.
    """
    import pandas as pd

    if x.ndim != 2 or x.shape[1] != len(fields):
        raise expected("x", f"shape (N, {len(fields)}), a column for each of the schema", x)
    values = x.detach().cpu().double().numpy()
    columns = {field.name: _column(field, values[:, i], means) for i, field in enumerate(fields)}
    return pd.DataFrame(columns, index=pd.RangeIndex(len(values)))


def _column(field: Field, values: np.ndarray, means: bool) -> pd.Series:

    if field.levels:
        numbers = _are_numbers(field) and not isinstance(field.levels[0], bool)
        if means and field.kind in ("binary", "ordinal") and numbers:
            return _between(field, values)
        return _levels(field, values)
    if field.kind == "angle":
        return _numbers(field, _angles(field, values, means), means)
    values = values + field.offset
    if field.kind == "time" and field.unit:
        return _dates(field, values)
    return _numbers(field, values, means)


def _are_numbers(field: Field) -> bool:
    return not any(isinstance(level, str) for level in field.levels)


def _between(field: Field, values: np.ndarray) -> pd.Series:
    """Means of places, as means of the numbers of these levels."""
    import pandas as pd

    levels = np.array([float(level) for level in field.levels])
    found = np.interp(values, np.arange(len(levels)), levels)
    return pd.Series(np.where(np.isnan(values), np.nan, found))


def _levels(field: Field, values: np.ndarray) -> pd.Series:
    import pandas as pd

    lacking = np.isnan(values)
    places = np.where(lacking, 0, values).round().clip(0, len(field.levels) - 1).astype(np.int64)
    if field.dtype == "category":
        codes = np.where(lacking, -1, places)
        ordered = field.kind == "ordinal"
        known = pd.Index(list(field.levels))
        return pd.Series(pd.Categorical.from_codes(codes, categories=known, ordered=ordered))
    if _are_numbers(field) and field.dtype not in ("str", "object"):
        levels: Any = np.array([float(level) for level in field.levels])
        return _as_dtype(np.where(lacking, np.nan, levels[places]), field.dtype)
    words = np.array([*map(str, field.levels), None], dtype=object)
    # The dtype of words is another one from pandas 3 on.
    return pd.Series(words[np.where(lacking, len(field.levels), places)]).infer_objects()


def _angles(field: Field, values: np.ndarray, means: bool) -> np.ndarray:
    """Angles in their unit, from the lowest number of their circle."""
    turn = 360.0 if field.unit == "degrees" else 2 * np.pi
    angles = values * turn / (2 * np.pi)
    if (
        field.decimals >= 0 and not means
    ):  # before a circle ends: of whole degrees, 359.9 is 0 or 360
        angles = angles.round(field.decimals)
    return (angles - field.start) % turn + field.start


def _dates(field: Field, days: np.ndarray) -> pd.Series:
    import pandas as pd

    lacking = np.isnan(days)
    days = np.where(lacking, 0.0, days).clip(*_YEARS)
    size, unit = (1000, "us") if np.abs(days).max(initial=0.0) > _DAYS_OF_NS else (1, "ns")
    ticks = (days * (_NANOSECONDS // size)).round().astype(np.int64)
    dates = pd.Series(ticks.astype(f"datetime64[{unit}]")).mask(lacking)
    if field.zone:
        dates = dates.dt.tz_localize("UTC").dt.tz_convert(field.zone)
        local = dates.dt.tz_localize(None).dt.round(field.unit)
        # Where clocks are put back an hour comes twice: it is the one that is nearer.
        first, second = (
            local.dt.tz_localize(
                field.zone, ambiguous=np.full(len(days), summer), nonexistent="shift_forward"
            )
            for summer in (True, False)
        )
        return first.where((first - dates).abs() <= (second - dates).abs(), second)
    return dates if field.unit == "ns" else dates.dt.round(field.unit)


def _numbers(field: Field, values: np.ndarray, means: bool) -> pd.Series:
    import pandas as pd

    kind = field.dtype.lower()
    whole = kind.startswith(("int", "uint", "bool"))
    if means and field.kind != "time":
        return pd.Series(values) if whole else _as_dtype(values, field.dtype)
    if field.decimals >= 0 and not whole:
        values = values.round(field.decimals)
    return _as_dtype(values, field.dtype)


def _as_dtype(values: np.ndarray, dtype: str) -> pd.Series:
    """Numbers of a dtype, rounded if it is one of whole numbers, nullable if one is missing.

    Where a dtype does not hold them, as draws may be larger than data, the widest of its kind
    does, or floats.
    """
    import pandas as pd

    column, lacking, kind = pd.Series(values), np.isnan(values), dtype.lower()
    if kind in ("bool", "boolean"):
        nullable = dtype == "boolean" or lacking.any()
        filled = column.where(~lacking, 0.0).round().astype(bool)
        return filled.astype("boolean").mask(lacking) if nullable else filled
    if kind.startswith(("int", "uint")):
        filled = column.where(~lacking, 0.0).round()
        if kind.startswith("u"):
            filled = filled.clip(lower=0)
        widths = kind, f"{kind.rstrip('0123456789')}64"
        wide = next((each for each in widths if _holds(each, filled)), None)
        if wide is None:
            return filled.mask(lacking)
        if dtype == kind and not lacking.any():
            return filled.astype(wide)
        capital = wide.replace("uint", "UInt") if wide[0] == "u" else wide.replace("int", "Int")
        return filled.astype(wide).astype(capital).mask(lacking)
    if not kind.startswith("float"):
        return column
    with np.errstate(over="ignore"):
        narrow = column.astype(kind)
    return narrow if np.isinf(narrow).equals(np.isinf(column)) else column


def _holds(dtype: str, whole: pd.Series) -> bool:
    """Whether integers of a dtype hold these: more than they do would become other numbers."""
    limits = np.iinfo(dtype)
    # As floats, since the largest of 64 bits is none: the next one is the first not to be held.
    return bool(((whole >= float(limits.min)) & (whole < float(limits.max) + 1)).all())
