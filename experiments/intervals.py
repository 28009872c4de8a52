"""How often the intervals of evaluation and of imputation cover, where the truth has a closed form.

    python experiments/intervals.py          # goes on where it was: results/coverage-CELL.json
    python experiments/intervals.py --only impute
    python experiments/intervals.py --table  # results/coverage.md
    python experiments/intervals.py --smoke  # two repetitions of each, no figure

The model is linear-Gaussian, probabilistic PCA: log p(x), the gaps, the mutual information and
p(x_m | x_o) are known. Nothing is fitted: guides have their best parameters, or these with their
scale multiplied. Each repetition has data of its own, and draws of its own.

Intervals are estimate ± 1.645 or 1.96 Monte Carlo errors of the mean over the data, about the exact
mean of the same data, but for: importance weighting "and its bias", whose upper end is above that
by the bound of the bias; the bracket of the mutual information, from the lower estimate less its
error over data to the upper one and its error, about that of the population; `compare`, whose own
intervals, of 95%, are about the difference in the population, 0; and imputed entries, which are
covered by the central 90 and 95% of 199 imputations.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import common
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

import pyro_vae as pv
from pyro_vae.distributions import inverse_positive
from pyro_vae.evaluation import ais, compare, evaluate, gaps, impute, rate_distortion

REPETITIONS = 200
LEVELS = {"90": 1.6449, "95": 1.9600}
FEATURES, LATENTS, NOISE = 12, 4, 0.7
ROWS, FEW_ROWS, DRAWS = 100, 20, 199
EVERY = 10  # repetitions, after which results are written


class Posterior(nn.Module):
    """The encoder of the diagonal guide of least KL to p(z|x), or p(z|x_o) where it sees masks."""

    def __init__(self, weight: Tensor, offset: Tensor, factor: float, masks: bool) -> None:
        super().__init__()
        self.weight, self.offset, self.factor, self.masks = weight, offset, factor, masks

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.ones_like(x)
        if self.masks:
            x, seen = x.split(FEATURES, 1)
        weighted = seen[:, :, None] * self.weight
        precision = torch.eye(LATENTS) + weighted.mT @ self.weight / NOISE**2
        slope = torch.einsum("bfd,bf->bd", weighted, x - self.offset) / NOISE**2
        loc = torch.linalg.solve(precision, slope)
        scale = self.factor * precision.diagonal(dim1=1, dim2=2).rsqrt()
        return torch.stack([loc, inverse_positive(scale)], 1).flatten(1)


class Linear:
    """x = W z + b + noise, with that guide, and what is known of it."""

    def __init__(self, factor: float = 1.0, masks: bool = False) -> None:
        rng = torch.Generator().manual_seed(0)
        shared = torch.randn(FEATURES, 1, generator=rng)
        weight = torch.randn(FEATURES, LATENTS, generator=rng) + 0.5 * shared
        offset = torch.randn(FEATURES, generator=rng)
        decoder = nn.Linear(LATENTS, FEATURES)
        with torch.no_grad():
            decoder.weight.copy_(weight)
            decoder.bias.copy_(offset)
        self.vae = pv.VAE(
            pv.priors.Normal(LATENTS),
            pv.guides.Normal(LATENTS),
            pv.likelihoods.Normal((FEATURES,), scale=NOISE),
            Posterior(weight, offset, factor, masks),
            decoder,
            show_mask=masks,
        )
        W = weight.double()
        covariance = W @ W.T + NOISE**2 * torch.eye(FEATURES).double()
        self.marginal = MultivariateNormal(offset.double(), covariance)
        precision = torch.eye(LATENTS).double() + W.T @ W / NOISE**2
        slope = torch.linalg.solve(precision, W.T) / NOISE**2
        scale = factor * precision.diagonal().rsqrt()
        self.approximation = float(precision.diagonal().log().sum() - precision.logdet()) / 2
        self.amortisation = LATENTS * (factor**2 - 1 - 2 * math.log(factor)) / 2
        aggregate = slope @ covariance @ slope.T + scale.square().diag()
        self.information = float(aggregate.logdet() - 2 * scale.log().sum()) / 2

    def rows(self, count: int, seed: int) -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        noise = torch.randn(count, FEATURES, generator=rng, dtype=torch.float64)
        return (self.marginal.loc + noise @ self.marginal.scale_tril.T).float()

    def log_prob(self, x: Tensor) -> float:
        return float(self.marginal.log_prob(x.double()).mean())


Covered = dict[str, float]


def _inside(truth: float, low: float, high: float, error: float) -> Covered:
    return {
        level: float(low - times * error <= truth <= high + times * error)
        for level, times in LEVELS.items()
    }


def importance(count: int, biased: bool, seed: int) -> Covered:
    """Draws of a guide whose scale is 1.5 times too large."""
    linear = Linear(1.5)
    x = linear.rows(ROWS, seed)
    found = evaluate(linear.vae, x, num_samples=count, seed=seed).summary()
    high = found["log_marginal"] + (found["bias"] if biased else 0.0)
    return _inside(linear.log_prob(x), found["log_marginal"], high, found["mcse"])


def annealed(chains: int, seed: int) -> Covered:
    """Chains from that guide, over 50 temperatures."""
    linear = Linear(1.5)
    x = linear.rows(FEW_ROWS, seed)
    found = ais(linear.vae, x, num_chains=chains, num_temperatures=50, seed=seed).summary()
    return _inside(linear.log_prob(x), *[found["log_marginal"]] * 2, found["mcse"])


def gap(name: str, seed: int) -> Covered:
    """One of the two parts of the gap, log p(x) being known."""
    linear = Linear(1.5)
    x = linear.rows(FEW_ROWS, seed)
    exact = linear.marginal.log_prob(x.double()).numpy()
    found = gaps(linear.vae, x, num_steps=200, log_marginal=exact, seed=seed).summary()
    return _inside(getattr(linear, name), *[found[name]] * 2, found[f"{name}_mcse"])


def information(seed: int) -> Covered:
    """The bracket, about the mutual information in the population."""
    linear = Linear(1.5)
    found = rate_distortion(linear.vae, linear.rows(5 * ROWS, seed), seed=seed).summary()
    covered = {}
    for level, times in LEVELS.items():
        low, high = (
            found[name] + sign * times * found[f"{name}_standard_error"]
            for name, sign in (("mutual_information", -1), ("mutual_information_upper", 1))
        )
        covered[level] = float(low <= linear.information <= high)
    return covered


def compared(factors: tuple[float, float], seed: int) -> Covered:
    """Two guides of one model: neither is better."""
    models = [Linear(factor) for factor in factors]
    x = models[0].rows(ROWS, seed)
    found = compare(
        {
            str(i): evaluate(model.vae, x, num_samples=100, seed=2 * seed + i)
            for i, model in enumerate(models)
        }
    )
    other = found.runs[1]
    if other.difference_low is None or other.difference_high is None:
        return {}
    return {"95": float(other.difference_low <= 0 <= other.difference_high)}


def imputed(masks: bool, proposal: Any, seed: int) -> Covered:
    """The share of hidden entries that are covered, half of all being hidden."""
    linear = Linear(masks=masks)
    x = linear.rows(ROWS, seed)
    hidden = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    draws = impute(
        linear.vae, x, ~hidden, num_imputations=DRAWS, num_samples=1000, proposal=proposal,
        seed=seed,
    ).x.sort(0).values  # fmt: skip
    covered = {}
    for level in LEVELS:
        out = round((DRAWS + 1) * (1 - int(level) / 100) / 2)  # the order statistic at each end
        inside = (x >= draws[out - 1]) & (x <= draws[-out])
        covered[level] = float(inside[hidden].double().mean())
    return covered


CELLS: dict[str, tuple[str, Callable[[int], Covered]]] = {
    **{
        f"iw-{count}{'-bias' * biased}": (
            f"importance weighting, K = {count:,}{', and its bias' * biased}",
            partial(importance, count, biased),
        )
        for count in (10, 100, 1000)
        for biased in (False, True)
    },
    **{f"ais-{n}": (f"`ais`, {n} chains", partial(annealed, n)) for n in (2, 10, 64)},
    **{
        f"gap-{name}": (f"`gaps`, {name}", partial(gap, name))
        for name in ("approximation", "amortisation")
    },
    "information": ("`rate_distortion`, bracket of the mutual information", information),
    "compare-equal": ("`compare`, equal guides", partial(compared, (1.5, 1.5))),
    "compare-unequal": ("`compare`, a good guide and a poor one", partial(compared, (1.0, 2.5))),
    "impute-masks": ("`impute`, guide of masked rows", partial(imputed, True, "auto")),
    "impute-complete": ("`impute`, guide of complete rows", partial(imputed, False, "auto")),
    "impute-guide": (
        '`impute`, guide of complete rows, `proposal="guide"`',
        partial(imputed, False, "guide"),
    ),
}


def run(name: str, repetitions: int, smoke: bool) -> None:
    """Takes a cell to its repetitions, from where it was."""
    path = common.RESULTS / f"coverage-{name}.json"
    known: dict[str, Any] = {"covered": [], "seconds": 0.0}
    if path.exists() and not smoke:
        known = json.loads(path.read_text())
    covered: list[Covered] = known["covered"]
    began, before = time.process_time(), known["seconds"]
    while len(covered) < repetitions:
        covered.append(CELLS[name][1](1000 + len(covered)))
        seconds = before + time.process_time() - began
        if not smoke and (len(covered) % EVERY == 0 or len(covered) == repetitions):
            common.write(f"coverage-{name}", {"covered": covered, "seconds": seconds})
    each = (before + time.process_time() - began) / max(len(covered), 1)
    print(f"{name}: {len(covered)} repetitions, {each:.2f} s each", flush=True)


def table() -> str:
    """A line for each cell: coverage, and whether it is what it should be."""
    lines = ["| interval | repetitions | 90% | 95% |", "|---|---:|---:|---:|"]
    for name, (label, _) in CELLS.items():
        path = common.RESULTS / f"coverage-{name}.json"
        if not path.exists():
            continue
        covered = json.loads(path.read_text())["covered"]
        cells = []
        for level in LEVELS:
            found = torch.tensor([each[level] for each in covered if level in each])
            if len(found) == 0:
                cells.append("–")
                continue
            nominal, mean = int(level) / 100, float(found.double().mean())
            binary = bool(((found == 0) | (found == 1)).all())
            spread = math.sqrt(nominal * (1 - nominal)) if binary else float(found.double().std())
            off = (mean - nominal) / (spread / math.sqrt(len(found)))
            mark = " too low" if off < -3 else " wider" if off > 3 else ""
            cells.append(f"{100 * mean:.1f}{mark}")
        lines.append(f"| {label} | {len(covered)} | {' | '.join(cells)} |")
    marks = "Marked: more than three standard errors (binomial, or over repetitions) from nominal."
    single = "`compare` gives an interval of 95% alone."
    return "\n".join([*lines, "", marks, single])


def main() -> None:
    """Runs the cells that lack repetitions, or writes the table."""
    parser = common.Parser(__doc__, smoke="two repetitions of each, no figure",
                           table="results/coverage.md")  # fmt: skip
    parser.add_argument("--only", help="cells whose names begin so")
    options = parser.options()
    if options.table:
        (common.RESULTS / "coverage.md").write_text(table() + "\n", encoding="utf-8")
        return
    for name in CELLS:
        if options.only is None or name.startswith(options.only):
            run(name, 2 if options.smoke else REPETITIONS, options.smoke)


if __name__ == "__main__":
    main()
