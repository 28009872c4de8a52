"""Reader of `.txt` files, a line of text a row."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from pyro_vae._errors import expected
from pyro_vae._terminal import shown
from pyro_vae.data.raw import Raw
from pyro_vae.data.readers.csv_files import Reading
from pyro_vae.data.text import Text, encoded_lines

__all__ = ["lines_of", "read_text"]

log = logging.getLogger("pyro_vae")
_SEPARATORS = re.compile(r"[\s,;|]+")
_LOOKED_AT = 100  # lines, of which most are numbers if it is a table


def read_text(path: Path, how: Reading, text: Text) -> Raw:
    """Returns the lines of a file as rows of levels, with their vocabulary.

    Args:
        path: A text.
        how: How it is read: its encoding; what is of tables alone is refused.
        text: How its lines become rows.

    Raises:
        ValueError: If it is no text in this encoding, it looks like a table of numbers and nobody
            asked for text, or an option of tables is given.
    """
    lines = lines_of(path, how, numbers=text.unit is not None or text.vocabulary is not None)
    x, vocabulary, notes = encoded_lines(lines, text)
    for note in notes:
        log.warning("%s: %s", path.name, note)
    return Raw({"train": x}, vocabulary=vocabulary)


def lines_of(path: Path, how: Reading, *, numbers: bool = False) -> list[str]:
    """Returns the lines of a file, which break at line feeds alone, or after carriage returns.

    Args:
        path: A text.
        how: How it is read: its encoding; what is of tables alone is refused.
        numbers: Whether they may be nothing but numbers.

    Raises:
        ValueError: As :func:`read_text` does.
    """
    for name, value in how.given().items():
        if name != "encoding":
            raise expected(name, f"nothing with a {path.suffix} file, of lines of text", value)
    lines = _lines(path, how.encoding)
    if not numbers and _are_numbers(lines):
        what = f"`data`: expected lines of text, got numbers in {shown(path.name)}"
        raise ValueError(
            f"{what}: a copy that ends in .csv is read as a table (`sep`, --sep, is what "
            "separates its cells), `text` (--text characters) reads them as text"
        )
    return lines


def _lines(path: Path, encoding: str) -> list[str]:
    known = "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding
    try:
        with path.open(encoding=known) as file:
            content = file.read()
    except UnicodeError:
        error = expected("data", f"a text in {encoding.upper()}", str(path))
        raise ValueError(f"{error}; `encoding` (--encoding latin-1) reads others") from None
    except OSError as error:
        raise expected("data", "a readable text", f"{path}: {error.strerror}") from None
    return content.removesuffix("\n").split("\n")


def _are_numbers(lines: list[str]) -> bool:
    """Whether most lines are nothing but numbers."""
    some = [line for line in lines if line.strip()][:_LOOKED_AT]
    return bool(some) and 2 * sum(map(_is_of_numbers, some)) > len(some)


def _is_of_numbers(line: str) -> bool:
    try:
        return bool([float(each) for each in _SEPARATORS.split(line.strip()) if each])
    except ValueError:
        return False
