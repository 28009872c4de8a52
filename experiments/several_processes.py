"""Do 1, 2 and 4 processes end with the same bits, and does a group survive the loss of one?

    python experiments/several_processes.py            # six models, then 50 kills: about an hour
    python experiments/several_processes.py --smoke    # two models, two kills, no figure
    python experiments/several_processes.py --table    # writes results/several_processes.md

Six models are fitted by groups of gloo processes, eager and compiled, with ``shards=4``; all
tensors must be those of one process. Then runs of two processes are started by ``torchrun``, and
one process is killed with SIGKILL at a random instant; the weights must be those of a run that was
let be. What is in the results already is not run again.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import common
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file
from torch import Tensor

import pyro_vae as pv

COUNTS, KILLS = (1, 2, 4), 50
ROWS, WIDTH = 219, 12  # the last batch is cut into 8, 8, 8 and 3


def data() -> dict[str, Tensor]:
    """Binary rows, and what goes with them."""
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(ROWS, WIDTH, generator=generator)
    return {
        "x": uniform.bernoulli(generator=generator),
        "mask": torch.rand(ROWS, WIDTH, generator=generator) > 0.2,
        "sizes": torch.rand(ROWS, generator=generator) + 0.5,
        "labels": torch.randint(-1, 3, (ROWS,), generator=generator),
    }


def model(name: str) -> tuple[pv.VAE, dict[str, Any]]:
    """Returns one of the six, and what else its fit takes."""
    torch.manual_seed(0)  # priors and guides may have weights of their own
    priors, guides, rows = pv.priors, pv.guides, data()
    likelihood: Any = pv.likelihoods.Bernoulli((WIDTH,))
    prior: Any = priors.Normal(3)
    guide: Any = guides.Normal(3)
    beside: dict[str, Any] = {}
    if name == "Normal":
        likelihood = pv.likelihoods.Poisson((WIDTH,), size_factor=True)
        beside["covariates"] = {"size_factor": rows["sizes"]}
    elif name == "VampPrior":
        prior = priors.VampPrior(3, 5)
        beside["mask"] = rows["mask"]
    elif name == "Flow":
        prior = priors.Flow(3, hidden=[8])
    elif name == "Hierarchy":
        prior, guide = priors.Hierarchy([2, 3], [8]), guides.Hierarchy([2, 3], hidden=[8])
    elif name == "GumbelSoftmax":
        prior = priors.Categorical(1, 3)
        guide = guides.GumbelSoftmax(1, 3, mode="enumerate")
        beside["labels"] = rows["labels"]
    else:
        beside["objective"] = pv.objectives.IWAE(3, "dreg")
    encoder = pv.networks.MLP((16,), dropout=0.1)
    vae = pv.VAE(prior, guide, likelihood, encoder, pv.networks.MLP((16,)), seed=1)
    return vae, beside


MODELS = ("Normal", "VampPrior", "Flow", "Hierarchy", "GumbelSoftmax", "IWAE-DReG")


def fit(name: str, compile: bool, epochs: int = 3, **options: Any) -> pv.Run:
    """Fits one of them, in this process or with others of its group."""
    torch.set_num_threads(1)
    vae, beside = model(name)
    fixed = {"batch_size": 32, "shards": 4, "seed": 0, "device": "cpu", "progress": False}
    return pv.fit(vae, data()["x"], epochs=epochs, compile=compile, **fixed, **beside, **options)


def member(rank: int, count: int, store: str, names: tuple[str, ...], compile: bool) -> None:
    """One process of a group: fits all models, of which the first process keeps the weights."""
    if count > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=count
        )
    for name in names:
        run = fit(name, compile)
        if rank == 0:
            torch.save((dict(run.vae.state_dict()), run.engine), f"{store}-{count}-{name}")


def equal(names: tuple[str, ...], counts: tuple[int, ...], compile: bool) -> dict[str, Any]:
    """Fits by groups of so many processes; returns how many tensors are equal, by model."""
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            args = (count, f"{folder}/store", names, compile)
            mp.start_processes(member, args, nprocs=count, start_method="spawn")
            Path(folder, "store").unlink(missing_ok=True)
        found = {}
        for name in names:
            each = [torch.load(f"{folder}/store-{count}-{name}") for count in counts]
            first, engine = each[0]
            same = [all(torch.equal(first[key], other[key]) for other, _ in each) for key in first]
            found[name] = {"tensors": len(same), "equal": sum(same), "engine": engine}
        return found


def shared(out: Path, kill: random.Random | None, seconds: float) -> tuple[dict[str, Any], bool]:
    """Runs two processes by torchrun, and kills one if asked; returns weights, whether it died."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["--max-restarts=3", __file__]
    agent = subprocess.Popen(
        command, env=os.environ | {"SEVERAL_OUT": str(out)}, stderr=subprocess.DEVNULL
    )
    died = False
    if kill is not None:
        while not (began := any(out.glob("checkpoints/step-*"))) and agent.poll() is None:
            time.sleep(0.01)
        time.sleep(kill.uniform(0, seconds) * began)
        children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
        members = [pid for pid in children if __file__ in Path(f"/proc/{pid}/cmdline").read_text()]
        if len(members) > 1:
            with suppress(ProcessLookupError):
                os.kill(int(kill.choice(members)), signal.SIGKILL)
                died = True
    if agent.wait() != 0:
        return {}, died
    return load_file(out / "model.safetensors"), died


