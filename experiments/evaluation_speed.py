"""How fast evaluation draws and scores, beside the bare matrix products of its decoder.

    python experiments/evaluation_speed.py            # one thread; some minutes
    python experiments/evaluation_speed.py --full     # all 10,000 x 5,000 draws, not a part of them
    python experiments/evaluation_speed.py --smoke    # seconds, and nothing is written
    python experiments/evaluation_speed.py --table    # only the table again

``pv.evaluate`` runs as it is; now and then it is held up, from its progress callback, to time the
bare products, so that both are measured in turns. Only the decoder's multiplications and additions
are counted, on both sides: what else evaluation does is its overhead. Times are those of the
processor, so that other programs count for less. Random weights and data make the same work.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import time
from typing import Any

import common
import torch

import pyro_vae as pv

SEED, SIZE, NUM_SAMPLES = 0, 10_000, 5_000
ROUND = 6e10  # operations of evaluation between two looks at the products
NETWORKS = {"50-200-200-784": ((200, 200), 50), "40-400-784": ((400,), 40)}
ROWS = {"mm": "torch.mm", "onednn": "oneDNN"}


class Done(Exception):
    """Enough has been measured."""


class Clock:
    """A progress callback that times evaluation between its calls, and bare products in them."""

    def __init__(self, layers: list[int], total: float, rounds: int | None) -> None:
        pairs = list(itertools.pairwise(layers))
        self.flops = 2.0 * sum(a * b for a, b in pairs)  # for each z
        self.total, self.rounds = total * self.flops, rounds
        self.inputs = [torch.randn(4096, a) for a, _ in pairs]
        self.weights = [torch.randn(b, a) for a, b in pairs]
        self.rates: dict[str, list[float]] = {name: [] for name in ("evaluate", *ROWS)}
        self.first: float | None = None
        self.fraction, self.resumed = 0.0, time.thread_time()
        self.started = time.perf_counter()  # the compiler is in other processes

    def __call__(self, fraction: float) -> None:
        now = time.thread_time()
        done = (fraction - self.fraction) * self.total
        if self.first is not None and done < ROUND and fraction < 1:
            return
        if self.first is None:
            self.first = time.perf_counter() - self.started  # compilation, and one block
        else:
            self.rates["evaluate"].append(done / (now - self.resumed) / 1e9)
            self.products()
        self.fraction = fraction
        if self.rounds is not None and len(self.rates["mm"]) >= self.rounds:
            raise Done
        self.resumed = time.thread_time()

    def products(self) -> None:
        """Times both libraries on the shapes of the decoder."""
        onednn = torch.ops.mkldnn._linear_pointwise
        for name in ROWS:
            times = max(1, round(ROUND / 4 / (self.flops * 4096)))
            start = time.thread_time()
            for _ in range(times):
                for a, w in zip(self.inputs, self.weights, strict=True):
                    torch.mm(a, w.T) if name == "mm" else onednn(a, w, None, "none", [], "")
            took = time.thread_time() - start
            self.rates[name].append(times * 4096 * self.flops / took / 1e9)


def measure(hidden: tuple[int, ...], latent: int, size: int, rounds: int | None) -> dict[str, Any]:
    """Evaluates one network, and returns the rates of its rounds and their medians."""
    torch.manual_seed(SEED)
    networks = (pv.networks.MLP(hidden), pv.networks.MLP(hidden))
    parts = pv.priors.Normal(latent), pv.guides.Normal(latent), pv.likelihoods.Bernoulli((784,))
    vae = pv.VAE(*parts, *networks)
    x = torch.rand(size, 784).round()
    clock = Clock([latent, *hidden, 784], size * NUM_SAMPLES, rounds)
    start = time.perf_counter()
    with contextlib.suppress(Done):
        pv.evaluate(vae, x, num_samples=NUM_SAMPLES, seed=SEED, progress=clock)
    medians = {name: statistics.median(rates) for name, rates in clock.rates.items()}
    best = max(medians[name] for name in ROWS)
    return {
        "gflops": medians,
        "share": medians["evaluate"] / best,
        "rounds": {name: [round(r, 1) for r in rates] for name, rates in clock.rates.items()},
        "done": clock.fraction,
        "first_seconds": clock.first,
        "seconds_for_all": clock.total / medians["evaluate"] / 1e9 + (clock.first or 0),
        "wall_seconds": time.perf_counter() - start,
    }


def table() -> None:
    """Writes the table from the JSON."""
    (result,) = common.read("evaluation_speed.json")
    head = ["network", "evaluate", *ROWS.values(), "evaluate ÷ the faster", "minutes for all"]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for name, entry in result["networks"].items():
        rates = [f"{entry['gflops'][row]:.0f}" for row in ("evaluate", *ROWS)]
        share, minutes = f"{entry['share']:.2f}", f"{entry['seconds_for_all'] / 60:.1f}"
        lines.append(f"| {' | '.join([name, *rates, share, minutes])} |")
    part = min(entry["done"] for entry in result["networks"].values())
    where = result["environment"]
    lines += [
        "",
        f"GFLOP/s of the decoder alone, medians of {result['num_rounds']} rounds in turns,",
    ]
    lines += [f"one thread, {where['cpu']}; {SIZE:,} data × {NUM_SAMPLES:,} samples, compilation"]
    whole = "all of it run" if part == 1 else f"from {part:.1%} of it"
    lines[-1] += f" included in the minutes, {whole}; load of the machine {result['load']:.1f}."
    (common.RESULTS / "evaluation_speed.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = common.Parser(__doc__, smoke="a few data, nothing written", table="the table")
    parser.add_argument("--full", action="store_true", help="run all draws of every observation")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.options()
    if options.smoke:
        print(measure(*NETWORKS["40-400-784"], size=30, rounds=1))
    elif not options.table:
        rounds = None if options.full else options.rounds
        result = {"seed": SEED, "num_rounds": options.rounds, "networks": {}}
        for name, network in NETWORKS.items():
            result["networks"][name] = measure(*network, size=SIZE, rounds=rounds)
            print(name, result["networks"][name], flush=True)
        result["load"] = os.getloadavg()[0]
        common.write("evaluation_speed", result)
    if not options.smoke:
        table()
