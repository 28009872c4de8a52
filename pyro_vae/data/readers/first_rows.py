"""What the first rows of a text say of a table: what separates its cells, and who names them."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from pyro_vae._errors import expected
from pyro_vae.data.vocabulary import MISSING_WORDS, MISSING_WORDS_OF_NUMBERS

__all__ = ["Header", "check_separator", "names_in"]

Header: TypeAlias = int | Literal["infer", "none"]

_SEPARATORS = {",": ",", ";": ";", "\t": "\\t", "|": "|", " ": " "}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_VALUE = re.compile(rf"{_NUMBER.pattern}|[+-]?inf(inity)?", re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?\d+")
_COMMA = re.compile(r"[+-]?\d+,\d+")
_FEWEST = 3  # columns from which on equal steps are no chance
_SURELY = 5  # columns from which on they are none among whole numbers
_YEARS, _SOME = (1700, 2100), 0.25  # and the share of numbers that may look like some
_FAR = 3.0  # ranges of a column that a number is outside of


def check_separator(lines: Sequence[str], sep: str) -> None:
    """Refuses lines that something else separates into cells.

    Args:
        lines: The first lines of a text, without those that are empty.
        sep: What is to separate them.

    Raises:
        ValueError: If all lines have the same number of cells with another separator, more than
            one, and not with this one.
    """
    own = {len(cells) for cells in csv.reader(lines, delimiter=sep)}
    if len(own) == 1 and own != {1}:
        return
    counts = {
        each: [len(cells) for cells in csv.reader(lines, delimiter=each)] for each in _SEPARATORS
    }
    alike = {each: set(found) for each, found in counts.items()} | {sep: own}
    others = [s for s, found in alike.items() if s != sep and len(found) == 1 and found != {1}]
    if not others and len(alike[sep]) > 1:
        return  # what is ragged is refused where it is
    if not others or (alike[sep] == {1} and others == [" "] and not _all_numbers(lines, " ")):
        return  # one column, whose words may have blanks
    other = others[0]
    hint = f"`sep` (--sep '{_SEPARATORS[other]}')"
    rows = list(csv.reader(lines, delimiter=other))[1:]
    if any(_COMMA.fullmatch(cell.strip()) for cells in rows for cell in cells):
        hint += " and `decimal` (--decimal ,)"
    error = expected("data", f"cells with {sep!r} between them", lines[0][:60])
    raise ValueError(f"{error}; {hint} would separate them into {alike[other].pop()}")


def _all_numbers(lines: Sequence[str], sep: str) -> bool:
    return all(_NUMBER.fullmatch(cell) for line in lines[1:] for cell in line.split(sep) if cell)


@dataclass(frozen=True)
class _Column:
    """A column below the first row."""

    first: str
    rest: list[str]

    @property
    def numbers(self) -> np.ndarray:
        return np.array([float(cell) for cell in self.rest if _NUMBER.fullmatch(cell)])

    @property
    def numeric(self) -> bool:
        """Whether there are numbers alone below the first cell, and some."""
        seen = [cell for cell in self.rest if not _is_missing(cell)]
        # A word among many numbers is a mistake, which is found where it is read.
        return bool(seen) and sum(bool(_VALUE.fullmatch(c)) for c in seen) > 0.5 * len(seen)

    @property
    def worded(self) -> bool:
        """Whether there are words below the first cell."""
        return not self.numeric and not all(_is_missing(cell) for cell in self.rest)

    @property
    def alike(self) -> bool:
        """Whether the first cell is a number that may stand above those below it."""
        values = self.numbers
        if len(values) == 0 or not _NUMBER.fullmatch(self.first):
            return False
        whole_below = any(_WHOLE.fullmatch(cell) for cell in self.rest)
        return (whole_below or not _WHOLE.fullmatch(self.first)) and self.near

    @property
    def near(self) -> bool:
        """Whether the first cell is not far from the numbers below it."""
        values, value = self.numbers, float(self.first)
        if len(values) < _FEWEST:
            return True
        span = float(np.ptp(values)) or max(1.0, abs(float(values[0])))
        return bool(values.min() - _FAR * span <= value <= values.max() + _FAR * span)


def _is_missing(cell: str) -> bool:
    return cell in MISSING_WORDS or cell.lower() in MISSING_WORDS_OF_NUMBERS


def names_in(rows: Sequence[Sequence[str]], path: str) -> bool:
    """Returns whether the first row names the columns, by what is in it and below.

    Args:
        rows: The first rows of a table, of one length.
        path: Of the file, for an error.

    Raises:
        ValueError: If it may be names or the first observation.
    """
    first, *rest = [[cell.strip() for cell in row] for row in rows]
    columns = [_Column(cell, [row[i] for row in rest]) for i, cell in enumerate(first)]
    numbers = [each for each in columns if _NUMBER.fullmatch(each.first)]
    others = (each for each in columns if not _NUMBER.fullmatch(each.first))
    words = [each for each in others if not _empty(each.first)]
    if not rest:
        return not numbers
    if not numbers:
        if any(each.numeric for each in words) or not words:
            return bool(words)
        if all(each.first in each.rest for each in words) and len(rest) > 1:
            return False
        if any(each.first in each.rest for each in words):
            raise _unclear(first, path)
        return True
    if words and _are_years(numbers):
        return True
    if words:
        above_numbers = [each for each in words if each.numeric]
        alike = sum(each.alike for each in numbers)
        if above_numbers and (alike == 0 or _in_steps(numbers)):
            return True
        if above_numbers:
            column = columns.index(above_numbers[0])
            error = expected("data", f"a number in row 1, column {column + 1}", first[column])
            hint = "`header` (--header 0) takes row 1 for names"
            raise ValueError(f"{error}; {hint}")
        if alike == len(numbers):
            return False
        if alike == 0:
            return True
        raise _unclear(first, path)
    return _numbers_are_names(columns, first, path)


def _empty(cell: str) -> bool:
    return cell in MISSING_WORDS


def _numbers_are_names(columns: Sequence[_Column], first: Sequence[str], path: str) -> bool:
    """Whether a first row of numbers, or of nothing, is one of names."""
    nameless = [each for each in columns if _empty(each.first)]
    named = [each for each in columns if not _empty(each.first)]
    values = [each.first for each in named]
    if len(set(values)) < len(values):
        return False
    if any(each.worded for each in named):
        raise _unclear(first, path)
    counters = all(_counts(each.rest) for each in nameless)
    steps = _in_steps(named)
    whole = all(_WHOLE.fullmatch(value) for value in values)
    alike = sum(each.alike for each in named)
    if nameless and not counters:
        return False
    far = not any(each.near for each in named)
    if steps and (2 * alike <= len(named) or (nameless and counters)):
        return True
    if steps and (values == [str(i) for i in range(len(values))] or len(values) >= _SURELY):
        raise _unclear(first, path)
    fractions = not any(_WHOLE.fullmatch(cell) for each in named for cell in each.rest)
    if whole and fractions and len(named) > 1:
        return True
    if far and len(columns[0].rest) >= _FEWEST:
        if len(named) > 1 and _increasing(named):
            return True
        raise _unclear(first, path)
    return False


def _in_steps(columns: Sequence[_Column]) -> bool:
    """Whether the first cells are numbers in equal steps, or 0 and 1."""
    values = np.array([float(each.first) for each in columns])
    if values.tolist() == [0.0, 1.0]:
        return True
    steps = np.diff(values)
    return len(values) >= _FEWEST and bool(np.ptp(steps) <= 1e-6 * np.abs(steps).max() and steps[0])


def _are_years(columns: Sequence[_Column]) -> bool:
    """Whether the first cells are years in order, of which some may lack, above other numbers."""
    years = [int(each.first) if _WHOLE.fullmatch(each.first) else 0 for each in columns]
    if len(years) < 2 or min(years) < _YEARS[0] or max(years) > _YEARS[1]:
        return False
    steps = np.diff(years)
    values = np.concatenate([each.numbers for each in columns])
    if len(values) == 0 or not ((steps > 0).all() or (steps < 0).all()):
        return False
    return bool(((values >= _YEARS[0]) & (values <= _YEARS[1])).mean() < _SOME)


def _increasing(columns: Sequence[_Column]) -> bool:
    steps = np.diff([float(each.first) for each in columns])
    return bool((steps > 0).all() or (steps < 0).all())


def _counts(cells: Sequence[str]) -> bool:
    """Whether cells count the rows from 0 or 1."""
    if not all(_WHOLE.fullmatch(cell) for cell in cells):
        return False
    values = [int(cell) for cell in cells]
    return values in ([*range(len(values))], [*range(1, len(values) + 1)])


def _unclear(first: Sequence[str], path: str) -> ValueError:
    what = "a first row that is clearly names, or clearly an observation"
    hint = "`header` (--header 0, or --header none) says which"
    return ValueError(f"{expected('data', what, ', '.join(first)[:60])}; {hint}")
