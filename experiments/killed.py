"""Runs killed with SIGKILL at random instants, each resumed: are the weights those of one let be?

    python experiments/killed.py            # 100 runs, 20 of them compiled: about 10 minutes
    python experiments/killed.py --smoke    # 4 runs, no figure

Each run is a process of its own, forked from this one, which writes a checkpoint after every step.
Some are killed with a random number of the bytes of one written. Afterwards another process resumes
it. Weights, best weights and history must be those of a run that nothing happened to.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import common
import torch
import torch._inductor.compile_fx  # once, for all processes
from reliable import INSTANTS, finished, fit, forked
from safetensors.torch import load_file

import pyro_vae as pv
from pyro_vae.training.resume import is_finished

RUNS, COMPILED = 100, 20
STEPS = 36


def train(out: Path, compile: bool) -> None:
    """Fits a small model, or goes on with it."""
    generator = torch.Generator().manual_seed(0)
    data = torch.rand(600, 20, generator=generator).bernoulli(generator=generator)
    resumed = any((out / "checkpoints").glob("step-*"))
    torch.manual_seed(os.getpid() if resumed else 0)  # what resumes starts from other weights
    vae = pv.VAE(
        pv.priors.Normal(2),
        pv.guides.Normal(2),
        pv.likelihoods.Bernoulli((20,)),
        pv.networks.MLP((16,), dropout=0.1),
        pv.networks.MLP((16,)),
    )
    kept = {"out": out, "checkpoint_every": 1, "resume": True}
    fit(vae, data, validation=0.1, schedule="cosine", compile=compile, **kept)


def contents(out: Path) -> dict[str, Any]:
    """Everything that must agree."""
    history = json.loads((out / "history.json").read_text())
    history["seconds"] = []
    weights = {
        f"{name}/{key}": tensor
        for name in ("model", "last")
        for key, tensor in load_file(out / f"{name}.safetensors").items()
    }
    return {"history": history} | weights


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Bit by bit."""
    return a.keys() == b.keys() and all(
        torch.equal(x, b[key]) if isinstance(x, torch.Tensor) else x == b[key]
        for key, x in a.items()
    )


def write_and_die(work: Callable[[], object], rng: random.Random, steps: int) -> None:
    """Works, and is killed with some bytes of a checkpoint, and no more, on the disk."""
    fsync, left = os.fsync, rng.randrange(1, 2 * steps)  # a file and its folder, each step

    def kill(handle: int) -> None:
        nonlocal left
        left -= 1
        if left <= 0 and stat.S_ISREG(os.fstat(handle).st_mode):
            os.ftruncate(handle, rng.randrange(os.fstat(handle).st_size + 1))
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(handle)

    os.fsync = kill
    work()


def trial(out: Path, compile: bool, seconds: float, rng: random.Random) -> str:
    """Kills one run; returns what it was doing."""
    writing = rng.random() < 0.4
    while True:
        work = partial(train, out, compile)
        pid = forked(partial(write_and_die, work, rng, STEPS) if writing else work)
        if not writing:
            begun = rng.random() < 0.9  # most of them not while they get ready
            while begun and not any(out.glob("checkpoints/step-*")) and not is_finished(out):
                time.sleep(1e-3)
            time.sleep(rng.uniform(0, seconds))
            os.kill(pid, signal.SIGKILL)
        if not finished(pid) and not is_finished(out):
            break
        shutil.rmtree(out)  # it was over already: another time, another instant
    folder = out / "checkpoints"
    if any(folder.glob(".*")) or (out / ".finishing").exists():
        return "while writing"
    return "between two writes" if any(folder.glob("*")) else "before the first checkpoint"


def main(runs: int, compiled: int, keep: bool) -> None:
    """Kills and resumes, and counts how many come out the same."""
    rng = random.Random(0)
    found: dict[str, Any] = {"runs": 0, "compiled": 0, "identical": 0}
    killed = found["killed"] = dict.fromkeys(INSTANTS, 0)
    with tempfile.TemporaryDirectory() as folder:
        expected: dict[bool, tuple[dict[str, Any], float]] = {}
        for i in range(runs):
            compile = compiled > 0 and i % (runs // compiled) == 0
            if compile not in expected:  # what becomes of a run that is let be
                out = Path(folder, f"whole-{compile}")
                assert finished(forked(partial(train, out, compile)))
                seconds = json.loads((out / "history.json").read_text())["seconds"][-1]
                expected[compile] = contents(out), seconds
            out = Path(folder, f"run-{i}")
            killed[trial(out, compile, expected[compile][1], rng)] += 1
            ended = finished(forked(partial(train, out, compile)))
            found["identical"] += ended and same(contents(out), expected[compile][0])
            found["runs"] += 1
            found["compiled"] += compile
            shutil.rmtree(out)
            print(found, flush=True)
            if keep:
                common.write("killed", found)


if __name__ == "__main__":
    parser = common.Parser(__doc__)
    smoke = parser.options().smoke
    main(4 if smoke else RUNS, 0 if smoke else COMPILED, keep=not smoke)
