"""Topics of 20 Newsgroups by VAEs, beside latent Dirichlet allocation by scikit-learn and gensim.

    python experiments/applications/topics.py --data-root DATA          # 20 minutes, one core
    python experiments/applications/topics.py product --data-root DATA  # one method alone
    python experiments/applications/topics.py --table          # results/topics.md, .png
    python experiments/applications/topics.py --smoke          # under a minute, no figure

Each method has as many trials, of which the one with the best perplexity of validation documents is
fitted for each of three seeds. Perplexity is by document completion: of the second half of the
words of each test document given the first, by the same function for all. NPMI is of pairs of the
ten most probable words of a topic, a document of the test set being the window; diversity is the
share of different words among the 25 most probable ones of all topics. Seconds are of the
processor. DATA/20news holds `tr.npz`, `va.npz`, `ts_h1.npz`, `ts_h2.npz` and `vocab.txt`; gensim is
to be installed beside the package.
"""

from __future__ import annotations

import logging
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import common
import numpy as np
import torch
from matplotlib.figure import Figure

import pyro_vae as pv
from pyro_vae.evaluation import coherence, complete, completion, diversity, top_words
from pyro_vae.networks import MLP, TopicDecoder

SEEDS = (0, 1, 2)
TOPICS = 50
HELD_OUT = 1000  # training documents that are validated on, beside those of the file
BATCH = 200
WORDS = 10  # of a topic, for its coherence
DIVERSE = 25


@dataclass(frozen=True)
class Documents:
    """Counts of words, documents by words: for the fit, and two halves for each judgement."""

    train: np.ndarray
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    words: list[str]


@dataclass(frozen=True)
class Fitted:
    """What a method found: log-probabilities of words in topics, and how it completes documents."""

    topics: np.ndarray
    completed: Callable[[tuple[np.ndarray, np.ndarray]], Any]


def documents(root: Path) -> Documents:
    """Reads the documents; those for validation are halved at random, a word at a time."""

    def read(name: str) -> np.ndarray:
        data = pv.data.load(root / f"{name}.npz", names=root / "vocab.txt", validation=0, test=0)
        return data.train.numpy()

    order = np.random.default_rng(0).permutation(len(every := read("tr")))
    held_out = np.concatenate([read("va"), every[order[:HELD_OUT]]])
    halves = halved(held_out)
    words = (root / "vocab.txt").read_text(encoding="utf-8").split()
    return Documents(every[order[HELD_OUT:]], halves, (read("ts_h1"), read("ts_h2")), words)


