"""Tables as text, with something between their cells: ``.csv``, ``.tsv``, compressed or not."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import lzma
import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

from pyro_vae._errors import expected, plural, unknown_name
from pyro_vae.data.formulas import quoted
from pyro_vae.data.frames import Table
from pyro_vae.data.readers.first_rows import Header, check_separator, names_in
from pyro_vae.data.vocabulary import MISSING_WORDS

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Compression", "Reading", "fill_csv", "header_of_words", "read_csv"]

Compression: TypeAlias = Literal["infer", "none", "gzip", "bz2", "xz"]

_OPENERS: Mapping[str, Callable[..., Any]] = {
    "none": open, "gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open,
}  # fmt: skip
_BY_SUFFIX = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz"}
_DAMAGED = (OSError, EOFError, csv.Error, zlib.error, lzma.LZMAError)
_LOOKED_AT, _ROWS = 2**20, 1000  # characters and rows that are read to see what there is
_FEW = 12  # rows that are read even if they have more characters
_LONGEST, _MOST_COLUMNS = 2**24, 2**18  # characters of a line, and cells of the first one
_MANY = 10  # rows from which on digits of one length with zeros before them are codes
_LONG = 16  # digits, of which float64 loses some
_NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf(inity)?|nan)", re.IGNORECASE)


@dataclass(frozen=True)
class Reading:
    """How a text is read.

    Args:
        sep: What is between cells; by default a tab in ``.tsv`` files, else a comma.
        decimal: The decimal point.
        thousands: What groups digits; None for nothing.
        na_values: What else means that an entry is missing, besides empty cells, NA and nan.
        header: The row that names the columns, from 0, those before it left out; ``"none"`` if
            there is none; by default what the first row and those below show.
        encoding: Of the text.
        compression: By default that of the suffix.
    """

    sep: str | None = None
    decimal: str = "."
    thousands: str | None = None
    na_values: str | Sequence[str] = ""
    header: Header | str = "infer"
    encoding: str = "utf-8"
    compression: Compression = "infer"

    def __post_init__(self) -> None:
        if self.sep is not None and len(self.sep.encode().decode("unicode_escape")) != 1:
            raise expected("sep", "one character, such as ; or \\t", self.sep)
        if len(self.decimal) != 1:
            raise expected("decimal", "one character, such as a comma", self.decimal)
        if self.thousands is not None and len(self.thousands) != 1:
            raise expected("thousands", "one character", self.thousands)
        if self.thousands == self.decimal:
            raise expected("thousands", "another character than the decimal point", self.thousands)
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            raise expected(
                "encoding", "one that Python knows, such as latin-1", self.encoding
            ) from None
        if self.compression not in ("infer", *_OPENERS):
            raise unknown_name("compression", self.compression, ("infer", *_OPENERS))
        if isinstance(self.header, bool) or not (
            self.header in ("infer", "none") or str(self.header).isdecimal()
        ):
            raise expected("header", "infer, none, or the number of a row from 0", self.header)

    @property
    def missing_words(self) -> list[str]:
        """All that means that an entry is missing."""
        own = self.na_values.split(",") if isinstance(self.na_values, str) else self.na_values
        return [*MISSING_WORDS, *(each.strip() for each in own)]

    def given(self) -> dict[str, Any]:
        """Returns what differs from the defaults."""
        return {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if getattr(self, each.name) != each.default
        }


class _Lines:
    """A text of which a line is refused before it takes all memory."""

    def __init__(self, file: IO[str], path: Path) -> None:
        self._file, self._path, self._open = file, path, 0

    def read(self, size: int = -1) -> str:
        """Reads as many characters as there are, up to so many."""
        piece = self._file.read(size)
        end = max(piece.rfind("\n"), piece.rfind("\r"))
        self._open = len(piece) + (self._open if end < 0 else -1 - end)
        self._check(self._open)
        return piece

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(_LONGEST + 1):
            self._check(len(line))
            yield line

    def _check(self, length: int) -> None:
        if length > _LONGEST:
            what = f"lines of at most {_LONGEST:,} characters"
            raise expected("data", what, f"{self._path}: a longer one")


class _Text:
    """A file, opened as often as it takes."""

    def __init__(self, path: Path, how: Reading) -> None:
        self.path, self.how = path, how
        sep = how.sep or ("\t" if ".tsv" in path.suffixes else ",")
        self.sep = "\t" if sep == "\\t" else sep
        self.encoding = "utf-8-sig" if how.encoding.lower() in ("utf-8", "utf8") else how.encoding
        inferred = _BY_SUFFIX.get(path.suffix, "none")
        self.compression = inferred if how.compression == "infer" else how.compression

    @contextmanager
    def open(self) -> Iterator[IO[str]]:
        """Opens the file, and says in one line what is wrong with it."""
        try:
            opener = _OPENERS[self.compression]
            with opener(self.path, "rt", encoding=self.encoding, newline="") as file:
                yield file
        except UnicodeError:
            raise self.undecodable() from None
        except _DAMAGED as error:
            kind = (
                "a CSV file" if self.compression == "none" else f"a CSV file in {self.compression}"
            )
            raise expected("data", f"{kind} in UTF-8", str(self.path)) from error

    @contextmanager
    def lines(self) -> Iterator[_Lines]:
        """Opens the file, of which no line is longer than there is reason for."""
        with self.open() as file:
            yield _Lines(file, self.path)

    def undecodable(self) -> ValueError:
        name = "UTF-8" if self.encoding == "utf-8-sig" else self.encoding
        error = expected("data", f"a CSV file in {name}", str(self.path))
        return ValueError(f"{error}; `encoding` (--encoding latin-1) reads others")

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """Yields each record that is not empty, with the line where it ends."""
        with self.lines() as file:
            reader = csv.reader(file, delimiter=self.sep)
            for cells in reader:
                if cells:
                    yield reader.line_num, cells

    def start(self) -> list[tuple[int, list[str]]]:
        """The first records, as :meth:`records` has them, and checks what separates cells."""
        with self.lines() as file:
            text = piece = file.read(_LOOKED_AT)
            while len(piece) == _LOOKED_AT and len(text) < _LONGEST and text.count("\n") < _FEW:
                text += (piece := file.read(_LOOKED_AT))
        cut = len(piece) == _LOOKED_AT
        if cut:  # the last line may be a part of one
            text = text[: max(text.rfind("\n"), text.rfind("\r")) + 1] or text
        lines = [line for line in text.splitlines() if line.strip()][:_ROWS]
        if lines and (columns := lines[0].count(self.sep) + 1) > _MOST_COLUMNS:
            error = expected("data", f"at most {_MOST_COLUMNS:,} columns of text", columns)
            raise ValueError(f"{error}; an .npy file takes more")
        reader, found = csv.reader(io.StringIO(text, newline=""), delimiter=self.sep), []
        try:
            check_separator(lines, self.sep)
            for cells in reader:
                if cells:
                    found.append((reader.line_num, cells))
                if len(found) > _ROWS:
                    break
        except csv.Error as error:
            raise expected("data", "a CSV file in UTF-8", f"{self.path}: {error}") from error
        if cut and len(found) > 1:
            found.pop()  # which may be a part of a record of several lines
        return found


def read_csv(path: Path, how: Reading) -> Table:
    """Returns the table of a file; all of it is read once, by pandas.

    Args:
        path: The file.
        how: How it is to be read.

    Raises:
        ValueError: If it is no such file, rows differ in length, or what separates cells or names
            columns is not what was said, or not clear.
    """
    text = _Text(path, how)
    records = text.start()
    if not records:
        what = "at least one observation with at least one entry"
        raise expected("data", what, str(path))
    above = 0  # the line where the record ends that is before the first of these
    if how.header not in ("infer", "none") and (start := int(how.header)) > 0:
        if len(records) <= start:
            raise expected("header", "a row of the file", how.header)
        above, records = records[start - 1][0], records[start:]
    (line, first), *rest = records
    for at, cells in rest:
        if len(cells) != len(first):
            error = expected("data", f"{plural(len(first), 'cell')} in row {at}", len(cells))
            raise ValueError(f"{error}{_hint_of_titles(how, records)}")
    rows = [cells for _, cells in records]
    named = how.header != "none"
    if how.header == "infer":
        named = names_in(_pointed(rows, how), str(path))
    notes: list[str] = []
    names = [cell.strip() for cell in first] if named else []
    if named and any(_is_number(name) for name in names):
        notes.append(
            f"took the first row, {', '.join(names)[:60]}, for names; `header` says others"
        )
    for i, name in enumerate(names):
        if not name:
            names[i] = f"Unnamed: {i}"
            notes.append(f"column {i + 1} has no name: it is {names[i]!r} now")
    below = rows[1:] if named else rows
    frame = _read(text, how, len(first), above, named, _texts(below))
    if named:
        frame.columns = names
    where = _where(text, names, int(named) if how.header == "infer" else _before(how, named))
    if len(frame) and frame.iloc[:, -1].isna().any():
        _check_lengths(text, len(first), line)
    return Table(frame, named=named, notes=tuple(notes), where=where)


def _hint_of_titles(how: Reading, records: Sequence[tuple[int, list[str]]]) -> str:
    """How a text is read whose first records are a title above its names, if they look so."""
    sizes = [len(cells) for _, cells in records]
    start = next((at for at, size in enumerate(sizes) if size == sizes[-1]), 0)
    if how.header != "infer" or len(set(sizes[start:])) > 1 or not 0 < start < len(sizes) - 1:
        return ""
    return f"; `header` (--header {start}) takes row {records[start][0]} for names"


def _before(how: Reading, named: bool) -> int:
    """How many records there are before the first observation."""
    return int(how.header) + 1 if named else 0


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text))


def _pointed(rows: list[list[str]], how: Reading) -> list[list[str]]:
    """Rows whose numbers are written as Python has them."""
    if how.decimal == "." and how.thousands is None:
        return rows
    group = how.thousands or ""
    return [[c.replace(group, "").replace(how.decimal, ".") for c in row] for row in rows]


def _texts(rows: Sequence[Sequence[str]]) -> list[int]:
    """The columns whose digits are codes: zeros stand before them, or float64 would lose some."""
    found = []
    for i, column in enumerate(zip(*rows, strict=True)):
        start = next((cell for cell in map(str.strip, column) if cell), "")
        if not start.isdecimal():
            continue
        seen = [cell for cell in map(str.strip, column) if cell]
        if not all(cell.isdecimal() for cell in seen):
            continue
        sizes = {len(cell) for cell in seen}
        fixed = len(sizes) == 1 and len(seen) >= _MANY and sizes != {1}
        if (fixed and any(cell[0] == "0" for cell in seen)) or max(sizes) >= _LONG:
            found.append(i)
    return found


def _read(
    text: _Text, how: Reading, width: int, above: int, named: bool, as_text: Sequence[int]
) -> pd.DataFrame:
    """The columns of a file, numbered from 0, without the lines above and the row of names."""
    import pandas as pd

    options: dict[str, Any] = {
        "sep": text.sep,
        "decimal": how.decimal,
        "thousands": how.thousands,
        # As the header, names take less time than as a line to skip.
        "header": 0 if named else None,
        "names": list(range(width)),
        "index_col": False,
        "skiprows": above or None,
        "keep_default_na": False,
        "na_values": how.missing_words,
    }

    def read(**own: Any) -> pd.DataFrame:
        with text.lines() as file:
            return pd.read_csv(file, **options, **own)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            frame = read(dtype=dict.fromkeys(as_text, str))
        except pd.errors.EmptyDataError:
            return pd.DataFrame(columns=list(range(width)))
        except pd.errors.ParserError as error:
            raise _ragged(text, width, error) from None
        if any(issubclass(each.category, pd.errors.ParserWarning) for each in caught):
            raise _ragged(text, width, None)
    if any(issubclass(each.category, pd.errors.DtypeWarning) for each in caught):
        # Pandas reads in pieces, and took some pieces of a column for numbers, others for words.
        kinds = ("mixed", "mixed-integer", "mixed-integer-float")
        mixed = [i for i in frame if pd.api.types.infer_dtype(frame[i], skipna=True) in kinds]
        again = read(dtype=str, usecols=mixed)
        for i in mixed:
            frame[i] = again[i]
    return frame


def _ragged(text: _Text, width: int, error: Exception | None) -> ValueError:
    """The error about the first row of another length."""
    for line, cells in text.records():
        if len(cells) != width:
            return expected("data", f"{width} cells in row {line}", len(cells))
    return expected("data", "a CSV file in UTF-8", f"{text.path}: {error}")


def _check_lengths(text: _Text, width: int, start: int) -> None:
    """Refuses rows that end too early, which pandas fills with missing entries."""
    for line, cells in text.records():
        if line > start and len(cells) != width:
            raise expected("data", f"{width} cells in row {line}", len(cells))


def _where(
    text: _Text, names: Sequence[str], before: int
) -> Callable[[int, int], tuple[str, object]]:
    """Finds where an entry was written: the file is read again up to there."""

    def found(row: int, position: int) -> tuple[str, object]:
        for i, (line, cells) in enumerate(text.records()):
            if i == row + before:
                name = names[position] if names else ""
                known = f" ({name})" if name and not _is_number(name) else ""
                return f"row {line}, column {position + 1}{known}", cells[position]
        raise AssertionError

    return found


def header_of_words(path: Path) -> Header:
    """Returns the header of a file as it was read before numbers could be names of columns.

    The first row names them if no cell of it is a number, and NaN is one.
    """
    for _, cells in _Text(path, Reading()).records():
        numbers = (_NUMBER.fullmatch(cell.strip()) for cell in cells)
        return "none" if any(numbers) else 0
    return "none"


def fill_csv(
    path: Path,
    values: Mapping[int, Mapping[int, float | str]],
    how: Reading | None = None,
    *,
    safe: bool = False,
) -> bytes:
    """The content of a text with numbers or words in some of its cells, all else as it is.

    Args:
        path: The file.
        values: What to fill in, by row, counted from the first one that is no names, and by column.
        how: How the file is read.
        safe: Whether text that a spreadsheet would compute is quoted, wherever it is.
    """
    how = how or Reading()
    text, named = _Text(path, how), read_csv(path, how).named
    encoding = "utf-8" if text.encoding == "utf-8-sig" else text.encoding
    packed = path.read_bytes()
    content = gzip.decompress(packed) if text.compression == "gzip" else packed
    mark = codecs.BOM_UTF8 if content.startswith(codecs.BOM_UTF8) else b""
    lines: list[str] = []

    def read() -> Iterator[str]:
        for line in io.StringIO(content[len(mark) :].decode(encoding), newline=""):
            lines.append(line)
            yield line

    filled = io.StringIO(newline="")
    row = -1 - (int(named) if how.header == "infer" else _before(how, named))
    for cells in csv.reader(read(), delimiter=text.sep):
        line = "".join(lines)
        lines.clear()
        row += bool(cells)
        new = values.get(row, {}) if cells else {}
        harmless = [quoted(cell) for cell in cells] if safe else cells
        if new or harmless != cells:
            end = line[len(line.rstrip("\r\n")) :]
            cells = [_cell(new[i], how) if i in new else each for i, each in enumerate(harmless)]
            cells = [quoted(each) for each in cells] if safe else cells
            csv.writer(filled, delimiter=text.sep, lineterminator=end).writerow(cells)
        else:
            filled.write(line)
    content = mark + filled.getvalue().encode(encoding)
    return gzip.compress(content, mtime=0) if text.compression == "gzip" else content


def _cell(value: float | str, how: Reading) -> str:
    return value if isinstance(value, str) else f"{value:.7g}".replace(".", how.decimal)
