"""A column of a table as numbers, dates or words, whatever it was written as.

Only the different texts of a column are looked at one by one, never all of its cells.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from pyro_vae._errors import expected
from pyro_vae.data.dates import (
    DATE,
    FORMATS,
    about_years,
    days_of,
    parsed,
    parses,
    resolution_of,
)
from pyro_vae.data.extent import Extent, extent_of
from pyro_vae.data.schema import Level
from pyro_vae.data.vocabulary import MISSING_WORDS, MISSING_WORDS_OF_NUMBERS, in_order

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Cells", "Where", "cells_of"]

Where: TypeAlias = Callable[[int, int], tuple[str, object]]
"""Where the entry of a row and a column was written, and how."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE)
_PERCENT = re.compile(r"[+-]?\d+\.?\d*\s?%")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
_COMMA = re.compile(r"[+-]?\d*,\d+")
_WITH_SIGNS = re.compile(r"[^\w\s]{0,2}\s?[+-]?\d[\d,. ]*\s?([^\W\d]{1,3}|[^\w\s]{1,2})?")
_MANY = 10  # rows from which on digits of one length with zeros before them are codes
_LONG = 16  # digits, of which float64 loses some
_FEW_LEVELS, _RECURRING, _NEARLY_UNIQUE, _MOST, _SOME = 20, 3, 0.5, 0.9, 0.05
_SHOWN = 5  # texts in a warning


@dataclass(frozen=True)
class Cells:
    """What a column holds.

    Args:
        form: Whether it holds numbers, words, truth values, dates or levels that pandas lists.
        values: Numbers, with NaN where one is missing, days since 1970 of dates, 0 and 1 of truth
            values; of words and levels, the pandas series.
        dtype: The pandas dtype to decode to.
        levels: Of a column that lists them.
        ordered: Whether these are in an order.
        format: How its dates are written.
        zone: Of its times.
        unit: What its times are whole numbers of.
        warning: What was decided while reading.
    """

    form: Literal["numbers", "words", "truths", "dates", "levels"]
    values: Any
    dtype: str
    levels: tuple[Level, ...] = ()
    ordered: bool = False
    format: str = ""
    zone: str = ""
    unit: str = ""
    warning: str = ""

    @cached_property
    def extent(self) -> Extent:
        """Where its numbers lie, of a column that has some; looked for once."""
        return extent_of(self.values)

    @property
    def lacking(self) -> np.ndarray:
        """Where nothing was observed, shape ``(N,)``."""
        if isinstance(self.values, np.ndarray):
            if self.extent.complete:
                return np.zeros(len(self.values), dtype=bool)
            return np.isnan(self.values)
        return self.values.isna().to_numpy()


def cells_of(
    column: pd.Series,
    name: str,
    position: int,
    where: Where,
    *,
    plain: bool = False,
    words: bool = False,
    format: str = "",
    levels: Collection[Level] = (),
    as_words: bool = False,
    numbers: bool = False,
    written: bool = False,
) -> Cells:
    """Returns a column as what it holds.

    Args:
        column: As pandas has it.
        name: What it is called.
        position: Its place in the table, from 0.
        where: Finds the text of an entry, for errors.
        plain: Whether it can only be numbers, or words if ``words`` says so.
        words: Whether words and numbers are never in one column.
        format: How its dates are written, if that is known.
        levels: Words that are known to be levels.
        as_words: Whether numbers among words are words.
        numbers: Whether digits with zeros before them are numbers, and no codes.
        written: Whether pandas read it from a text, where whole numbers of which one is missing are
            floats, too.

    Raises:
        ValueError: If it is of a dtype that cannot be read, or mixes numbers and words.
    """
    import pandas as pd

    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return _categorical(column, name)
    if pd.api.types.is_bool_dtype(dtype):
        own = "bool" if isinstance(dtype, np.dtype) else "boolean"
        return Cells("truths", _floats(column), own, levels=(False, True))
    if pd.api.types.is_numeric_dtype(dtype) and dtype.kind in "iuf":
        return _numeric(column, written)
    if isinstance(dtype, pd.PeriodDtype):
        column, dtype = (changed := column.dt.to_timestamp()), changed.dtype
    if pd.api.types.is_datetime64_any_dtype(dtype):
        return _dates(column)
    if pd.api.types.is_timedelta64_dtype(dtype):
        seconds = (column / pd.Timedelta(seconds=1)).to_numpy(dtype=np.float64)
        return Cells("numbers", seconds, "float64", warning="durations are in seconds")
    if not (pd.api.types.is_string_dtype(dtype) or pd.api.types.is_object_dtype(dtype)):
        raise expected("data", f"numbers, words or dates in {name}", str(dtype))
    return _Texts(column, name, position, where).read(
        plain=plain,
        words=words,
        format=format,
        levels=levels,
        as_words=as_words,
        numbers=numbers,
    )


