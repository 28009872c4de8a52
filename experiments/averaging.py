"""Static binarised MNIST: averaged weights against the best and the last of the same fit.

    python experiments/averaging.py --seed 0 --data-root DATA   # about 20 minutes on two cores
    python experiments/averaging.py --table                     # results/averaging.md
    python experiments/averaging.py --smoke --data-root DATA    # under a minute, no figure

DATA holds `binarized_mnist.npz`. The network is that of `mnist.py one-layer`, 784-400-z40, by its
recipe, with a cosine and with a constant rate. One fit gives all three sets of weights: those of
the best validation ELBO, the last ones, and the exponential averages at the epoch of their own best
validation ELBO. Each is scored on all 10,000 test images by 200 importance samples.
"""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import common
import mnist
import torch

import pyro_vae as pv

SCHEDULES = ("cosine", "constant")
SETS = ("averaged", "best", "last")


def run(schedule: str, seed: int, root: str | None, smoke: bool) -> None:
    """Fits one network, scores its three sets of weights and writes the result."""
    recipe = mnist.RECIPES["one-layer"] | ({"epochs": 1} if smoke else {})
    data = pv.data.load("binarized_mnist", root=root, download=False)
    if smoke:
        data = pv.data.load(data.train[:2000], validation=0.1, test=0.1)
    torch.manual_seed(seed)
    mlp = partial(pv.networks.MLP, recipe["hidden"], recipe["activation"])
    vae = pv.VAE(
        prior=pv.priors.Normal(recipe["latent"]),
        guide=pv.guides.Normal(recipe["latent"]),
        likelihood=pv.likelihoods.Bernoulli(data.event_shape),
        encoder=mlp(recipe["encoder_dropout"]),
        decoder=mlp(),
    )
    warmup = recipe["warmup"] * -(-len(data.train) // mnist.BATCH)
    fitted = pv.fit(
        vae,
        data,
        objective=pv.objectives.ELBO(warmup=warmup),
        epochs=recipe["epochs"],
        batch_size=mnist.BATCH,
        optim=partial(torch.optim.Adam, lr=recipe["lr"], eps=recipe["eps"]),
        schedule=schedule,
        average="ema",
        seed=seed,
        device="cpu",
        on_epoch=common.report,
    )
    weights = (fitted.averaged_weights, fitted.best_weights, fitted.last_weights)
    scores: dict[str, Any] = {}
    for name, state in zip(SETS, weights, strict=True):
        vae.load_state_dict(state)
        scores[name] = pv.evaluate(vae, data.test, num_samples=20 if smoke else 200).summary()
        print(f"{name}: NLL by 200 samples {-scores[name]['log_marginal']:.3f}", flush=True)
    if smoke:
        return
    result = {
        "schedule": schedule,
        "recipe": recipe | {"batch_size": mnist.BATCH},
        "seed": seed,
        "fit_seconds": fitted.seconds,
        "best_epoch": fitted.best_epoch,
        "averaged_epoch": fitted.averaged_epoch,
        "scores": scores,
    }
    print(common.write(f"averaging-{schedule}-{seed}", result))


def table() -> str:
    """Returns the table of all results as Markdown."""
    lines = [
        "| schedule | seeds | NLL, averaged | best | last | averaged less best |",
        "|---|---|---|---|---|---|",
    ]
    for schedule in SCHEDULES:
        runs = common.read(f"averaging-{schedule}-*.json")
        if not runs:
            lines.append(f"| {schedule} | 0 | not measured | not measured | not measured | |")
            continue
        nll = {name: [-r["scores"][name]["log_marginal"] for r in runs] for name in SETS}
        cells = [f"{statistics.mean(v):.2f} ({min(v):.2f} to {max(v):.2f})" for v in nll.values()]
        gain = [a - b for a, b in zip(nll["averaged"], nll["best"], strict=True)]
        lines.append(
            f"| {schedule} | {len(runs)} | {' | '.join(cells)} | {statistics.mean(gain):+.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = common.Parser(
        __doc__, table="results/averaging.md", data_root="binarized_mnist.npz", threads=2
    )
    parser.add_argument("schedule", nargs="?", choices=SCHEDULES, default="cosine")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.options()
    if args.table:
        (common.RESULTS / "averaging.md").write_text(table())
    else:
        run(args.schedule, args.seed, args.data_root, args.smoke)
