"""How much sooner are 16 seeds fitted at once than one after another, and are they the same fits?

    python experiments/many_fits.py            # on a machine that is quiet
    python experiments/many_fits.py --smoke    # few seeds and epochs, one network, nothing written
    python experiments/many_fits.py --table    # results/many_fits.md and many_fits_speed.md

``pv.fit_many`` against fits of the same seeds by ``pv.fit``. After 100 steps of the binarised
digits: the largest difference of any weight in double precision, whether the generators of torch
are in the very same states, and in single precision the difference of the mean held-out log p(x) in
its standard errors. Then whole fits by the clock, scores and choice of the epoch included: one
after another, by two processes, and at once; in turns, of which the shortest counts. Each process
has one thread.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import common
import numpy as np
import torch

import pyro_vae as pv
from pyro_vae._jobs import by, each

SEEDS = range(16)
ROWS, BATCH, STEPS = 1250, 125, 100  # ten steps a pass
WIDTHS = {"16": (16,), "64": (64,), "128-128": (128, 128), "512-512, the default": (512, 512)}
EPOCHS, TIMES, DRAWS = 50, 2, 500


def builder(widths: Sequence[int]) -> Callable[[int], pv.VAE]:
    """Returns what makes a model of the digits of its seed."""

    def build(seed: int) -> pv.VAE:
        networks = pv.networks.MLP(widths), pv.networks.MLP(widths)
        parts = pv.priors.Normal(8), pv.guides.Normal(8), pv.likelihoods.Bernoulli((1, 8, 8))
        return pv.VAE(*parts, encoder=networks[0], decoder=networks[1], seed=seed)

    return build


def agreement(widths: Sequence[int], seeds: Sequence[int], dtype: torch.dtype) -> dict[str, Any]:
    """Takes the steps both ways; returns how far the two are from each other."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        data, build = pv.data.load("digits"), builder(widths)
        x, held_out = data.train[:ROWS].to(dtype), data.test.to(dtype)
        options: dict[str, Any] = {"epochs": STEPS * BATCH // ROWS, "batch_size": BATCH}
        options |= {"device": "cpu", "compile": False, "validation": data.validation.to(dtype)}
        single = [pv.fit(build(s), x, seed=s, progress=False, **options) for s in seeds]
        together = pv.fit_many(build, x, seeds, **options)
        runs = list(zip(single, together, strict=True))
        assert all(one.steps == other.steps == STEPS for one, other in runs)
        weights = [
            float((weight.double() - other.last_weights[name].double()).abs().max())
            for one, other in runs
            for name, weight in one.last_weights.items()
        ]
        errors = []
        for pair in runs:
            scores = [pv.evaluate(r.vae, held_out, num_samples=DRAWS, seed=0) for r in pair]
            one, other = (each.log_marginal for each in scores)
            error = float(np.std(one, ddof=1) / len(one) ** 0.5)
            errors.append(abs(float(np.mean(other - one))) / error)
        same = [torch.equal(*(_random(run) for run in pair)) for pair in runs]
        return {"weights": max(weights), "standard_errors": max(errors), "random": all(same)}
    finally:
        torch.set_default_dtype(before)


def _random(run: pv.Run) -> torch.Tensor:
    assert run.state is not None
    return run.state["random"]["torch"]


def ways(widths: Sequence[int], seeds: Sequence[int], epochs: int) -> dict[str, Callable[[], Any]]:
    """Returns what fits all seeds, by how that is done."""
    data, build = pv.data.load("digits"), builder(widths)
    options: dict[str, Any] = {"epochs": epochs, "device": "cpu"}

    def one(seed: int) -> float:
        run = pv.fit(build(seed), data, seed=seed, progress=False, **options)
        return float(run.history["validation_elbo"][-1])

    def by_two() -> list[float]:
        with by(2):
            found = dict(each(one, seeds, "build"))
        return [found[number] for number in sorted(found)]

    def at_once() -> list[float]:
        runs = pv.fit_many(build, data, seeds, **options)
        return [float(run.history["validation_elbo"][-1]) for run in runs]

    return {"apart": lambda: list(map(one, seeds)), "jobs": by_two, "at_once": at_once}


def timed(widths: Sequence[int], seeds: Sequence[int], epochs: int, times: int) -> dict[str, Any]:
    """Returns seconds of each way, in turns."""
    seconds: dict[str, list[float]] = {}
    for _ in range(times):
        for name, fitted in ways(widths, seeds, epochs).items():
            began = time.perf_counter()
            fitted()
            seconds.setdefault(name, []).append(time.perf_counter() - began)
    return {"widths": list(widths), "seconds": seconds}


def main(seeds: Sequence[int], epochs: int, times: int, names: Sequence[str], keep: bool) -> None:
    """Compares and times what the results have not yet."""
    path = common.RESULTS / "many_fits.json"
    result: dict[str, Any] = json.loads(path.read_text()) if keep and path.exists() else {}
    result |= {"seeds": len(seeds), "epochs": epochs, "steps": STEPS}
    for name, dtype in (("double", torch.float64), ("single", torch.float32)):
        if name not in result:
            result[name] = agreement(WIDTHS[names[0]], seeds, dtype)
    print(json.dumps({name: result[name] for name in ("double", "single")}), flush=True)
    result.setdefault("timed", {})
    for name in names:
        if name not in result["timed"]:
            result["timed"][name] = timed(WIDTHS[name], seeds, epochs, times)
        print(name, json.dumps(result["timed"][name]), flush=True)
        if keep:
            common.write("many_fits", result)


def table() -> None:
    """Writes ``results/many_fits.md`` and ``results/many_fits_speed.md``."""
    (found,) = common.read("many_fits.json")
    double, single = found["double"], found["single"]
    same = "the same" if double["random"] and single["random"] else "others"
    lines = [
        f"| {found['seeds']} seeds after {found['steps']} steps | at once against one by one |",
        "|---|---|",
        f"| states of the random generators | {same} |",
        f"| largest difference of a weight, float64 | {double['weights']:.0e} |",
        f"| largest difference of a held-out score, float32 | {single['standard_errors']:.4f} "
        "standard errors |",
    ]
    path = common.RESULTS / "many_fits.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    lines = [
        "| widths | one after another, s | by two processes, s | at once, s | times as fast |",
        "|---|---|---|---|---|",
    ]
    for name, each_way in found["timed"].items():
        apart, jobs, at_once = (min(each_way["seconds"][w]) for w in ("apart", "jobs", "at_once"))
        numbers = f"{apart:.0f} | {jobs:.0f} | {at_once:.0f} | {apart / at_once:.1f}"
        lines.append(f"| {name} | {numbers} |")
    path = common.RESULTS / "many_fits_speed.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    given = common.Parser(__doc__, table="results/many_fits.md and many_fits_speed.md").options()
    if given.table:
        table()
    elif given.smoke:
        main(range(3), 2, 1, ["16"], keep=False)
    else:
        main(SEEDS, EPOCHS, TIMES, ["64", "16", "128-128", "512-512, the default"], keep=True)