def _floats(column: pd.Series) -> np.ndarray:
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def _numeric(column: pd.Series, written: bool) -> Cells:
    import pandas as pd

    if column.dtype.kind in "iu" and not column.isna().any():
        values = column.to_numpy(dtype=np.uint64 if column.dtype.kind == "u" else np.int64)
        return Cells("numbers", values, str(column.dtype))
    dtype = str(column.dtype)
    # No copy of what is there already, as a table may be large.
    cells = Cells("numbers", column.to_numpy() if dtype == "float64" else _floats(column), dtype)
    extent = cells.extent
    some = extent.observed and not extent.complete
    if written and dtype == "float64" and some and extent.finite and extent.whole:
        # Whole numbers of which some are missing, which pandas reads as others. A frame's own
        # floats stay floats, whatever they hold.
        return replace(cells, dtype=str(pd.Int64Dtype()))
    return cells


def _categorical(column: pd.Series, name: str) -> Cells:
    categories = column.cat.categories
    if categories.dtype.kind not in "iufb" and not all(isinstance(c, str) for c in categories):
        raise expected("data", f"words or numbers as categories of {name}", str(categories.dtype))
    levels = tuple(each.item() if hasattr(each, "item") else each for each in categories)
    ordered = bool(column.cat.ordered)
    return Cells("levels", column, "category", levels=levels, ordered=ordered)


def _dates(column: pd.Series, format: str = "", warning: str = "") -> Cells:
    zone = "" if getattr(column.dt, "tz", None) is None else str(column.dt.tz)
    unit = resolution_of(column)
    return Cells(
        "dates", days_of(column), "datetime64[ns]", format=format, zone=zone, unit=unit,
        warning=warning,
    )  # fmt: skip