def halved(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Puts each word of each document into one of two halves, by the toss of a coin."""
    first = np.random.default_rng(0).binomial(x.astype(np.int64), 0.5).astype(np.float32)
    return first, x - first


def planted() -> Documents:
    """Returns simulated documents about ten topics, for a check."""
    random = np.random.default_rng(0)
    shares = random.dirichlet(np.full(10, 0.2), 900) @ random.dirichlet(np.full(100, 0.05), 10)
    x = np.stack([random.multinomial(40, p) for p in shares]).astype(np.float32)
    return Documents(x[:500], halved(x[500:600]), halved(x[600:]), [f"w{i}" for i in range(100)])


def vae(
    x: np.ndarray,
    topics: int,
    seed: int,
    *,
    concentration: float,
    lr: float,
    warmup: float,
    epochs: int,
    hidden: int = 256,
    **decoder: Any,
) -> Fitted:
    """Fits a VAE; ``warmup`` is the share of the steps in which the KL comes to its full weight."""
    model = pv.VAE(
        prior=pv.priors.LogisticNormal(topics, concentration),
        guide=pv.guides.Normal(topics),
        likelihood=pv.likelihoods.Multinomial(x.shape[1:]),
        encoder=MLP((hidden,), dropout=0.2, norm="batch"),
        decoder=TopicDecoder(**decoder),
        seed=seed,
    )
    steps = epochs * math.ceil(len(x) / BATCH)
    pv.fit(
        model,
        pv.data.load(x, validation=0, test=0),
        objective=pv.objectives.ELBO(warmup=round(warmup * steps)),
        epochs=epochs,
        batch_size=BATCH,
        lr=lr,
        schedule="cosine",
        seed=seed,
        device="cpu",
        progress=False,
    )
    return Fitted(model.decoder.topics().numpy(), lambda halves: complete(model, *halves))


def by_sklearn(x: np.ndarray, topics: int, seed: int, **options: Any) -> Fitted:
    """Fits scikit-learn's LDA, by online variational Bayes."""
    from sklearn.decomposition import LatentDirichletAllocation

    model = LatentDirichletAllocation(
        topics, learning_method="online", batch_size=BATCH, random_state=seed, **options
    ).fit(x)
    shares = model.components_ / model.components_.sum(1, keepdims=True)
    return Fitted(np.log(shares), lambda h: completion(model.transform(h[0]) @ shares, h[1]))


def by_gensim(x: np.ndarray, topics: int, seed: int, **options: Any) -> Fitted:
    """Fits gensim's LDA, by online variational Bayes."""
    from gensim.matutils import Dense2Corpus
    from gensim.models import LdaModel

    logging.getLogger("gensim").setLevel(logging.ERROR)

    def corpus(rows: np.ndarray) -> list[list[tuple[int, float]]]:
        return list(Dense2Corpus(rows, documents_columns=False))

    known = {i: str(i) for i in range(x.shape[1])}
    model = LdaModel(
        corpus(x), topics, known, random_state=seed, chunksize=BATCH, eval_every=None, **options
    )
    shares = model.get_topics().astype(np.float64)
    shares /= shares.sum(1, keepdims=True)

    def completed(halves: tuple[np.ndarray, np.ndarray]) -> Any:
        gamma = model.inference(corpus(halves[0]))[0].astype(np.float64)
        return completion(gamma / gamma.sum(1, keepdims=True) @ shares, halves[1])

    return Fitted(np.log(shares), completed)


_VAE: dict[str, Any] = {"epochs": 40, "lr": 1e-2}
_PRODUCT: dict[str, Any] = {**_VAE, "form": "product", "norm": "batch"}
_MIXTURE: dict[str, Any] = {**_VAE, "form": "mixture"}
METHODS: Mapping[str, tuple[str, Callable[..., Fitted], list[dict[str, Any]]]] = {
    "product": (
        "VAE, product of topics (ProdLDA)",
        vae,
        [
            {**_PRODUCT, "concentration": 1.0, "warmup": 0.5},
            {**_PRODUCT, "concentration": 1.0, "warmup": 0.9},
        ],
    ),
    "mixture": (
        "VAE, mixture of topics",
        vae,
        [
            {**_MIXTURE, "concentration": 1.0, "warmup": 0.9},
            {**_MIXTURE, "concentration": 0.3, "warmup": 0.9},
        ],
    ),
    "sklearn": (
        "LDA, scikit-learn",
        by_sklearn,
        [
            {"max_iter": 10, "doc_topic_prior": 0.1, "topic_word_prior": 0.05},
            {"max_iter": 10, "doc_topic_prior": 0.1, "topic_word_prior": 0.3},
        ],
    ),
    "gensim": (
        "LDA, gensim",
        by_gensim,
        [
            {"passes": 10, "alpha": "auto", "eta": 0.05},
            {"passes": 10, "alpha": "auto", "eta": 0.3},
        ],
    ),
}


def run(name: str, data: Documents, topics: int, smoke: bool) -> None:
    """Tries the settings of a method, and judges the best one for each seed."""
    title, fit, trials = METHODS[name]
    if smoke:
        trials = [{**trials[0], **({"epochs": 10} if fit is vae else {})}]
    tried = []
    for options in trials:
        start = time.process_time()
        fitted = fit(data.train, topics, SEEDS[0], **options)
        found = fitted.completed(data.validation).summary()
        tried.append((found["perplexity"], options, fitted, time.process_time() - start))
        print(f"{name}, {options}: validation perplexity {found['perplexity']:.1f}", flush=True)
    _, best, first, seconds = min(tried, key=lambda each: each[0])
    runs = []
    for seed in SEEDS[: 1 if smoke else None]:
        start = time.process_time()
        fitted = first if seed == SEEDS[0] else fit(data.train, topics, seed, **best)
        seconds = seconds if seed == SEEDS[0] else time.process_time() - start
        runs.append(judged(fitted, data) | {"seed": seed, "seconds": seconds})
        print(f"{name}, seed {seed}: {runs[-1]}", flush=True)
    if smoke:
        return
    kept = [{"validation_perplexity": value, **options} for value, options, *_ in tried]
    places = top_words(first.topics, WORDS)
    order = np.argsort(-coherence(places, sum(data.test)))
    shown = [[data.words[i] for i in places[k]] for k in order]
    result = {"method": name, "title": title, "topics": topics, "trials": kept, "chosen": best}
    result |= {"documents": {"train": len(data.train), "test": len(data.test[0])}, "runs": runs}
    result["packages"] = {
        each: version(each)
        for each, used in (("scikit-learn", "sklearn"), ("gensim", "gensim"))
        if name == used
    }
    print(common.write(f"topics-{name}", result | {"words": shown}))


def judged(fitted: Fitted, data: Documents) -> dict[str, Any]:
    """Returns the measures of a fit, on the test documents."""
    found = fitted.completed(data.test).summary()
    places = top_words(fitted.topics, WORDS)
    return found | {
        "npmi": float(coherence(places, data.test[0] + data.test[1]).mean()),
        "diversity": diversity(top_words(fitted.topics, DIVERSE)),
    }


MEASURES = (
    ("perplexity", "perplexity, lower is better", ".0f"),
    ("npmi", "NPMI, higher is better", ".3f"),
    ("diversity", "diversity, higher is better", ".2f"),
)


def mean_of(result: dict[str, Any], name: str) -> tuple[float, float]:
    """Returns the mean of a measure over seeds, and its standard error."""
    values = [each[name] for each in result["runs"]]
    return statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))


