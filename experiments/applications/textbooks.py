"""Five VAEs of textbooks: what their losses are as probabilistic models, and what these score.

    python experiments/applications/textbooks.py --data-root DATA           # 10 minutes, one core
    python experiments/applications/textbooks.py uniform --data-root DATA   # one of the five alone
    python experiments/applications/textbooks.py --table   # results/textbooks.md, .png
    python experiments/applications/textbooks.py --smoke   # under a minute, no figure

Each loss is fitted as it stands, for three seeds, and scored as the model that it is minus the ELBO
of, beside an honest counterpart with the same networks, rows, epochs and seeds. Where grey images
are concerned, all densities are of x = (level + u) / 256 with u uniform, drawn once: log p(x) less
784 log 256 is a lower bound on the log-probability of the levels, and 8 bits a pixel is what they
are stored in. DATA holds `MNIST/raw` and `binarized_mnist.npz`.

References:
    Auto-Encoding Variational Bayes (Kingma and Welling, 2014), https://arxiv.org/abs/1312.6114
    beta-VAE (Higgins et al., 2017), https://openreview.net/forum?id=Sy2fzU9gl
    The continuous Bernoulli: fixing a pervasive error in variational autoencoders
    (Loaiza-Ganem and Cunningham, 2019), https://arxiv.org/abs/1907.06845
    Simple and Effective VAE Training with Calibrated Decoders (Rybkin et al., 2021),
    https://arxiv.org/abs/2006.13202
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import common
import numpy as np
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Distribution
from torch.nn import functional

import pyro_vae as pv
from pyro_vae.evaluation.comparison import standard_error

SEEDS = (0, 1, 2)
ROWS, TEST, DRAWS = 10_000, 300, 200
FIT: dict[str, Any] = {"epochs": 8, "batch_size": 128, "lr": 1e-3, "device": "cpu"}
LEVELS, SHOWN = 256, 8
HALF = 1 / math.sqrt(2)  # the scale of a summed squared error


class CrossEntropy(pv.likelihoods.ContinuousBernoulli):
    """The cross-entropy of grey values, which is minus the logarithm of no density of theirs."""

    def forward(self, params: Tensor) -> Distribution:
        """Returns what has minus the cross-entropy in place of a log-density."""
        d = dist.Bernoulli(logits=params, validate_args=False)
        return d.to_event(len(self.event_shape))


Build = Callable[[Sequence[int]], pv.likelihoods.Likelihood]


def normal(scale: Any) -> Build:
    """Returns what makes a normal likelihood."""
    return lambda shape: pv.likelihoods.Normal(shape, scale=scale)


@dataclass(frozen=True)
class Model:
    """A model that is fitted.

    Attributes:
        title: The loss, or the likelihood.
        is_: What it is as a model.
        fitted: The likelihood whose ELBO is the loss.
        beta: The weight of the divergence in the loss.
        scored: The likelihood of what it is as a model; None if that of the loss.
        data: What it is fitted to.
        honest: Whether the loss is minus the ELBO of a density of the data with nothing set by
            hand.
    """

    title: str
    is_: str
    fitted: Build
    beta: float = 1.0
    scored: Build | None = None
    data: str = "grey"
    honest: bool = False


@dataclass(frozen=True)
class Textbook:
    """A configuration of textbooks: the networks, and what they are fitted by.

    Attributes:
        title: The sizes.
        hidden: Width of the hidden layer of both networks.
        latent: Dimensions of z.
        models: Its losses, and honest counterparts.
    """

    title: str
    hidden: int
    latent: int
    models: tuple[Model, ...]


_ENTROPY = pv.likelihoods.ContinuousBernoulli
_HONEST = Model("continuous Bernoulli", "itself", _ENTROPY, honest=True)
_LEARNED = Model("one learned scale", "itself", normal("shared"), honest=True)


def squares(beta: float) -> Model:
    """Returns the summed squared error, with a weight of the divergence."""
    weight = "" if beta == 1 else f", β = {beta:g}"
    scale = math.sqrt(beta / 2)
    fixed = None if beta == 1 else normal(scale)
    title = f"squared error, summed{weight}"
    return Model(title, f"Normal, scale {scale:.2g}", normal(HALF), beta, fixed)


TEXTBOOKS: Mapping[str, Textbook] = {
    "cross-entropy": Textbook(
        "784-400-20",
        400,
        20,
        (
            Model(
                "cross-entropy of grey values",
                "no density; scored as a continuous Bernoulli",
                CrossEntropy,
                scored=_ENTROPY,
            ),
            _HONEST,
            Model(
                "cross-entropy of binary values",
                "Bernoulli",
                pv.likelihoods.Bernoulli,
                data="binary",
                honest=True,
            ),
        ),
    ),
    "squares": Textbook(
        "784-256-2",
        256,
        2,
        (
            squares(1.0),
            Model("squared error, averaged", "Normal, scale 20", normal(math.sqrt(784 / 2))),
            _LEARNED,
        ),
    ),
    "beta": Textbook(
        "784-128-2",
        128,
        2,
        (
            Model(
                "cross-entropy of grey values, β = 4",
                "no bound of anything; scored as a continuous Bernoulli",
                CrossEntropy,
                4.0,
                _ENTROPY,
            ),
            _HONEST,
        ),
    ),
    "uniform": Textbook(
        "20-16-2",
        16,
        2,
        (
            Model("squared error, summed", "Normal, scale 0.71", normal(HALF), data="uniform"),
            Model("one learned scale", "itself", normal("shared"), data="uniform", honest=True),
            Model("continuous Bernoulli", "itself", _ENTROPY, data="uniform", honest=True),
        ),
    ),
    "sweep": Textbook(
        "784-400-20",
        400,
        20,
        (squares(0.1), squares(1.0), squares(4.0), _LEARNED),
    ),
}


# ---------------------------------------------------------------------------------------- the data


def read(name: str, root: str | None, smoke: bool) -> tuple[Tensor, Tensor]:
    """Returns training and test rows, of which there are as many for all models."""
    random = torch.Generator().manual_seed(0)
    if name == "uniform":
        return torch.rand(ROWS, 20, generator=random), torch.rand(TEST, 20, generator=random)
    if smoke:  # images of the same shape, of nothing
        drawn = torch.rand(300, 1, 28, 28, generator=random)
        drawn = (drawn > 0.8).float() * (1.0 if name == "binary" else drawn)
        return drawn[:200], drawn[200:]
    if name == "binary":
        data = pv.data.load("binarized_mnist", root=root, download=False)
        return data.train[:ROWS], data.test[:TEST]
    data = pv.data.load("mnist", root=root, levels=True, download=False)
    train, test = (
        (x + torch.rand(x.shape, generator=random)) / LEVELS
        for x in (data.train[:ROWS], data.test[:TEST])
    )
    return train, test


# ---------------------------------------------------------------------------------- what losses are


def build(book: Textbook, likelihood: Build, shape: Sequence[int], seed: int) -> pv.VAE:
    """Returns the VAE of a textbook, with weights as a seed draws them."""
    return pv.VAE(
        prior=pv.priors.Normal(book.latent),
        guide=pv.guides.Normal(book.latent),
        likelihood=likelihood(shape),
        encoder=pv.networks.MLP((book.hidden,), "relu"),
        decoder=pv.networks.MLP((book.hidden,), "relu"),
        seed=seed,
    )


def textbook_loss(vae: pv.VAE, x: Tensor, kind: str, beta: float) -> Tensor:
    """Returns the loss of a batch as textbooks write it, with z drawn by the seed of now.

    Args:
        vae: The model, whose decoder returns logits or, in units of the data, means.
        x: The batch.
        kind: ``entropy``, ``sum``, ``half`` or ``mean``, of squared errors.
        beta: Weight of the divergence.
    """
    q = vae.encode(x)
    z = q.rsample()
    mu, log_var = q.mean, q.variance.log()
    kld = -0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp())
    if kind == "entropy":
        logits = vae.decoder(z)
        recon = functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    else:
        recon = functional.mse_loss(vae.decode(z).mean, x, reduction="sum")
        recon = recon * {"sum": 1.0, "half": 0.5, "mean": 1 / x[0].numel()}[kind]
    return recon + beta * kld


def derivations() -> dict[str, float]:
    """Returns how far each textbook loss is from what it is said to be, nats an observation.

    A loss is ``factor * (-ELBO - constant)`` of a model, the constant being that of its density.
    """
    random = torch.Generator().manual_seed(1)
    grey = torch.rand(8, 20, generator=random, dtype=torch.float64)
    size = grey.shape[1]
    found = {}
    cases: list[tuple[str, str, float, Build, float, Tensor]] = [
        ("summed", "sum", 1.0, normal(HALF), 1.0, grey),
        ("halved", "half", 1.0, normal(1.0), 1.0, grey),
        ("averaged", "mean", 1.0, normal(math.sqrt(size / 2)), 1.0, grey),
        ("cross-entropy, binary", "entropy", 1.0, pv.likelihoods.Bernoulli, 1.0, grey.round()),
        *(
            (f"summed, beta {beta:g}", "sum", beta, normal(math.sqrt(beta / 2)), beta, grey)
            for beta in (0.1, 4.0)
        ),
    ]
    for name, kind, beta, likelihood, factor, x in cases:
        book = Textbook("", 16, 2, ())
        vae = build(book, likelihood, x.shape[1:], seed=0).double()
        torch.manual_seed(0)
        ours = pv.objectives.ELBO().differentiable_loss(vae.model, vae.guide, x)
        torch.manual_seed(0)
        theirs = textbook_loss(vae, x, kind, beta)
        scale = getattr(vae.likelihood, "scale", None)
        constant = 0.0 if scale is None else size / 2 * math.log(2 * math.pi * scale**2)
        apart = theirs - factor * (ours - len(x) * constant)
        found[name] = abs(float(apart.detach())) / len(x)
    # Of grey values it is the expected loss of binary ones, each 1 with its grey value as chance.
    logits = torch.randn(8, size, generator=random, dtype=torch.float64)

    def entropy(target: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(logits, target, reduction="none")

    ones, zeros = entropy(torch.ones_like(grey)), entropy(torch.zeros_like(grey))
    expected = grey * ones + (1 - grey) * zeros
    found["cross-entropy, grey"] = float((entropy(grey) - expected).sum(1).abs().max())
    return found


# ---------------------------------------------------------------------------------------- the fits


def judged(
    book: Textbook, model: Model, rows: tuple[Tensor, Tensor], seed: int, epochs: int
) -> tuple[dict[str, Any], np.ndarray, pv.VAE]:
    """Fits a loss; returns what it scores as a model, log p(x) of each row, and the model."""
    train, test = rows
    began = time.process_time()
    vae = build(book, model.fitted, train.shape[1:], seed)
    objective = pv.objectives.ELBO(beta=model.beta)
    options = FIT | {"epochs": epochs, "seed": seed, "progress": False, "compile": False}
    pv.fit(vae, train, objective=objective, **options)
    if model.scored is not None:
        loss, vae = vae, build(book, model.scored, train.shape[1:], seed)
        vae.load_state_dict(loss.state_dict())
        if model.fitted is CrossEntropy:
            # The very same decoder, whose posterior as a model is another: without a guide for
            # that one the estimate of log p(x) would be hundreds of nats too low.
            pv.fit(vae, train, trainable="encoder", **options)
        vae.eval()
    scores = pv.evaluate(vae, test, num_samples=DRAWS, seed=0)
    found = scores.summary()
    kept = ("log_marginal", "elbo", "reconstruction", "kl", "active_units", "bias")
    line = {name: found[name] for name in (*kept, "k_hat_above_threshold", "mcse")}
    line |= {"seed": seed, "cpu_seconds": time.process_time() - began}
    return line, scores.log_marginal, vae


def run(name: str, root: str | None, smoke: bool) -> None:
    """Fits all models of a textbook, and writes what came of them."""
    book = TEXTBOOKS[name]
    first = next(each for each in book.models if not each.honest)
    honest = next(each for each in book.models[::-1] if each.honest and each.data == first.data)
    lines, log_probs = [], {}
    measure: dict[str, Any] = {}
    for model in book.models:
        rows = read(model.data, root, smoke)
        each = []
        for seed in SEEDS[: 1 if smoke else None]:
            line, log_prob, vae = judged(book, model, rows, seed, 1 if smoke else FIT["epochs"])
            each.append(line)
            log_probs.setdefault(model, []).append(log_prob)
            print(f"{name}: {model.title}: {line}", flush=True)
            if model.data == "grey" and seed == 0 and not smoke:
                keep_draws(f"{name}-{len(lines)}", vae)
        measure[model.data] = "counting" if model.data == "binary" else "lebesgue"
        lines.append(
            {"title": model.title, "is": model.is_, "data": model.data, "beta": model.beta}
            | {"honest": model.honest, "runs": each, "dim": rows[1][0].numel()}
            | {"error": standard_error(np.mean(log_probs[model], axis=0))}
        )
    for model, line in zip(book.models, lines, strict=True):
        if model.data == first.data and model is not honest and not smoke:
            apart = np.subtract(log_probs[honest], log_probs[model])
            over_seeds = standard_error(apart.mean(1)) or 0.0
            error = max(standard_error(apart.mean(0)) or 0.0, over_seeds)
            line["honest_less_this"] = [float(apart.mean()), error]
    if not smoke:
        result = {"title": book.title, "hidden": book.hidden, "latent": book.latent}
        result |= {"rows": ROWS, "test": TEST, "draws": DRAWS, "fit": FIT, "measure": measure}
        result |= {"models": lines, "derivations": derivations()}
        print(common.write(f"textbooks-{name}", result))


def keep_draws(name: str, vae: pv.VAE) -> None:
    """Keeps draws of x, and the means that they are drawn around."""
    torch.manual_seed(0)
    with torch.no_grad():
        p = vae.decode(vae.prior().sample((SHOWN,)))
        rows = [torch.cat(list(each[:, 0]), 1) for each in (p.mean, p.sample())]
    common.RUNS.mkdir(exist_ok=True)
    np.save(common.RUNS / f"textbooks-{name}.npy", torch.stack(rows).numpy())


# ------------------------------------------------------------------------------- table and picture


def mean_of(line: Mapping[str, Any], name: str) -> float:
    """Returns the mean of a figure over seeds."""
    return float(np.mean([each[name] for each in line["runs"]]))


def bits(line: Mapping[str, Any]) -> float:
    """Returns bits a pixel of grey levels, at most; of binary ones, exactly."""
    nats = -mean_of(line, "log_marginal") / line["dim"]
    return (nats + (math.log(LEVELS) if line["data"] == "grey" else 0.0)) / math.log(2)


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of all textbooks as Markdown."""
    lines = [
        "| | loss, or likelihood | as a model | log p(x), nats | bits a pixel | reconstruction | "
        "KL | active units | honest less this |",
        f"|---|---|---|{'---:|' * 6}",
    ]
    for result in results:
        title = f"{result['title']}"
        for line in result["models"]:
            over = standard_error(np.array([each["log_marginal"] for each in line["runs"]]))
            error = max(line["error"], over or 0.0)
            units = sorted({each["active_units"] for each in line["runs"]})
            shown = str(units[0]) if len(units) == 1 else f"{units[0]} to {units[-1]}"
            apart = line.get("honest_less_this")
            name = f"*{line['title']}*" if line["honest"] else line["title"]
            cells = [
                f"{title}, {line['data']}",
                name,
                line["is"],
                f"{mean_of(line, 'log_marginal'):,.1f} ± {error:.1f}",
                "" if line["data"] == "uniform" else f"{bits(line):.3f}",
                f"{mean_of(line, 'reconstruction'):,.1f}",
                f"{mean_of(line, 'kl'):.1f}",
                f"{shown} of {result['latent']}",
                "" if apart is None else f"{apart[0]:+,.1f} ± {apart[1]:.1f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    worst = max(max(result["derivations"].values()) for result in results)
    heavy = max(mean_of(line, "k_hat_above_threshold") for r in results for line in r["models"])
    gain = max(mean_of(line, "bias") for r in results for line in r["models"])
    lines += [
        "",
        f"Losses written as in textbooks differ from what the column says of them by {worst:.0e} "
        f"nats at most. k-hat is above its threshold for at most {heavy:.0%} of the rows of a "
        f"model, and log p(x) too low by about {gain:.1f} nats at most.",
    ]
    return "\n".join(lines) + "\n"


def draw(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Draws bits a pixel of each loss, and beside it what some of the models draw."""
    grey = [
        (name, at, result["title"], line)
        for name, result in results.items()
        for at, line in enumerate(result["models"])
        if line["data"] == "grey"
    ]
    figure = Figure(figsize=(13, 0.62 * len(grey) + 0.9), layout="constrained")
    grid = figure.add_gridspec(len(grey), 3, width_ratios=(1.1, 1, 1))
    axes = figure.add_subplot(grid[:, 0])
    for place, (_, _, _, line) in enumerate(grey):
        colour = "#1a5fb4" if line["honest"] else "#c64600"
        axes.barh(place, bits(line), color=colour, height=0.55)
        axes.annotate(
            f"{bits(line):.2f}", (bits(line), place), va="center", xytext=(4, 0),
            textcoords="offset points", fontsize=8,
        )  # fmt: skip
    names = [f"{title}\n{line['title']}" for _, _, title, line in grey]
    axes.set_yticks(range(len(grey)), names, fontsize=8)
    axes.set_ylim(len(grey) - 0.5, -0.5)
    axes.axvline(8, color="#5f6368", lw=1, ls=":")
    axes.set_title("bits a pixel, at most; stored in 8 (dots)\nblue: honest", fontsize=9)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    for place, (name, at, _, _) in enumerate(grey):
        rows = np.load(common.RUNS / f"textbooks-{name}-{at}.npy")
        for column, (image, title) in enumerate(
            zip(rows, ("means of draws", "draws"), strict=True)
        ):
            panel = figure.add_subplot(grid[place, column + 1])
            panel.imshow(image, cmap="gray", vmin=0, vmax=1)
            panel.set_axis_off()
            if place == 0:
                panel.set_title(title, fontsize=9)
    figure.savefig(common.RESULTS / "textbooks.png", dpi=110)


if __name__ == "__main__":
    parser = common.Parser(
        __doc__, table="results/textbooks.md", data_root="MNIST/raw and binarized_mnist.npz"
    )
    parser.add_argument("what", nargs="?", choices=TEXTBOOKS)
    args = parser.options()
    if args.table:
        every = {n: r for n in TEXTBOOKS for r in common.read(f"textbooks-{n}.json")}
        (common.RESULTS / "textbooks.md").write_text(table(list(every.values())))
        draw(every)
    else:
        for chosen in [args.what] if args.what else TEXTBOOKS:
            run(chosen, args.data_root, args.smoke)
        if args.smoke:
            print(derivations())
