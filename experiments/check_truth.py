"""Does `check` reject true models too often, false ones often enough, and short fits for what?

    python experiments/check_truth.py            # what is missing of all cells; 3 hours on a core
    python experiments/check_truth.py true       # the cells of true models alone, or power, refits
    python experiments/check_truth.py --table    # results/check_truth.md
    python experiments/check_truth.py --smoke

True models: data are simulated from the very model that is checked, one factor at a time from a
base case: `Normal`, 200 observations of 10 features from two latent dimensions, nothing beside x.
Of 100 repetitions at 5%, more than 11 are too many (three binomial standard errors).

Power: 14 misfits, those of `planted.py` and five more, are planted in 1,000 training and 500
held-out observations, to which a VAE with a linear decoder is fitted in 120 steps; of 40
repetitions 36 are to be rejected.

Refits: the same fits where nothing was planted, and where one of three misfits was, with 20 refits
to simulated data, each by the whole recipe from new weights ("afresh") or by `Run.refit`, which
starts from the fitted ones ("warm"). A model fails for its family where a check is beyond what
refits err.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import common
import torch
from planted import CASES, FEATURES, RECIPE, location, model, normal, rate
from torch import Tensor

import pyro_vae as pv
from pyro_vae.criticism import Checks, check
from pyro_vae.data.rows import Rows

PATH = common.RESULTS / "check_truth.json"
TRAIN, HELD_OUT = 1000, 500
TRUE, POWER, REFITS = 100, 40, 20  # repetitions
NUM_REFITS = 20
LIKELIHOODS = (
    "Normal", "StudentT", "Laplace", "Bernoulli", "Poisson", "NegativeBinomial",
    "ZeroInflatedPoisson", "Gamma", "LogNormal", "Beta",
)  # fmt: skip


def true(likelihood: str, size: int = 200, features: int = 10, beside: str = "") -> Checks:
    """Checks data of a model whose decoder has random weights by that model."""
    options: dict[str, Any] = {"size_factor": True} if beside == "sizes" else {}
    part = getattr(pv.likelihoods, likelihood)((features,), **options)
    given: dict[str, Any] = {}
    if beside == "conditions":
        given["cond"] = torch.eye(3)[torch.randint(3, (size,))]
    if beside == "sizes":
        given["covariates"] = {"size_factor": torch.linspace(0.5, 2.0, size)}
    networks = pv.networks.MLP((32,)), pv.networks.MLP(())
    vae = pv.VAE(
        pv.priors.Normal(2), pv.guides.Normal(2), part, *networks,
        cond_size=3 if beside == "conditions" else None,
    )  # fmt: skip
    for parameter in vae.decoder.parameters():
        parameter.data.normal_(std=0.5)
    x = vae.sample(size, **given)
    if beside == "masks":
        given["mask"] = torch.rand(size, features) > 0.3
        given["mask"][:, 0] = True
    return check(vae, x, seed=int(torch.randint(2**31, ())), **given)


BASE = "base"
TRUTHS: dict[str, tuple[Any, ...]] = {
    **{name: (name,) for name in LIKELIHOODS[1:]},
    BASE: ("Normal",),
    "50 observations": ("Normal", 50),
    "1,000 observations": ("Normal", 1000),
    "conditions": ("Normal", 200, 10, "conditions"),
    "size factors": ("Poisson", 200, 10, "sizes"),
    "30% hidden": ("Normal", 200, 10, "masks"),
    "100 features": ("Normal", 200, 100),
}


def outliers(n: int) -> Tensor:
    """Normal data, of which one entry in a hundred is ten times as far out."""
    noise = normal(n)
    return location(n) + noise * (1 + 9 * (torch.rand_like(noise) < 0.01))


MISFITS: dict[str, tuple[str, str, Callable[[int], Tensor]]] = {
    **{name: case for name, case in CASES.items() if not name.startswith("none")},
    "skewed": (
        "skewed noise", "Normal",
        lambda n: location(n) + 0.5 * (torch.empty(n, FEATURES).exponential_() - 1),
    ),
    "uniform": (
        "uniform noise", "Normal", lambda n: location(n) + 1.7 * (torch.rand(n, FEATURES) - 0.5)
    ),
    "outliers": ("1% of entries ten times as far out", "Normal", outliers),
    "two-valued": (
        "noise of two values", "Normal",
        lambda n: location(n) + 0.5 * torch.randn(n, FEATURES).sign() + 0.2 * normal(n),
    ),
    "rounded": ("counts of pairs, all even", "Poisson", lambda n: 2 * torch.poisson(rate(n) / 2)),
}  # fmt: skip
REFITTED = {
    f"{case}, {how}": (case, how)
    for case in ("none-Normal", "tails", "clusters", "neighbours")
    for how in ("afresh", "warm")
}
RECIPES: dict[str, Any] = {"device": "cpu", "compile": False, **RECIPE}


def fitted(case: str, refits: str = "") -> Checks:
    """Fits a model to data of a case, and checks others of them in the order of their rows."""
    _, likelihood, simulate = (MISFITS | CASES)[case]
    x = simulate(TRAIN + HELD_OUT)
    vae = model(likelihood, FEATURES)
    seed = int(torch.randint(2**31, ()))
    run = pv.fit(vae, x[:TRAIN], seed=seed, **RECIPES)

    def afresh(rows: Rows, seed: int) -> pv.VAE:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            other = model(likelihood, FEATURES)
        return pv.fit(other, rows.x, seed=seed, **RECIPES).vae

    options: dict[str, Any] = {}
    if refits:
        refit = afresh if refits == "afresh" else run.refit
        options = {"refit": refit, "refits": NUM_REFITS, "train": x[:TRAIN]}
    return check(vae, x[TRAIN:], seed=seed, **options)


CELLS: dict[str, dict[str, tuple[int, Callable[[], Checks]]]] = {
    "true": {name: (TRUE, lambda how=how: true(*how)) for name, how in TRUTHS.items()},
    "power": {name: (POWER, lambda name=name: fitted(name)) for name in MISFITS},
    "refits": {name: (REFITS, lambda how=how: fitted(*how)) for name, how in REFITTED.items()},
}


def once(make: Callable[[], Checks], seed: int) -> dict[str, Any]:
    """Makes one repetition of a cell, and returns what is recorded of it."""
    torch.manual_seed(seed)
    began = time.process_time()
    checks = make()
    failed = [row for row in checks.rows if row.failed]
    return {
        "failed": [row.statistic for row in failed],
        "family": [row.statistic for row in failed if row.cause == "family"],
        "effects": {row.statistic: row.effect for row in failed if math.isfinite(row.effect)},
        "auc": checks.classifier.auc,
        "seconds": time.process_time() - began,
    }


def run(parts: list[str]) -> None:
    """Goes on where it was stopped, and writes after each repetition of the cells of a part."""
    known = json.loads(PATH.read_text()) if PATH.exists() else {"cells": {}}
    cells: dict[str, list[dict[str, Any]]] = known["cells"]
    for part in parts:
        for seed in range(max(count for count, _ in CELLS[part].values())):
            for name, (count, make) in CELLS[part].items():
                done = cells.setdefault(f"{part}: {name}", [])
                if len(done) == seed < count:
                    done.append(once(make, seed))
                    common.write("check_truth", {"cells": cells})
            tried = {c: sum(bool(o["failed"]) for o in d) for c, d in cells.items() if part in c}
            print(part, seed, tried, flush=True)


def table() -> str:
    """Returns the tables of true models, of misfits and of refits as Markdown."""
    (found,) = common.read("check_truth.json")
    cells: dict[str, list[dict[str, Any]]] = found["cells"]
    of = {part: {n: cells.get(f"{part}: {n}", []) for n in names} for part, names in CELLS.items()}
    lines = ["| true model | rejected at 5% |", "|---|---:|"]
    lines += [f"| {name} | {_share(each)} |" for name, each in of["true"].items()]
    every = [one for each in of["true"].values() for one in each]
    lines += [f"| all | {_share(every)} |", ""]
    lines += ["| planted misfit | likelihood | rejected | by, most often |", "|---|---|---:|---|"]
    for name, each in of["power"].items():
        what, likelihood, _ = MISFITS[name]
        by = Counter(statistic for one in each for statistic in one["failed"]).most_common(3)
        often = ", ".join(f"{statistic} {count}" for statistic, count in by)
        lines.append(f"| {what} | `{likelihood}` | {_share(each)} | {often} |")
    lines += [
        "",
        "| fitted in 120 steps, refits | rejected | beyond what refits err |",
        "|---|---:|---:|",
    ]
    for name, each in of["refits"].items():
        lines.append(f"| {name} | {_share(each)} | {_share(each, 'family')} |")
    return "\n".join(lines) + "\n"


def _share(each: list[dict[str, Any]], what: str = "failed") -> str:
    return f"{sum(bool(one[what]) for one in each)} of {len(each)}"


if __name__ == "__main__":
    parser = common.Parser(
        __doc__,
        smoke="one repetition of each cell, but for refits of one",
        table="results/check_truth.md",
    )
    parser.add_argument("parts", nargs="*", default=[], help=", ".join(CELLS))
    options = parser.options()
    parts = options.parts or list(CELLS)
    if unknown := set(parts) - set(CELLS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if options.table:
        (common.RESULTS / "check_truth.md").write_text(table(), encoding="utf-8")
    elif options.smoke:
        NUM_REFITS = 5
        for part in parts:
            for name, (_, make) in list(CELLS[part].items())[: 1 if part == "refits" else None]:
                print(part, name, once(make, 0), flush=True)
    else:
        run(parts)
