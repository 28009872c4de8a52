"""Anomalies among rows of four kinds, by VAEs and by four detectors of scikit-learn.

    python experiments/applications/anomalies.py --data-root DATA          # 10 minutes, one core
    python experiments/applications/anomalies.py digits                    # one kind alone
    python experiments/applications/anomalies.py --table       # results/anomalies.md, .png
    python experiments/applications/anomalies.py --smoke       # under a minute, no figure

Models see normal rows alone, which are split at random into those of the fit, those of all choices
(validation) and those of the test. Anomalies are rows of the digit that is left out, each of the
ten in turn; malignant rows of breast cancer, where those that are benign are normal; and images of
MNIST where those of Fashion-MNIST are normal, and the other way round, 1,500 of which are seen.

Each method has as many trials of settings, the first of the rivals being scikit-learn's defaults.
No anomaly has a part in any choice: of densities (the VAE, the mixture) the trial with the highest
log p of the validation rows is taken, of the others, which have none, the trial with the highest
AUROC of validation rows against the same rows in which a tenth of the entries is that of other
rows. The background of the ratio is the chosen VAE, fitted anew to rows a fifth of whose entries is
that of others. Errors are over splits; results are written split by split, and gone on with.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import common
import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.base import BaseEstimator
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import OneClassSVM

import pyro_vae as pv
from pyro_vae.evaluation import anomalies

IMAGES = {"fashion": ("fashion_mnist", "mnist"), "mnist": ("mnist", "fashion_mnist")}
SPLITS = {"digits": 10, "breast_cancer": 5, "fashion": 3, "mnist": 3}
TITLES = {
    "digits": "a digit left out",
    "breast_cancer": "breast cancer",
    "fashion": "MNIST among Fashion-MNIST",
    "mnist": "Fashion-MNIST among MNIST",
}
FEWEST = 3  # splits that are done, of what is in the table
SEEN, TESTED = 1500, 300  # images: of the fit and all choices; of the test, of each kind
SWAPPED, BACKGROUND = 0.1, 0.2  # shares of entries that are of other rows
DRAWS = {"digits": 200, "breast_cancer": 1000, "fashion": 25, "mnist": 25}
EPOCHS = {"digits": 80, "breast_cancer": 150, "fashion": 20, "mnist": 20}
LEVELS = {"digits": 17, "fashion": 256, "mnist": 256}
SCORES = {
    "log_marginal": "VAE: -log p(x)",
    "typicality": "VAE: typicality",
    "distortion": "VAE: distortion",
    "rate": "VAE: rate",
    "ratio": "VAE: likelihood ratio",
}
Settings = dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """Rows of the fit, of all choices, and of the test: normal ones and anomalies."""

    fit: np.ndarray
    validation: np.ndarray
    normal: np.ndarray
    strange: np.ndarray


def rows_of(name: str, split: int, root: str | None) -> Rows:
    """Returns the rows of one split, in their own units; splits differ in all of them."""
    rng = np.random.default_rng(split)
    if name in IMAGES:
        own, other = (
            pv.data.load(each, root=root, levels=True, download=False) for each in IMAGES[name]
        )
        seen = own.train.flatten(1).numpy()
        seen = seen[rng.choice(len(seen), SEEN, replace=False)]
        tests = []
        for each in (own, other):
            x = each.test.flatten(1).numpy()
            tests.append(x[rng.choice(len(x), TESTED, replace=False)])
        fifth = SEEN // 5
        return Rows(seen[fifth:], seen[:fifth], *tests)
    x, y = load_digits(return_X_y=True) if name == "digits" else load_breast_cancer(return_X_y=True)
    # Each digit is the anomaly once; those that are malignant, of class 0, always.
    strange = y == (split if name == "digits" else 0)
    x = x.astype(np.float32)
    own = x[~strange][rng.permutation(int((~strange).sum()))]
    fifth = len(own) // 5
    return Rows(own[2 * fifth :], own[:fifth], own[fifth : 2 * fifth], x[strange])


def swapped(x: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Returns rows some entries of which are those of other rows, column by column."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(x.shape) < share, rng.permuted(x, axis=0), x)


# ----------------------------------------------------------------------------------------- the VAE


def vaes(name: str) -> list[Settings]:
    """Returns the trials of the VAE."""
    if name == "breast_cancer":
        families, sizes, hidden = ("Normal", "StudentT"), (4, 8), 64
    elif name == "digits":
        families, sizes, hidden = ("DiscretizedLogistic", "BetaBinomial"), (8, 16), 128
    else:
        families, sizes, hidden = ("BetaBinomial",), (4, 8, 16, 32), 256
    return [{"family": f, "latent": k, "hidden": hidden} for f in families for k in sizes]


def vae(
    name: str, x: np.ndarray, validation: np.ndarray, settings: Settings, seed: int, epochs: int
) -> pv.VAE:
    """Fits a VAE, with the weights of its best epoch by the ELBO of the validation rows."""
    latent, hidden = settings["latent"], (settings["hidden"],)
    options = {"levels": LEVELS[name]} if name in LEVELS else {}
    model = pv.VAE(
        prior=pv.priors.Normal(latent),
        guide=pv.guides.Normal(latent),
        likelihood=getattr(pv.likelihoods, settings["family"])(x.shape[1:], **options),
        encoder=pv.networks.MLP(hidden),
        decoder=pv.networks.MLP(hidden),
        seed=seed,
    )
    pv.fit(
        model,
        x,
        validation=validation,
        epochs=epochs,
        patience=15,
        batch_size=64,
        lr=3e-3 if name in IMAGES else 2e-3,
        seed=seed,
        device="cpu",
        compile=False,
        progress=False,
    )
    return model


def by_vae(name: str, rows: Rows, split: int, smoke: bool) -> dict[str, Any]:
    """Chooses a VAE, fits its background, and returns the areas of each score."""
    epochs, draws = (8, 10) if smoke else (EPOCHS[name], DRAWS[name])
    tried: list[tuple[float, Settings, pv.VAE]] = []
    for settings in vaes(name)[: 1 if smoke else None]:
        model = vae(name, rows.fit, rows.validation, settings, split, epochs)
        value = pv.evaluate(model, rows.validation, num_samples=draws).log_marginal.mean()
        tried.append((float(value), settings, model))
    _, chosen, model = max(tried, key=lambda each: each[0])
    mixed = [swapped(each, BACKGROUND, split) for each in (rows.fit, rows.validation)]
    background = vae(name, *mixed, chosen, split, epochs)
    found = anomalies(
        model,
        rows.normal,
        rows.strange,
        reference=rows.validation,
        background=background,
        num_samples=draws,
        seed=split,
    )
    own = {
        "chosen": chosen,
        "validation_of_trials": [value for value, *_ in tried],
        "auroc": found.auroc,
        "aupr": found.average_precision,
        "log_marginal": {
            "validation": -found.entropy,
            "normal": float(found.inliers.mean()),
            "anomalies": float(found.outliers.mean()),
        },
        "likelier_than_median": float((found.outliers > np.median(found.inliers)).mean()),
    }
    if split == 0:  # for the picture
        own["normal_rows"] = found.inliers.round(1).tolist()
        own["strange_rows"] = found.outliers.round(1).tolist()
    return own


# --------------------------------------------------------------------------------------- the rivals

RIVALS: dict[str, tuple[Callable[..., BaseEstimator], list[Settings]]] = {
    "IsolationForest": (
        IsolationForest,
        [
            {},
            {"n_estimators": 300},
            {"n_estimators": 300, "max_samples": 0.8},
            {"n_estimators": 300, "max_features": 0.3},
        ],
    ),
    "OneClassSVM": (OneClassSVM, [{}, {"nu": 0.1}, {"nu": 0.02}, {"nu": 0.1, "gamma": "auto"}]),
    "LocalOutlierFactor": (LocalOutlierFactor, [{}, *({"n_neighbors": k} for k in (3, 8, 50))]),
    "GaussianMixture": (
        GaussianMixture,
        [
            {},
            {"n_components": 3, "reg_covar": 1e-3},
            {"n_components": 10, "reg_covar": 1e-3},
            {"n_components": 10, "reg_covar": 1e-2},
        ],
    ),
}


def rival(kind: str, name: str, settings: Settings, seed: int) -> Pipeline:
    """Returns a detector, after the units that suit the rows: of levels, parts of their range."""
    steps: list[Any] = [StandardScaler()]
    if name in LEVELS:
        steps = [FunctionTransformer(_of_range, kw_args={"largest": LEVELS[name] - 1})]
    if kind == "GaussianMixture" and name in IMAGES:
        steps.append(PCA(50, random_state=seed))  # of all 784 it would have too many covariances
    fixed: Settings = {"novelty": True} if kind == "LocalOutlierFactor" else {}
    if kind in ("IsolationForest", "GaussianMixture"):
        fixed["random_state"] = seed
    return make_pipeline(*steps, RIVALS[kind][0](**fixed, **settings))


def _of_range(x: np.ndarray, largest: int) -> np.ndarray:
    return np.asarray(x, dtype=np.float64) / largest


def by_rival(kind: str, name: str, rows: Rows, split: int, smoke: bool) -> dict[str, Any]:
    """Chooses a detector without any anomaly, and returns its areas."""
    confused = swapped(rows.validation, SWAPPED, split)
    tried = []
    for settings in RIVALS[kind][1][: 2 if smoke else None]:
        model = rival(kind, name, settings, split).fit(rows.fit)
        if kind == "GaussianMixture":
            value = float(model.score_samples(rows.validation).mean())
        else:
            value = areas(model, rows.validation, confused)["auroc"]
        tried.append((value, settings, model))
    _, chosen, model = max(tried, key=lambda each: each[0])
    own = {"chosen": chosen, "validation_of_trials": [value for value, *_ in tried]}
    return own | areas(model, rows.normal, rows.strange)


def areas(model: Pipeline, normal: np.ndarray, strange: np.ndarray) -> dict[str, float]:
    """Returns AUROC and AUPR; the scores of scikit-learn are lower for what is stranger."""
    labels = np.repeat([0, 1], [len(normal), len(strange)])
    scores = -model.score_samples(np.concatenate([normal, strange]))
    found = {
        "auroc": roc_auc_score(labels, scores),
        "aupr": average_precision_score(labels, scores),
    }
    return {measure: float(value) for measure, value in found.items()}


# ------------------------------------------------------------------------------- all of it, in turn


def run(name: str, root: str | None, smoke: bool) -> None:
    """Judges all methods on each split of one kind, from where it was stopped."""
    path = common.RESULTS / f"anomalies-{name}.json"
    done = common.read(path.name)[0]["splits"] if path.exists() and not smoke else []
    for split in range(len(done), 1 if smoke else SPLITS[name]):
        rows = rows_of(name, split, root)
        sizes = {part: len(getattr(rows, part)) for part in rows.__dataclass_fields__}
        found: dict[str, Any] = {"split": split, "rows": sizes, "rivals": {}}
        start = time.process_time()
        found["VAE"] = by_vae(name, rows, split, smoke)
        found["VAE"]["seconds"] = time.process_time() - start
        print(name, split, found["VAE"]["chosen"], shown(found["VAE"]["auroc"]), flush=True)
        for kind in RIVALS:
            start = time.process_time()
            found["rivals"][kind] = own = by_rival(kind, name, rows, split, smoke)
            own["seconds"] = time.process_time() - start
            print(name, split, kind, own["chosen"], shown({"auroc": own["auroc"]}), flush=True)
        done.append(found)
        if not smoke:
            result = {"title": TITLES[name], "trials": 4, "splits": done}
            result["packages"] = {"scikit-learn": version("scikit-learn")}
            print(common.write(path.stem, result), flush=True)


def shown(values: dict[str, float]) -> str:
    """Areas in a line."""
    return "  ".join(f"{name} {value:.3f}" for name, value in values.items())


def values_of(result: dict[str, Any], method: str, measure: str) -> np.ndarray:
    """Returns a measure of a method, split by split."""
    if method in SCORES:
        return np.array([each["VAE"][measure][method] for each in result["splits"]])
    return np.array([each["rivals"][method][measure] for each in result["splits"]])


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """The mean over splits, and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


