"""Dates as they are written, and as days since 1970."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "DATE",
    "FORMATS",
    "about_years",
    "as_written",
    "days_of",
    "parsed",
    "parses",
    "resolution_of",
]

FORMATS = (
    "%Y-%m-%d", "ISO8601", "%Y/%m/%d", "%Y/%m/%d %H:%M", "%Y/%m/%d %H:%M:%S", "%d %b %Y",
    "%d %B %Y", "%d-%b-%Y", "%d-%b-%y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y", "%B %d %Y", "%b %Y",
    "%B %Y", "%Y %b", "%Y %B", "%d.%m.%Y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S", "%d.%m.%y",
)  # fmt: skip
DATE = re.compile(
    r"\d{4}[-/]\d{1,2}([-/]\d{1,2})?([T ]\d{1,2}:\d{2}.*)?|\d{1,2}[./-]\d{1,2}[./-](\d{4}|\d{2})"
    r"( \d{1,2}:\d{2}.*)?|\d{1,2}[ -][A-Za-z]{3,9}[ -]\d{2,4}|[A-Za-z]{3,9} (\d{1,2},? )?\d{4}"
    r"|\d{4} [A-Za-z]{3,9}"
)
_CENTURY, _WINDOW = 1930, 100  # years of two digits, as spreadsheets take them
_DAY = 86_400 * 10**9  # nanoseconds
_RESOLUTIONS = {
    "D": _DAY,
    "h": 3600 * 10**9,
    "min": 60 * 10**9,
    "s": 10**9,
    "ms": 10**6,
    "us": 10**3,
}


def _ticks(column: pd.Series) -> tuple[np.ndarray, int]:
    """Whole numbers of a unit since 1970, of dates without a zone, and the nanoseconds of it.

    Int64 holds nanoseconds of the years 1678 to 2261 alone: earlier and later dates are in
    microseconds.
    """
    import pandas as pd

    try:
        return column.astype("datetime64[ns]").astype("int64").to_numpy(), 1
    except pd.errors.OutOfBoundsDatetime:
        return column.astype("datetime64[us]").astype("int64").to_numpy(), 1000


def days_of(column: pd.Series) -> np.ndarray:
    """Returns the days since 1970 of dates, in UTC where there is a zone, NaN where one is none."""
    if getattr(column.dt, "tz", None) is not None:
        column = column.dt.tz_convert("UTC").dt.tz_localize(None)
    ticks, size = _ticks(column)
    return np.where(column.isna().to_numpy(), np.nan, ticks / (_DAY // size))


def resolution_of(column: pd.Series) -> str:
    """Returns the pandas alias of the largest unit that all dates are whole numbers of."""
    if getattr(column.dt, "tz", None) is not None:
        # Midnight is one of the zone, whose offset from UTC may be a part of a day.
        column = column.dt.tz_localize(None)
    ticks, size = _ticks(column)
    seen = ticks[~column.isna().to_numpy()]
    return next((u for u, own in _RESOLUTIONS.items() if not (seen % (own // size)).any()), "ns")


def _with_zone(texts: Sequence[str]) -> bool:
    return any(re.search(r":\d{2}.*(Z|[+-]\d{2}:?\d{2})$", text) for text in texts[:50])


def parsed(texts: pd.Series, format: str) -> pd.Series:
    """Returns the dates that texts are in a format.

    Years of two digits are of 1930 to 2029, as spreadsheets take them: the C library's rule, which
    pandas keeps, has people of 1963 born in 2063.

    Raises:
        ValueError: If one of them is none.
        TypeError: If some have a zone and others have none.

    Example:
        >>> import pandas as pd
        >>> parsed(pd.Series(["25/11/63", "1/2/05"]), "%d/%m/%y").dt.year.tolist()
        [1963, 2005]
    """
    import pandas as pd

    zoned = _with_zone(texts.dropna().tolist())
    dates = pd.to_datetime(texts, format=format, utc=zoned or None)
    if "%y" in format:
        late = dates.dt.year >= _CENTURY + _WINDOW
        dates = dates.mask(late, dates - pd.DateOffset(years=_WINDOW))
    return dates


def as_written(dates: pd.Series, format: str) -> pd.Series:
    """Returns dates as the texts of a format, if they are what is read of these, else as they are.

    Example:
        >>> import pandas as pd
        >>> as_written(pd.Series(pd.to_datetime(["1963-11-25"])), "%d/%m/%y").tolist()
        ['25/11/63']
        >>> as_written(pd.Series(pd.to_datetime(["2063-11-25"])), "%d/%m/%y").dt.year.tolist()
        [2063]
    """
    if "%" not in format:
        return dates
    seen = dates.dropna()
    texts = seen.dt.strftime(format)
    if not parses(texts.tolist(), format) or not (parsed(texts, format) == seen).all():
        return dates
    return texts.reindex(dates.index)


def about_years(format: str) -> str:
    """Returns what a person should know of the years of a format; empty if they are whole."""
    if "%y" not in format:
        return ""
    return f"took years of two digits for years from {_CENTURY} to {_CENTURY + _WINDOW - 1}"


def parses(texts: Sequence[str], format: str) -> bool:
    """Returns whether all texts are dates of a format."""
    import pandas as pd

    try:
        parsed(pd.Series(texts), format)
    except (ValueError, TypeError):
        return False
    return True
