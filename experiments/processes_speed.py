"""Steps a second of two processes against one, and what that says of a cluster.

    python experiments/processes_speed.py            # two networks, two batches: 15 minutes
    python experiments/processes_speed.py --smoke    # one small network; nothing is written
    python experiments/processes_speed.py --table    # results/processes_speed.md

Compiled fits of binary rows of 784 entries, each process on a core of its own: one process of one
thread, two of one thread, the same with ``shards=2``, and one of two threads. In turns, three
times; the median of the steps a second between two steps of the same epoch, by the clock of the
wall: the machine is to be idle. The sum over processes is timed by itself, as one gloo all-reduce
of as many numbers as the model has parameters. What is in the results already is not measured
again.

The figures for GPUs are a calculation, not a measurement: time of a step on one device, taken to be
that of its floating-point operations at a third of the peak rate, plus that of a ring all-reduce of
the gradient at the stated bandwidth, which nothing overlaps.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from itertools import pairwise
from typing import Any

import common
import torch
import torch.multiprocessing as mp

import pyro_vae as pv

NETWORKS = {"784-400-20": ((400,), 20), "784-1024-1024-64": ((1024, 1024), 64)}
SMOKE = {"784-16-2": ((16,), 2)}
BATCHES = (512, 2048)
ROWS, WIDTH = 16_384, 784
WAYS: dict[str, tuple[int, int, dict[str, Any]]] = {  # processes, threads of each, options
    "1 process, 1 thread": (1, 1, {}),
    "2 processes, 1 thread each": (2, 1, {}),
    "2 processes, `shards=2`": (2, 1, {"shards": 2}),
    "1 process, 2 threads": (1, 2, {}),
}
REPETITIONS, EPOCHS = 3, 3
SUMS = 20  # all-reduces that are timed
# An H100: single precision by tensor cores, bytes a second of NVLink, and of a network of 400 Gb/s.
PEAK, NVLINK, NETWORK, EFFICIENCY, NODE = 495e12, 450e9, 50e9, 1 / 3, 8


class Clock:
    """Notes the time after each step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step(self, step: int, loss: torch.Tensor) -> None:
        self.times.append(time.perf_counter())


def model(name: str) -> pv.VAE:
    """Returns one of the networks."""
    hidden, latent = (NETWORKS | SMOKE)[name]
    networks = pv.networks.MLP(hidden), pv.networks.MLP(hidden)
    parts = pv.priors.Normal(latent), pv.guides.Normal(latent), pv.likelihoods.Bernoulli((WIDTH,))
    return pv.VAE(*parts, encoder=networks[0], decoder=networks[1], seed=0)


def member(rank: int, way: str, name: str, batch: int, rows: int, store: str) -> None:
    """One process: fits, and the first one writes steps a second and seconds of a sum."""
    count, threads, options = WAYS[way]
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:threads] if count == 1 else {cores[rank % len(cores)]})
    torch.set_num_threads(threads)
    if count > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=count
        )
    x = (torch.rand(rows, WIDTH, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    vae, clock = model(name), Clock()
    known: dict[str, Any] = {"epochs": EPOCHS, "batch_size": batch, "seed": 0, "device": "cpu"}
    run = pv.fit(vae, x, compile=True, progress=False, callbacks=[clock], **known, **options)
    assert "eager" not in run.engine_steps, run.engine_steps
    parameters = sum(each.numel() for each in vae.parameters())
    flat, sums = torch.zeros(parameters), []
    for _ in range(SUMS if count > 1 else 0):
        torch.distributed.barrier()
        began = time.perf_counter()
        torch.distributed.all_reduce(flat)
        sums.append(time.perf_counter() - began)
    if rank == 0:
        steps = rows // batch
        # Of the first epoch some are those of a compiler; between epochs there are scores.
        later = clock.times[steps:]
        epochs = [later[i : i + steps] for i in range(0, len(later), steps)]
        seconds = [after - before for epoch in epochs for before, after in pairwise(epoch)]
        found = {"seconds": statistics.median(seconds), "parameters": parameters}
        torch.save(found | {"sum": statistics.median(sums) if sums else 0.0}, f"{store}.found")


def measure(way: str, name: str, batch: int, rows: int) -> dict[str, float]:
    """Fits in one of the ways, in fresh processes."""
    with tempfile.TemporaryDirectory() as folder:
        args = way, name, batch, rows, f"{folder}/store"
        mp.start_processes(member, args, nprocs=WAYS[way][0], start_method="spawn")
        found: dict[str, float] = torch.load(f"{folder}/store.found")
        return found


def scaled(result: dict[str, Any], devices: int) -> float:
    """Calculates how many times faster so many devices are than one, each with the whole batch."""
    operations = 6 * result["parameters"] * result["batch"]  # forward, and twice that backward
    step = operations / (PEAK * EFFICIENCY)
    link = NVLINK if devices <= NODE else NETWORK
    exchange = 2 * (devices - 1) / devices * 4 * result["parameters"] / link
    return devices * step / (step + exchange)


def table() -> str:
    """Returns the table of what was measured, and what follows for GPUs, as Markdown."""
    (result,) = common.read("processes_speed.json")
    first, *others = WAYS
    lines = [
        f"| network | batch | steps a second, {first} | "
        f"{' | '.join(f'{way}, ×' for way in others)} | "
        "sum, share of a step of two | calculated: 8 GPUs, × | 64 GPUs, × |",
        "|---|---:|" + "---:|" * (len(WAYS) + 3),
    ]
    for each in result["cells"]:
        one = each["seconds"][first]
        ratios = " | ".join(f"{one / each['seconds'][way]:.2f}" for way in others)
        share = each["sum"] / each["seconds"][others[0]]
        gpus = " | ".join(f"{scaled(each, devices):.1f}" for devices in (8, 64))
        lines.append(
            f"| {each['network']} | {each['batch']:,} | {1 / one:.1f} | {ratios} | {share:.0%} | "
            f"{gpus} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures each cell in turns, and writes what came out."""
    parser = common.Parser(__doc__, table="results/processes_speed.md", threads=None)
    options = parser.options()
    if options.table:
        (common.RESULTS / "processes_speed.md").write_text(table(), encoding="utf-8")
        return
    names, batches, repetitions, rows = tuple(NETWORKS), BATCHES, REPETITIONS, ROWS
    if options.smoke:
        names, batches, repetitions, rows = tuple(SMOKE), (64,), 1, 256
    path = common.RESULTS / "processes_speed.json"
    known = json.loads(path.read_text())["cells"] if path.exists() and not options.smoke else []
    cells = list(known)
    for name in names:
        for batch in batches:
            if any((each["network"], each["batch"]) == (name, batch) for each in known):
                continue
            found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
            for _ in range(repetitions):
                for way, each in found.items():
                    each.append(measure(way, name, batch, rows))
            seconds = {
                way: statistics.median(one["seconds"] for one in each)
                for way, each in found.items()
            }
            print(name, batch, {way: f"{1 / each:.1f}/s" for way, each in seconds.items()})
            two = found[list(WAYS)[1]]
            cell = {"network": name, "batch": batch, "parameters": two[0]["parameters"]}
            cell |= {"seconds": seconds, "sum": statistics.median(one["sum"] for one in two)}
            cells.append(cell | {"all": found})
            if not options.smoke:
                common.write("processes_speed", {"cells": cells})


if __name__ == "__main__":
    main()
