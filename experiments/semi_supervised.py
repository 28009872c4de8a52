"""Digits with a hundred labels: the M2 model beside classifiers that see the labelled data alone.

    python experiments/semi_supervised.py              # 15 minutes on one core
    python experiments/semi_supervised.py --table      # results/semi_supervised.md
    python experiments/semi_supervised.py --smoke

1,257 training data, of which 10 of each class have a label, chosen anew with each seed. What there
is to choose of a method (weight of labels, penalty, neighbours) is chosen by the mean error on 180
validation data, for all methods alike; errors are on 360 test data.
"""

from __future__ import annotations

import common
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

import pyro_vae as pv

LABELS, SEEDS, LATENT, HIDDEN, EPOCHS, BATCH, LR = 100, 3, 16, (128,), 50, 128, 3e-3
MODES, WEIGHTS = ("enumerate", "soft"), (1.0, 10.0)
RECIPE = {
    "labels": LABELS,
    "latent": LATENT,
    "hidden": HIDDEN,
    "epochs": EPOCHS,
    "batch_size": BATCH,
    "lr": LR,
    "schedule": "cosine",
}
BASELINES = {
    "logistic regression": {
        f"C = {c:g}": lambda c=c: LogisticRegression(C=c, max_iter=2000) for c in (0.1, 1, 10)
    },
    "nearest neighbours": {f"{k} of them": lambda k=k: KNeighborsClassifier(k) for k in (1, 3, 5)},
}


def fitted(data: pv.data.Dataset, labels: torch.Tensor, mode: str, weight: float, **options):
    """Returns an M2 model fitted to data of which some have labels, and the seconds it took."""
    torch.manual_seed(options["seed"])
    guides = [pv.guides.Normal(LATENT), pv.guides.GumbelSoftmax(1, 10, mode=mode)]
    vae = pv.VAE(
        pv.priors.Product([pv.priors.Normal(LATENT), pv.priors.Categorical(1, 10)]),
        pv.guides.Product(guides, independent=False),
        pv.likelihoods.Bernoulli(data.event_shape),
        pv.networks.MLP(HIDDEN),
        pv.networks.MLP(HIDDEN),
    )
    objective = pv.objectives.ELBO(label_weight=weight)
    chosen = {"batch_size": BATCH, "lr": LR, "schedule": "cosine", "device": "cpu"} | options
    chosen["compile"] = False  # so few steps would not make up for it
    run = pv.fit(vae, data, objective=objective, labels=labels, **chosen)
    return run.vae, run.seconds


def errors(data: pv.data.Dataset, right) -> dict[str, float]:
    """Returns the error on validation and test data of a classifier."""
    return {split: 1 - right(data.split(split), data.labels[split]) for split in _HELD_OUT}


_HELD_OUT = ("validation", "test")


def run(smoke: bool) -> None:
    """Fits everything and writes the results."""
    data = pv.data.load("digits")
    seeds, modes, weights = (SEEDS, MODES, WEIGHTS) if not smoke else (1, MODES[:1], WEIGHTS[:1])
    rows = []
    for seed in range(seeds):
        labels = data.some_labels(LABELS, seed)
        known = labels >= 0
        x, y = data.train[known].flatten(1).numpy(), labels[known].numpy()
        for method, settings in BASELINES.items():
            for setting, build in settings.items():
                model = build().fit(x, y)

                def right(x, y, model=model) -> float:
                    return model.score(x.flatten(1).numpy(), y.numpy())

                rows.append({"method": method, "setting": setting} | errors(data, right))
        for mode in modes:
            for weight in weights:
                epochs = 2 if smoke else EPOCHS
                vae, seconds = fitted(data, labels, mode, weight, seed=seed, epochs=epochs)

                def right(x, y, vae=vae) -> float:
                    return pv.evaluation.accuracy(vae, x, y)[0]

                found = {"method": f"M2, `{mode}`", "setting": f"label_weight = {weight:g}"}
                rows.append(found | errors(data, right) | {"fit_seconds": seconds})
                print(seed, rows[-1], flush=True)
    if not smoke:
        print(common.write("semi_supervised", {"recipe": RECIPE, "seeds": seeds, "rows": rows}))


def table() -> str:
    """Returns the table of the results as Markdown."""
    (found,) = common.read("semi_supervised.json")
    lines = [
        f"| trained on {found['recipe']['labels']} labels | chosen | validation error | test error "
        "(standard error over seeds) | seconds a fit |",
        "|---|---|---:|---:|---:|",
    ]
    for method in dict.fromkeys(row["method"] for row in found["rows"]):
        rows = [row for row in found["rows"] if row["method"] == method]
        by_setting = {
            setting: [row for row in rows if row["setting"] == setting]
            for setting in dict.fromkeys(row["setting"] for row in rows)
        }
        best = min(by_setting, key=lambda s: np.mean([r["validation"] for r in by_setting[s]]))
        of = {
            key: np.array([row[key] for row in by_setting[best] if key in row])
            for key in (*_HELD_OUT, "fit_seconds")
        }
        test = of["test"]
        error = test.std(ddof=1) / len(test) ** 0.5
        seconds = f"{of['fit_seconds'].mean():.0f}" if len(of["fit_seconds"]) else ""
        lines.append(
            f"| {method} | {best} | {of['validation'].mean():.1%} | {test.mean():.1%} "
            f"± {error:.1%} | {seconds} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = common.Parser(__doc__, table="results/semi_supervised.md")
    args = parser.options()
    if args.table:
        (common.RESULTS / "semi_supervised.md").write_text(table())
    else:
        run(args.smoke)
