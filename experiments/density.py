"""Held-out log p(x) of tables, and anomalies found by it: a VAE beside classic estimators.

    python experiments/density.py                  # 40 minutes on one core, in pieces:
    python experiments/density.py --minutes 9      # begins no cell after that; call it again
    python experiments/density.py --table          # results/density.md
    python experiments/density.py --smoke

Every method has the same rows: 60% to fit, 20% to choose with, 20% to test, in three splits. For
anomalies, rows of one class alone are seen, and those of the others are scored beside test rows.
Columns are standardised by the rows of the fit, for all methods alike, so that densities have one
unit. A Gaussian mixture is chosen by BIC, a kernel density by cross-validation, both on the rows of
the fit; a neural spline flow (zuko) and the VAE each try as many settings, stop early and keep the
one whose validation rows have the greatest log p(x). The settings were listed beforehand.

References:
    Neural Spline Flows (Durkan et al., 2019), https://arxiv.org/abs/1906.04032
    Masked Autoregressive Flow for Density Estimation (Papamakarios et al., 2017), of which the
    removal of discrete columns is, https://arxiv.org/abs/1705.07057
"""

from __future__ import annotations

import copy
import json
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import common
import numpy as np
import torch
import zuko
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity

import pyro_vae as pv

torch.distributions.Distribution.set_default_validate_args(True)  # zuko switches it off
RESULT = common.RESULTS / "density.json"
SPLITS, BATCH, PATIENCE, STEPS = 3, 128, 30, 2000
DRAWS, MORE_DRAWS = 200, 1000  # of z for each observation: to choose, and to test

# ---------------------------------------------------------------------------------------- the data


def curved(seed: int, size: int = 10_000) -> tuple[np.ndarray, np.ndarray]:
    """Five columns, each a curve of those before it, with noise: rows, and log p(x) of each."""
    draw = np.random.default_rng(seed)
    e, side = draw.standard_normal((5, size)), draw.random(size) < 0.4
    a = np.where(side, -1.5 + 0.4 * e[0], 1.0 + 0.7 * e[0])
    b = 0.5 * a**2 + 0.3 * e[1]
    c = np.sin(2 * a) + 0.15 * (1 + abs(b)) * e[2]
    d = 0.5 * b * c + 0.4 * e[3]
    f = np.exp(0.4 * d + 0.3 * e[4])
    log_normal = -0.5 * e**2 - 0.5 * math.log(2 * math.pi)
    first = np.logaddexp(
        math.log(0.4 / 0.4) - 0.5 * ((a + 1.5) / 0.4) ** 2,
        math.log(0.6 / 0.7) - 0.5 * ((a - 1.0) / 0.7) ** 2,
    )
    log_scales = math.log(0.3) + np.log(0.15 * (1 + abs(b))) + math.log(0.4) + math.log(0.3)
    first -= 0.5 * math.log(2 * math.pi)
    return np.stack([a, b, c, d, f], 1), first + log_normal[1:].sum(0) - log_scales - np.log(f)


