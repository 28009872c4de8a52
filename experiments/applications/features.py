"""Labels predicted from a few features: latent means of VAEs, PCA, kernel PCA and UMAP.

    pip install umap-learn
    python experiments/applications/features.py --data-root DATA           # 7 minutes, one core
    python experiments/applications/features.py digits                     # one data set alone
    python experiments/applications/features.py --table        # results/features.md, .png
    python experiments/applications/features.py --smoke        # under a minute, no figure

Each method maps rows to as many features, without their labels, of which ten nearest neighbours and
logistic regression then predict these. It is cross-validated: all that is fitted, units included,
is fitted to the other folds. Of three settings of each method the one is taken that predicts best,
by the mean of both accuracies, a quarter of these other folds, which is held out for that; then it
is fitted to all of them. Errors are over folds. Seconds are of the processor, of one fit and one
transformation; results are written fold by fold, and gone on with.
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import common
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import PCA, KernelPCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import pyro_vae as pv

FOLDS = {"digits": 5, "breast_cancer": 5, "fashion": 3}
FEWEST = 3  # folds that are done, of what is in the table
SIZES = {"digits": 8, "breast_cancer": 4, "fashion": 16}  # features
ROWS = 2000  # of Fashion-MNIST
LARGEST = {"digits": 16, "fashion": 255}
TITLES = {
    "digits": "digits, 64 pixels",
    "breast_cancer": "breast cancer, 30 columns",
    "fashion": "Fashion-MNIST, 784 pixels",
}
NEIGHBOURS = 10
Settings = dict[str, Any]


def load(name: str, root: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows and their labels."""
    if name != "fashion":
        return (load_digits if name == "digits" else load_breast_cancer)(return_X_y=True)
    data = pv.data.load("fashion_mnist", root=root, levels=True, download=False)
    chosen = np.random.default_rng(0).choice(len(data.train), ROWS, replace=False)
    return data.train.flatten(1).numpy()[chosen], data.labels["train"].numpy()[chosen]


# ------------------------------------------------------------------- the methods and their settings


def units(name: str) -> Any:
    """Returns a step that brings rows to units: parts of the range, or standard deviations."""
    if name not in LARGEST:
        return StandardScaler()
    return FunctionTransformer(_of_range, kw_args={"largest": LARGEST[name]})


def _of_range(x: np.ndarray, largest: int) -> np.ndarray:
    return np.asarray(x / largest, dtype=np.float32)


def nothing(name: str, size: int, x: np.ndarray) -> list[Pipeline]:
    """All columns."""
    return [make_pipeline(units(name))]


def pca(name: str, size: int, x: np.ndarray) -> list[Pipeline]:
    """Principal components, whitened or not, and those of standardised columns."""
    first, white = PCA(size, random_state=0), PCA(size, whiten=True, random_state=0)
    standardised = make_pipeline(StandardScaler(), PCA(size, random_state=0))
    return [make_pipeline(units(name), first), make_pipeline(units(name), white), standardised]


def kernel_pca(name: str, size: int, x: np.ndarray) -> list[Pipeline]:
    """Kernel PCA by normal kernels of three widths, in terms of the variance of all columns."""
    variance = units(name).fit_transform(x).var(0).sum()
    widths = (0.1, 0.3, 1.0)
    return [
        make_pipeline(units(name), KernelPCA(size, kernel="rbf", gamma=each / variance))
        for each in widths
    ]


def umap(name: str, size: int, x: np.ndarray) -> list[Pipeline]:
    """UMAP of few, its default of, and many neighbours."""
    from umap import UMAP

    return [
        make_pipeline(
            units(name), UMAP(n_components=size, n_neighbors=each, random_state=0, n_jobs=1)
        )
        for each in (15, 5, 50)
    ]


def vae(name: str, size: int, x: np.ndarray) -> list[Pipeline]:
    """Means of the latent of a VAE, of two likelihoods, and of a lower weight of the KL."""
    lower = {"objective": {"class": "ELBO", "beta": 0.3}}
    levels = {"likelihood": {"class": "BetaBinomial", "levels": 17}}
    normal = {"likelihood": {"class": "Normal", "scale": "shared"}}
    trials: list[Settings] = {
        "digits": [levels, levels | lower, normal],
        "breast_cancer": [{}, lower, {"likelihood": "StudentT"}],
        "fashion": [normal, normal | lower, {"likelihood": "ContinuousBernoulli"}],
    }[name]
    fixed = {
        "hidden": (128,),
        "epochs": {"digits": 40, "breast_cancer": 60, "fashion": 30}[name],
        "batch_size": 64,
        "validation_fraction": 0,  # the best epoch by the ELBO would be none of another weight
        "random_state": 0,
    }
    found = []
    for each in trials:
        steps: list[Any] = [] if each.get("likelihood") == levels["likelihood"] else [units(name)]
        found.append(make_pipeline(*steps, pv.sklearn.VAETransformer(size, **fixed, **each)))
    return found


