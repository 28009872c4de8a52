"""Tables of pandas, polars, pyarrow and others, through narwhals: columns by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import narwhals as nw
import numpy as np

from pyro_vae._errors import expected
from pyro_vae.data.containers.contents import Asked, Contents

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["as_frame", "columns_of", "index_of", "read_table"]


def read_table(data: Any, asked: Asked) -> Contents:
    """Returns a table whose columns are numbers, or a column by itself as an array.

    Words are for columns beside x.

    Raises:
        ValueError: If two columns have one name, or a column of x holds no numbers.
    """
    frame = _native(data, asked.argument)
    if isinstance(frame, nw.Series):
        return Contents(_numbers(str(frame.name or "the column"), frame, asked.argument))
    names = [str(name) for name in frame.columns]
    columns, beside = [], {}
    for i, name in enumerate(names):
        column = frame[:, i]
        if name in asked.beside:
            beside[name] = _any_values(column)
        else:
            columns.append(_numbers(name, column, asked.argument))
    if not columns:
        raise expected(asked.argument, "columns that are left for x", names)
    kept = [name for name in names if name not in beside]
    return Contents(
        np.stack(columns, 1),
        names=() if kept == [str(i) for i in range(len(kept))] else kept,
        beside=beside,
        index=index_of(data),
    )


def as_frame(data: Any, argument: str = "data") -> pd.DataFrame:
    """Returns a table of any package as pandas has it.

    Raises:
        ValueError: If it is a column by itself, or two columns have one name.
    """
    import pandas as pd

    if isinstance(data, pd.DataFrame):
        return data
    frame = _native(data, argument)
    if isinstance(frame, nw.Series):
        kind = type(data).__name__
        way = "`.to_frame()` makes it one"
        raise ValueError(f"`{argument}`: expected a table of columns, got a {kind}: {way}")
    names = [str(name) for name in frame.columns]
    return pd.DataFrame({name: _as_pandas(frame[:, i]) for i, name in enumerate(names)})


def _as_pandas(column: nw.Series[Any]) -> Any:
    """Returns a column as pandas reads it: numbers, dates, or words."""
    if column.dtype.is_temporal():
        return column.to_numpy()
    complete = column.null_count() == 0 and column.dtype != nw.Decimal
    if column.dtype == nw.Boolean and not complete:
        return np.array(column.to_list(), dtype=object)
    return _any_values(column)


def columns_of(data: Any, argument: str = "data") -> dict[str, np.ndarray]:
    """Returns all columns of a table by name: numbers, or words as objects.

    Raises:
        ValueError: If two columns have one name.
    """
    frame = _native(data, argument)
    return {str(name): _any_values(frame[:, i]) for i, name in enumerate(frame.columns)}


def _numbers(name: str, column: nw.Series[Any], argument: str = "data") -> np.ndarray:
    """Returns the numbers of a column; NaN where one is missing.

    Raises:
        ValueError: If it holds no numbers.
    """
    dtype = column.dtype
    if not (dtype.is_numeric() or dtype == nw.Boolean):
        error = expected(argument, f"a column of numbers as {name}", str(dtype))
        hint = f"`pv.data.load(frame)` makes numbers of words and dates, `drop={name!r}` is without"
        raise ValueError(f"{error}; {hint}")
    if column.null_count() > 0 or dtype == nw.Decimal:
        column = column.cast(nw.Float64)
    values: np.ndarray = column.to_numpy()
    return values.astype(np.float64) if values.dtype.kind == "O" else values


def _native(data: Any, argument: str) -> Any:
    """Returns a table or a column as narwhals knows it, in memory."""
    try:
        frame = nw.from_native(data, allow_series=True)
        frame = frame.collect() if isinstance(frame, nw.LazyFrame) else frame
        if not isinstance(frame, nw.Series):
            names = [str(name) for name in frame.columns]
            if len(set(names)) < len(names):
                raise ValueError("two columns have one name")
        return frame
    except Exception as error:  # whatever the package of the table raises
        reason = " ".join(f"{type(data).__name__}: {error}".split())[:120]
        raise ValueError(f"`{argument}`: expected a table of numbers, got {reason}") from None


def _any_values(column: nw.Series[Any]) -> np.ndarray:
    """Returns numbers, or words as objects."""
    if column.dtype.is_numeric() or column.dtype == nw.Boolean:
        return _numbers("", column)
    return np.array(column.to_list(), dtype=object)


def index_of(data: Any) -> np.ndarray | None:
    """Returns what a table calls its rows, where that is more than a count of them."""
    index = getattr(data, "index", None)
    kind = type(index).__name__
    if index is None or kind in ("RangeIndex", "MultiIndex") or callable(index):
        return None
    values = np.asarray(index)
    return values.astype(str) if values.dtype.kind == "O" else values
