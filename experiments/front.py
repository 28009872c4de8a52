"""The README's picture and its small tables: what this package tells of a model.

    python experiments/front.py --data-root DATA   # some minutes on one core
    python experiments/front.py --table            # results/front.png and results/front_*.md
    python experiments/front.py --smoke --data-root DATA

DATA holds `MNIST/raw`. One model of binarised MNIST, its prior a normalising flow, is fitted, drawn
from, and checked on 1,000 test images. The other tables are short forms of results that have
scripts of their own: `gaps.py`, `calibration.py`, `speed.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import common
import matplotlib.pyplot as plt
import numpy as np
import torch

import pyro_vae as pv

LATENT, HIDDEN, EPOCHS, BATCH, LR, SEED = 20, (400,), 40, 128, 1e-3, 0
COLUMNS, ROWS, CHECKED, DRAWS, SHOWN = 6, 5, 1000, 200, 5
DRAWN = common.RUNS / "front.npz"
BLUE, GREY = "#0072B2", "#999999"  # Okabe and Ito's, which all eyes tell apart


def run(root: str | None, smoke: bool) -> None:
    """Fits, draws, checks, and writes the result."""
    data = pv.data.load("mnist", root=root, binarize="threshold", download=False)
    vae = pv.VAE(
        pv.priors.Flow(LATENT),
        pv.guides.Normal(LATENT),
        pv.likelihoods.Bernoulli(data.event_shape),
        pv.networks.MLP(HIDDEN),
        pv.networks.MLP(HIDDEN),
        seed=SEED,
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
    held_out = data.test[:100] if smoke else data.test[:CHECKED]
    scores = pv.evaluate(vae, held_out, num_samples=DRAWS).summary()
    checks = pv.criticism.check(vae, held_out, seed=SEED)
    torch.manual_seed(SEED)
    means = vae.decode(vae.prior().sample((ROWS * COLUMNS,))).mean.detach()
    result = {
        "fit_seconds": fitted.seconds,
        "scores": scores,
        "headline": checks.headline,
        "checks": checks.summary(),
    }
    print(checks)
    if not smoke:
        print(common.write("front", result))
        common.RUNS.mkdir(exist_ok=True)
        np.savez(DRAWN, data=held_out[: ROWS * COLUMNS], draws=means)


def _sheet(images: np.ndarray) -> np.ndarray:
    """Images in rows, as one."""
    rows = images.reshape(ROWS, COLUMNS, *images.shape[-2:])
    return np.concatenate([np.concatenate(list(row), 1) for row in rows], 0)


def picture(found: dict[str, object], rows: Sequence[dict[str, object]]) -> None:
    """Data beside draws, beside the effect size of each check."""
    drawn = np.load(DRAWN)
    figure, axes = plt.subplots(
        1, 3, figsize=(12, 3.4), width_ratios=(1, 1, 1), layout="constrained"
    )
    for ax, name, title in zip(
        axes, ("data", "draws"), ("data", "draws of the model: probabilities"), strict=False
    ):
        ax.imshow(_sheet(drawn[name]), cmap="gray_r", vmin=0, vmax=1)
        ax.set_title(title, fontsize=11)
        ax.axis("off")
    ax = axes[2]
    for at, row in enumerate(reversed(rows)):
        color = BLUE if row["failed"] else GREY
        ax.plot([row["effect_low"], row["effect_high"]], [at, at], color=color, lw=2)
        ax.plot(row["effect"], at, "o", color=color, ms=5)
    ax.axvline(0, color="black", lw=0.8)
    ax.set_yticks(range(len(rows)), [str(row["statistic"]) for row in reversed(rows)], fontsize=9)
    ax.set_xlabel("data less replicates, in standard deviations", fontsize=9)
    ax.set_title("what differs, and by how much", fontsize=11)
    ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(common.RESULTS / "front.png", dpi=110)


def _checks(rows: Sequence[dict[str, object]]) -> list[str]:
    lines = ["| check | effect, sd [95%] | size | what to swap |", "|---|---:|---|---|"]
    for row in rows:
        effect = f"{row['effect']:+.2f} [{row['effect_low']:.2f}, {row['effect_high']:.2f}]"
        lines.append(f"| {row['title']} | {effect} | {row['severity']} | {row['advice']} |")
    return lines


def _bounds() -> list[str]:
    figures = common.read("gaps-two-layer.json")[0]["figures"]
    names = {
        "elbo": "ELBO: the bound that was trained",
        "elbo_optimal": "ELBO, the guide optimised for each image",
        "iw_200": "importance weighting, 200 draws",
        "iw_5000": "importance weighting, 5,000 draws",
        "ais": "annealed importance sampling",
    }
    lines = ["| estimate of log p(x) | nats an image ± Monte Carlo |", "|---|---:|"]
    for key, name in names.items():
        value, error = figures[key]
        lines.append(f"| {name} | {value:.3f} ± {error:.3f} |")
    return lines


def _guides() -> list[str]:
    cases = common.read("calibration.json")[0]["cases"]
    kept = ("normal: exact posterior", "normal: scale 10% too small", "normal: collapsed, q = p")
    lines = ["| guide | rejected at 5% |", "|---|---:|"]
    for name in kept:
        case = cases[name]
        lines.append(f"| {name} | {case['convicted']} of {case['replications']} |")
    return lines


def _speed() -> list[str]:
    cases = common.read("speed.json")[0]["cases"]
    kept = ("Pyro: SVI.step", "pythae: trainer", "NumPyro: epoch in one jit", "CompiledSVI.epoch")
    lines = [f"| µs a step | {' | '.join(cases)} |", "|---|" + "---:|" * len(cases)]
    for name in kept:
        own = [f"{case['rows'][name]['us']:,.0f}" for case in cases.values()]
        lines.append(f"| {name} | {' | '.join(own)} |")
    return lines


def tables() -> None:
    """Writes the picture and the tables."""
    found = common.read("front.json")[0]
    rows = [
        row
        for row in found["checks"]["rows"]
        if row["calibrated"] and row["effect"] is not None and math.isfinite(row["effect"])
    ]
    picture(found, rows[:12])
    written = {
        "front_checks": _checks([row for row in rows if row["failed"]][:SHOWN]),
        "front_bounds": _bounds(),
        "front_guides": _guides(),
        "front_speed": _speed(),
    }
    for name, lines in written.items():
        (common.RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print("\n".join(lines))


def main() -> None:
    """Runs it, or writes the tables."""
    written = "results/front.png and results/front_*.md"
    parser = common.Parser(__doc__, table=written, data_root="MNIST/raw")
    args = parser.options()
    if args.table:
        tables()
    else:
        run(args.data_root, args.smoke)


if __name__ == "__main__":
    main()
