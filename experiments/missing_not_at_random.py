"""Entries that are missing for their own values: means and imputations, with the mask modelled.

    python experiments/missing_not_at_random.py              # half an hour on half a core
    python experiments/missing_not_at_random.py simulated    # it alone; goes on if stopped
    python experiments/missing_not_at_random.py --table      # results/missing_not_at_random.md
    python experiments/missing_not_at_random.py --smoke

Two tables, half of whose columns are censored: the larger an entry, the less often is it observed.

- ``simulated``: 20 tables from a linear-Gaussian model, two latent variables, eight columns, each
  entry observed with probability sigmoid(-3 x). The model that is fitted can be the true one.
- ``breast-cancer``: scikit-learn's, 569 x 30, its columns standardised. In each of 20 repetitions
  15 columns are drawn, of which what is above the mean is missing, all of it, as in the paper's
  experiment (Ipsen, Mattei and Frellsen, 2021, https://arxiv.org/abs/2006.12871). Neither the
  likelihood nor the step is of the model's kind.

The error of a mean is that of the completed table less that of the table before entries were
hidden, averaged over the censored columns, in standard deviations of the columns. MIWAE, which
ignores the mask, and the model with ``missingness="self-masking"`` are otherwise the same. Epochs
and learning rate were chosen on a few tables of the same kind.
"""

from __future__ import annotations

import math
import time
from typing import Any

import common
import scipy.stats
import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor

import pyro_vae as pv

SEEDS, BATCH, LR, HIDDEN = 20, 125, 3e-2, (64,)
DRAWS = {"MIWAE": 20, "missingness": 20, "missingness-100": 100}
ROWS, COLUMNS, LATENT, STEEPNESS = 1000, 8, 2, 3.0
TABLES: dict[str, dict[str, Any]] = {
    "simulated": {"latent": LATENT, "decoder": [], "epochs": 100},
    "breast-cancer": {"latent": 5, "decoder": [], "epochs": 100},
}
TABLES["simulated"]["methods"] = ["mean", *DRAWS]
TABLES["breast-cancer"]["methods"] = ["mean", "MIWAE", "missingness"]
METHODS = {
    "mean": "the mean of the column",
    "MIWAE": "`IWAE(20)`, which ignores the mask: MIWAE",
    "missingness": '`IWAE(20)`, `missingness="self-masking"`',
    "missingness-100": '`IWAE(100)`, `missingness="self-masking"`',
}


def simulated(seed: int) -> tuple[Tensor, Tensor]:
    """Returns a linear-Gaussian table, and which of its entries are observed."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(LATENT, COLUMNS, generator=generator)
    weight = 0.8 * weight / weight.norm(dim=0)
    noise = 0.6 * torch.randn(ROWS, COLUMNS, generator=generator)
    x = torch.randn(ROWS, LATENT, generator=generator) @ weight + noise
    mask = torch.rand(x.shape, generator=generator) < torch.sigmoid(-STEEPNESS * x)
    mask[:, COLUMNS // 2 :] = True
    return x, mask


def breast_cancer(seed: int) -> tuple[Tensor, Tensor]:
    """Returns scikit-learn's table, standardised, and which of its entries are observed."""
    raw = torch.tensor(load_breast_cancer().data, dtype=torch.float32)
    x = (raw - raw.mean(0)) / raw.std(0, correction=0)
    mask = x <= 0
    mask[:, torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(seed))[::2]] = True
    return x, mask


def completed(method: str, table: str, x: Tensor, mask: Tensor, seed: int, epochs: int) -> Tensor:
    """Returns a table filled by one method."""
    holes = torch.where(mask, x, torch.nan)
    if method == "mean":
        return torch.where(mask, x, holes.nanmean(0))
    chosen = TABLES[table]
    vae = pv.VAE(
        pv.priors.Normal(chosen["latent"]),
        pv.guides.Normal(chosen["latent"]),
        pv.likelihoods.Normal((x.shape[1],)),
        pv.networks.MLP(HIDDEN),
        pv.networks.MLP(chosen["decoder"]),
        show_mask=True,
        missingness=None if method == "MIWAE" else "self-masking",
        seed=seed,
    )
    pv.fit(
        vae,
        holes,
        mask=mask,
        objective=pv.objectives.IWAE(DRAWS[method]),
        epochs=epochs,
        batch_size=BATCH,
        lr=LR,
        schedule="cosine",
        seed=seed,
        device="cpu",
        compile=False,
    )
    torch.manual_seed(seed)
    return vae.impute(holes, mask, num_samples=1000)


def errors(x: Tensor, mask: Tensor, filled: Tensor) -> dict[str, float]:
    """Returns the error of the mean of censored columns, and that of imputed entries."""
    unit, censored = x.std(0, correction=0), ~mask.all(0)
    bias = ((filled - x).mean(0) / unit)[censored].mean()
    rmse = ((filled - x) / unit)[~mask].square().mean().sqrt()
    return {"bias": bias.item(), "rmse": rmse.item()}


def run(table: str, smoke: bool) -> None:
    """Fills a table by every method, for every seed that has no result yet, and writes each."""
    name, draw = f"missing_not_at_random-{table}", simulated
    if table == "breast-cancer":
        draw = breast_cancer
    recipe = {"batch_size": BATCH, "lr": LR, "schedule": "cosine", "encoder": list(HIDDEN)}
    recipe |= TABLES[table] | {"draws": DRAWS}
    known = [] if smoke else common.read(f"{name}.json")
    result = {"table": table, "recipe": recipe, "seconds": 0.0, "methods": {}}
    if known and known[0]["recipe"] == recipe:
        result = known[0]
    for seed in range(1 if smoke else SEEDS):
        x, mask = draw(seed)
        for method in TABLES[table]["methods"]:
            runs = result["methods"].setdefault(method, [])
            if len(runs) > seed:
                continue
            began = time.perf_counter()
            epochs = 2 if smoke else TABLES[table]["epochs"]
            runs.append(errors(x, mask, completed(method, table, x, mask, seed, epochs)))
            print(table, seed, method, runs[-1], flush=True)
            result["seconds"] += time.perf_counter() - began
            if not smoke:
                common.write(name, result)


def interval(values: list[float]) -> tuple[float, float]:
    """Returns the mean, and half the width of its 95% interval by Student's t."""
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    factor = float(scipy.stats.t.ppf(0.975, len(values) - 1))
    return mean, factor * math.sqrt(variance / len(values))


def table() -> str:
    """Returns the table of the result as Markdown."""
    lines = [
        "| table | completed by | runs | error of the means of censored columns, in sd (95% "
        "interval) | root mean squared error of imputed entries, in sd (95% interval) |",
        "|---|---|---:|---:|---:|",
    ]
    for each in reversed(common.read("missing_not_at_random-*.json")):
        for method, runs in each["methods"].items():
            cells = [interval([one[key] for one in runs]) for key in ("bias", "rmse")]
            (bias, width), (rmse, spread) = cells
            name = each["table"].replace("-", " ")
            lines.append(
                f"| {name} | {METHODS[method]} | {len(runs)} | {bias:+.3f} ± {width:.3f} | "
                f"{rmse:.3f} ± {spread:.3f} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = common.Parser(__doc__, table="results/missing_not_at_random.md")
    parser.add_argument("tables", nargs="*", help=f"of {', '.join(TABLES)}; all if none is named")
    args = parser.options()
    if args.table:
        (common.RESULTS / "missing_not_at_random.md").write_text(table())
    else:
        for name in args.tables or TABLES:
            run(name, args.smoke)