METHODS: dict[str, tuple[str, Callable[[str, int, np.ndarray], list[Pipeline]]]] = {
    "data": ("all columns", nothing),
    "PCA": ("PCA", pca),
    "kernel PCA": ("kernel PCA", kernel_pca),
    "UMAP": ("UMAP", umap),
    "VAE": ("VAE, latent means", vae),
}
PROBES = {"neighbours": "nearest neighbours", "linear": "logistic regression"}


# ------------------------------------------------------------------------------- all of it, in turn


def accuracies(
    z: np.ndarray, y: np.ndarray, held_out: np.ndarray, truth: np.ndarray
) -> dict[str, float]:
    """Returns the accuracy of both classifiers on rows that they were not fitted to."""
    classifiers = {
        "neighbours": KNeighborsClassifier(NEIGHBOURS),
        "linear": make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000)),
    }
    return {name: float(c.fit(z, y).score(held_out, truth)) for name, c in classifiers.items()}


def tuned(
    method: str, name: str, size: int, x: np.ndarray, y: np.ndarray, trials: int | None
) -> tuple[int, Pipeline]:
    """Returns the place of the setting that predicts best in these rows, and it, not fitted."""
    inner, outer, y_inner, y_outer = train_test_split(
        x, y, test_size=0.25, stratify=y, random_state=0
    )
    values = []
    for each in METHODS[method][1](name, size, inner)[:trials]:
        z = each.fit_transform(inner)
        values.append(
            np.mean(list(accuracies(z, y_inner, each.transform(outer), y_outer).values()))
        )
    at = int(np.argmax(values))
    return at, METHODS[method][1](name, size, x)[at]


def run(name: str, root: str | None, smoke: bool) -> None:
    """Judges all methods on one data set, fold by fold, from where it was stopped."""
    x, y = load(name, root)
    path = common.RESULTS / f"features-{name}.json"
    result: dict[str, Any] = {"title": TITLES[name], "rows": list(x.shape), "size": SIZES[name]}
    result |= {"classes": len(np.unique(y)), "folds": []}
    result["majority"] = float(np.bincount(y).max() / len(y))
    if path.exists() and not smoke:
        (result,) = common.read(path.name)
    folds = StratifiedKFold(FOLDS[name], shuffle=True, random_state=0)
    for fold, (train, test) in enumerate(folds.split(x, y)):
        if fold < len(result["folds"]):
            continue
        found = {}
        for method in METHODS:
            if smoke and method == "UMAP":  # of a package that nothing else here needs
                continue
            at, model = tuned(method, name, SIZES[name], x[train], y[train], 1 if smoke else None)
            start = time.process_time()
            z, held_out = model.fit_transform(x[train]), model.transform(x[test])
            found[method] = {"setting": at, "seconds": time.process_time() - start}
            found[method] |= accuracies(z, y[train], held_out, y[test])
            print(name, fold, method, found[method], flush=True)
        if smoke:
            return
        result["folds"].append(found)
        if name == "digits" and fold == 0:
            result["plane"] = plane(x[train], x[test]) | {"labels": y[test].tolist()}
        result["packages"] = {each: version(each) for each in ("scikit-learn", "umap-learn")}
        print(common.write(path.stem, result), flush=True)


