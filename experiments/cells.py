"""Simulated single-cell counts: a VAE with a negative binomial likelihood, beside scvi-tools' SCVI.

    python -m venv cells && cells/bin/pip install '.[cells]'    # or: pip install 'scvi-tools>=1.4'
    cells/bin/python experiments/cells.py              # what is missing; an hour on one core
    cells/bin/python experiments/cells.py --limit 2    # two of those at most, then stop
    cells/bin/python experiments/cells.py VAE/own/0    # this one, if it is not done
    cells/bin/python experiments/cells.py --table      # results/cells.md
    cells/bin/python experiments/cells.py --smoke      # without scvi-tools if it is not there

5,000 cells of 1,000 genes, 12 types and 2 batches, see cells_data.py: 3,500 to train, 500 to decide
when to stop, 1,000 to test. Both models have 10 latent dimensions, one hidden layer of 128 units, a
dispersion a gene, the batch as condition and the total of a cell as its size, so that both score
log p(x | size, batch). Of two recipes, ``equal`` is the same for both: negative binomial, Adam with
a rate of 1e-3, warm-up of the KL over 20 epochs, batch normalisation, dropout 0.1 in the encoder,
at most 200 epochs, and the weights of the best validation ELBO, for which 30 epochs are waited.
``own`` is what each recommends: all defaults of SCVI, zero-inflated, 400 epochs, all of which warm
up; and the README's lines here, with ten times their epochs. Nothing was chosen on test cells.

Each fit is written as it is done, and a script that was stopped goes on. Fits of the two take
turns; seconds are those of the processor, compilation included, which other work on the core
hardly changes.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cells_data
import common
import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from torch import Tensor

import pyro_vae as pv

LATENT, HIDDEN, BATCH, LR, WARMUP, EPOCHS, PATIENCE, DROPOUT = 10, 128, 128, 1e-3, 20, 200, 30, 0.1
EQUAL: dict[str, Any] = {"epochs": EPOCHS, "lr": LR, "patience": PATIENCE}
# As the README has it for such data: chosen by the ELBO of validation cells.
OWN: dict[str, Any] = {"epochs": 60, "lr": 3e-3, "schedule": "cosine"}
SEEDS, DRAWS, CHECKED, JUDGED, NEIGHBOURS, MIXED = 3, 500, 200, 200, 15, 30
EPOCHS_OF_SCVI = 400  # its defaults, for so few cells
RESULT = common.RESULTS / "cells.json"


@dataclass(frozen=True)
class Posterior:
    """What an importance weight is made of, for B cells of some model.

    Attributes:
        mean: E[z|x], shape ``(B, latent)``.
        draw: From a number K to draws of q(z|x), ``(K, B, latent)``.
        log_likelihood: log p(x|z), from those to ``(K, B)``.
        log_prior: log p(z), likewise.
        log_guide: log q(z|x), likewise.
    """

    mean: Tensor
    draw: Callable[[int], Tensor]
    log_likelihood: Callable[[Tensor], Tensor]
    log_prior: Callable[[Tensor], Tensor]
    log_guide: Callable[[Tensor], Tensor]


@torch.no_grad()
def log_marginal(posterior: Posterior, draws: int, at_once: int = 20) -> tuple[Tensor, Tensor]:
    """Returns log p(x) and the ELBO of each cell, from the same draws of its own q(z|x)."""
    found = []
    for start in range(0, draws, at_once):
        z = posterior.draw(min(at_once, draws - start))
        weight = posterior.log_likelihood(z) + posterior.log_prior(z) - posterior.log_guide(z)
        found.append(weight.double())
    weights = torch.cat(found)
    return weights.logsumexp(0) - math.log(draws), weights.mean(0)


class Ours:
    """Fits and reads a :class:`pyro_vae.VAE`."""

    def __init__(self, cells: cells_data.Cells) -> None:
        self.x = torch.from_numpy(cells.counts)
        self.size = torch.from_numpy(cells.size)
        self.cond = torch.nn.functional.one_hot(torch.from_numpy(cells.batch)).float()
        self.rows = cells.rows
        self.verbs = pv.VAE, pv.fit, pv.evaluate  # imported here, before the clock runs

    def given(self, rows: np.ndarray) -> dict[str, Any]:
        return {"cond": self.cond[rows], "covariates": {"size_factor": self.size[rows]}}

    def fit(self, recipe: str, seed: int, epochs: int | None = None) -> tuple[Any, int]:
        vae = pv.VAE(
            pv.priors.Normal(LATENT),
            pv.guides.Normal(LATENT),
            pv.likelihoods.NegativeBinomial(self.x.shape[1:], size_factor=True),
            pv.networks.MLP((HIDDEN,), "relu", dropout=DROPOUT, norm="batch"),
            pv.networks.MLP((HIDDEN,), "relu", norm="batch"),
            cond_size=cells_data.BATCHES,
            seed=seed,
        )
        train, held_out = (self.rows[name] for name in ("train", "validation"))
        given = {"train": self.given(train), "validation": self.given(held_out)}
        by_name = {
            name: {split: each[name] for split, each in given.items()}
            for name in ("cond", "covariates")
        }
        steps = math.ceil(len(train) / BATCH)
        options = OWN if recipe == "own" else EQUAL
        options = options if epochs is None else options | {"epochs": epochs}
        run = pv.fit(
            vae,
            self.x[train],
            validation=self.x[held_out],
            **by_name,
            **options,
            objective=pv.objectives.ELBO(warmup=WARMUP * steps),
            batch_size=BATCH,
            seed=seed,
            device="cpu",
        )
        print(f"validation ELBO {max(run.history['validation_elbo']):.2f}", flush=True)
        return vae, len(run.history["elbo"])

    def save(self, vae: pv.VAE, path: Path) -> None:
        pv.save(vae, path)

    def load(self, path: Path) -> pv.VAE:
        return pv.load(path)

    def posterior(self, vae: pv.VAE, rows: np.ndarray) -> Posterior:
        x, given = self.x[rows], self.given(rows)
        guide, prior = vae.encode(x, **given), vae.prior()
        return Posterior(
            guide.mean.detach(),
            lambda count: guide.sample((count,)),
            lambda z: vae.decode(z, **given).log_prob(x),
            prior.log_prob,
            guide.log_prob,
        )

    def log_marginal(self, vae: pv.VAE, rows: np.ndarray, draws: int) -> float:
        """By the package itself."""
        scores = pv.evaluate(vae, self.x[rows], num_samples=draws, **self.given(rows))
        return float(scores.log_marginal.mean())


class Theirs:
    """Fits and reads scvi-tools' SCVI."""

    def __init__(self, cells: cells_data.Cells) -> None:
        import scvi

        self.scvi = scvi
        known = np.concatenate([cells.rows["train"], cells.rows["validation"]])
        self.data = self.anndata(cells.counts[known], cells.batch[known])
        self.x, self.batch = torch.from_numpy(cells.counts), torch.from_numpy(cells.batch)[:, None]
        self.split = np.split(np.arange(len(known)), [len(cells.rows["train"])])

    def anndata(self, counts: np.ndarray, batch: np.ndarray) -> Any:
        from anndata import AnnData

        return AnnData(counts, obs={"batch": batch.astype(str)})

    def fit(self, recipe: str, seed: int, epochs: int | None = None) -> tuple[Any, int]:
        scvi = self.scvi
        scvi.settings.seed = seed
        scvi.model.SCVI.setup_anndata(self.data, batch_key="batch")
        most = EPOCHS if recipe == "equal" else EPOCHS_OF_SCVI
        options: dict[str, Any] = {"max_epochs": epochs or most}
        best = _best_weights()
        if recipe == "equal":
            model = scvi.model.SCVI(self.data, gene_likelihood="nb")
            options |= {
                "early_stopping": True,
                "early_stopping_patience": PATIENCE,
                "check_val_every_n_epoch": 1,
                "callbacks": [best],
                "plan_kwargs": {"lr": LR, "n_epochs_kl_warmup": WARMUP},
            }
        else:
            model = scvi.model.SCVI(self.data)
            options |= {"plan_kwargs": {"n_epochs_kl_warmup": most}}
        model.train(
            accelerator="cpu",
            batch_size=BATCH,
            datasplitter_kwargs={"external_indexing": [*self.split, np.array([], int)]},
            enable_progress_bar=False,
            logger=None,
            **options,
        )
        if best.weights is not None:
            model.module.load_state_dict(best.weights)
        return model, model.trainer.current_epoch

    def save(self, model: Any, path: Path) -> None:
        model.save(str(path))

    def load(self, path: Path) -> Any:
        return self.scvi.model.SCVI.load(str(path), self.data, accelerator="cpu")

    @torch.no_grad()
    def posterior(self, model: Any, rows: np.ndarray) -> Posterior:
        x, batch, module = self.x[rows], self.batch[rows], model.module.eval()
        found = module.inference(x, batch)
        guide, total = found["qz"], found["library"]  # the logarithm of the observed total
        prior = torch.distributions.Normal(torch.zeros(LATENT), torch.ones(LATENT))

        def log_likelihood(z: Tensor) -> Tensor:
            count = len(z)
            made = module.generative(
                z.flatten(0, 1), total.repeat(count, 1), batch.repeat(count, 1)
            )
            return made["px"].log_prob(x.repeat(count, 1)).sum(-1).unflatten(0, (count, len(x)))

        return Posterior(
            guide.mean,
            lambda count: guide.sample((count,)),
            log_likelihood,
            lambda z: prior.log_prob(z).sum(-1),
            lambda z: guide.log_prob(z).sum(-1),
        )

    def log_marginal(self, model: Any, rows: np.ndarray, draws: int) -> float:
        """By the package itself."""
        data = self.anndata(self.x[rows].numpy(), self.batch[rows, 0].numpy())
        found = model.get_marginal_ll(
            data, n_mc_samples=draws, batch_size=len(rows), n_mc_samples_per_pass=20
        )
        return float(found)


