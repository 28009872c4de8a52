"""Single precision and bfloat16 on a processor: time of an epoch, and held-out scores.

    python experiments/precision.py --data-root DATA   # results/precision.json: 5 minutes
    python experiments/precision.py --table            # results/precision.md
    python experiments/precision.py --smoke --data-root DATA   # under a minute, no figure

DATA holds `binarized_mnist.npz`. The network is that of `mnist.py one-layer`, 784-400-z40, compiled
and on one thread, for a few epochs at a constant rate. Times are of the processor, the median of
all epochs but the first, in which it is compiled. What the processor has for bfloat16 is in the
result. A fit that is there already is not run again.
"""

from __future__ import annotations

import json
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import common
import mnist

import pyro_vae as pv

PRECISIONS = ("float32", "bfloat16")
SEEDS = 3
EPOCHS = 5
PATH = common.RESULTS / "precision.json"
UNITS = ("amx_bf16", "avx512_bf16")  # as Linux calls them


def units() -> dict[str, bool]:
    """Which of a processor's units for bfloat16 this one has."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return {unit: unit in flags for unit in UNITS}


def case(precision: Any, seed: int, root: str | None, smoke: bool) -> dict[str, Any]:
    """Fits one network, and returns its times and scores."""
    data, vae = mnist.begun(mnist.RECIPES["one-layer"], seed, root, smoke)
    clock = [time.process_time()]
    fitted = pv.fit(
        vae,
        data,
        epochs=2 if smoke else EPOCHS,
        batch_size=mnist.BATCH,
        restore="last",
        precision=precision,
        seed=seed,
        device="cpu",
        compile=not smoke,
        on_epoch=lambda _: clock.append(time.process_time()),
    )
    seconds = [after - before for before, after in pairwise(clock)]
    return {
        "engine_steps": dict(fitted.engine_steps),
        "cpu_seconds_of_epochs": seconds,
        "validation_elbo": fitted.history["validation_elbo"],
    }


def run(root: str | None, smoke: bool) -> None:
    """Runs the fits that are not there yet, and writes each as it ends."""
    cases = json.loads(PATH.read_text())["cases"] if PATH.exists() and not smoke else {}
    for seed in range(SEEDS):
        for precision in PRECISIONS:
            if (name := f"{precision}, {seed}") in cases:
                continue
            cases[name] = case(precision, seed, root, smoke)
            print(f"{name}: {cases[name]}", flush=True)
            if not smoke:
                result = {"epochs": EPOCHS, "processor_has": units(), "cases": cases}
                common.write("precision", result)
        if smoke:
            return


def table() -> str:
    """Returns the table of all results as Markdown."""
    result = common.read("precision.json")[0]
    has = ", ".join(f"{unit}: {'yes' if is_there else 'no'}" for unit, is_there in
                    result["processor_has"].items())  # fmt: skip
    epochs = result["epochs"]
    lines = [
        f"| precision | seeds | CPU seconds an epoch | validation ELBO after {epochs} epochs |",
        "|---|---|---|---|",
    ]
    for precision in PRECISIONS:
        found = [c for name, c in result["cases"].items() if name.startswith(f"{precision},")]
        seconds = [statistics.median(c["cpu_seconds_of_epochs"][1:]) for c in found]
        elbos = [c["validation_elbo"][-1] for c in found]
        spread = f"{statistics.mean(elbos):.2f} ({min(elbos):.2f} to {max(elbos):.2f})"
        lines.append(
            f"| {precision} | {len(found)} | {statistics.mean(seconds):.2f} "
            f"({min(seconds):.2f} to {max(seconds):.2f}) | {spread} |"
        )
    return "\n".join(lines) + f"\n\n{result['environment']['cpu']}; {has}; one thread.\n"


if __name__ == "__main__":
    parser = common.Parser(
        __doc__, table="results/precision.md", data_root="binarized_mnist.npz", threads=1
    )
    args = parser.options()
    if args.table:
        (common.RESULTS / "precision.md").write_text(table())
    else:
        run(args.data_root, args.smoke)
