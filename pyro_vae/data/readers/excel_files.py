"""Tables in the first sheet of Excel's files: ``.xlsx``."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vae._errors import expected
from pyro_vae.data.frames import Table
from pyro_vae.data.readers.csv_files import Reading
from pyro_vae.data.readers.first_rows import names_in

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["fill_excel", "read_excel"]

_ROWS = 1000  # that are looked at to see whether the first one names the columns


def read_excel(path: Path, how: Reading) -> Table:
    """Returns the table of the first sheet; empty rows and columns around it are left out.

    Raises:
        ValueError: If it is no such file, openpyxl is not installed, or the first row may be names
            or an observation.
    """
    import pandas as pd

    frame = _cells(path, how).reset_index(drop=True)
    if frame.empty:
        what = "at least one observation with at least one entry"
        raise expected("data", what, str(path))
    start = 0 if how.header in ("infer", "none") else int(how.header)
    named = how.header != "none"
    if how.header == "infer":
        rows = [["" if pd.isna(v) else str(v) for v in row] for row in frame.head(_ROWS).to_numpy()]
        named = names_in(rows, str(path))
    notes: list[str] = []
    below = frame.iloc[start + named :].reset_index(drop=True).infer_objects()
    if named:
        names = ["" if pd.isna(v) else str(v).strip() for v in frame.iloc[start]]
        for i, name in enumerate(names):
            if not name:
                names[i] = f"Unnamed: {i}"
                notes.append(f"column {i + 1} has no name: it is {names[i]!r} now")
        below.columns = pd.Index(names)
    else:
        below.columns = pd.RangeIndex(below.shape[1])
    return Table(below, named=named, notes=tuple(notes))


def fill_excel(path: Path, values: Mapping[int, Mapping[int, Any]], how: Reading) -> bytes:
    """The content of a file with new values in some cells of its first sheet, all else as it is.

    Args:
        path: The file.
        values: What to fill in, by row, counted from the first one that is no names, and by column.
        how: How the file is read.
    """
    from openpyxl import load_workbook  # an extra, which has read the file

    named, cells = read_excel(path, how).named, _cells(path, how)
    start = 0 if how.header in ("infer", "none") else int(how.header)
    rows, columns = cells.index[start + named :], cells.columns
    book = load_workbook(path)
    sheet = book.worksheets[0]
    for row, new in values.items():
        for column, value in new.items():
            sheet.cell(int(rows[row]) + 1, int(columns[column]) + 1).value = value
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


def _cells(path: Path, how: Reading) -> pd.DataFrame:
    """The cells of the first sheet, but for rows and columns that are empty."""
    import pandas as pd

    try:
        frame = pd.read_excel(
            path, header=None, dtype=object, engine="openpyxl", na_values=how.missing_words
        )
    except ImportError:
        what = "openpyxl, to read .xlsx files: pip install 'pyro-vae[data]'"
        raise expected("data", what, str(path)) from None
    except (zipfile.BadZipFile, KeyError, OSError, ValueError) as error:
        raise expected("data", "an Excel file", str(path)) from error
    return frame.dropna(how="all").dropna(how="all", axis=1)
