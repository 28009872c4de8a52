"""Lines of Shakespeare by a VAE whose decoder is a language model, beside that model alone.

    python experiments/applications/text.py --data-root DATA         # an hour, one core
    python experiments/applications/text.py free-bits --data-root DATA    # one recipe alone
    python experiments/applications/text.py --table            # results/text.md, .png, from results
    python experiments/applications/text.py --smoke            # under a minute, no figure

A decoder that sees the letters before can model lines without z, and then nothing is in z. Each
recipe against that is fitted for three seeds, by the same number of steps, with the same networks:
a recurrent decoder of letters that is given z, an encoder that pools over neighbouring letters. The
language model is the same decoder with an input that is the same for all lines. Lines are those of
`tinyshakespeare.txt` in DATA (or in DATA/text) that are no names of speakers, each once, cut after
32 characters. Nats a character count the end of a line as one. Seconds are of the processor.
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import common
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import pyro_vae as pv

SEEDS = (0, 1, 2)
LONGEST, LATENT, HIDDEN, BATCH = 32, 16, 64, 128
EPOCHS = 6
FREE_BITS = 0.25  # of each of the 16 dimensions: 4 nats
EVALUATED = 500  # lines of the test set
DRAWS = 100  # of z for each, for the importance-weighted bound
SHOWN = 8
# The recipe whose lines are shown, chosen when the scores were known: the likeliest that uses z.
SAMPLED = "free-bits"
TITLES = {
    "language-model": "language model, no z",
    "plain": "ELBO",
    "word-dropout": "word dropout 0.25",
    "free-bits": "free bits, 4 nats",
    "cyclical": "cyclical β",
    "pretrained": "encoder pretrained, free bits",
}


class Same(nn.Module):
    """A decoder that returns the same, whatever z is."""

    def __init__(self) -> None:
        super().__init__()
        self.context = nn.Parameter(torch.zeros(HIDDEN))

    def forward(self, z: Tensor) -> Tensor:
        """Returns the context of each z, ``(B, HIDDEN)``."""
        return self.context.expand(len(z), -1)


def lines_of(root: str | None) -> pv.data.Dataset:
    """Loads the lines."""
    if root is None:
        text = "".join(f"the {a} is {b}\n" for a in WORDS for b in WORDS)
    else:
        folder = Path(root)
        name = "tinyshakespeare.txt"
        path = folder / name if (folder / name).exists() else folder / "text" / name
        every = path.read_text(encoding="utf-8").splitlines()
        kept = dict.fromkeys(line for line in every if not line.endswith(":"))
        text = "\n".join(kept)
    with tempfile.TemporaryDirectory() as folder_of_lines:
        path = Path(folder_of_lines) / "lines.txt"
        path.write_text(text, encoding="utf-8")
        return pv.data.load(path, text="characters", max_length=LONGEST, too_long="cut")


WORDS = ("king", "queen", "night", "day", "sea", "crown", "sword", "rose", "moon", "fool")


def model(data: pv.data.Dataset, recipe: str, seed: int) -> pv.VAE:
    """Returns the model of a recipe, of random weights."""
    vocabulary = data.vocabulary
    assert vocabulary is not None
    return pv.VAE(
        prior=pv.priors.Normal(LATENT),
        guide=pv.guides.Normal(LATENT),
        likelihood=pv.likelihoods.Autoregressive(
            data.event_shape,
            levels=vocabulary.levels,
            hidden=HIDDEN,
            network="gru",
            end=vocabulary.end,
            word_dropout=0.25 if recipe == "word-dropout" else 0.0,
        ),
        encoder=pv.networks.SequenceEncoder(
            vocabulary.levels, hidden=HIDDEN, network="pooling", end=vocabulary.end
        ),
        decoder=Same() if recipe == "language-model" else pv.networks.MLP(()),
        seed=seed,
    )


def fitted(data: pv.data.Dataset, recipe: str, seed: int, epochs: int) -> pv.VAE:
    """Fits the model of a recipe."""
    steps = epochs * math.ceil(len(data.train) / BATCH)
    objectives = {
        "free-bits": pv.objectives.ELBO(free_bits=FREE_BITS),
        "cyclical": pv.objectives.ELBO(warmup=max(1, steps // 10), schedule="cyclical", cycles=4),
        "pretrained": pv.objectives.ELBO(free_bits=FREE_BITS),
    }
    vae = model(data, recipe, seed)
    how: dict[str, Any] = {"batch_size": BATCH, "lr": 4e-3, "schedule": "cosine", "seed": seed}
    how |= {"device": "cpu", "compile": False, "on_epoch": common.report}
    if recipe == "pretrained":  # Li et al. (2019): an autoencoder first, then a fresh decoder
        first, early = model(data, recipe, seed), max(1, epochs // 4)
        pv.fit(first, data, objective=pv.objectives.ELBO(beta=0.0), epochs=early, **how)
        vae.encoder.load_state_dict(first.encoder.state_dict())
        epochs -= early
    objective = objectives.get(recipe, pv.objectives.ELBO())
    pv.fit(vae, data, objective=objective, epochs=max(1, epochs), **how)
    return vae


@torch.no_grad()
def measured(vae: pv.VAE, data: pv.data.Dataset, recipe: str) -> dict[str, float]:
    """Scores held-out lines, in nats a line and a character, ends counted."""
    x = data.test[:EVALUATED]
    letters = float((x > 0).sum() + (x[:, -1] == 0).sum())  # with the end, where there is one
    if recipe == "language-model":  # its density needs no z
        elbo = float(vae.decode(torch.zeros(len(x), LATENT)).log_prob(x).double().sum())
        return {"bound": -elbo / letters, "weighted": -elbo / letters, "kl": 0.0}
    scores = pv.evaluate(vae, x, num_samples=DRAWS, seed=0)
    rebuilt = vae.reconstruct(x)
    inside = x > 0
    return {
        "bound": -float(scores.elbo.sum()) / letters,
        "weighted": -float(scores.log_marginal.sum()) / letters,
        "kl": float(scores.kl.mean()),
        "active_units": int(scores.active_units),
        "recovered": float((rebuilt == x)[inside].double().mean()),
    }


def printed(vae: pv.VAE, data: pv.data.Dataset) -> dict[str, list[str]]:
    """Draws, reconstructs and interpolates."""
    vocabulary = data.vocabulary
    assert vocabulary is not None
    ends = vae.encode(data.test[[2, 5]]).mean
    path = torch.lerp(ends[0], ends[1], torch.linspace(0, 1, 6)[:, None])
    x = data.test[:SHOWN]
    return {
        "samples": vocabulary.decode(vae.sample(SHOWN, seed=0)),
        "held out": vocabulary.decode(x),
        "reconstructed": vocabulary.decode(vae.reconstruct(x)),
        "ends": vocabulary.decode(data.test[[2, 5]]),
        "between": vocabulary.decode(vae.decode(path).mean),
    }


def run(recipe: str, seed: int, root: str | None, smoke: bool) -> None:
    """Fits a recipe, and scores it."""
    data = lines_of(None if smoke else root)
    epochs, start = 2 if smoke else EPOCHS, time.process_time()
    vae = fitted(data, recipe, seed, epochs)
    seconds = time.process_time() - start
    scores = measured(vae, data, recipe) | {"fit_seconds": seconds}
    print(f"{recipe}, seed {seed}: {scores}", flush=True)
    result = {"recipe": recipe, "seed": seed, "epochs": epochs, "batch_size": BATCH}
    result |= {"latent": LATENT, "hidden": HIDDEN, "longest": LONGEST, "free_bits": FREE_BITS}
    result |= {"draws": DRAWS, "train": len(data.train), "evaluated": EVALUATED, "scores": scores}
    result |= {} if recipe == "language-model" else {"texts": printed(vae, data)}
    if not smoke:
        print(common.write(f"text-{recipe}-{seed}", result))


def results() -> dict[str, list[dict[str, Any]]]:
    """Reads the results of all seeds, by recipe."""
    return {name: found for name in TITLES if (found := common.read(f"text-{name}-*.json"))}


def _mean(runs: list[dict[str, Any]], key: str) -> tuple[float, float]:
    """The mean over seeds, and its standard error."""
    values = [each["scores"][key] for each in runs]
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return statistics.mean(values), error


def table(by_recipe: dict[str, list[dict[str, Any]]]) -> str:
    """Returns the table of all results as Markdown, and whether z pays."""
    lines = [
        "| | −ELBO, nats a character | importance-weighted | KL, nats a line | letters recovered | "
        "active units | seconds |",
        f"|---|{'---:|' * 6}",
    ]
    for recipe, runs in by_recipe.items():
        cells = [f"{mean:.4f} ± {error:.4f}" for mean, error in
                 (_mean(runs, "bound"), _mean(runs, "weighted"))]  # fmt: skip
        if recipe == "language-model":
            cells += ["", "", ""]
        else:
            kl, error = _mean(runs, "kl")
            cells += [f"{kl:.2f} ± {error:.2f}", f"{_mean(runs, 'recovered')[0]:.0%}"]
            cells.append(f"{_mean(runs, 'active_units')[0]:.1f}")
        cells.append(f"{_mean(runs, 'fit_seconds')[0]:.0f}")
        lines.append(f"| {TITLES[recipe]} | {' | '.join(cells)} |")
    first = by_recipe["language-model"][0]
    with_z = {name: runs for name, runs in by_recipe.items() if name != "language-model"}
    seeds = min(len(runs) for runs in by_recipe.values())
    lines += [
        "",
        f"{first['train']:,} lines, cut after {first['longest']} characters, {first['epochs']} "
        f"passes over them by batches of {first['batch_size']}, {seeds} seeds; scores of "
        f"{first['evaluated']} held-out lines, with {first['draws']} draws of z each.",
        "",
        "Importance-weighted, from the language model, in nats a character: "
        + "; ".join(f"{TITLES[name]} {_beside(name, by_recipe)}" for name in with_z)
        + ".",
    ]
    return "\n".join(lines) + "\n"


def _beside(name: str, every: dict[str, list[dict[str, Any]]]) -> str:
    """How far a recipe is from the language model."""
    (ours, error), (base, other) = (_mean(runs, "weighted") for runs in
                                    (every[name], every["language-model"]))  # fmt: skip
    return f"{ours - base:+.4f} ± {math.hypot(error, other):.4f}"


def samples(by_recipe: dict[str, list[dict[str, Any]]]) -> str:
    """Returns what the first seed of one recipe writes, as Markdown."""
    name = SAMPLED
    result = by_recipe[name][0]
    texts = result["texts"]
    pairs = [f"{x:<{result['longest']}}   {r}" for x, r in
             zip(texts["held out"], texts["reconstructed"], strict=True)]  # fmt: skip
    blocks = [f"Drawn from the prior ({TITLES[name]}):", _block(texts["samples"])]
    blocks += ["Held-out lines, and the likeliest lines at the means of z:", _block(pairs)]
    blocks += ["From one held-out line to another:", _block(texts["between"])]
    return "\n\n".join(blocks) + "\n"


def _block(lines: list[str]) -> str:
    return "\n".join(["```text", *(line.rstrip() for line in lines), "```"])


def draw(by_recipe: dict[str, list[dict[str, Any]]]) -> None:
    """Draws what is in z, and what it costs or gains, of each recipe."""
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    axes = figure.subplots()
    for recipe, runs in by_recipe.items():
        (x, x_error), (y, y_error) = _mean(runs, "kl"), _mean(runs, "weighted")
        if recipe == "language-model":
            axes.axhline(y, color="#c64600", lw=1.4, zorder=0)
            axes.axhspan(y - y_error, y + y_error, color="#c64600", alpha=0.15, lw=0, zorder=0)
            axes.annotate(TITLES[recipe], (1, y), xycoords=("axes fraction", "data"),
                          ha="right", va="top", xytext=(0, -4), textcoords="offset points",
                          color="#c64600", fontsize=9)  # fmt: skip
            continue
        axes.errorbar(x, y, xerr=x_error, yerr=y_error, fmt="o", color="#1a5fb4", capsize=3)
        # What is below the line of the language model is named below its point.
        under = y < _mean(by_recipe["language-model"], "weighted")[0] - y_error
        axes.annotate(TITLES[recipe], (x, y), xytext=(7, -5 if under else 5), fontsize=9,
                      va="top" if under else "bottom", textcoords="offset points")  # fmt: skip
    axes.axvline(2, color="#9aa0a6", ls=":", lw=1)
    axes.set_xlabel("KL, nats a line")
    axes.set_ylabel("nats a character, held out\n(importance-weighted)")
    axes.margins(x=0.25, y=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(common.RESULTS / "text.png", dpi=150)


if __name__ == "__main__":
    parser = common.Parser(__doc__, table="results/text.md", data_root="tinyshakespeare.txt")
    parser.add_argument("what", nargs="?", choices=[*TITLES])
    args = parser.options()
    if args.table:
        every = results()
        (common.RESULTS / "text.md").write_text(table(every))
        (common.RESULTS / "text_samples.md").write_text(samples(every))
        draw(every)
    else:
        for seed in SEEDS[: 1 if args.smoke else None]:
            for recipe in [args.what] if args.what else list(TITLES):
                run(recipe, seed, args.data_root, args.smoke)
