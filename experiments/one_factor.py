"""Static binarised MNIST, one factor at a time: what a prior, a guide or an objective is worth.

    python experiments/one_factor.py vamp --data-root DATA     # 5 to 20 minutes on one core
    python experiments/one_factor.py --table                   # results/one_factor.md
    python experiments/one_factor.py vamp --smoke --data-root DATA

DATA holds `binarized_mnist.npz`. Each row changes one part of the first; networks (300-300, 40
latent dimensions), epochs, step size and seed are the same. All are far from converged: published
figures are of hundreds of epochs. Scores are by 1,000 importance samples on the first 2,500 test
images, the same for all, so that differences are paired. Those are easier than the rest: what
compares with other networks is the validation ELBO, of 10,000 images.
"""

from __future__ import annotations

import math

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
    "iwae": {"objective": lambda: pv.objectives.IWAE(5, "dreg")},
}


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
    scores = pv.evaluate(vae, data.test[:IMAGES], num_samples=20 if smoke else SAMPLES)
    result = {
        "row": name,
        "recipe": RECIPE | ({"warmup_epochs": 0} if name == "iwae" else {}),
        "parts": {"prior": vae.prior.spec(), "guide": vae.guide_family.spec()},
        "objective": type(objective).__name__,
        "parameters": sum(p.numel() for p in vae.parameters()),
        "fit_seconds": fitted.seconds,
        "best_epoch": fitted.best_epoch,
        "best_validation_elbo": max(fitted.history["validation_elbo"]),
        "scores": scores.summary(),
        "log_marginal": [round(float(value), 4) for value in scores.log_marginal],
    }
    print({key: value for key, value in result.items() if key != "log_marginal"})
    if not smoke:
        print(common.write(f"one_factor-{name}", result))


def table() -> str:
    """Returns the table of all results as Markdown."""
    lines = [
        f"| changed | NLL, {SAMPLES:,} samples | less than the first row | validation -ELBO | KL | "
        "active units | k-hat > threshold | parameters | minutes a fit |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    found = {each["row"]: each for each in common.read("one_factor-*.json")}
    base = np.array(found["base"]["log_marginal"]) if "base" in found else None
    for name in ROWS:
        each = found.get(name)
        if each is None:
            lines.append(f"| `{name}` | not measured | | | | | | | |")
            continue
        scores, gain = each["scores"], ""
        if base is not None and name != "base":
            paired = np.array(each["log_marginal"]) - base
            gain = f"{paired.mean():.2f} ± {paired.std(ddof=1) / len(paired) ** 0.5:.2f}"
        lines.append(
            f"| {_said(each)} | {-scores['log_marginal']:.2f} | {gain} | "
            f"{-each['best_validation_elbo']:.2f} | {scores['kl']:.1f} | "
            f"{scores['active_units']} | {scores['k_hat_above_threshold']:.0%} | "
            f"{each['parameters']:,} | {each['fit_seconds'] / 60:.0f} |"
        )
    return "\n".join(lines) + "\n"


def _said(each: dict) -> str:
    parts = [each["parts"][role]["class"] for role in ("prior", "guide")]
    shown = [f"`{name}`" for name in parts if not name.endswith(".Normal")]
    if each["objective"] != "ELBO":
        shown.append(f"`objectives.{each['objective']}`, k = 5, DReG")
    return shown[0] if shown else "nothing: `priors.Normal`, `guides.Normal`, `objectives.ELBO`"


if __name__ == "__main__":
    parser = common.Parser(__doc__, table="results/one_factor.md", data_root="binarized_mnist.npz")
    parser.add_argument("row", nargs="?", choices=ROWS, default="base")
    args = parser.options()
    if args.table:
        (common.RESULTS / "one_factor.md").write_text(table())
    else:
        run(args.row, args.data_root, args.smoke)
