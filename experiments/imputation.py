"""Breast cancer data with half of the entries missing at random: how well they are imputed.

    python experiments/imputation.py               # some 10 minutes on one core
    python experiments/imputation.py --table       # results/imputation.md
    python experiments/imputation.py --smoke

scikit-learn's 569 x 30 table, standardised; each entry is hidden with probability one half, and the
squared error of its imputation is averaged over hidden entries. Everything is fitted to the same
incomplete table that is imputed, as in MIWAE (Mattei and Frellsen, 2019,
https://arxiv.org/abs/1812.02633), whose networks and objective these are. A scale for each column,
in place of one that the decoder predicts, and the epochs were chosen on a mask of another seed.
Shifts and scales are those of the complete table, there as here: they decide the unit of the
error, and the models do not need them.
"""

from __future__ import annotations

import math
import warnings

import common
import torch
from sklearn.datasets import load_breast_cancer

import pyro_vae as pv

warnings.filterwarnings("ignore", category=FutureWarning)
from sklearn.experimental import enable_iterative_imputer  # noqa: E402, F401
from sklearn.impute import IterativeImputer, KNNImputer  # noqa: E402

LATENT, HIDDEN, EPOCHS, BATCH, LR, DRAWS, SEEDS = 10, (128, 128), 200, 64, 1e-3, 20, 3
METHODS = ("mean", "neighbours", "regressions", "ELBO", "MIWAE")


def table_with_holes(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The standardised table and which of its entries are observed."""
    raw = torch.tensor(load_breast_cancer().data, dtype=torch.float32)
    x = (raw - raw.mean(0)) / raw.std(0, correction=0)
    return x, torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) > 0.5


def imputed(method: str, x: torch.Tensor, mask: torch.Tensor, seed: int, epochs: int) -> dict:
    """Imputes by one method and returns its errors."""
    holes, extra = torch.where(mask, x, torch.nan), {}
    if method == "mean":
        filled = torch.where(mask, x, holes.nanmean(0))
    elif method == "neighbours":
        filled = torch.from_numpy(KNNImputer().fit_transform(holes.numpy()))
    elif method == "regressions":
        model = IterativeImputer(max_iter=30, random_state=seed, tol=1e-2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that its last round still changed something
            filled = torch.from_numpy(model.fit_transform(holes.numpy()))
    else:
        objective = pv.objectives.IWAE(DRAWS) if method == "MIWAE" else pv.objectives.ELBO()
        torch.manual_seed(seed)
        vae = pv.VAE(
            pv.priors.Normal(LATENT),
            pv.guides.Normal(LATENT),
            pv.likelihoods.StudentT((x.shape[1],), scale="per-dimension"),
            pv.networks.MLP(HIDDEN, "tanh"),
            pv.networks.MLP(HIDDEN, "tanh"),
        )
        fitted = pv.fit(
            vae,
            holes,
            mask=mask,
            objective=objective,
            epochs=epochs,
            batch_size=BATCH,
            lr=LR,
            seed=seed,
            device="cpu",
        )
        torch.manual_seed(seed)
        filled = vae.impute(holes, mask, num_samples=10_000 if epochs == EPOCHS else 100)
        draws = vae.impute(holes, mask, num_samples=1000, num_imputations=100)
        low, high = draws.quantile(0.05, 0), draws.quantile(0.95, 0)
        inside = ((x >= low) & (x <= high))[~mask].float().mean().item()
        extra = {"seconds": fitted.seconds, "coverage_90": inside}
    return {"mse": (filled - x)[~mask].square().mean().item(), **extra}


def run(smoke: bool) -> None:
    """Imputes by every method, for every seed, and writes the result."""
    found: dict = {method: [] for method in METHODS}
    for seed in range(1 if smoke else SEEDS):
        x, mask = table_with_holes(seed)
        for method in METHODS:
            found[method].append(imputed(method, x, mask, seed, 2 if smoke else EPOCHS))
            print(seed, method, found[method][-1], flush=True)
    recipe = {
        "latent": LATENT,
        "hidden": HIDDEN,
        "activation": "tanh",
        "likelihood": "StudentT, scale per dimension",
    }
    recipe |= {"epochs": EPOCHS, "batch_size": BATCH, "lr": LR, "draws": DRAWS, "seeds": SEEDS}
    if not smoke:
        print(common.write("imputation", {"recipe": recipe, "methods": found}))


def table() -> str:
    """Returns the table of the result as Markdown."""
    lines = [
        "| imputed by | squared error, mean of the masks (smallest to largest) | "
        "90% intervals that cover |",
        "|---|---:|---:|",
    ]
    names = {
        "mean": "the mean of the column",
        "neighbours": "5 nearest neighbours (scikit-learn)",
        "regressions": "iterated regressions (scikit-learn)",
        "ELBO": "`vae.impute`, fitted by `ELBO`",
        "MIWAE": f"`vae.impute`, fitted by `IWAE({DRAWS})`: MIWAE",
    }
    for each in common.read("imputation.json"):
        for method, runs in each["methods"].items():
            errors = [one["mse"] for one in runs]
            covered = [one["coverage_90"] for one in runs if "coverage_90" in one]
            mean = math.fsum(errors) / len(errors)
            cover = f"{sum(covered) / len(covered):.0%}" if covered else ""
            lines.append(
                f"| {names[method]} | {mean:.3f} ({min(errors):.3f} to {max(errors):.3f}) | "
                f"{cover} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = common.Parser(__doc__, table="results/imputation.md")
    args = parser.options()
    if args.table:
        (common.RESULTS / "imputation.md").write_text(table())
    else:
        run(args.smoke)
