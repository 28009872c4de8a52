"""Simulation-based calibration passes exact posteriors and rejects wrong guides, no fit needed.

    python experiments/calibration.py            # about 10 minutes on one core
    python experiments/calibration.py --table    # results/calibration.md
    python experiments/calibration.py --smoke    # seconds, no figure

Models of 12 features whose posterior is known: a linear-Gaussian one (4 latents, orthogonal
directions, so that the posterior is diagonal), and a Bernoulli one with two one-hot latents of
three classes, each alone behind half of the features. 500 simulations and 99 draws each, level 5%.
The exact posterior is calibrated 200 times, each wrong guide 40 times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import common
import numpy as np
import torch
from scipy.stats import kstest
from torch import nn

import pyro_vae as pv
from pyro_vae.criticism import Calibration, calibrate
from pyro_vae.criticism.checks import holm
from pyro_vae.distributions import inverse_positive

FEATURES, LATENT, NOISE = 12, 4, 0.7
GROUPS, CLASSES = 2, 3
LEVEL = 0.05
INNOCENT, GUILTY = 200, 40  # replications


@torch.no_grad()
def gaussian(scale: float = 1.0, slope: float = 1.0) -> pv.VAE:
    """A linear-Gaussian model; its guide is the posterior but for these factors."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.linalg.qr(torch.randn(FEATURES, LATENT, generator=generator))[0]
    weight = weight * torch.linspace(0.5, 2.0, LATENT)
    variance = 1 / (1 + weight.square().sum(0) / NOISE**2)
    if slope == 0:  # collapsed: nothing is known of x, so that the prior is all there is
        variance = torch.ones(LATENT)
    encoder, decoder = nn.Linear(FEATURES, 2 * LATENT), nn.Linear(LATENT, FEATURES)
    loc = slope * (weight * variance / NOISE**2).T
    encoder.weight.copy_(torch.cat([loc, torch.zeros_like(loc)]))
    encoder.bias.copy_(torch.cat([torch.zeros(LATENT), inverse_positive(scale * variance.sqrt())]))
    decoder.weight.copy_(weight)
    decoder.bias.zero_()
    return pv.VAE(
        pv.priors.Normal(LATENT),
        pv.guides.Normal(LATENT),
        pv.likelihoods.Normal((FEATURES,), scale=NOISE),
        encoder,
        decoder,
    )


@torch.no_grad()
def categorical(sharpness: float = 1.0) -> pv.VAE:
    """Two one-hot latents; the logits of the guide are the posterior's but for this factor."""
    generator = torch.Generator().manual_seed(1)
    pixels = FEATURES // GROUPS
    logits = 1.5 * torch.randn(GROUPS, CLASSES, pixels, generator=generator)
    slope = torch.block_diag(*logits)
    decoder = nn.Sequential(nn.Flatten(), nn.Linear(GROUPS * CLASSES, FEATURES, bias=False))
    encoder = nn.Sequential(
        nn.Linear(FEATURES, GROUPS * CLASSES), nn.Unflatten(1, (GROUPS, CLASSES))
    )
    decoder[1].weight.copy_(slope.T)
    encoder[0].weight.copy_(sharpness * slope)
    encoder[0].bias.copy_(-sharpness * nn.functional.softplus(logits).sum(-1).flatten())
    return pv.VAE(
        pv.priors.Categorical(GROUPS, CLASSES),
        pv.guides.GumbelSoftmax(GROUPS, CLASSES),
        pv.likelihoods.Bernoulli((FEATURES,)),
        encoder,
        decoder,
    )


CASES: dict[str, tuple[Callable[[], pv.VAE], int]] = {
    "normal: exact posterior": (gaussian, INNOCENT),
    "normal: scale halved": (lambda: gaussian(scale=0.5), GUILTY),
    "normal: collapsed, q = p": (lambda: gaussian(slope=0.0), GUILTY),
    "normal: scale 10% too small": (lambda: gaussian(scale=0.9), GUILTY),
    "one-hot: exact posterior": (categorical, INNOCENT),
    "one-hot: logits 0": (lambda: categorical(0.0), GUILTY),
    "one-hot: logits doubled": (lambda: categorical(2.0), GUILTY),
}


def rejected(run: Calibration, p_values: np.ndarray, wanted: Callable[[str], bool]) -> bool:
    """Whether some of the quantities reject, corrected for their number alone."""
    chosen = [float(p) for name, p in zip(run.names, p_values, strict=True) if wanted(name)]
    return min(holm(chosen)) <= LEVEL


def replicate(build: Callable[[], pv.VAE], replications: int, size: int) -> dict[str, Any]:
    """Calibrates one guide again and again and counts the rejections."""
    vae = build()
    runs = [
        calibrate(vae, num_simulations=size, level=LEVEL, seed=seed) for seed in range(replications)
    ]
    p_values = np.stack([run.p_values for run in runs])
    ks = np.stack([kstest(run.pit, "uniform", axis=0).pvalue for run in runs])
    of_z = [rejected(run, run.p_values, lambda name: name.startswith("z[")) for run in runs]
    by_ks = [rejected(run, p, lambda name: True) for run, p in zip(runs, ks, strict=True)]
    return {
        "replications": replications,
        "convicted": sum(run.num_failed > 0 for run in runs),
        "convicted_by_z_alone": sum(of_z),
        "convicted_by_ks": sum(by_ks),
        "uniform_p": min(holm([float(kstest(p, "uniform").pvalue) for p in p_values.T])),
    }


def table() -> str:
    """Returns the counts as Markdown."""
    (result,) = common.read("calibration.json")
    head = "| guide | rejected | by ranks of z alone | by Kolmogorov-Smirnov | p-values uniform |"
    lines = [head, "|---|---|---|---|---|"]
    for name, each in result["cases"].items():
        n, p = each["replications"], each["uniform_p"]
        counts = [each[k] for k in ("convicted", "convicted_by_z_alone", "convicted_by_ks")]
        uniform = f"p = {p:.2f}" if "exact" in name else "-"
        lines.append(f"| {name} | {' | '.join(f'{c} of {n}' for c in counts)} | {uniform} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = common.Parser(
        __doc__, smoke="a few replications, no figure", table="results/calibration.md"
    )
    args = parser.options()
    if args.table:
        (common.RESULTS / "calibration.md").write_text(table())
    else:
        cases = {}
        for name, (build, replications) in CASES.items():
            size = 100 if args.smoke else 500
            cases[name] = replicate(build, 2 if args.smoke else replications, size)
            print(name, cases[name], flush=True)
        if not args.smoke:
            print(common.write("calibration", {"level": LEVEL, "cases": cases}))