def table(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a table and the class of each (log p(x) itself, of the simulated one)."""
    if name == "curved":
        return curved(20)
    if name == "diabetes":  # sex has two values, and of s4 a third is one value
        x = datasets.load_diabetes(scaled=False).data[:, [0, 2, 3, 4, 5, 6, 8, 9]]
        return x, np.zeros(len(x))
    found = getattr(datasets, f"load_{name}")()
    x = found.data
    if name == "digits":  # grey levels 0 to 16, less the pixels that are always 0
        x = x[:, x.max(0) > 0]
        x = (x + np.random.default_rng(0).random(x.shape)) / 17
    return x, found.target


class Rows:
    """The rows of one cell, standardised: to fit, to choose, to test, and anomalies if any.

    Attributes:
        fit, choose, test, others: float32, shape ``(N, D)``.
        truth: log p(x) of the test rows where it is known, in these units.
    """

    def __init__(self, name: str, split: int, inlier: int | None) -> None:
        x, y = table(name)
        own = np.arange(len(x)) if inlier is None else np.flatnonzero(y == inlier)
        own = own[np.random.default_rng(split).permutation(len(own))]
        fifth = len(own) // 5
        test, choose, fit = own[:fifth], own[fifth : 2 * fifth], own[2 * fifth :]
        loc, scale = x[fit].mean(0), x[fit].std(0)
        units = ((x - loc) / scale).astype(np.float32)
        self.fit, self.choose, self.test = units[fit], units[choose], units[test]
        self.others = None if inlier is None else units[y != inlier]
        self.truth = y[test] + np.log(scale).sum() if name == "curved" else None


LogProb = Callable[[np.ndarray], np.ndarray]
DENSITY = ("diabetes", "breast_cancer", "wine", "digits", "curved")
ANOMALY = {"breast_cancer": (1,), "wine": (0, 1, 2), "digits": tuple(range(10))}


def cells(splits: int) -> Iterator[tuple[str, int, int | None]]:
    """All cells: table, split, and the class that is no anomaly where there are some."""
    for split in range(splits):
        for name in DENSITY:
            yield name, split, None
        for name, classes in ANOMALY.items():
            for inlier in classes if split == 0 or name != "digits" else ():
                yield name, split, inlier


# ------------------------------------------------------------------------------------- the methods


def gaussian_mixtures(x: np.ndarray, ridges: tuple[float, ...], seed: int) -> list[GaussianMixture]:
    """Mixtures of all kinds and sizes, each component of which has rows enough for its shape."""
    found = []
    for kind in ("full", "tied", "diag", "spherical"):
        for count in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32):
            if count > 1 and len(x) / count < (x.shape[1] + 1 if kind == "full" else 4):
                continue
            for ridge in ridges:
                options = {"reg_covar": ridge, "max_iter": 300, "random_state": seed}
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    found.append(GaussianMixture(count, covariance_type=kind, **options).fit(x))
    return found


def mixture_by_bic(rows: Rows, seed: int) -> tuple[LogProb, dict[str, Any]]:
    """The mixture of the least BIC, which takes no notice of the validation rows."""
    x = rows.fit.astype(np.float64)
    model = min(gaussian_mixtures(x, (1e-2,), seed), key=lambda each: each.bic(x))
    return model.score_samples, described(model)


def mixture_by_validation(rows: Rows, seed: int) -> tuple[LogProb, dict[str, Any]]:
    """The mixture whose validation rows have the greatest log p(x)."""
    x, choose = rows.fit.astype(np.float64), rows.choose.astype(np.float64)
    models = gaussian_mixtures(x, (1e-6, 1e-4, 1e-2, 1e-1), seed)
    model = max(models, key=lambda each: each.score(choose))
    return model.score_samples, described(model)


def described(model: GaussianMixture) -> dict[str, Any]:
    """What was chosen of a mixture."""
    kind, ridge = model.covariance_type, model.reg_covar
    return {"components": model.n_components, "kind": kind, "ridge": ridge}


def kernel_density(rows: Rows, seed: int) -> tuple[LogProb, dict[str, Any]]:
    """A sum of normal kernels, whose one width is cross-validated in the rows of the fit."""
    widths = {"bandwidth": np.geomspace(0.03, 3, 25)}
    search = GridSearchCV(KernelDensity(rtol=1e-4), widths, cv=5).fit(rows.fit)
    return search.best_estimator_.score_samples, search.best_params_


Setting = dict[str, Any]
# The settings of the flow, with names as in zuko, and those of its fit.
FLOWS: tuple[Setting, ...] = tuple(
    {"transforms": maps, "hidden": width, "bins": bins, "decay": decay, "lr": lr}
    for maps, width, bins, decay, lr in (
        (1, (64, 64), 8, 0.1, 1e-3),
        (2, (32, 32), 4, 0.1, 3e-3),
        (2, (128, 128), 8, 1.0, 1e-3),
        (3, (64, 64), 8, 0.1, 3e-3),
        (3, (32, 32), 16, 1.0, 3e-3),
        (5, (128, 128), 8, 0.1, 1e-3),
    )
)
# And of the VAE: `hidden` of no width are linear maps, a factor analysis.
VAES: tuple[Setting, ...] = tuple(
    {"latent": latent, "prior": prior, "family": family, "scale": scale, "hidden": hidden}
    | {"dropout": dropout, "decay": decay, "draws": draws, "lr": lr}
    for latent, prior, family, scale, hidden, dropout, decay, draws, lr in (
        (8, "Normal", "Normal", "per-dimension", (), 0.0, 0.1, 1, 1e-2),
        (16, "Mixture", "StudentT", "per-dimension", (), 0.0, 0.1, 1, 1e-2),
        (8, "Normal", "Normal", "shared", (64, 64), 0.2, 0.1, 1, 3e-3),
        (16, "Flow", "Normal", "per-dimension", (128, 128), 0.0, 1.0, 1, 1e-3),
        (5, "Flow", "Normal", "predicted", (64, 64), 0.0, 0.1, 8, 3e-3),
        (16, "Mixture", "StudentT", "predicted", (128, 128), 0.2, 1.0, 1, 1e-3),
    )
)


def epochs(size: int) -> int:
    """So many that no fit takes more than ``STEPS`` steps."""
    return max(1, STEPS // math.ceil(size / BATCH))


def fitted_flow(rows: Rows, setting: Setting, seed: int) -> LogProb:
    """A neural spline flow with the weights of its best epoch by the validation rows."""
    torch.manual_seed(seed)
    shape = {"transforms": setting["transforms"], "hidden_features": setting["hidden"]}
    flow = zuko.flows.NSF(rows.fit.shape[1], bins=setting["bins"], **shape)
    optim = torch.optim.AdamW(flow.parameters(), setting["lr"], weight_decay=setting["decay"])
    x, choose = torch.from_numpy(rows.fit), torch.from_numpy(rows.choose)
    best, since, kept = -math.inf, 0, flow.state_dict()
    for _ in range(epochs(len(x))):
        for batch in x[torch.randperm(len(x))].split(BATCH):
            optim.zero_grad()
            loss = -flow().log_prob(batch).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(flow.parameters(), 10.0)
            optim.step()
        with torch.no_grad():
            score = flow().log_prob(choose).mean().item()
        since += 1
        if score > best:
            best, since, kept = score, 0, copy.deepcopy(flow.state_dict())
        if since >= PATIENCE:
            break
    flow.load_state_dict(kept)

    def log_prob(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return flow().log_prob(torch.from_numpy(x)).double().numpy()

    return log_prob


def fitted_vae(rows: Rows, setting: Setting, seed: int) -> pv.VAE:
    """A VAE with the weights of its best epoch by the ELBO of the validation rows."""
    latent, size = setting["latent"], rows.fit.shape[1]
    options = {"dropout": setting["dropout"]} if setting["hidden"] else {}
    vae = pv.VAE(
        getattr(pv.priors, setting["prior"])(latent),
        pv.guides.Normal(latent),
        getattr(pv.likelihoods, setting["family"])((size,), scale=setting["scale"]),
        pv.networks.MLP(setting["hidden"], **options),
        pv.networks.MLP(setting["hidden"], **options),
        seed=seed,
    )
    draws = setting["draws"]
    pv.fit(
        vae,
        rows.fit,
        validation=rows.choose,
        objective=pv.objectives.IWAE(draws) if draws > 1 else pv.objectives.ELBO(),
        epochs=epochs(len(rows.fit)),
        patience=PATIENCE,
        batch_size=BATCH,
        lr=setting["lr"],
        weight_decay=setting["decay"],
        clip_norm=10.0,
        seed=seed,
        device="cpu",
        compile=False,  # so few steps would not make up for it
    )
    return vae


Method = Callable[[Rows, int], tuple[LogProb, dict[str, Any]]]


def spline_flow(rows: Rows, seed: int) -> tuple[LogProb, dict[str, Any]]:
    """The flow whose validation rows have the greatest log p(x)."""
    flows = [fitted_flow(rows, setting, seed) for setting in FLOWS]
    scores = [float(flow(rows.choose).mean()) for flow in flows]
    at = int(np.nanargmax(scores))
    return flows[at], FLOWS[at] | {"validation": scores}


def vae(rows: Rows, seed: int) -> tuple[LogProb, dict[str, Any]]:
    """The VAE whose validation rows have the greatest log p(x)."""
    models = [fitted_vae(rows, setting, seed) for setting in VAES]
    found = [pv.evaluate(model, rows.choose, num_samples=DRAWS) for model in models]
    scores = [float(each.log_marginal.mean()) for each in found]
    at = int(np.nanargmax(scores))
    model, chosen = models[at], VAES[at] | {"validation": scores}
    fewer = pv.evaluate(model, rows.test, num_samples=MORE_DRAWS // 10).log_marginal.mean()
    more = pv.evaluate(model, rows.test, num_samples=MORE_DRAWS, seed=1)
    chosen["gain of ten times the draws"] = float(more.log_marginal.mean() - fewer)
    chosen["k-hat above 0.7"] = float((more.k_hat > 0.7).mean())
    chosen["Monte Carlo error"] = more.summary()["mcse"]

    def log_prob(x: np.ndarray) -> np.ndarray:
        return pv.evaluate(model, x, num_samples=MORE_DRAWS, seed=1).log_marginal

    return log_prob, chosen


METHODS: dict[str, Method] = {
    "mixture, BIC": mixture_by_bic,
    "mixture, validation": mixture_by_validation,
    "kernel density": kernel_density,
    "spline flow": spline_flow,
    "VAE": vae,
}


def started(rows: Rows, name: str, split: int, inlier: int | None) -> dict[str, Any]:
    """A cell of which no method is fitted yet."""
    sizes = [len(rows.fit), len(rows.choose), len(rows.test), rows.fit.shape[1]]
    cell: dict[str, Any] = {"table": name, "split": split, "inlier": inlier, "rows": sizes}
    if rows.truth is not None:
        cell["truth"] = mean_and_error(rows.truth)
    return cell | {"methods": {}, "each row": {}}


def go_on(cell: dict[str, Any], rows: Rows) -> None:
    """Fits the next method to the rows of a cell, and scores the test rows by it."""
    method = next(method for method in METHODS if method not in cell["methods"])
    began = time.perf_counter()
    log_prob, chosen = METHODS[method](rows, cell["split"])
    each = log_prob(rows.test)
    line: dict[str, Any] = {"log p(x)": mean_and_error(each), "chosen": chosen}
    if rows.others is not None:
        strange = np.r_[np.zeros(len(each)), np.ones(len(rows.others))]
        scores = np.r_[each, log_prob(rows.others)]
        line["AUROC"] = float(roc_auc_score(strange, -scores))
    cell["methods"][method] = line | {"seconds": time.perf_counter() - began}
    cell["each row"][method] = each.tolist()
    at = (cell["table"], cell["split"], cell["inlier"])
    print(*at, method, line["log p(x)"], line.get("AUROC", ""), flush=True)
    if len(cell["methods"]) == len(METHODS):  # differences are what is kept of the rows
        log_probs = {name: np.array(found) for name, found in cell.pop("each row").items()}
        for name, found in cell["methods"].items():
            found["VAE less this"] = mean_and_error(log_probs["VAE"] - log_probs[name])


def mean_and_error(values: np.ndarray) -> list[float]:
    """The mean and its standard error."""
    return [float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)]


def run(minutes: float | None, smoke: bool) -> None:
    """Goes through the cells, from where it was stopped, and writes after each method."""
    global STEPS
    STEPS = 20 if smoke else STEPS
    logging.getLogger("pyro_vae").setLevel(logging.ERROR)
    began = time.perf_counter()
    done = json.loads(RESULT.read_text())["cells"] if RESULT.exists() and not smoke else []
    known = {(each["table"], each["split"], each["inlier"]): each for each in done}
    for at in cells(1 if smoke else SPLITS):
        if smoke and at[0] != "wine":
            continue
        rows = Rows(*at)
        if at not in known:
            known[at] = started(rows, *at)
        while len(known[at]["methods"]) < len(METHODS):
            if minutes is not None and time.perf_counter() - began > 60 * minutes:
                return
            go_on(known[at], rows)
            if not smoke:
                common.write("density", {"recipe": RECIPE, "cells": list(known.values())})
    if smoke:
        print(markdown(list(known.values())))


RECIPE = {"batch_size": BATCH, "patience": PATIENCE, "steps": STEPS, "draws": MORE_DRAWS}
RECIPE |= {"flows": FLOWS, "vaes": VAES}
NAMES = {"curved": "simulated curves", "digits": "digits' pixels", "breast_cancer": "breast cancer"}


def pooled(pairs: list[list[float]]) -> tuple[float, float]:
    """The mean over splits, and its standard error from those of each."""
    means, errors = zip(*pairs, strict=True)
    return math.fsum(means) / len(means), math.hypot(*errors) / len(errors)


def markdown(done: list[dict[str, Any]]) -> str:
    """Returns the tables of complete cells, and what they come to, as Markdown."""
    head = "| | rows × columns | splits | " + " | ".join(METHODS) + " | true |"
    lines = [head, "|---|---:|---:|" + "---:|" * (len(METHODS) + 1)]
    words = []
    for name in DENSITY:
        own = [each for each in done if (each["table"], each["inlier"]) == (name, None)]
        if not own:
            continue
        found = {m: pooled([each["methods"][m]["log p(x)"] for each in own]) for m in METHODS}
        best = max(found, key=lambda m: found[m][0])
        shown = [
            f"{'**' * (m == best)}{mean:.2f}{'**' * (m == best)} ± {error:.2f}"
            for m, (mean, error) in found.items()
        ]
        *counts, columns = own[0]["rows"]
        true = f"{pooled([each['truth'] for each in own])[0]:.2f}" if "truth" in own[0] else ""
        label = NAMES.get(name, name)
        size = f"{sum(counts):,} × {columns}"
        lines.append(f"| {label} | {size} | {len(own)} | {' | '.join(shown)} | {true} |")
        other = max((m for m in METHODS if m != "VAE"), key=lambda m: found[m][0])
        less, error = pooled([each["methods"][other]["VAE less this"] for each in own])
        words.append(f"{less:+.2f} ± {error:.2f} on {label} ({other})")
    vaes = [each["methods"]["VAE"]["chosen"] for each in done if each["inlier"] is None]
    bias = max(abs(each["gain of ten times the draws"]) for each in vaes)
    above = max(each["k-hat above 0.7"] for each in vaes)
    lines += ["", "The VAE less the best of the others, paired: " + ", ".join(words) + "."]
    lines += [f"Its log p(x) takes {MORE_DRAWS:,} draws, which gain at most {bias:.2f} nats over"]
    lines += [
        f"{MORE_DRAWS // 10}; k-hat is above 0.7 for at most {above:.0%} of the rows, so that"
    ]
    lines += ["what is still missing counts against the VAE."]
    return "\n".join([*lines, "", *anomalies(done)]) + "\n"


def anomalies(done: list[dict[str, Any]]) -> list[str]:
    """The lines of the table of anomalies."""
    head = "| AUROC of -log p(x), one class against the others | fits | "
    lines = [head + " | ".join(METHODS) + " |", "|---|---:|" + "---:|" * len(METHODS)]
    for name in ANOMALY:
        own = [each for each in done if each["table"] == name and each["inlier"] is not None]
        if not own:
            continue
        shown = []
        for method in METHODS:
            found = [each["methods"][method]["AUROC"] for each in own]
            mean = math.fsum(found) / len(found)
            shown.append(f"{mean:.3f} ({min(found):.3f} to {max(found):.3f})")
        lines.append(f"| {NAMES.get(name, name)} | {len(own)} | {' | '.join(shown)} |")
    return lines


if __name__ == "__main__":
    parser = common.Parser(__doc__, table="results/density.md")
    parser.add_argument("--minutes", type=float, help="after which no further cell is begun")
    args = parser.options()
    if args.table:
        found = json.loads(RESULT.read_text())["cells"]
        complete = [each for each in found if "each row" not in each]
        (common.RESULTS / "density.md").write_text(markdown(complete))
    else:
        run(args.minutes, args.smoke)
