"""Static binarised MNIST: averaged weights against the best and the last of the same fit.

    python experiments/averaging.py one-layer --seed 0 --data-root DATA   # 15 minutes on one core
    python experiments/averaging.py two-layer --seed 0 --data-root DATA
    python experiments/averaging.py --table                     # results/averaging.md
    python experiments/averaging.py --smoke --data-root DATA    # under a minute, no figure

DATA holds `binarized_mnist.npz`. Networks and recipes are those of `mnist.py`; with
`--schedule constant` the learning rate does not fall. One fit gives all three sets of weights:
those of the best validation ELBO, the last ones, and the averages at the epoch of their own best
validation ELBO. Each is scored on all 10,000 test images by 200 importance samples; which average
to take is for the validation images to say. A run that is cut goes on from its last checkpoint by
the same command; its folder is runs/averaging-NETWORK-AVERAGE-SCHEDULE-SEED.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import common
import mnist
import torch

import pyro_vae as pv

AVERAGES = ("swa", "ema")
SCHEDULES = ("cosine", "constant")
SETS = ("averaged", "best", "last")
BOUNDS = {"one-layer": 91.0, "two-layer": 88.5}
EVERY = 5000  # steps from one checkpoint to the next: 10 epochs


class Clock:
    """Creates a clock of the processor's time, over all processes that took a part.

    Args:
        path: The file that keeps what earlier ones took, as of their last checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.before = json.loads(path.read_text()) if path.exists() else 0.0

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return float(self.before + time.process_time())

    def on_checkpoint(self, _: Path) -> None:
        self.path.write_text(json.dumps(self.seconds))


def run(
    network: str, average: Any, schedule: Any, seed: int, root: str | None, smoke: bool
) -> None:
    """Fits one network, scores its three sets of weights and writes the result."""
    recipe = mnist.RECIPES[network] | ({"epochs": 1} if smoke else {})
    data, vae = mnist.begun(recipe, seed, root, smoke)
    warmup = recipe["warmup"] * -(-len(data.train) // mnist.BATCH)
    name = f"averaging-{network}-{average}-{schedule}-{seed}"
    common.RUNS.mkdir(exist_ok=True)
    clock = Clock(common.RUNS / f"{name}.seconds")
    kept: dict[str, Any] = {
        "out": common.RUNS / name,
        "checkpoint_every": EVERY,
        "keep": 1,
        "resume": (common.RUNS / name).exists(),
        "callbacks": [clock],
    }
    fitted = pv.fit(
        vae,
        data,
        objective=pv.objectives.ELBO(warmup=warmup),
        epochs=recipe["epochs"],
        batch_size=mnist.BATCH,
        optim=partial(torch.optim.Adam, lr=recipe["lr"], eps=recipe["eps"]),
        schedule=schedule,
        average=average,
        seed=seed,
        device="cpu",
        on_epoch=common.report,
        **({} if smoke else kept),
    )
    seconds = clock.seconds
    weights = (fitted.averaged_weights, fitted.best_weights, fitted.last_weights)
    scores: dict[str, Any] = {}
    for which, state in zip(SETS, weights, strict=True):
        vae.load_state_dict(state)
        for split, rows in (("validation", data.validation), ("test", data.test)):
            score = pv.evaluate(vae, rows, num_samples=20 if smoke else 200, seed=0)
            summary = scores.setdefault(split, {})[which] = score.summary()
            print(f"{which}, {split}: NLL {-summary['log_marginal']:.3f}", flush=True)
    if smoke:
        return
    result = {
        "network": network,
        "average": average,
        "recipe": recipe | {"batch_size": mnist.BATCH, "schedule": schedule},
        "seed": seed,
        "fit_cpu_seconds": seconds,
        "engine_steps": dict(fitted.engine_steps),
        "best_epoch": fitted.best_epoch,
        "averaged_epoch": fitted.averaged_epoch,
        "best_validation_elbo": max(fitted.history["validation_elbo"]),
        "scores": scores,
    }
    print(common.write(name, result))


def table() -> str:
    """Returns the table of all results as Markdown."""
    lines = [
        "| network | average | learning rate | seeds | CPU minutes a fit | NLL, averaged | best | "
        "last | without, cosine | aim |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for network, bound in BOUNDS.items():
        before = [-r["scores"]["200"]["log_marginal"] for r in common.read(f"mnist-{network}-*")]
        for average, schedule in itertools.product(AVERAGES, SCHEDULES):
            runs = common.read(f"averaging-{network}-{average}-{schedule}-*.json")
            if not runs:
                continue
            minutes = statistics.mean(r["fit_cpu_seconds"] for r in runs) / 60
            test = [r["scores"]["test"] for r in runs]
            cells = [_spread([-scores[name]["log_marginal"] for scores in test]) for name in SETS]
            lines.append(
                f"| {network} | {average} | {schedule} | {len(runs)} | {minutes:.0f} | "
                f"{' | '.join(cells)} | {_spread(before)} | {bound} |"
            )
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    """The mean, and the least and greatest of several."""
    mean = f"{statistics.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    parser = common.Parser(__doc__, table="results/averaging.md", data_root="binarized_mnist.npz")
    parser.add_argument("network", nargs="?", choices=BOUNDS, default="one-layer")
    parser.add_argument("--average", choices=AVERAGES, default="swa")
    parser.add_argument("--schedule", choices=SCHEDULES, default="cosine")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.options()
    if args.table:
        (common.RESULTS / "averaging.md").write_text(table())
    else:
        run(args.network, args.average, args.schedule, args.seed, args.data_root, args.smoke)
