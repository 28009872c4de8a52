"""Tables of numbers and words separated by commas: ``.csv``."""

from __future__ import annotations

import codecs
import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import numpy as np

from pyro_vae._errors import expected, unknown_name
from pyro_vae.data.raw import MISSING, Raw, as_values

__all__ = ["Words", "fill_csv", "read_csv"]

Words: TypeAlias = Sequence[Sequence[str]]
_MISSING = ("", "na", "nan")  # the content of a cell without a number, in small letters


def read_csv(
    path: Path, *, missing: bool, cond: Sequence[str], beside: Sequence[str], words: Words
) -> Raw:
    """The table of a file, as training data.

    Args:
        path: The file.
        missing: Whether empty cells, ``NA`` and ``nan`` may be there.
        cond: Columns that may hold words in place of numbers.
        beside: All columns that are to lie beside x.
        words: For each column of x the words whose places are its values, if it holds words.
    """
    values, names, found = _read_csv(path, missing, cond, beside, words)
    # What is missing of x was refused row by row; `with_columns` knows how to refuse the rest.
    return Raw(splits={"train": as_values(values, missing=True)}, names=names, words=found)


def fill_csv(path: Path, values: Mapping[int, Mapping[int, float | str]]) -> bytes:
    """The content of a `.csv` file with numbers or words in some of its cells, all else as it is.

    Args:
        path: The file.
        values: What to fill in, by row, counted from the first one that is no names, and by column.
    """
    content = path.read_bytes()
    mark = codecs.BOM_UTF8 if content.startswith(codecs.BOM_UTF8) else b""
    lines: list[str] = []

    def read() -> Iterator[str]:
        for line in io.StringIO(content[len(mark) :].decode(), newline=""):
            lines.append(line)
            yield line

    filled, row, first = io.StringIO(newline=""), -1, True
    for cells in csv.reader(read()):
        line = "".join(lines)
        lines.clear()
        if cells:
            row += not (first and _are_names(cells))
            first = False
        new = values.get(row, {}) if cells else {}
        if new:
            end = line[len(line.rstrip("\r\n")) :]
            cells = [_cell(new[i]) if i in new else cell for i, cell in enumerate(cells)]
            csv.writer(filled, lineterminator=end).writerow(cells)
        else:
            filled.write(line)
    return mark + filled.getvalue().encode()


def _cell(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.7g}"


def _read_csv(
    path: Path, missing: bool, cond: Sequence[str], taken: Sequence[str], words: Words
) -> tuple[np.ndarray, list[str], dict[str, list[str]]]:
    """Numbers separated by commas; a first row without any number names the columns.

    Returns:
        The numbers, NaN where one is missing, the names if there are any, and by name the words of
        the columns that have some, which their numbers count.
    """
    rows: list[np.ndarray] = []
    beside: dict[int, list[str]] = {}
    names: list[str] = []
    places: dict[int, dict[str, str]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for cells in reader:
                if not cells:
                    continue
                if not names:
                    names = [cell.strip() for cell in cells]
                    places = _places(names, taken if _are_names(cells) else (), words)
                    if _are_names(cells):
                        beside = {i: [] for i, name in enumerate(names) if name in cond}
                        continue
                if len(cells) != len(names):
                    raise expected(
                        "data", f"{len(names)} cells in row {reader.line_num}", len(cells)
                    )
                for i, column in beside.items():
                    column.append(cells[i].strip())
                    cells[i] = "0"  # until all of the column is known
                for i, known in places.items():
                    cells[i] = known.get(cells[i].strip(), cells[i])
                rows.append(_read_row(cells, reader.line_num, names, missing, places))
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise expected("data", "a CSV file in UTF-8", str(path)) from error
    values = np.stack(rows) if rows else np.empty((0, len(names)))
    of_columns: dict[str, list[str]] = {}
    for i, column in beside.items():
        values[:, i], found = _read_column(names[i], column)
        of_columns |= {names[i]: found} if found else {}
    return values, names if _are_names(names) else [], of_columns


def _places(names: Sequence[str], taken: Sequence[str], words: Words) -> dict[int, dict[str, str]]:
    """For each column of x that holds words, by its place in a row: the numbers they stand for.

    Raises:
        ValueError: If there are words for another number of columns than x has.
    """
    columns = [i for i, name in enumerate(names) if name not in taken]
    if not any(words):
        return {}
    if len(words) not in (1, len(columns)):
        what = f"one list, or one for each of {len(columns)} columns"
        raise expected("words", what, f"{len(words)} lists")
    pairs = zip(columns, words if len(words) > 1 else [words[0]] * len(columns), strict=True)
    return {i: {word: str(at) for at, word in enumerate(own)} for i, own in pairs if own}


def _read_column(name: str, cells: list[str]) -> tuple[np.ndarray, list[str]]:
    """Numbers, or words as their places in alphabetical order, and these words."""
    values = [_number(cell) for cell in cells]
    words = sorted({cell for cell, value in zip(cells, values, strict=True) if value is None})
    if not words:
        return np.array(values, dtype=np.float64), []
    if any(value is not None and not math.isnan(value) for value in values):
        raise expected("cond", f"words alone or numbers alone in {name}", words[0])
    place = {word: i for i, word in enumerate(words)}
    return np.array([place.get(cell, math.nan) for cell in cells]), words


def _are_names(cells: list[str]) -> bool:
    """Whether a first row names the columns: there is no number in it, and NaN is one."""
    return not any(_is_number(cell) for cell in cells)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _read_row(
    cells: list[str],
    line: int,
    names: list[str],
    missing: bool,
    places: Mapping[int, Mapping[str, str]],
) -> np.ndarray:
    with suppress(ValueError):  # as a whole row is read far sooner than cell by cell
        row = np.array(cells, dtype=np.float64)
        if not np.isnan(row).any():
            return row
    values = [_number(cell) for cell in cells]
    for column, value in enumerate(values):
        if value is None or (math.isnan(value) and not missing):
            where, name = f"row {line}, column {column + 1}", names[column]
            if not _is_number(name):
                where += f" ({name})"
            error, hint = expected("data", f"a number in {where}", cells[column]), MISSING
            if value is None and column in places:
                error = unknown_name("data", cells[column], places[column])
                raise ValueError(f"{error}, in {where}")
            if value is None:
                takes = f"; `cond` (--cond {name}) takes words, and so do levels that have names"
                hint = "" if _is_number(name) else takes
            raise ValueError(f"{error}{hint}")
    return np.array(values, dtype=np.float64)


def _number(cell: str) -> float | None:
    """The number in a cell: NaN if it is missing, None if there is something else."""
    if cell.strip().lower() in _MISSING:
        return math.nan
    return float(cell) if _is_number(cell) else None