def _best_weights() -> Any:
    """Returns what keeps the weights of the best validation ELBO, in memory."""
    from lightning.pytorch import Callback

    class Best(Callback):
        weights: dict[str, Tensor] | None = None
        loss = math.inf

        def on_validation_epoch_end(self, trainer: Any, plan: Any) -> None:
            loss = float(trainer.callback_metrics.get("elbo_validation", math.inf))
            if loss < self.loss and not trainer.sanity_checking:
                self.loss = loss
                kept = plan.module.state_dict().items()
                self.weights = {name: each.detach().clone() for name, each in kept}

    return Best()


KINDS = {"VAE": Ours, "SCVI": Theirs}
CELLS = [
    f"{kind}/{recipe}/{seed}"
    for seed in range(SEEDS)
    for recipe in ("equal", "own")
    for kind in KINDS
]


def processor_seconds() -> float:
    """Seconds of the processor that this process and those that it started have had."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def mixing(z: np.ndarray, batch: np.ndarray, neighbours: np.ndarray | None = None) -> float:
    """Returns how many batches the neighbours of a cell come from: from 1 to the number there are.

    The inverse Simpson index of the batches of its nearest neighbours, averaged over cells, as LISI
    (Korsunsky et al., 2019, https://doi.org/10.1038/s41592-019-0619-0) without weights.
    """
    if neighbours is None:
        among = NearestNeighbors(n_neighbors=MIXED + 1).fit(z)
        neighbours = among.kneighbors(z, return_distance=False)[:, 1:]
    shares = np.stack([(batch[neighbours] == each).mean(1) for each in np.unique(batch)])
    return float((1 / np.square(shares).sum(0)).mean())


def mixing_of_types(cells: cells_data.Cells, rows: np.ndarray) -> float:
    """The same if neighbours were any cells of the same type, which batches hold unequally."""
    random, types = np.random.default_rng(0), cells.types[rows]
    alike = [random.choice(np.flatnonzero(types == each), MIXED) for each in types]
    return mixing(np.empty(0), cells.batch[rows], np.array(alike))


def of_latents(z: np.ndarray, cells: cells_data.Cells, rows: np.ndarray) -> dict[str, float]:
    """Returns what latent means of test cells say of types and batches."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    nearest = KNeighborsClassifier(NEIGHBOURS)
    accuracy = cross_val_score(nearest, z, cells.types[rows], cv=folds).mean()
    return {"type_accuracy": float(accuracy), "batch_mixing": mixing(z, cells.batch[rows])}


def measured(
    kind: Ours | Theirs, model: Any, cells: cells_data.Cells, draws: int
) -> tuple[dict[str, float], np.ndarray]:
    """Returns the figures of a fitted model, and log p(x) of each test cell.

    Of the first cells also log p(x) by the model's own package, with which ours is to agree.
    """
    torch.manual_seed(0)
    test, found, means = cells.rows["test"], [], []
    for rows in np.array_split(test, max(1, len(test) // CHECKED)):
        posterior = kind.posterior(model, rows)
        found.append(torch.stack(log_marginal(posterior, draws)))
        means.append(posterior.mean)
    by_cell, elbo = torch.cat(found, 1).numpy()
    row = {"log_marginal": float(by_cell.mean()), "elbo": float(elbo.mean())}
    row |= of_latents(torch.cat(means).numpy(), cells, test)
    row["of_first"] = float(by_cell[:CHECKED].mean())
    row["of_first_by_its_own"] = kind.log_marginal(model, test[:CHECKED], draws)
    return row, by_cell


def checked(cells: cells_data.Cells, folder: Path) -> dict[str, Any]:
    """Returns what a fitted VAE does not reproduce of test cells of their sizes and batches."""
    rows = cells.rows["test"][:JUDGED]
    start = processor_seconds()
    found = pv.criticism.check(pv.load(folder), cells.counts[rows], **Ours(cells).given(rows))
    summary = found.summary()
    kept = {key: summary[key] for key in ("num_failed", "num_checks", "num_draws", "num_data")}
    failed = [row.statistic for row in found.rows if row.failed]
    return kept | {"failed": failed, "seconds": processor_seconds() - start}


def paired(known: dict[str, Any], folder: Path) -> dict[str, dict[str, float]]:
    """Returns log p(x) of the VAE less that of SCVI, nats a cell, and its error over test cells."""
    found = {}
    for recipe in ("equal", "own"):
        both = [
            [np.load(folder / f"{kind}-{recipe}-{seed}.npy") for kind in KINDS]
            for seed in range(SEEDS)
            if all("log_marginal" in known.get(f"{kind}/{recipe}/{seed}", {}) for kind in KINDS)
        ]
        if both:
            gain = np.mean([ours - theirs for ours, theirs in both], 0)
            error = gain.std(ddof=1) / len(gain) ** 0.5
            found[recipe] = {"gain": float(gain.mean()), "standard_error": float(error)}
    return found


def run(names: list[str], limit: int | None, smoke: bool) -> None:
    """Fits and measures what is missing, in turns, and writes after each of the two."""
    sizes = {"cells": 1000, "genes": 150} if smoke else {}
    cells, known = cells_data.simulate(**sizes), {} if smoke else _known()
    folder = Path(tempfile.mkdtemp()) if smoke else common.RUNS / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    done = {name for name, row in known.get("rows", {}).items() if "log_marginal" in row}
    done |= known.keys() & {"check"}
    jobs = [*CELLS, "check"]
    for name in names or [job for job in jobs if job not in done][: 2 if smoke else limit]:
        if name == "check":
            _write(cells, name, checked(cells, folder / "VAE-own-0"), folder)
            continue
        kind, recipe, seed = name.split("/")
        either, path = KINDS[kind](cells), folder / name.replace("/", "-")
        if not path.exists():
            start, wall = processor_seconds(), time.perf_counter()
            model, epochs = either.fit(recipe, int(seed), 2 if smoke else None)
            row = {"seconds": processor_seconds() - start, "wall": time.perf_counter() - wall}
            row["epochs"] = epochs
            either.save(model, path)
            if not smoke:
                _write(cells, name, row, folder)
        else:  # stopped before it was measured
            row = known["rows"][name]
        more, by_cell = measured(either, either.load(path), cells, 10 if smoke else DRAWS)
        print(name, json.dumps(row | more), flush=True)
        if not smoke:
            np.save(path.with_suffix(".npy"), by_cell)
            _write(cells, name, row | more, folder)


def _known() -> dict[str, Any]:
    return json.loads(RESULT.read_text()) if RESULT.exists() else {}


def _write(cells: cells_data.Cells, name: str, row: dict[str, Any], folder: Path) -> None:
    """Adds a fit, or the check, to what is known by now: other processes may have written, too."""
    train, test = cells.rows["train"], cells.rows["test"]
    logged = np.log1p(cells.counts / cells.size[:, None])
    z = PCA(LATENT, random_state=0).fit(logged[train]).transform(logged[test])
    data = {
        "zeros": float((cells.counts == 0).mean()),
        "counts_a_cell": float(cells.counts.sum(1).mean()),
        "types": len(np.unique(cells.types)),
        "mixing_of_types": mixing_of_types(cells, test),
        "principal_components": of_latents(z, cells, test),
    }
    found = _known()
    found |= {"check": row} if name == "check" else {}
    rows = found.get("rows", {}) | ({name: row} if name in CELLS else {})
    ordered = {name: rows[name] for name in CELLS if name in rows}
    versions = {"scvi-tools": version("scvi-tools")}
    settings = {"draws": DRAWS, "neighbours": NEIGHBOURS, "mixed": MIXED, "own": OWN}
    kept = found | {"data": data, "settings": settings, "versions": versions, "rows": ordered}
    kept["paired"] = paired(ordered, folder)
    print(common.write("cells", kept), flush=True)


def table() -> str:
    """Returns the table of the result as Markdown."""
    (result,) = common.read("cells.json")
    lines = [
        "| model | recipe | fits | log p(x), nats a cell | types by neighbours | batches mixed | "
        "epochs | seconds a fit |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for recipe in ("equal", "own"):
        for kind, name in (("VAE", "`pv.VAE`"), ("SCVI", "scvi-tools `SCVI`")):
            rows = [
                row
                for key, row in result["rows"].items()
                if f"{kind}/{recipe}/" in key and "log_marginal" in row
            ]
            if not rows:
                continue
            shown = [
                _spread(rows, "log_marginal", ",.1f"),
                _spread(rows, "type_accuracy", ".1%"),
                _spread(rows, "batch_mixing", ".2f"),
                _spread(rows, "epochs", ".0f"),
                _spread(rows, "seconds", ".0f"),
            ]
            lines.append(f"| {name} | {recipe} | {len(rows)} | {' | '.join(shown)} |")
    data = result["data"]
    linear = data["principal_components"]
    lines.append(
        f"| {LATENT} principal components of logarithms | | | | {linear['type_accuracy']:.1%} | "
        f"{linear['batch_mixing']:.2f} | | |"
    )
    gains = [
        f"{each['gain']:+.1f} ± {each['standard_error']:.1f} ({recipe})"
        for recipe, each in result["paired"].items()
    ]
    scored = [row for row in result["rows"].values() if "log_marginal" in row]
    differ = max(abs(row["of_first"] - row["of_first_by_its_own"]) for row in scored)
    lines += [
        "",
        f"Means (smallest to largest) over fits; seconds of the processor. `pv.VAE` less `SCVI`, "
        f"nats a cell ± the standard error over test cells: {', '.join(gains)}. One estimator for "
        f"both, {result['settings']['draws']} draws; `pv.evaluate` and `get_marginal_ll` differ "
        f"from it by {differ:.2f} at most. Mixed as cells of one type are: "
        f"{data['mixing_of_types']:.2f}.",
    ]
    if (check := result.get("check")) is not None:
        lines[-1] += (
            f" Of {check['num_checks']} checks of {check['num_data']} test cells, those that "
            f"fail: {', '.join(check['failed'])}."
        )
    return "\n".join(lines) + "\n"


def _spread(rows: list[dict[str, float]], key: str, form: str) -> str:
    values = [row[key] for row in rows]
    mean, low, high = np.mean(values), min(values), max(values)
    if low == high:
        return f"{mean:{form}}"
    return f"{mean:{form}} ({low:{form}} to {high:{form}})"


if __name__ == "__main__":
    parser = common.Parser(__doc__, table="results/cells.md")
    parser.add_argument(
        "names", nargs="*", choices=[*CELLS, "check", []], metavar="JOB", help="to do"
    )
    parser.add_argument("--limit", type=int, help="jobs at most, then stop")
    args = parser.options()
    warnings.filterwarnings("ignore", module="lightning|scvi|anndata")
    if args.table:
        (common.RESULTS / "cells.md").write_text(table(), encoding="utf-8")
    else:
        run(args.names, args.limit, args.smoke)
