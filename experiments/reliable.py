"""What the experiments of reliability share, and the table of what they found.

    python experiments/reliable.py    # results/reliable.md

After killed and the others of WRITTEN have written theirs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import common
import torch

import pyro_vae as pv

WRITTEN = ("killed_kinds", "damage", "fault_injection", "scarce", "fuzz", "fuzz_folders",
           "fuzz_doors", "endurance")  # fmt: skip
INSTANTS = ("before the first checkpoint", "between two writes", "while writing")
X = torch.rand(300, 20, generator=torch.Generator().manual_seed(0)).round()
fit = partial(pv.fit, device="cpu", compile=False, epochs=4, batch_size=64, seed=1)


def model(width: int = 16) -> pv.VAE:
    """A small model."""
    torch.manual_seed(0)
    mlp = partial(pv.networks.MLP, (width,))
    likelihood = pv.likelihoods.Bernoulli((20,))
    return pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, mlp(), mlp())


def same(a: pv.Run, b: pv.Run) -> bool:
    """Bit by bit."""
    return all(torch.equal(a.last_weights[k], b.last_weights[k]) for k in a.last_weights)


def forked(work: Callable[[], object]) -> int:
    """Starts a process that does something and ends."""
    if (pid := os.fork()) == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def finished(pid: int) -> bool:
    """Waits; returns whether the process succeeded."""
    return os.waitpid(pid, 0)[1] == 0


def table() -> str:
    """Returns all that was tried, and what came of it, as Markdown."""
    rows = []
    for found in common.read("killed.json"):
        killed = ", ".join(f"{count} {what}" for what, count in found["killed"].items())
        what = f"{found['runs']} runs killed ({killed}; {found['compiled']} compiled) and resumed"
        rows.append((what, f"{found['identical']} of {found['runs']} end bit-identical"))
    for name in WRITTEN:
        for found in common.read(f"{name}.json"):
            rows += [(row["what"], row["came_of_it"]) for row in found["rows"]]
    lines = ["| what was done | what came of it |", "|---|---|"]
    return "\n".join(lines + [f"| {what} | {result} |" for what, result in rows]) + "\n"


if __name__ == "__main__":
    (common.RESULTS / "reliable.md").write_text(table(), encoding="utf-8")
