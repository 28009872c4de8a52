"""Fault injection: numbers that are not finite, and memory that does not suffice.

python experiments/fault_injection.py           # about a minute on one core
python experiments/fault_injection.py --smoke   # no figure
"""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import common
import numpy as np
import torch
from reliable import X, fit, model

import pyro_vae as pv
from pyro_vae.training.resume import RunInProgress

LITTLE = 24 * 2**20  # bytes


class Planted(pv.objectives.ELBO):
    """The ELBO, with a fault planted before the n-th step."""

    plant: Callable[[], object]

    def __init__(self, at: int) -> None:
        super().__init__()
        self._at = at

    def differentiable_loss(self, *args: object, **kwargs: object) -> torch.Tensor:
        self._at -= 1
        if self._at == 0:
            self.plant()
        return super().differentiable_loss(*args, **kwargs)


def not_finite(folder: Path) -> dict[str, str]:
    """Plants NaN in a weight, in an observation, in a schedule."""
    named = {}
    for where, name in (
        ("weight", "decoder."),
        ("observation", "site `x`"),
        ("schedule", "schedule"),
    ):
        vae, x = model(), X.clone()
        weight = next(p for p in vae.decoder.parameters() if p.requires_grad)
        objective = Planted(7)
        plants = {
            "weight": lambda p=weight: p.data.view(-1)[3].fill_(math.nan),
            "observation": lambda x=x: x[:, 2].fill_(math.nan),
            "schedule": lambda o=objective: setattr(o, "beta", math.nan),
        }
        objective.plant = plants[where]
        try:
            fit(vae, x, objective=objective, out=folder / where, checkpoint_every=4)
        except FloatingPointError as error:
            print(error)
            kept = RunInProgress(folder / where, 4, 3, True).read() is not None
            kept &= (folder / where / "nonfinite.safetensors").exists()
            named[where] = name in str(error) and "rows" in str(error) and kept
    return {
        "what": f"NaN in {', '.join(named)}, planted while it trains",
        "came_of_it": f"{sum(named.values())} of 3 named, with step and rows; "
        "last checkpoint and a file that reproduces it kept",
    }


class _Keep(logging.Handler):
    def __init__(self, messages: list[str]) -> None:
        super().__init__()
        self.messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def little_memory(folder: Path) -> dict[str, str]:
    """Evaluates with an address space that ends a few megabytes above what is in use."""
    vae, messages = model(2000), []
    expected = pv.evaluate(vae, X[:50], num_samples=300)
    pipe, other = os.pipe()
    if os.fork() == 0:
        logging.getLogger("pyro_vae").addHandler(_Keep(messages))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + LITTLE, resource.RLIM_INFINITY))
        scores = pv.evaluate(vae, X[:50], num_samples=300)
        error = np.hypot(scores.mcse, expected.mcse)
        apart = float((abs(scores.log_marginal - expected.log_marginal) / error).max())
        os.write(other, json.dumps([messages, float(scores.log_marginal.mean()), apart]).encode())
        os._exit(0)
    os.close(other)
    messages, mean, apart = json.loads(os.read(pipe, 2**16))
    return {
        "what": f"evaluation with {LITTLE // 2**20} MiB of address space left",
        "came_of_it": f"{messages[-1] if messages else 'enough'}; log p(x) {mean:.2f} nats, "
        f"{expected.log_marginal.mean():.2f} with more; at most {apart:.1f} standard errors apart",
    }


if __name__ == "__main__":
    parser = common.Parser(__doc__)
    smoke = parser.options().smoke
    rows = []
    for fault in (not_finite, little_memory):
        with tempfile.TemporaryDirectory() as scratch:
            rows.append(fault(Path(scratch, "run")))
        print(rows[-1], flush=True)
    if not smoke:
        common.write("fault_injection", {"rows": rows})
