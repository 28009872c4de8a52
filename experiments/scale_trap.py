"""The scale trap: grey MNIST under normal likelihoods of scale 1, one learned scale, and predicted.

    python experiments/scale_trap.py 1.0 --data-root DATA          # about 5 minutes on one core
    python experiments/scale_trap.py shared --data-root DATA
    python experiments/scale_trap.py predicted --data-root DATA
    python experiments/scale_trap.py --table                       # results/scale_trap.md and .png
    python experiments/scale_trap.py shared --smoke --data-root DATA

DATA holds `MNIST/raw`. Levels are dequantised, x = (level + u) / 256 with u uniform, drawn once: a
density of the raw levels has no bound, since a pixel that is always black may have any scale. So
log p(x) is, less 784 log 256, a lower bound on the log-probability of the levels.
"""

from __future__ import annotations

import dataclasses
import math

import common
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.distributions import constraints

import pyro_vae as pv

MODES = ("1.0", "shared", "predicted")
LATENT, HIDDEN, EPOCHS, BATCH, LR, SEED = 16, (256, 256), 40, 100, 1e-3, 0
LEVELS, SHOWN = 256, 12
RECIPE = {"latent": LATENT, "hidden": HIDDEN, "epochs": EPOCHS, "batch_size": BATCH, "lr": LR}


def dequantised(root: str | None) -> pv.data.Dataset:
    """Grey MNIST with uniform noise of one level, in [0, 1]."""
    data = pv.data.load("mnist", root=root, levels=True, download=False)
    noise = torch.Generator().manual_seed(SEED)
    splits = {
        name: (x + torch.rand(x.shape, generator=noise)) / LEVELS
        for name in ("train", "validation", "test")
        for x in [data.split(name)]
    }
    recorded = {"transform": f"(x + u) / {LEVELS}", "dequantize": "uniform, once"}
    return dataclasses.replace(data, support=constraints.real, **splits, **recorded)


def run(mode: str, root: str | None, smoke: bool) -> None:
    """Fits, scores all test images, and writes the result and the draws."""
    data = dequantised(root)
    torch.manual_seed(SEED)
    scale = float(mode) if mode[0].isdigit() else mode
    vae = pv.VAE(
        pv.priors.Normal(LATENT),
        pv.guides.Normal(LATENT),
        pv.likelihoods.Normal(data.event_shape, scale=scale),
        pv.networks.MLP(HIDDEN),
        pv.networks.MLP(HIDDEN),
    )
    fitted = pv.fit(
        vae,
        data.train[:2000] if smoke else data,
        epochs=1 if smoke else EPOCHS,
        batch_size=BATCH,
        lr=LR,
        schedule="cosine",
        seed=SEED,
        device="cpu",
        on_epoch=common.report,
    )
    test = data.test[:200] if smoke else data.test
    scores = pv.evaluate(vae, test, num_samples=200).summary()
    torch.manual_seed(SEED)
    p = vae.decode(vae.prior().sample((SHOWN,)))
    rows = [test[:SHOWN], vae.reconstruct(test[:SHOWN]), p.mean, p.sample()]
    squares = (vae.decode(vae.encode(test).sample()).mean - test).square()
    result = {
        "mode": mode,
        "recipe": RECIPE | {"schedule": "cosine", "seed": SEED},
        "fit_seconds": fitted.seconds,
        "scores": scores,
        # Of one scale for all, that of the greatest ELBO; beside that of the likelihood.
        "optimal_scale": squares.mean().sqrt().item(),
        "mean_scale": p.base_dist.scale.detach().mean().item(),
    }
    print(result)
    if not smoke:
        print(common.write(f"scale_trap-{mode}", result))
        common.RUNS.mkdir(exist_ok=True)
        rows = [torch.cat(list(row[:, 0]), 1) for row in rows]
        np.save(common.RUNS / f"scale_trap-{mode}.npy", torch.stack(rows).detach().numpy())


def table() -> str:
    """Returns the table of all results as Markdown."""
    lines = [
        "| scale | log p(x), nats | ELBO | bits a pixel, at most | mean scale | residual, "
        "root mean square | active units |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    measure = {}
    for each in (found for mode in MODES for found in common.read(f"scale_trap-{mode}.json")):
        scores, measure = each["scores"], each["scores"]["base_measure"]
        dim = measure["dim"]
        bits = (math.log(LEVELS) - scores["log_marginal"] / dim) / math.log(2)
        lines.append(
            f"| {each['mode']} | {scores['log_marginal']:,.1f} | {scores['elbo']:,.1f} | "
            f"{bits:.2f} | {each['mean_scale']:.3f} | {each['optimal_scale']:.3f} | "
            f"{scores['active_units']} of {LATENT} |"
        )
    recorded = ", ".join(f"{name}: {measure[name]}" for name in sorted(measure) if measure[name])
    return "\n".join([*lines, "", f"Base measure: {recorded}."]) + "\n"


def picture() -> None:
    """Shows, for each scale, reconstructions, means of draws and draws."""
    rows = {mode: np.load(common.RUNS / f"scale_trap-{mode}.npy") for mode in MODES}
    names = ("reconstructed", "means of draws", "draws")
    panels = [("data", rows[MODES[0]][0])]
    panels += [
        (f"scale {mode}: {name}", row)
        for mode in MODES
        for name, row in zip(names, rows[mode][1:], strict=True)
    ]
    figure, axes = plt.subplots(len(panels), 1, figsize=(8, 0.88 * len(panels)))
    for axis, (name, row) in zip(axes, panels, strict=True):
        axis.imshow(row, cmap="gray", vmin=0, vmax=1)
        axis.set_title(name, fontsize=8, loc="left", pad=2)
        axis.set_axis_off()
    figure.tight_layout(pad=0.4)
    figure.savefig(common.RESULTS / "scale_trap.png", dpi=110)


if __name__ == "__main__":
    parser = common.Parser(__doc__, table="the table and the picture", data_root="MNIST/raw")
    parser.add_argument("mode", nargs="?", choices=MODES, default="shared")
    args = parser.options()
    if args.table:
        (common.RESULTS / "scale_trap.md").write_text(table())
        picture()
    else:
        run(args.mode, args.data_root, args.smoke)