def table(results: list[dict[str, Any]]) -> str:
    """Returns the table of all results as Markdown, and the most coherent topics of the VAE."""
    lines = [
        "| | perplexity | ± over documents | NPMI | diversity | seconds of a fit |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        cells = []
        for name, _, form in MEASURES:
            mean, error = mean_of(result, name)
            cells.append(f"{mean:{form}} ± {error:{form}}")
        over = statistics.mean(each["perplexity_standard_error"] for each in result["runs"])
        cells.insert(1, f"{over:.0f}")
        cells.append(f"{mean_of(result, 'seconds')[0]:.0f}")
        lines.append(f"| {result['title']} | {' | '.join(cells)} |")
    first = results[0]
    lines += ["", f"| most coherent topics, of {first['topics']}: {first['title']} |", "|---|"]
    lines += [f"| {' '.join(words)} |" for words in first["words"][:8]]
    return "\n".join(lines) + "\n"


def draw(results: list[dict[str, Any]]) -> None:
    """Draws each measure of each method, a dot for each seed."""
    figure = Figure(figsize=(11, 0.9 + 0.45 * len(results)), layout="constrained")
    panels = figure.subplots(1, len(MEASURES), sharey=True)
    for axes, (name, title, form) in zip(panels, MEASURES, strict=True):
        for at, result in enumerate(results):
            mean, error = mean_of(result, name)
            colour = "#1a5fb4" if result["title"].startswith("VAE") else "#5f6368"
            axes.errorbar(mean, at, xerr=error, fmt="o", color=colour, capsize=3, ms=6)
            axes.plot([e[name] for e in result["runs"]], [at + 0.22] * 3, "|", color=colour, ms=7)
            axes.annotate(
                f"{mean:{form}}", (mean, at), ha="center", xytext=(0, 6),
                textcoords="offset points", fontsize=8, color=colour,
            )  # fmt: skip
        axes.set_title(title, fontsize=10)
        axes.margins(x=0.15)
        axes.grid(axis="x", color="#e0e0e0", lw=0.6)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(left=False)
    panels[0].set_yticks(range(len(results)), [each["title"] for each in results], fontsize=9)
    panels[0].set_ylim(len(results) - 0.4, -0.6)
    figure.savefig(common.RESULTS / "topics.png", dpi=150)


if __name__ == "__main__":
    parser = common.Parser(__doc__, table="results/topics.md", data_root="20news")
    parser.add_argument("what", nargs="?", choices=METHODS)
    args = parser.options()
    if args.table:
        every = [r for name in METHODS for r in common.read(f"topics-{name}.json")]
        (common.RESULTS / "topics.md").write_text(table(every))
        draw(every)
    elif args.smoke:
        for chosen in ("product", "mixture", "sklearn"):
            run(chosen, planted(), 10, smoke=True)
    else:
        if args.data_root is None:
            parser.error("--data-root: expected the folder that holds 20news")
        torch.manual_seed(0)
        for chosen in [args.what] if args.what else METHODS:
            run(chosen, documents(Path(args.data_root) / "20news"), TOPICS, smoke=False)
