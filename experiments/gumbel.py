"""Static binarised MNIST with a discrete latent: the relaxations, scored without them.

    python experiments/gumbel.py soft --data-root DATA             # 20 groups of 10 classes
    python experiments/gumbel.py soft --latent Bernoulli --data-root DATA             # 200 binary
    python experiments/gumbel.py --table                           # results/gumbel.md
    python experiments/gumbel.py soft --smoke --data-root DATA     # under a minute, no figure

Modes are soft, straight-through and concrete; each takes 10 to 20 minutes on one core. (The fourth,
enumerate, would list 10^20 states.) DATA holds `binarized_mnist.npz`. Scores use true discrete
samples on all 10,000 test images: the ELBO, averaged over 1,000 draws an observation, and the
importance-weighted bound of those draws. Published (Jang et al., 2017, table 1, "m = 1000"): 101.5
for Gumbel-Softmax and 107.8 for its straight-through version with categories, 105.0 and 111.5 with
binary variables.
"""

from __future__ import annotations

from functools import partial

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


def run(latent: str, mode: str, seed: int, root: str | None, smoke: bool) -> None:
    """Fits with one latent and relaxation and writes the result."""
    data = pv.data.load("binarized_mnist", root=root, download=False)
    if smoke:
        data = pv.data.load(data.train[:2000], validation=0.1, test=0.1)
    torch.manual_seed(seed)
    mlp = partial(pv.networks.MLP, activation=ACTIVATION)
    prior, guide, size = LATENTS[latent]
    vae = pv.VAE(
        prior=prior(*size),
        guide=guide(
            *size,
            mode=mode,
            temperature=TEMPERATURE,
            min_temperature=MIN_TEMPERATURE,
            anneal_rate=ANNEAL_RATE,
        ),
        likelihood=pv.likelihoods.Bernoulli(data.event_shape),
        encoder=mlp(ENCODER, dropout=DROPOUT[latent]),
        decoder=mlp(DECODER),
    )
    epochs = 1 if smoke else EPOCHS
    fitted = pv.fit(
        vae,
        data,
        objective=pv.objectives.ELBO(warmup=WARMUP[latent]),
        epochs=epochs,
        batch_size=BATCH,
        lr=LR,
        schedule="cosine",
        seed=seed,
        device="cpu",
        on_epoch=common.report,
    )
    scores = pv.evaluate(vae, data.test, num_samples=20 if smoke else 1000)
    summary = scores.summary()
    print(f"-ELBO {-summary['elbo']:.2f}, importance-weighted {-summary['log_marginal']:.2f}")
    result = {
        "law": latent,
        "mode": mode,
        "recipe": {
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
        },
        "seed": seed,
        "fit_seconds": fitted.seconds,
        "engine": fitted.engine,
        "best_epoch": fitted.best_epoch,
        "scores": summary,
    }
    if not smoke:
        name = mode if latent == "Categorical" else f"{latent}-{mode}"
        print(common.write(f"gumbel-{name}-{seed}", result))


def table() -> str:
    """Returns the table of all results as Markdown."""
    lines = [
        "| latent | relaxation | seed | minutes | -ELBO, discrete draws | 1,000 samples | "
        "published -ELBO |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for each in sorted(
        common.read("gumbel-*.json"), key=lambda e: e.get("law", "Categorical") != "Categorical"
    ):
        latent, scores = each.get("law", "Categorical"), each["scores"]
        minutes = each["fit_seconds"] / 60
        lines.append(
            f"| {NAMES[latent]} | {each['mode']} | {each['seed']} | {minutes:.0f} | "
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
    parser.add_argument("--seed", type=int, default=0)
    args = parser.options()
    if args.table:
        (common.RESULTS / "gumbel.md").write_text(table())
    else:
        run(args.latent, args.mode, args.seed, args.data_root, args.smoke)
