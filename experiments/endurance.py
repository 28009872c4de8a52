"""100,000 compiled steps: does memory stand still, do files stay open?

python experiments/endurance.py    # about 2 minutes on one core
"""

from __future__ import annotations

import os
import resource
from functools import partial
from pathlib import Path

import common
import torch

import pyro_vae as pv

STEPS, WARM = 100_000, 5_000


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def open_files() -> int:
    """Files that this process has open."""
    return len(os.listdir("/proc/self/fd"))


def main(steps: int, warm: int) -> dict[str, object]:
    """Takes the steps, half of them one by one and half by the epoch."""
    torch.manual_seed(0)
    mlp = partial(pv.networks.MLP, (16,))
    parts = (pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((20,)))
    vae = pv.VAE(*parts, mlp(), mlp())
    optim = partial(torch.optim.Adam, lr=1e-3)
    svi = pv.CompiledSVI(vae.model, vae.guide, optim, pv.objectives.ELBO())
    x = torch.rand(640, 20).round()

    def take(count: int) -> None:
        for _ in range(count // 20):
            svi.epoch(x, batch_size=64)
            for batch in x.split(64):
                svi.step(batch)

    take(warm)
    before = resident(), open_files()
    take(steps)
    after = resident(), open_files()
    growth = after[0] / before[0] - 1
    row = {
        "what": f"{svi.engine_steps['inductor'] - warm:,} compiled steps",
        "came_of_it": f"resident memory {before[0] / 2**20:.0f} MiB before, {after[0] / 2**20:.0f} "
        f"after ({growth:+.2%}); open files {before[1]} before, {after[1]} after",
    }
    return {"rows": [row], "resident": [before[0], after[0]], "open_files": [before[1], after[1]]}


if __name__ == "__main__":
    parser = common.Parser(__doc__)
    if parser.options().smoke:
        print(main(2000, 200))
    else:
        print(common.write("endurance", main(STEPS, WARM)))
