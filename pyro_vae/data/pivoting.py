"""Long tables of events, such as clicks, as rows by columns: who did how much of what.

A row of the table is one event: ``user,item``, or ``user,item,amount``. What comes of it has a row
for each user and a column for each item, as ``pandas.crosstab`` has it: the number of events of the
pair, or the sum of their amounts; 0 where there is none.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyro_vae._errors import expected, plural, unknown_name
from pyro_vae.data.budget import check_fits
from pyro_vae.data.frames import Table
from pyro_vae.data.raw import EXACT, Raw

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["pivot_columns", "pivoted"]

log = logging.getLogger("pyro_vae")
_NAMED = 6  # ids, in a line


def pivot_columns(pivot: str | Sequence[str] | None) -> tuple[str, ...]:
    """Returns the columns of rows, of columns and, if there is one, of amounts; empty for None.

    Raises:
        ValueError: If they are not two or three different ones.

    Example:
        >>> pivot_columns("userId, movieId")
        ('userId', 'movieId')
    """
    if pivot is None:
        return ()
    given = pivot.split(",") if isinstance(pivot, str) else pivot
    names = tuple(str(n).strip() for n in given) if isinstance(given, Sequence) else ()
    if len(names) not in (2, 3) or not all(names) or len(set(names)) < len(names):
        what = "columns of rows, of columns and, if there is one, of amounts, such as user,item"
        raise expected("pivot", what, pivot)
    return names


def pivoted(table: Table, pivot: Sequence[str], known: Sequence[str] = ()) -> Raw:
    """Returns a table of events as rows by columns.

    Args:
        table: Any table with names of columns, an event a row.
        pivot: Its columns of rows, of columns and, if there is one, of amounts.
        known: The columns of x that a model was fitted to, in their order: events of others are
            left out, which one line reports. If none is given, all are taken, sorted.

    Raises:
        ValueError: If there is no such column, an id or an amount is missing, an amount is no
            number, or nothing is left.
    """
    for name in pivot:
        if name not in table.names:
            raise unknown_name("pivot", name, table.names)
    if len(table.frame) == 0:
        raise expected("data", "at least one event", table.frame)
    at = [table.names.index(name) for name in pivot]
    rows, index = _places(table, at[0], "an id")
    columns, found = _places(table, at[1], "an id")
    amounts = _amounts(table, at[2]) if len(at) == 3 else np.ones(len(rows))
    names = [str(each) for each in found.tolist()]
    if known:
        place = {name: i for i, name in enumerate(known)}
        # Of users whose items are all unknown there is a row all the same, of zeros.
        columns = np.array([place.get(name, -1) for name in names])[columns]
        _report_unknown(pivot[1], names, place, int((columns < 0).sum()))
        names, kept = list(known), columns >= 0
        rows, columns, amounts = rows[kept], columns[kept], amounts[kept]
    if len(names) < 1 or (known and len(columns) == 0):
        what = f"at least one event of an item that the run knows in {pivot[1]}"
        raise expected("data", what, plural(len(table.frame), "event"))
    shape = len(index), len(names)
    check_fits(shape, torch.float32.itemsize)
    pairs, which = np.unique(rows.astype(np.int64) * shape[1] + columns, return_inverse=True)
    sums = np.bincount(which, weights=amounts)
    if (again := len(rows) - len(pairs)) > 0:
        made = "added up" if len(pivot) == 3 else "counted"
        log.warning(
            "%s of a %s and a %s that another one is of, too: they are %s",
            plural(again, "event"), pivot[0], pivot[1], made,
        )  # fmt: skip
    if np.abs(sums).max() >= EXACT:
        raise expected("data", "sums below 2**24, which float32 holds", float(np.abs(sums).max()))
    x = np.zeros(shape, np.float32)
    x.reshape(-1)[pairs] = sums
    return Raw({"train": torch.from_numpy(x)}, names=names, index={"train": index})


def _places(table: Table, position: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the place of each cell among the different ones, and these, sorted."""
    import pandas as pd

    column = table.frame.iloc[:, position]
    _check_complete(table, position, _lacking(column), what)
    try:
        codes, found = pd.factorize(column, sort=True)
    except TypeError:  # of lists and the like
        raise expected("data", f"numbers or texts in {table.names[position]}", column) from None
    ids = np.asarray(found)
    if ids.dtype.kind in "iu":
        return codes, ids
    texts = [_text(each) for each in pd.Index(found).tolist()]
    # Two that are written alike, as 1 and "1" of a table of mixed cells, are one.
    merged, kept = pd.factorize(np.array(texts, object))
    whole = ids.dtype.kind == "f" and all(text.lstrip("-").isdigit() for text in texts)
    return merged[codes], np.array(kept.tolist()).astype(np.int64 if whole else str)


def _lacking(column: pd.Series[Any]) -> np.ndarray:
    """Returns which cells are no id: missing ones, and infinite numbers."""
    lacking = column.isna().to_numpy(bool)
    return (
        lacking | np.isinf(column.to_numpy(np.float64, na_value=np.nan))
        if column.dtype.kind == "f"
        else lacking
    )


def _amounts(table: Table, position: int) -> np.ndarray:
    """Returns the numbers of a column."""
    import pandas as pd

    column = table.frame.iloc[:, position]
    if column.dtype.kind in "mM":
        raise expected("data", f"numbers in {table.names[position]}", f"type {column.dtype}")
    values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    _check_complete(table, position, ~np.isfinite(values), "a finite number")
    return values


def _check_complete(table: Table, position: int, lacking: np.ndarray, what: str) -> None:
    """Refuses a column that lacks something, by its first cell that does."""
    if lacking.any():
        place, cell = table.where(int(lacking.argmax()), position)
        of = f"{what} in {place}, of {plural(int(lacking.sum()), 'such event')}"
        raise expected("data", of, cell)


def _text(each: Any) -> str:
    """Returns an id as text; a whole number as such, be it a floating-point number or not."""
    whole = isinstance(each, float) and each.is_integer() and abs(each) < 2**63
    return str(int(each)) if whole else str(each)


def _report_unknown(name: str, found: Sequence[str], known: Any, events: int) -> None:
    """Says which items the run does not know, and how many events are of these."""
    unknown = [each for each in found if each not in known]
    if unknown:
        more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        log.warning(
            "left out %s, of %s in %s that the run does not know: %s",
            plural(events, "event"), plural(len(unknown), "value"), name,
            ", ".join(unknown[:_NAMED]) + more,
        )  # fmt: skip