METHODS = {**SCORES, **{kind: kind for kind in RIVALS}}


def table(results: dict[str, dict[str, Any]]) -> str:
    """Returns both areas of all methods as Markdown, and where the VAE stands."""
    heads = [f"{each['title']}, {len(each['splits'])} splits" for each in results.values()]
    lines = []
    for measure, title in (("auroc", "AUROC"), ("aupr", "AUPR")):
        lines += [f"| {title} | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
        for method, words in METHODS.items():
            cells = []
            for result in results.values():
                mean, error = mean_and_error(values_of(result, method, measure))
                best = max(values_of(result, m, measure).mean() for m in METHODS)
                mark = "**" if values_of(result, method, measure).mean() == best else ""
                cells.append(f"{mark}{mean:.3f}{mark} ± {error:.3f}")
            lines.append(f"| {words} | {' | '.join(cells)} |")
        if measure == "auroc":
            lines.append(f"| at random | {' | '.join(['0.5'] * len(heads))} |")
        else:
            shares = [share(each) for each in results.values()]
            lines.append(f"| at random | {' | '.join(f'{each:.3f}' for each in shares)} |")
        lines.append("")
    lines += [failure(results["fashion"]), ""]
    return "\n".join([*lines, *(verdict(each) for each in results.values())]) + "\n"


def share(result: dict[str, Any]) -> float:
    """The share of anomalies among the rows of the test, which AUPR is at random."""
    rows = [each["rows"] for each in result["splits"]]
    return float(np.mean([e["strange"] / (e["strange"] + e["normal"]) for e in rows]))


def failure(result: dict[str, Any]) -> str:
    """Says what a model of Fashion-MNIST makes of MNIST."""
    bits = {}
    for part in ("normal", "anomalies"):
        nats = np.array([each["VAE"]["log_marginal"][part] for each in result["splits"]])
        bits[part] = "{:.2f} ± {:.2f}".format(*mean_and_error(-nats / 784 / math.log(2)))
    above = np.mean([each["VAE"]["likelier_than_median"] for each in result["splits"]])
    return (
        f"Models of Fashion-MNIST: {bits['normal']} bits a pixel of Fashion-MNIST, "
        f"{bits['anomalies']} of MNIST, which they have never seen; {above:.0%} of the images of "
        "MNIST are likelier than the median one of Fashion-MNIST."
    )


def verdict(result: dict[str, Any]) -> str:
    """Says where -log p(x) of the VAE stands beside the best rival, and its best score."""
    ours = values_of(result, "log_marginal", "auroc")
    best = max(RIVALS, key=lambda kind: values_of(result, kind, "auroc").mean())
    difference = ours - values_of(result, best, "auroc")
    mean, error = mean_and_error(difference)
    where = (
        "within two errors of"
        if abs(mean) <= 2 * error
        else "ahead of"
        if mean > 0
        else "**behind**"
    )
    own = max(SCORES, key=lambda score: values_of(result, score, "auroc").mean())
    less = mean_and_error(values_of(result, own, "auroc") - values_of(result, best, "auroc"))
    also = (
        "" if own == "log_marginal" else f"; its best score, {own}, {less[0]:+.3f} ± {less[1]:.3f}"
    )
    return (
        f"- {result['title']}: -log p(x) is {where} the best rival, {best}, with {mean:+.3f} ± "
        f"{error:.3f} of AUROC, paired{also}."
    )


def draw(results: dict[str, dict[str, Any]]) -> None:
    """Draws AUROC of all methods, and log p(x) where it fails."""
    figure = Figure(figsize=(13, 6.4), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1.35, 1])
    panels = above.subplots(1, len(results), sharey=True)
    for axes, result in zip(panels, results.values(), strict=True):
        for at, method in enumerate(METHODS):
            values = values_of(result, method, "auroc")
            mean, error = mean_and_error(values)
            colour = "#1a5fb4" if method in SCORES else "#5f6368"
            axes.plot(values, [at] * len(values), "|", color=colour, ms=7, alpha=0.45)
            axes.errorbar(mean, at, xerr=error, fmt="o", color=colour, capsize=3, ms=5)
        axes.axvline(0.5, color="#c64600", lw=1)
        axes.set_title(result["title"], fontsize=10)
        axes.set_xlabel("AUROC", fontsize=9)
        axes.set_xlim(min(0.45, axes.get_xlim()[0]), 1.02)
        axes.grid(axis="x", color="#e0e0e0", lw=0.6)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(left=False, labelsize=9)
    panels[0].set_yticks(range(len(METHODS)), list(METHODS.values()))
    panels[0].set_ylim(len(METHODS) - 0.5, -0.5)
    names = {"fashion": ("Fashion-MNIST", "MNIST"), "mnist": ("MNIST", "Fashion-MNIST")}
    names = {name: sets for name, sets in names.items() if name in results}
    shown = below.subplots(1, len(names), squeeze=False)[0]
    for axes, (name, (own, other)) in zip(shown, names.items(), strict=True):
        first = results[name]["splits"][0]["VAE"]
        normal, strange = np.array(first["normal_rows"]), np.array(first["strange_rows"])
        edges = np.quantile(np.concatenate([normal, strange]), [0.005, 0.995])
        bins = np.linspace(*edges, 50)
        axes.hist(normal, bins, color="#5f6368", alpha=0.55, label=f"{own}, held out")
        axes.hist(strange, bins, color="#c64600", alpha=0.55, label=f"{other}, never seen")
        axes.set_title(f"log p(x) by a model of {own}, nats", fontsize=10)
        axes.set_yticks([])
        axes.legend(frameon=False, fontsize=9)
        axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(common.RESULTS / "anomalies.png", dpi=130)


if __name__ == "__main__":
    parser = common.Parser(__doc__, table="results/anomalies.md", data_root="MNIST, FashionMNIST")
    parser.add_argument("what", nargs="?", choices=SPLITS)
    args = parser.options()
    if args.table:
        read = {name: common.read(f"anomalies-{name}.json") for name in SPLITS}
        every = {n: r[0] for n, r in read.items() if r and len(r[0]["splits"]) >= FEWEST}
        (common.RESULTS / "anomalies.md").write_text(table(every))
        draw(every)
    elif args.smoke:
        for chosen in ("digits", "breast_cancer"):
            run(chosen, None, smoke=True)
    else:
        torch.manual_seed(0)
        for chosen in [args.what] if args.what else SPLITS:
            if chosen in IMAGES and args.data_root is None:
                parser.error("--data-root: expected the folder that holds MNIST, FashionMNIST")
            run(chosen, args.data_root, smoke=False)