def plane(x: np.ndarray, held_out: np.ndarray) -> dict[str, Any]:
    """Returns two features of digits by the first setting of each method, for the picture."""
    found = {}
    for method, (_, pipelines) in METHODS.items():
        if method != "data":
            z = pipelines("digits", 2, x)[0].fit(x).transform(held_out)
            found[method] = np.round(z.astype(np.float64), 3).T.tolist()
    return found


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """The mean over folds, and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def values_of(result: dict[str, Any], method: str, measure: str) -> np.ndarray:
    """Returns a measure of a method, fold by fold."""
    return np.array([each[method][measure] for each in result["folds"]])


def table(results: list[dict[str, Any]]) -> str:
    """Returns the accuracies of all methods as Markdown, and where the VAE stands."""
    lines = []
    for result in results:
        head = f"{result['title']}: {result['size']} features, {len(result['folds'])} folds"
        lines += [
            f"| {head} | {' | '.join(PROBES.values())} | seconds of a fit |",
            "|---|---:|---:|---:|",
        ]
        for method, (title, _) in METHODS.items():
            cells = []
            for probe in PROBES:
                mean, error = mean_and_error(values_of(result, method, probe))
                of_size = [m for m in METHODS if m != "data"]
                best = max(values_of(result, m, probe).mean() for m in of_size)
                mark = "**" if method != "data" and mean == best else ""
                cells.append(f"{mark}{mean:.3f}{mark} ± {error:.3f}")
            seconds = values_of(result, method, "seconds").mean()
            lines.append(f"| {title} | {' | '.join(cells)} | {seconds:.2g} |")
        lines.append("")
    return "\n".join([*lines, *(verdict(result) for result in results)]) + "\n"


def verdict(result: dict[str, Any]) -> str:
    """Says where the VAE stands beside each rival, by both classifiers."""
    said = []
    for probe, title in PROBES.items():
        own, places = values_of(result, "VAE", probe), []
        for method in METHODS:
            if method in ("VAE", "data"):
                continue
            mean, error = mean_and_error(own - values_of(result, method, probe))
            level = abs(mean) <= 2 * error
            where = "level with" if level else "ahead of" if mean > 0 else "**behind**"
            places.append(f"{where} {method} ({mean:+.3f} ± {error:.3f})")
        said.append(f"by {title} the VAE is {', '.join(places)}")
    return f"- {result['title']}: {'; '.join(said)}."


def draw(results: list[dict[str, Any]]) -> None:
    """Draws two features of held-out digits by each method, and the accuracies."""
    figure = Figure(figsize=(12, 6.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1.25, 1])
    plane = results[0]["plane"]
    labels = np.array(plane["labels"])
    shown = [method for method in METHODS if method in plane]
    for axes, method in zip(above.subplots(1, len(shown)), shown, strict=True):
        first, second = np.array(plane[method])
        for digit in range(10):
            own = labels == digit
            axes.scatter(first[own], second[own], s=9, color=f"C{digit}", label=str(digit))
        axes.set_title(f"{METHODS[method][0]}, two features", fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    above.legend(
        *axes.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9,
        markerscale=2, title="digit",
    )  # fmt: skip
    panels = below.subplots(1, len(results), sharey=True)
    colours = {"neighbours": "#1a5fb4", "linear": "#c64600"}
    for axes, result in zip(panels, results, strict=True):
        for at, method in enumerate(METHODS):
            for probe, shift in (("neighbours", -0.13), ("linear", 0.13)):
                mean, error = mean_and_error(values_of(result, method, probe))
                label = PROBES[probe] if at == 0 else None
                axes.errorbar(
                    mean, at + shift, xerr=error, fmt="o", color=colours[probe], capsize=3, ms=5,
                    label=label,
                )  # fmt: skip
        axes.set_title(f"{result['title']} to {result['size']}", fontsize=10)
        axes.set_xlabel("accuracy of labels, held out", fontsize=9)
        axes.grid(axis="x", color="#e0e0e0", lw=0.6)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(left=False, labelsize=9)
    panels[0].set_yticks(range(len(METHODS)), [title for title, _ in METHODS.values()])
    panels[0].set_ylim(len(METHODS) - 0.5, -0.5)
    handles = panels[0].get_legend_handles_labels()
    below.legend(*handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.savefig(common.RESULTS / "features.png", dpi=130)


if __name__ == "__main__":
    parser = common.Parser(__doc__, table="results/features.md", data_root="FashionMNIST")
    parser.add_argument("what", nargs="?", choices=FOLDS)
    args = parser.options()
    warnings.filterwarnings("ignore", message="n_jobs value", module="umap")
    if args.table:
        read = [r for name in FOLDS for r in common.read(f"features-{name}.json")]
        every = [each for each in read if len(each["folds"]) >= FEWEST]
        (common.RESULTS / "features.md").write_text(table(every))
        draw(every)
    elif args.smoke:
        for chosen in ("digits", "breast_cancer"):
            run(chosen, None, smoke=True)
    else:
        for chosen in [args.what] if args.what else FOLDS:
            if chosen == "fashion" and args.data_root is None:
                parser.error("--data-root: expected the folder that holds FashionMNIST")
            run(chosen, args.data_root, smoke=False)