def main(names: tuple[str, ...], counts: tuple[int, ...], kills: int, keep: bool) -> None:
    """Compares, kills, and counts how many come out the same."""
    path = common.RESULTS / "several_processes.json"
    found: dict[str, Any] = {}
    if keep and path.exists():
        found = json.loads(path.read_text())
    for engine in ("eager", "compiled"):
        if engine not in found:
            found[engine] = equal(names, counts, engine == "compiled")
            print(engine, found[engine], flush=True)
            if keep:
                common.write("several_processes", found)
    found.setdefault("kills", {"runs": 0, "identical": 0})
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        whole, _ = shared(Path(folder, "whole"), None, 0)
        seconds = (time.monotonic() - began) / 3  # the rest is spent on imports
        while found["kills"]["runs"] < kills:
            number = found["kills"]["runs"]
            weights, died = shared(
                Path(folder, f"{time.time_ns()}"), random.Random(number), seconds
            )
            if not died:  # it was over already: a shorter wait
                seconds *= 0.8
                continue
            same = weights.keys() == whole.keys()
            same = same and all(torch.equal(whole[key], weights[key]) for key in whole)
            found["kills"]["runs"] += 1
            found["kills"]["identical"] += same
            print(found["kills"], flush=True)
            if keep:
                common.write("several_processes", found)


def table() -> None:
    """Writes ``results/several_processes.md``."""
    (found,) = common.read("several_processes.json")
    lines = ["| what was done | what came of it |", "|---|---|"]
    for engine in ("eager", "compiled"):
        every = found[engine]
        equal = sum(each["equal"] for each in every.values())
        tensors = sum(each["tensors"] for each in every.values())
        lines.append(
            f"| {len(every)} models by 1, 2 and 4 processes, {engine} steps, `shards=4`: "
            f"{', '.join(every)} | {equal} of {tensors} tensors bit-identical |"
        )
    kills = found["kills"]
    lines.append(
        f"| {kills['runs']} runs of 2 processes, one of which was killed at a random instant, "
        f"restarted by torchrun | {kills['identical']} of {kills['runs']} end bit-identical |"
    )
    path = common.RESULTS / "several_processes.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if (where := os.environ.get("SEVERAL_OUT")) is not None:  # torchrun has started this process
        fit("Normal", False, epochs=40, out=where, checkpoint_every=3, resume=True)
    else:
        options = common.Parser(__doc__, table="results/several_processes.md").options()
        few = (MODELS[:2], (1, 2), 2) if options.smoke else (MODELS, COUNTS, KILLS)
        if options.table:
            table()
        else:
            main(*few, keep=not options.smoke)
