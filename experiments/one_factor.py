"""Static binarised MNIST, one factor at a time: what a prior, a guide or an objective is worth.

    python experiments/one_factor.py vamp --data-root DATA     # 5 to 20 minutes on one core
    python experiments/one_factor.py --table                   # results/one_factor.md
    python experiments/one_factor.py vamp --smoke --data-root DATA

DATA holds `binarized_mnist.npz`. Each row changes one part of the first; networks (300-300, 40
latent dimensions), epochs, step size and seed are the same. All are far from converged: published
figures are of hundreds of epochs. Scores are by 1,000 importance samples on the first 2,500 test
images, the same for all, so that differences are paired, with the intervals of `compare`: wider by
how much too low importance weighting may be, bounded by what ten times the draws have gained. Those
images are easier than the rest: what compares with other networks is the validation ELBO, of
10,000 images. `IWAE` has no warm-up of the KL: "cold", the ELBO without one, is beside it.
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import common
import numpy as np
import torch

import pyro_vae as pv

LATENT, HIDDEN, EPOCHS, BATCH, LR, SEED = 40, (300, 300), 30, 100, 1e-3, 0
IMAGES, SAMPLES = 2500, 1000
RECIPE = {
    "latent": LATENT,
    "hidden": HIDDEN,
    "activation": "silu",
    "epochs": EPOCHS,
    "batch_size": BATCH,
    "lr": LR,
    "schedule": "cosine",
    "warmup_epochs": 5,
    "seed": SEED,
}
# What each row has in place of a normal prior, a normal guide and the ELBO.
ROWS = {
    "base": {},
    "mixture": {"prior": lambda: pv.priors.Mixture(LATENT, components=50)},
    "vamp": {"prior": lambda: pv.priors.VampPrior(LATENT, pseudo_inputs=500)},
    "priors.Flow": {"prior": lambda: pv.priors.Flow(LATENT)},
    "full": {"guide": lambda: pv.guides.FullNormal(LATENT)},
    "guides.Flow": {"guide": lambda: pv.guides.Flow(LATENT)},
    "cold": {"objective": pv.objectives.ELBO},
    "iwae": {"objective": lambda: pv.objectives.IWAE(5, "dreg")},
}
COLD = ("cold", "iwae")  # without a warm-up


def run(name: str, root: str | None, smoke: bool) -> None:
    """Fits one row and writes its result."""
    row, epochs = ROWS[name], 1 if smoke else EPOCHS
    data = pv.data.load("binarized_mnist", root=root, download=False)
    if smoke:
        data = pv.data.load(data.train[:2000], validation=0.1, test=0.1)
    torch.manual_seed(SEED)
    warmup = 5 * math.ceil(len(data.train) / BATCH)
    parts = {
        "prior": lambda: pv.priors.Normal(LATENT),
        "guide": lambda: pv.guides.Normal(LATENT),
        "objective": lambda: pv.objectives.ELBO(warmup=warmup),
    } | row
    objective = parts.pop("objective")()
    vae = pv.VAE(
        **{role: build() for role, build in parts.items()},
        likelihood=pv.likelihoods.Bernoulli(data.event_shape),
        encoder=pv.networks.MLP(HIDDEN),
        decoder=pv.networks.MLP(HIDDEN),
    )
    began = time.process_time()
    fitted = pv.fit(
        vae,
        data,
        objective=objective,
        epochs=epochs,
        batch_size=BATCH,
        lr=LR,
        schedule="cosine",
        seed=SEED,
        device="cpu",
        on_epoch=lambda line: common.report(line, 2),
    )
    seconds = time.process_time() - began
    scores = pv.evaluate(vae, data.test[:IMAGES], num_samples=20 if smoke else SAMPLES)
    result = {
        "row": name,
        "recipe": RECIPE | ({"warmup_epochs": 0} if name in COLD else {}),
        "parts": {"prior": vae.prior.spec(), "guide": vae.guide_family.spec()},
        "objective": type(objective).__name__,
        "parameters": sum(p.numel() for p in vae.parameters()),
        "fit_seconds": seconds,
        "best_epoch": fitted.best_epoch,
        "best_validation_elbo": max(fitted.history["validation_elbo"]),
        "scores": scores.summary(),
        "each": {
            field.name: [round(float(one), 3) for one in value]
            for field in dataclasses.fields(scores)
            if isinstance(value := getattr(scores, field.name), np.ndarray)
        },
    }
    print({key: value for key, value in result.items() if key != "each"})
    if not smoke:
        print(common.write(f"one_factor-{name}", result))


def table() -> str:
    """Returns the table of all results as Markdown."""
    lines = [
        f"| changed | NLL, {SAMPLES:,} samples | too high by, at most | less than the first row | "
        "validation -ELBO | KL | active units | k-hat > threshold | parameters | CPU min a fit |",
        "|---|---:|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    found = {each["row"]: each for each in common.read("one_factor-*.json")}
    scores = {name: _scores(each) for name, each in found.items()}
    for name in ROWS:
        each = found.get(name)
        if each is None:
            lines.append(f"| `{name}` | not measured | | | | | | | | |")
            continue
        gain = _gain(scores, name, "base") if name != "base" and "base" in scores else ""
        summary = each["scores"]
        lines.append(
            f"| {_said(each)} | {-summary['log_marginal']:.2f} | {_bound(scores[name]):.2f} | "
            f"{gain} | {-each['best_validation_elbo']:.2f} | {summary['kl']:.1f} | "
            f"{summary['active_units']} | {summary['k_hat_above_threshold']:.0%} | "
            f"{each['parameters']:,} | {each['fit_seconds'] / 60:.0f} |"
        )
    if set(COLD) <= set(scores):
        lines += ["", f"IWAE less than the ELBO without a warm-up: {_gain(scores, *COLD[::-1])}."]
    return "\n".join(lines) + "\n"


def _scores(each: dict[str, Any]) -> pv.Scores:
    """Puts the scores of a result together again."""
    summary = each["scores"]
    known = ("active_units", "num_samples", "estimator", "base_measure")
    return pv.Scores(
        **{name: np.array(values) for name, values in each["each"].items()},
        **{name: summary[name] for name in known},
        kl_estimator="analytic",
    )


def _bound(scores: pv.Scores) -> float:
    either, _ = pv.compare({"one": scores, "same": scores}).runs
    assert either.bias_bound is not None
    return either.bias_bound


def _gain(scores: dict[str, pv.Scores], name: str, other: str) -> str:
    """By how much the NLL of one is less than that of another, and its interval."""
    _, second = pv.compare({key: scores[key] for key in (name, other)}).runs
    ends = [second.difference, second.difference_low, second.difference_high]
    gain, *interval = ends if second.name == name else [-end for end in ends]
    low, high = sorted(interval)
    return f"{gain:.2f} [{low:.2f}, {high:.2f}]"


def _said(each: dict[str, Any]) -> str:
    parts = [each["parts"][role]["class"] for role in ("prior", "guide")]
    shown = [f"`{name}`" for name in parts if not name.endswith(".Normal")]
    if each["objective"] != "ELBO":
        shown.append(f"`objectives.{each['objective']}`, k = 5, DReG")
    if each["row"] == "cold":
        shown.append("no warm-up of the KL")
    return shown[0] if shown else "nothing: `priors.Normal`, `guides.Normal`, `objectives.ELBO`"


if __name__ == "__main__":
    parser = common.Parser(__doc__, table="results/one_factor.md", data_root="binarized_mnist.npz")
    parser.add_argument("row", nargs="?", choices=ROWS, default="base")
    args = parser.options()
    if args.table:
        (common.RESULTS / "one_factor.md").write_text(table())
    else:
        run(args.row, args.data_root, args.smoke)
