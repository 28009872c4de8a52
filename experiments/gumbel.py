"""Static binarised MNIST with a discrete latent: the relaxations, scored without them.

    python experiments/gumbel.py soft --data-root DATA             # 20 groups of 10 classes
    python experiments/gumbel.py soft --latent Bernoulli --data-root DATA             # 200 binary
    python experiments/gumbel.py soft --published --data-root DATA      # in the paper's own setting
    python experiments/gumbel.py --table                           # results/gumbel.md
    python experiments/gumbel.py soft --smoke --data-root DATA     # under a minute, no figure

Modes are soft, straight-through and concrete; each takes 10 to 20 minutes on one core. (The fourth,
enumerate, would list 10^20 states.) DATA holds `binarized_mnist.npz`. Scores use true discrete
samples on all 10,000 test images: the ELBO, averaged over 1,000 draws an observation, and the
importance-weighted bound of those draws. Published (Jang et al., 2017, table 1, "m = 1000"): 101.5
for Gumbel-Softmax and 107.8 for its straight-through version with categories, 105.0 and 111.5 with
binary variables. Whether that is the average or the bound of several draws the paper leaves open.

Those figures are of other networks than ours: 784-200-784 and "784-(20 x 10)-200", read as an
affine encoder and an affine decoder; of a learned prior, a temperature that stays above 0.5, and
gradient descent with momentum. ``--published`` is that, four learning rates tried, of which the
validation data choose. The paper does not say how many steps it took; here as many as in ours.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import common
import torch

import pyro_vae as pv

GROUPS, CLASSES, BINARY = 20, 10, 200
ENCODER, DECODER = (512, 256), (256, 512)  # as in the paper's code
ACTIVATION = "silu"
BATCH = 100
EPOCHS = 120  # 60,000 steps
LR = 1e-3
TEMPERATURE, MIN_TEMPERATURE, ANNEAL_RATE = 1.0, 0.1, 4e-5
PUBLISHED = {
    "Categorical": {"soft": 101.5, "straight-through": 107.8},
    "Bernoulli": {"soft": 105.0, "straight-through": 111.5},
}
NAMES = {"Categorical": f"{GROUPS} of {CLASSES} classes", "Bernoulli": f"{BINARY} binary"}
LATENTS = {
    "Categorical": (pv.priors.Categorical, pv.guides.GumbelSoftmax, (GROUPS, CLASSES)),
    "Bernoulli": (pv.priors.Bernoulli, pv.guides.RelaxedBernoulli, (BINARY,)),
}
# Chosen by the ELBO of the validation data: most binary variables stay unused without a warm-up.
WARMUP = {"Categorical": 0, "Bernoulli": 20_000}
DROPOUT = {"Categorical": 0.0, "Bernoulli": 0.2}  # of the encoder
MOMENTUM, PUBLISHED_TEMPERATURE = 0.9, 0.5
RATES = (1e-3, 3e-3, 1e-2, 3e-2)  # of a loss that is a mean over the batch


def vae_of(latent: str, mode: str, data: pv.data.Dataset, published: bool) -> pv.VAE:
    """Returns a model with weights as they are drawn now."""
    prior, guide, size = LATENTS[latent]
    deep = partial(pv.networks.MLP, activation=ACTIVATION)
    return pv.VAE(
        prior=prior(*size, learned=published),
        guide=guide(
            *size,
            mode=mode,
            temperature=TEMPERATURE,
            min_temperature=PUBLISHED_TEMPERATURE if published else MIN_TEMPERATURE,
            anneal_rate=ANNEAL_RATE,
        ),
        likelihood=pv.likelihoods.Bernoulli(data.event_shape),
        encoder=pv.networks.MLP(()) if published else deep(ENCODER, dropout=DROPOUT[latent]),
        decoder=pv.networks.MLP(()) if published else deep(DECODER),
    )


def recipe_of(latent: str, published: bool) -> dict[str, Any]:
    """Returns how a model is made and fitted, but for its learning rate."""
    if published:
        return {
            "encoder": (),
            "decoder": (),
            "batch_size": BATCH,
            "epochs": EPOCHS,
            "momentum": MOMENTUM,
            "rates": RATES,
            "temperature": [TEMPERATURE, PUBLISHED_TEMPERATURE, ANNEAL_RATE],
            "prior": "learned",
        }
    return {
        "encoder": ENCODER,
        "decoder": DECODER,
        "activation": ACTIVATION,
        "batch_size": BATCH,
        "epochs": EPOCHS,
        "lr": LR,
        "schedule": "cosine",
        "temperature": [TEMPERATURE, MIN_TEMPERATURE, ANNEAL_RATE],
        "warmup": WARMUP[latent],
        "encoder_dropout": DROPOUT[latent],
    }


def fitted(
    latent: str, mode: str, data: pv.data.Dataset, seed: int, epochs: int, rate: float | None
) -> pv.Run:
    """Fits by our recipe, or by the published one with a learning rate."""
    torch.manual_seed(seed)
    vae = vae_of(latent, mode, data, published=rate is not None)
    options: dict[str, Any] = {
        "epochs": epochs, "batch_size": BATCH, "seed": seed, "device": "cpu",
        "on_epoch": common.report,
    }  # fmt: skip
    if rate is None:
        warmup = pv.objectives.ELBO(warmup=WARMUP[latent])
        return pv.fit(vae, data, objective=warmup, lr=LR, schedule="cosine", **options)
    # The loss here is a sum over the batch.
    descent = partial(torch.optim.SGD, lr=rate / BATCH, momentum=MOMENTUM)
    return pv.fit(vae, data, optim=descent, **options)


def run(latent: str, mode: str, seed: int, root: str | None, smoke: bool, published: bool) -> None:
    """Fits with one latent and relaxation and writes the result."""
    data = pv.data.load("binarized_mnist", root=root, download=False)
    if smoke:
        data = pv.data.load(data.train[:2000], validation=0.1, test=0.1)
    rates = RATES if published else (None,)
    epochs = 1 if smoke else EPOCHS
    fits = {rate: fitted(latent, mode, data, seed, epochs, rate) for rate in rates}
    validation = {rate: max(each.history["validation_elbo"]) for rate, each in fits.items()}
    best = max(validation, key=lambda rate: validation[rate])
    scores = pv.evaluate(fits[best].vae, data.test, num_samples=20 if smoke else 1000)
    summary = scores.summary()
    print(f"-ELBO {-summary['elbo']:.2f}, importance-weighted {-summary['log_marginal']:.2f}")
    result = {
        "law": latent,
        "mode": mode,
        "published": published,
        "recipe": recipe_of(latent, published),
        "seed": seed,
        "rate": best,
        "validation": list(validation.values()),
        "fit_seconds": fits[best].seconds,
        "engine": fits[best].engine,
        "best_epoch": fits[best].best_epoch,
        "scores": summary,
    }
    if not smoke:
        words = ("published",) * published + (latent,) * (latent != "Categorical")
        print(common.write("-".join(("gumbel", *words, mode, str(seed))), result))


def table() -> str:
    """Returns the table of all results as Markdown."""
    lines = [
        "| latent | relaxation | setting | minutes | -ELBO, discrete draws | 1,000 samples | "
        "published -ELBO, of affine networks |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for each in sorted(
        common.read("gumbel-*.json"),
        key=lambda e: (e.get("law", "Categorical") != "Categorical", e.get("published", False)),
    ):
        latent, scores = each.get("law", "Categorical"), each["scores"]
        minutes = each["fit_seconds"] / 60
        setting = "published" if each.get("published", False) else "ours"
        lines.append(
            f"| {NAMES[latent]} | {each['mode']} | {setting} | {minutes:.0f} | "
            f"{-scores['elbo']:.2f} | {-scores['log_marginal']:.2f} | "
            f"{PUBLISHED[latent].get(each['mode'], '')} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = common.Parser(
        __doc__, table="results/gumbel.md", data_root="binarized_mnist.npz", threads=2
    )
    modes = ("soft", "straight-through", "concrete")
    parser.add_argument("mode", nargs="?", choices=modes, default="soft")
    parser.add_argument("--latent", choices=LATENTS, default="Categorical")
    parser.add_argument("--published", action="store_true", help="in the setting of the paper")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.options()
    if args.table:
        (common.RESULTS / "gumbel.md").write_text(table())
    else:
        run(args.latent, args.mode, args.seed, args.data_root, args.smoke, args.published)
