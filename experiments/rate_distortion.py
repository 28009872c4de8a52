"""Handwritten digits: a sweep over beta, drawn as a rate-distortion curve.

    python experiments/rate_distortion.py           # 5 minutes on one core; also draws the PNG
    python experiments/rate_distortion.py --table   # results/rate_distortion.md
    python experiments/rate_distortion.py --smoke   # under a minute, no figure

One VAE for each beta, fitted to scikit-learn's digits and measured on the 360 test images. The
rate is split into the information that the latent has of x and what q(z) differs from the prior by.
"""

from __future__ import annotations

import common
import torch
from matplotlib.figure import Figure

import pyro_vae as pv
from pyro_vae.evaluation import rate_distortion

BETAS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
LATENT, EPOCHS = 16, 60


def run(smoke: bool) -> None:
    """Fits and measures one model for each beta."""
    data = pv.data.load("digits")
    points = []
    for beta in (0.5, 4.0) if smoke else BETAS:
        torch.manual_seed(0)
        vae = pv.VAE(
            prior=pv.priors.Normal(LATENT),
            guide=pv.guides.Normal(LATENT),
            likelihood=pv.likelihoods.Bernoulli(data.event_shape),
        )
        pv.fit(
            vae,
            data.train,  # without validation: the last weights, whatever their ELBO with beta = 1
            objective=pv.objectives.ELBO(beta=beta),
            epochs=2 if smoke else EPOCHS,
            lr=3e-3,
            schedule="cosine",
            seed=0,
            device="cpu",
        )
        found = rate_distortion(vae, data.test)
        print(f"beta = {beta:g}: {found}", flush=True)
        points.append({"beta": beta} | found.summary())
    if smoke:
        return
    common.write("rate_distortion", {"latent": LATENT, "epochs": EPOCHS, "points": points})
    draw(points)


def draw(points: list[dict[str, float]]) -> None:
    """Draws the curve, and beside it what the rate is made of."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    curve, parts = figure.subplots(1, 2)
    rates, distortions = ([p[key] for p in points] for key in ("rate", "distortion"))
    curve.errorbar(
        rates,
        distortions,
        xerr=[p["rate_standard_error"] for p in points],
        yerr=[p["distortion_standard_error"] for p in points],
        fmt="o-",
        color="#1a5fb4",
        ms=5,
        lw=1.3,
        elinewidth=0.8,
    )
    for point, rate, distortion in zip(points, rates, distortions, strict=True):
        at = {"xytext": (7, 6), "textcoords": "offset points", "fontsize": 9}
        curve.annotate(f"β = {point['beta']:g}", (rate, distortion), **at)
    best = min(r + d for r, d in zip(rates, distortions, strict=True))
    curve.plot(
        [0, best],
        [best, 0],
        ":",
        color="#9aa0a6",
        label=f"rate + distortion = {best:.1f}, the best ELBO of all",
    )
    curve.set(xlabel="rate, KL(q(z | x) || p(z)), nats", ylabel="distortion, -E log p(x | z), nats")
    curve.set_title("A sweep over β: lower and further left is better", fontsize=11)
    curve.margins(x=0.12)
    curve.legend(frameon=False, fontsize=9)
    betas = [p["beta"] for p in points]
    shown = {
        "rate": ("rate", "#1a5fb4", "o-"),
        "mutual_information": ("I(x; z), at most log N", "#2a9d4a", "s-"),
        "marginal_kl": ("KL(q(z) || p(z))", "#c64600", "^-"),
    }
    for key, (label, colour, style) in shown.items():
        parts.plot(betas, [p[key] for p in points], style, color=colour, label=label, ms=5, lw=1.3)
    cap = points[0]["largest_mutual_information"]
    parts.axhline(cap, ls=":", color="#9aa0a6", label=f"log N = {cap:.2f}")
    parts.set_xscale("log")
    parts.set_xticks(betas, [f"{b:g}" for b in betas])
    parts.minorticks_off()
    parts.set(xlabel="β", ylabel="nats an image", ylim=(0, None))
    parts.set_title("What the rate is made of", fontsize=11)
    parts.legend(frameon=False, fontsize=9)
    for axes in (curve, parts):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(common.RESULTS / "rate_distortion.png", dpi=150)


def table() -> str:
    """Returns the table of all results as Markdown."""
    (result,) = common.read("rate_distortion.json")
    lines = [
        "| β | distortion | rate | I(x; z) | KL(q(z) ‖ p(z)) | −ELBO | active units |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for p in result["points"]:
        cells = [
            f"{p[key]:.2f} ± {p[f'{key}_standard_error']:.2f}"
            for key in ("distortion", "rate", "mutual_information", "marginal_kl")
        ]
        lines.append(
            f"| {p['beta']:g} | {' | '.join(cells)} | {-p['elbo']:.2f} | {p['active_units']} |"
        )
    cap = result["points"][0]["largest_mutual_information"]
    return "\n".join(lines) + f"\n\nI(x; z) is at most log N = {cap:.2f}; ± is over the data.\n"


if __name__ == "__main__":
    parser = common.Parser(__doc__, table="results/*.md")
    args = parser.options()
    if args.table:
        (common.RESULTS / "rate_distortion.md").write_text(table())
    else:
        run(args.smoke)
