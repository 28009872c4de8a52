"""Every prior with every guide and objective, killed with SIGKILL once and resumed.

    python experiments/killed_kinds.py           # 20 compiled; about 15 minutes on two cores
    python experiments/killed_kinds.py --smoke   # 4 kinds, no figure

Each kind is fitted three times, in processes forked from this one: let be; killed in the midst of
writing a checkpoint, of which a random number of bytes is on the disk; and resumed. Weights, best
weights and history must be those of the first. What is done is kept, and not done again.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import common
import torch
import torch._inductor.compile_fx  # once, for all processes
from killed import contents, same, write_and_die
from reliable import finished, fit, forked

import pyro_vae as pv
from pyro_vae.training.resume import is_finished

sys.path.insert(0, str(common.HERE.parent / "tests"))
import cases  # the tests have every class that is exported

COMPILED, REFUSED = 20, 2
NAME = "killed_kinds"


def of_classes(found: list[cases.Case]) -> list[cases.Case]:
    """The first way to build each class."""
    return list({case.part: case for case in reversed(found)}.values())[::-1]


def model(prior: cases.Case, guide: cases.Case, seed: int) -> pv.VAE:
    """A small model of four binary entries."""
    torch.manual_seed(seed)
    mlp = partial(pv.networks.MLP, (6,), dropout=0.1)
    return pv.VAE(prior(), guide(), pv.likelihoods.Bernoulli((4,)), mlp(), mlp())


def train(
    out: Path, prior: cases.Case, guide: cases.Case, objective: cases.Case, compile: bool
) -> None:
    """Fits a model of a kind, or goes on with it, from other weights."""
    resumed = any((out / "checkpoints").glob("step-*"))
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(60, 4, generator=generator).bernoulli(generator=generator)
    vae = model(prior, guide, 5 if resumed else 0)
    kept = {"out": out, "checkpoint_every": 1, "resume": True, "objective": objective()}
    try:
        fit(vae, x, epochs=3, batch_size=16, validation=0.2, compile=compile, **kept)
    except ValueError as error:
        print(f"refused: {error}", flush=True)
        os._exit(REFUSED)


def kinds() -> Iterator[tuple[cases.Case, cases.Case, cases.Case]]:
    """What can be fitted at all: the parts have one space, and the objective takes them."""
    for prior in of_classes(cases.PRIORS):
        for guide in of_classes(cases.GUIDES):
            if prior().space != guide().space:
                continue
            for objective in of_classes(cases.OBJECTIVES):
                yield prior, guide, objective


def trial(folder: Path, work: Callable[[Path], None], rng: random.Random) -> str:
    """Kills one kind and resumes it; returns what came of it."""
    whole, out = folder / "whole", folder / "killed"
    status = os.waitstatus_to_exitcode(os.waitpid(forked(partial(work, whole)), 0)[1])
    if status != 0:
        return "refused" if status == REFUSED else "failed"
    finished(forked(partial(write_and_die, partial(work, out), rng, 9)))
    if is_finished(out):
        return "not killed"
    if not finished(forked(partial(work, out))):
        return "lost"
    return "identical" if same(contents(whole), contents(out)) else "different"


def main(compiled: int, most: int | None, keep: bool) -> dict[str, Any]:
    """Goes through all kinds, those that are compiled at equal distances."""
    path = common.RESULTS / f"{NAME}.json"
    kept = json.loads(path.read_text())["kinds"] if keep and path.exists() else {}
    every = list(kinds())
    chosen = every[:: max(1, len(every) // most)] if most else every
    step = max(1, len(chosen) // compiled) if compiled else len(chosen) + 1
    # Those that are compiled take a hundred times as long: they come last.
    for kind, compile in [(k, False) for k in chosen] + [(k, True) for k in chosen[::step]]:
        if not compile or compiled:
            one(kind, compile, kept)
        if keep:
            common.write(NAME, {"kinds": kept, "rows": [row(kept)]})
    return row(kept)


def one(kind: tuple[cases.Case, ...], compile: bool, kept: dict[str, str]) -> None:
    """Tries a kind, unless it is known what becomes of it."""
    name = ", ".join(case.part.__name__ for case in kind)
    refused = kept.get(name) == "refused"
    name += ", compiled" if compile else ""
    if name in kept or (compile and refused):
        return
    work = partial(train, prior=kind[0], guide=kind[1], objective=kind[2], compile=compile)
    with tempfile.TemporaryDirectory() as folder:
        kept[name] = trial(Path(folder), work, random.Random(name))
    print(f"{name}: {kept[name]}", flush=True)


def row(kept: dict[str, str]) -> dict[str, str]:
    """Returns the row of the table."""
    tried = {name: came for name, came in kept.items() if came != "refused"}
    compiled = sum(name.endswith("compiled") for name in tried)
    right = sum(came == "identical" for came in tried.values())
    what = f"{len(tried)} kinds of prior, guide and objective ({compiled} compiled) killed while a "
    what += "checkpoint is written, and resumed from other weights"
    return {"what": what, "came_of_it": f"{right} of {len(tried)} end bit-identical"}


if __name__ == "__main__":
    parser = common.Parser(__doc__)
    smoke = parser.options().smoke
    print(main(0 if smoke else COMPILED, 4 if smoke else None, keep=not smoke))
