"""Digits and MNIST under several likelihoods: what does each not reproduce?

    python experiments/criticism.py digits Bernoulli               # seconds
    python experiments/criticism.py mnist normal-shared --data-root DATA   # about a minute
    python experiments/criticism.py --table                        # results/criticism.md and .png
    python experiments/criticism.py digits Bernoulli --smoke

Short fits of small networks: the digits for 30 epochs, MNIST for 5 epochs of 10,000 images. Checked
on test data (of MNIST, 300). Log-densities under these likelihoods cannot be compared; the checks
can, since each model is held against data as it takes them: binary, counts or grey values.
"""

from __future__ import annotations

import time

import common
import matplotlib.pyplot as plt
import torch

import pyro_vae as pv
from pyro_vae.criticism import check

SETS = {
    "digits": {"latent": 8, "hidden": (64,), "epochs": 30, "train": 1257, "checked": 360},
    "mnist": {"latent": 16, "hidden": (256,), "epochs": 5, "train": 10_000, "checked": 300},
}
LIKELIHOODS = {  # likelihood, its options, how the data are loaded, what the table calls it
    "Bernoulli": ("Bernoulli", {}, {"binarize": "threshold"}, "`Bernoulli`, binarised"),
    "normal-fixed": ("Normal", {"scale": 0.1}, {"binarize": "none"}, "`Normal`, scale 0.1"),
    "normal-shared": ("Normal", {}, {"binarize": "none"}, "`Normal`, one learned scale"),
    "continuous": ("ContinuousBernoulli", {}, {"binarize": "none"}, "`ContinuousBernoulli`"),
    "Poisson": ("Poisson", {}, {"levels": True}, "`Poisson`, grey levels as counts"),
    # The digits have 17 grey levels.
    "beta-binomial": ("BetaBinomial", {"levels": 17}, {"levels": True}, "`BetaBinomial`, levels"),
}
BATCH, LR, SEED = 128, 3e-3, 0


def run(name: str, key: str, root: str | None, smoke: bool) -> None:
    """Fits, checks the test data, and writes the result."""
    settings, (likelihood, options, loading, _) = SETS[name], LIKELIHOODS[key]
    data = pv.data.load(name, root=root, download=False, **loading)
    torch.manual_seed(SEED)
    vae = pv.VAE(
        pv.priors.Normal(settings["latent"]),
        pv.guides.Normal(settings["latent"]),
        getattr(pv.likelihoods, likelihood)(data.event_shape, **options),
        pv.networks.MLP(hidden=settings["hidden"]),
        pv.networks.MLP(hidden=settings["hidden"]),
    )
    start = time.process_time()
    fitted = pv.fit(
        vae,
        data.train[: settings["train"]],
        epochs=1 if smoke else settings["epochs"],
        batch_size=BATCH,
        lr=LR,
        schedule="cosine",
        seed=SEED,
        device="cpu",
        compile=False,
    )
    checks = check(vae, data.test, max_data=40 if smoke else settings["checked"], seed=SEED)
    print(checks)
    result = {
        "data": name,
        "likelihood": key,
        "settings": settings | {"batch_size": BATCH, "lr": LR, "seed": SEED},
        "elbo": fitted.history["elbo"][-1],
        "checks": checks.summary(),
        "seconds": time.process_time() - start,
    }
    if not smoke:
        print(common.write(f"criticism-{name}-{key}", result))


def found() -> list[dict[str, object]]:
    """Reads the results in the order of SETS and LIKELIHOODS."""
    names = [f"criticism-{name}-{key}.json" for name in SETS for key in LIKELIHOODS]
    return [result for name in names for result in common.read(name)]


def table() -> str:
    """Returns the table of all results as Markdown."""
    lines = [
        "| data | likelihood | AUC, draws from data | failed | which, by the size of the effect |",
        "|---|---|---|---:|---|",
    ]
    for each in found():
        checks = each["checks"]
        failed = [row for row in checks["rows"] if row["failed"]]
        sizes = []
        for size in ("large", "moderate", "small", "negligible"):
            named = [_effect(row) for row in failed if row["severity"] == size]
            sizes += [f"**{size}**: {', '.join(named)}"] * bool(named)
        count = f"{checks['num_failed']} of {checks['num_checks']}"
        name = LIKELIHOODS[each["likelihood"]][3]
        area = checks["headline"].partition("AUC ")[2]
        lines.append(f"| {each['data']} | {name} | {area} | {count} | {'; '.join(sizes)} |")
    return "\n".join(lines) + "\n"


def _effect(row: dict[str, object]) -> str:
    """The name of a statistic and its effect; infinite where nothing varies."""
    effect = row["effect"]
    return f"{row['statistic']} {'∞' if effect is None else format(effect, '+.1f')}"


def picture() -> None:
    """Draws each observed value against the interval of its replicates, a panel a model."""
    results = [each for each in found() if each["data"] == "digits"]
    figure, axes = plt.subplots(2, -(-len(results) // 2), figsize=(10.5, 9), squeeze=False)
    for axis, each in zip(axes.flat, results, strict=False):
        rows = [row for row in each["checks"]["rows"] if row["calibrated"]][::-1]
        for height, row in enumerate(rows):
            middle, half = (row["low"] + row["high"]) / 2, (row["high"] - row["low"]) / 2
            # Replicates that are all alike have no width: what is not like them is far out.
            off = (row["observed"] - middle) / max(half, 1e-9)
            shown = max(-4.0, min(4.0, off))
            marker = "o" if shown == off else "<" if off < 0 else ">"
            colour = "tab:red" if row["failed"] else "tab:blue"
            axis.plot([-1, 1], [height, height], color="0.75", lw=6, solid_capstyle="round")
            axis.plot(shown, height, marker, color=colour, ms=7)
        axis.set_yticks(range(len(rows)), [row["statistic"] for row in rows], fontsize=8)
        axis.set_xlim(-4.5, 4.5)
        axis.set_xticks([-1, 1], ["2.5%", "97.5%"], fontsize=8)
        name = LIKELIHOODS[each["likelihood"]][3].replace("`", "")
        failed = f"{each['checks']['num_failed']} of {each['checks']['num_checks']} failed"
        axis.set_title(f"{name}\n{failed}", fontsize=9)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(left=False)
    figure.suptitle("Held-out digits (dots; red: failed) against the model's replicates (bars)")
    figure.tight_layout()
    figure.savefig(common.RESULTS / "criticism.png", dpi=110)


if __name__ == "__main__":
    parser = common.Parser(
        __doc__,
        smoke="one epoch and few data, no figure",
        table="the table and the picture",
        data_root="MNIST/raw",
    )
    parser.add_argument("data", nargs="?", choices=SETS, default="digits")
    parser.add_argument("likelihood", nargs="?", choices=LIKELIHOODS, default="Bernoulli")
    args = parser.options()
    if args.table:
        (common.RESULTS / "criticism.md").write_text(table())
        picture()
    else:
        run(args.data, args.likelihood, args.data_root, args.smoke)