class _Texts:
    """The different texts of a column, how often each is there, and which cells have them."""

    def __init__(self, column: pd.Series, name: str, position: int, where: Where) -> None:
        import pandas as pd

        try:
            self.codes, unique = pd.factorize(column.astype(object), use_na_sentinel=True)
        except TypeError:  # lists and other objects that cannot be compared
            error = expected("data", f"numbers, words or dates in {name}", column.iloc[0])
            raise ValueError(f"{error}; `drop` (--drop {name}) leaves it out") from None
        self.objects = list(unique)
        self.written = [str(each) for each in self.objects]
        self.texts = [text.strip() for text in self.written]
        self.name, self.position, self.where = name, position, where
        self.sizes = np.bincount(self.codes[self.codes >= 0], minlength=len(self.texts))

    def read(
        self,
        *,
        plain: bool,
        words: bool,
        format: str,
        levels: Collection[Level],
        as_words: bool,
        numbers: bool,
    ) -> Cells:
        """Returns what the texts are; see :func:`cells_of`."""
        if (known := self._objects()) is not None:
            return known
        lower = [text.lower() for text in self.texts]
        empty = {each.lower() for each in MISSING_WORDS}
        missing = np.array([text in empty for text in lower], dtype=bool)
        # Cells of blanks look empty, and may be an answer.
        blank = np.array([text != "" == text.strip() for text in self.written], dtype=bool)
        spelled = np.array([text in MISSING_WORDS_OF_NUMBERS for text in lower], dtype=bool)
        # Words may be "none", which is something among words.
        among_words = spelled & ~np.isin(lower, ("none", "nil", "missing"))
        if levels or as_words:
            listed = [str(level) for level in levels]
            gone = missing | among_words if levels else missing
            gone &= ~np.isin(self.texts, listed)
            return self._words(gone, (gone & among_words) | blank, listed)
        if format:
            return self._as_dates(format, missing | among_words, among_words | blank)
        numeric = np.array([bool(_NUMBER.fullmatch(text)) for text in self.texts], dtype=bool)
        others = ~(numeric | missing)
        if plain or words:
            if words and others.any():
                if numeric.any():
                    what, first = f"words alone or numbers alone in {self.name}", others.argmax()
                    raise expected("cond", what, self.texts[int(first)])
                return self._words(missing, known=self.texts)  # conditions have no blanks
            if others.any():
                raise self._no_number(others)
            return self._numbers(numeric, missing)
        if not others.any():
            codes = not numbers and self._are_codes(numeric)
            return self._words(missing, blank) if codes else self._numbers(numeric, missing, blank)
        if numeric.any() and not (others & ~spelled).any():
            return self._numbers(numeric, missing | spelled, (spelled & others) | blank)
        spelled = among_words
        rest = others & ~spelled
        if not rest.any():
            return self._numbers(numeric, missing | spelled, spelled | blank)
        texts = [self.texts[i] for i in np.flatnonzero(rest | numeric)]
        if all(_PERCENT.fullmatch(text) for text in texts):
            shares = [float(t.rstrip("% ")) / 100 if p else np.nan for t, p in self._marked(rest)]
            what = "percentages are shares of 1"
            return Cells("numbers", self._each(np.array(shares)), "float64", warning=what)
        if not numeric.any() and all(DATE.fullmatch(text) for text in texts):
            dates = self._some_dates(missing | spelled, spelled | blank)
            if dates is not None:
                return dates
        # Many levels of a scale are bands such as 25-34, or amounts such as $25.
        scale = len(texts) <= _FEW_LEVELS and in_order(texts) is not None
        if not scale and not (numeric.any() and self._recur(numeric, rest)):
            self._refuse_signs(rest, texts)
            if numeric.any() and not self._differ(numeric, rest):
                raise self._no_number(rest)
        return self._words(missing | spelled, spelled | blank)

    def _marked(self, which: np.ndarray) -> list[tuple[str, bool]]:
        return list(zip(self.texts, which.tolist(), strict=True))

    def _objects(self) -> Cells | None:
        """Objects of Python that are no texts."""
        import datetime

        import pandas as pd

        if not self.objects:
            return Cells("numbers", np.full(len(self.codes), np.nan), "float64")
        if all(isinstance(each, bool | np.bool_) for each in self.objects):
            values = self._each(np.array([float(each) for each in self.objects]))
            dtype = "boolean" if np.isnan(values).any() else "bool"
            return Cells("truths", values, dtype, levels=(False, True))
        if all(isinstance(each, datetime.date) for each in self.objects):
            dates = pd.Series(pd.to_datetime(self.objects))
            return _dates(dates.reindex(self.codes).reset_index(drop=True))
        if any(isinstance(each, list | dict | set | tuple | np.ndarray) for each in self.objects):
            raise expected("data", f"numbers, words or dates in {self.name}", self.objects[0])
        return None

    def _each(self, values: np.ndarray) -> np.ndarray:
        """The value of each cell, by those of the texts; NaN where there is no text."""
        return np.append(values, np.nan)[self.codes]

    def _numbers(
        self, numeric: np.ndarray, missing: np.ndarray, spelled: np.ndarray | None = None
    ) -> Cells:
        values = np.array(
            [float(text) if is_one else np.nan for text, is_one in self._marked(numeric)]
        )
        cells = self._each(values)
        whole = all(
            re.fullmatch(r"[+-]?\d+", text) for text, is_one in self._marked(numeric) if is_one
        )
        warning = self._taken_for_missing(spelled)
        dtype = "float64" if not whole else "Int64" if np.isnan(cells).any() else "int64"
        return Cells("numbers", cells, dtype, warning=warning)

    def _words(
        self,
        missing: np.ndarray,
        spelled: np.ndarray | None = None,
        known: Collection[str] = (),
    ) -> Cells:
        """Words, as they are written unless blanks around them are all that tells two apart."""
        import pandas as pd

        shared, known = Counter(self.texts), frozenset(known)
        # A separator such as ", " leaves a blank before each word.
        apart = all(text[:1] == " " for text, gone in zip(self.written, missing, strict=True)
                    if not gone)  # fmt: skip
        kept: list[str | None] = []
        merged = []
        for written, text, gone in zip(self.written, self.texts, missing.tolist(), strict=True):
            own = text if apart or shared[text] > 1 or text in known else written
            kept.append(None if gone else written if written in known else own)
            if not gone and shared[text] > 1 and kept[-1] != written and not apart:
                merged.append(f"{written!r} for {text!r}")
        values = pd.Series(np.array([*kept, None], dtype=object)[self.codes], dtype=object)
        listed = ", ".join(merged[:_SHOWN]) + (", …" if len(merged) > _SHOWN else "")
        took = f"took {listed}, without its blanks" if merged else ""
        warning = "; ".join(filter(None, (self._taken_for_missing(spelled), took)))
        return Cells("words", values, "str", warning=warning)

    def _taken_for_missing(self, spelled: np.ndarray | None) -> str:
        """What a person should know of texts that were taken for missing, if there are some."""
        if spelled is None or not spelled.any():
            return ""
        texts = [text for text, is_one in zip(self.written, spelled, strict=True) if is_one]
        words = ", ".join(map(repr, texts[:_SHOWN])) + (", …" if len(texts) > _SHOWN else "")
        count = int(self.sizes[spelled].sum())
        cells = "1 cell" if count == 1 else f"{count:,} cells"
        return f"took {words} for missing in {cells}; `na_values` (--na-values) says what is"

    def _no_number(self, bad: np.ndarray) -> ValueError:
        """The error about the first text that is no number."""
        row = int(np.isin(self.codes, np.flatnonzero(bad)).argmax())
        place, cell = self.where(row, self.position)
        hint = (
            f"; `na_values` (--na-values) takes it for missing, `cond` (--cond {self.name}) and "
            f"`kinds` (--kind {self.name}=category) take words"
        )
        return ValueError(f"{expected('data', f'a number in {place}', cell)}{hint}")

    def _refuse_signs(self, rest: np.ndarray, texts: Sequence[str]) -> None:
        """Refuses numbers that are written with other signs than a decimal point."""
        others = [text for text, is_one in self._marked(rest) if is_one]
        if _mostly(re.compile(f"{_THOUSANDS.pattern}|{_COMMA.pattern}"), others):
            option = "`decimal` (--decimal ,)" if _mostly(_COMMA, others) else ""
            if not option or _mostly(_THOUSANDS, others):
                option += f"{' or ' if option else ''}`thousands` (--thousands ,)"
            hint = f"; {option} reads it"
        elif _mostly(_WITH_SIGNS, others) and not others[0][:1].isalpha():
            units = {re.sub(r"[\d.,+-]", "", text).strip() for text in others}
            if len(units) > 1 and len(texts) <= _FEW_LEVELS:
                return  # a few levels such as 1a, 2b
            hint = (
                f"; numbers are without units and signs, or `kinds` (--kind {self.name}=category)"
            )
        else:
            return
        row = int(np.isin(self.codes, np.flatnonzero(rest)).argmax())
        place, cell = self.where(row, self.position)
        raise ValueError(f"{expected('data', f'a number in {place}', cell)}{hint}")

    def _recur(self, numeric: np.ndarray, rest: np.ndarray) -> bool:
        """Whether numbers and words among them are a few levels, none of which is a mistake."""
        levels = int((numeric | rest).sum())
        return levels <= _FEW_LEVELS and int(self.sizes[rest].min()) >= _RECURRING

    def _differ(self, numeric: np.ndarray, rest: np.ndarray) -> bool:
        """Whether numbers among words are words, as nearly all cells are, or differ."""
        size, words = int(self.sizes[numeric | rest].sum()), int(self.sizes[rest].sum())
        share = words / size
        unique = int((numeric | rest).sum()) > _NEARLY_UNIQUE * size and share > _SOME
        # What recurs among numbers that differ is a mark, which someone is asked about.
        unique &= int(rest.sum()) > _NEARLY_UNIQUE * words
        return size >= _FEW_LEVELS and (unique or share > _MOST)

    def _are_codes(self, numeric: np.ndarray) -> bool:
        """Whether digits are codes: zeros before them count, or float64 would lose some of them."""
        texts = [text for text, is_one in self._marked(numeric) if is_one]
        if not texts or not all(text.isdecimal() for text in texts):
            return False
        sizes = {len(text) for text in texts}
        zeros = any(text[0] == "0" for text in texts) and len(sizes) == 1 and sizes != {1}
        return (zeros and len(texts) > 1 and len(self.codes) >= _MANY) or max(sizes) >= _LONG

    def _as_dates(self, format: str, missing: np.ndarray, spelled: np.ndarray) -> Cells:
        """Dates that are known to be written in a format."""
        import pandas as pd

        texts = pd.Series([None if gone else text for text, gone in self._marked(missing)])
        try:
            dates = parsed(texts, format)
        except (ValueError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise expected("data", f"dates written as {format} in {self.name}", reason) from None
        dates = dates.reindex(self.codes).reset_index(drop=True)
        warnings = self._taken_for_missing(spelled), about_years(format)
        return _dates(dates, format, "; ".join(filter(None, warnings)))

    def _some_dates(self, missing: np.ndarray, spelled: np.ndarray) -> Cells | None:
        """Dates in one of the usual formats, if all are; None if they are in none.

        Raises:
            ValueError: If day and month cannot be told apart.
        """
        texts = [text for text, gone in self._marked(missing) if not gone]
        if numbered := re.fullmatch(r"\d{1,2}([/-])\d{1,2}[/-](\d{4}|\d{2})(.*)", texts[0]):
            sign, year = numbered[1], "%Y" if len(numbered[2]) == 4 else "%y"
            times = {0: "", 1: " %H:%M", 2: " %H:%M:%S"}
            time = times.get(numbered[3].count(":"), "")
            both = [f"%{a}{sign}%{b}{sign}{year}{time}" for a, b in (("d", "m"), ("m", "d"))]
            fitting = [each for each in both if parses(texts, each)]
            if len(fitting) == 2:
                what = f"dates in {self.name} of which one shows whether days or months come first"
                line = f'{{{json.dumps(self.name)}: {{kind: time, format: "{both[0]}"}}}}'
                hint = f"; `schema` (--schema FILE.yaml) says so by the line {line}"
                raise ValueError(f"{expected('data', what, texts[0])}{hint}")
        else:
            fitting = [each for each in FORMATS if parses(texts[:50], each)]
            fitting = [each for each in fitting if len(texts) <= 50 or parses(texts, each)][:1]
        return self._as_dates(fitting[0], missing, spelled) if fitting else None


def _mostly(pattern: re.Pattern[str], texts: Sequence[str]) -> bool:
    some = texts[:: max(1, len(texts) // 1000)]
    return sum(bool(pattern.fullmatch(text)) for text in some) > _MOST * len(some)
