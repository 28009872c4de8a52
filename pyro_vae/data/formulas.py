"""Cells that a spreadsheet would compute: text that begins as a formula does."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["quoted", "quoted_frame"]

# https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA = re.compile(r"\s*[=+\-@]|[\t\r]")
_NUMBER = re.compile(
    r"\s*[-+]?(\d[\d.,' ]*|[.,]\d+|inf|infinity|nan)(e[-+]?\d+)?%?\s*", re.IGNORECASE
)


def quoted(cell: Any) -> Any:
    """Returns a text that begins as a formula does behind an apostrophe; all else as it is.

    Example:
        >>> quoted("=1+1"), quoted("-1.5"), quoted("a=b"), quoted(-2)
        ("'=1+1", '-1.5', 'a=b', -2)
    """
    if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def quoted_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns a table with all its texts and names so."""
    columns = [
        column if column.dtype.kind in "biufcmM" else column.astype(object).map(quoted)
        for _, column in frame.items()
    ]
    made = type(frame)(dict(enumerate(columns)), index=frame.index)
    made.columns = [quoted(name) for name in frame.columns]
    return made
