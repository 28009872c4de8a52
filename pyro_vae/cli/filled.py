"""A table with its missing cells filled: in its own file, all else untouched, or in another."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pyro_vae.cli.table_files import content_of
from pyro_vae.data import Dataset
from pyro_vae.data.dates import as_written
from pyro_vae.data.formulas import quoted
from pyro_vae.data.frames import Table
from pyro_vae.data.likeness import reading_like
from pyro_vae.data.readers import Reading
from pyro_vae.data.readers.csv_files import fill_csv
from pyro_vae.data.readers.excel_files import fill_excel

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FILLED", "filled_table"]

_TEXTS = (".csv", ".tsv", ".gz")
FILLED = (*_TEXTS, ".parquet", ".xlsx")
"""The suffixes of tables that can be filled."""


def filled_table(
    suffix: str,
    path: Path,
    table: Table,
    data: Dataset,
    x: Tensor,
    lacking: Tensor,
    where: Sequence[int],
    words: Sequence[Sequence[str]],
    *,
    safe: bool = False,
) -> bytes:
    """Returns the content of a file whose cells that were missing hold what was imputed.

    A text and an Excel sheet that stay what they are keep all else, to the byte or the cell.

    Args:
        suffix: Of the file to write.
        path: The file that was read.
        table: What is in it.
        data: The same as the model has it.
        x: Its rows, completed, shape ``(N, columns)``.
        lacking: Which entries were missing, of its shape.
        where: The column of the table that each entry is.
        words: What places of each entry stand for, where there is no schema.
        safe: Whether text that a spreadsheet would compute is quoted.
    """
    filled = _decoded(data, x, words)
    known = [] if data.schema is None else [field.format for field in data.schema.x]
    formats = known or [""] * len(filled)
    how = reading_like(Reading(), data)
    texts = path.suffix in _TEXTS and suffix == path.suffix
    if texts or (suffix == path.suffix == ".xlsx"):
        values: dict[int, dict[int, Any]] = {}
        for row, entry in lacking.nonzero().tolist():
            column = filled[entry].iloc[[row]]
            if texts and formats[entry]:
                column = as_written(column, formats[entry])
            cell = _plain(column.iloc[0])
            values.setdefault(row, {})[where[entry]] = _text(cell) if texts else cell
        if texts:
            return fill_csv(path, values, how, safe=safe)
        if safe:
            values = {row: {i: quoted(v) for i, v in own.items()} for row, own in values.items()}
        return fill_excel(path, values, how)
    frame = table.frame.copy()
    frame.columns = table.names
    for entry, column in enumerate(filled):
        missing = lacking[:, entry].numpy()
        if missing.any():
            name = table.names[where[entry]]
            frame[name] = _with_values(frame[name], missing, column)
    return content_of(frame, suffix, safe=safe)


def _decoded(data: Dataset, x: Tensor, words: Sequence[Sequence[str]]) -> list[pd.Series]:
    """The columns of x as a table has them: words, dates, numbers in their units."""
    import pandas as pd

    if data.schema is not None:
        table = data.schema.decode(x, means=True)
        return [table.iloc[:, i] for i in range(table.shape[1])]
    columns = []
    for entry, values in enumerate(x.T.tolist()):
        # Between two levels there is no word: the nearer one.
        known = words[entry] if words else ()
        columns.append(pd.Series([known[round(v)] for v in values] if known else values))
    return columns


def _with_values(column: pd.Series, missing: np.ndarray, values: pd.Series) -> pd.Series:
    """A column with new values where some are missing, of its dtype if it can hold them."""
    import pandas as pd

    new = values.astype(object).set_axis(column.index)
    filled = column.astype(object).mask(pd.Series(missing, index=column.index), new)
    try:
        return filled.astype(column.dtype)
    except (TypeError, ValueError):  # means of whole numbers, levels that are not listed
        return filled.infer_objects()


def _plain(cell: Any) -> Any:
    """A cell as Python has it."""
    return cell.item() if isinstance(cell, np.generic) else cell


def _text(cell: Any) -> float | str:
    """A number, or a word, a whole number, a truth value or a date as a file has it."""
    if isinstance(cell, float):
        return cell
    text = cell.isoformat() if isinstance(cell, datetime.datetime) else str(cell)
    return text.removesuffix("T00:00:00")
