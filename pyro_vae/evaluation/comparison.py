"""Fixed models ranked by log p(x) of the same data: paired differences, and their errors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from scipy import special

from pyro_vae._errors import expected, plural, unknown_name
from pyro_vae._html import shown
from pyro_vae.evaluation.scores import Scores

__all__ = [
    "Comparison",
    "RankedModel",
    "RankedRun",
    "check_comparable",
    "compare",
    "standard_error",
]

_PARTS = (
    "data",
    "split",
    "fingerprint",
    "mask",
    "binarize",
    "dequantize",
    "transform",
    "measure",
    "dim",
)
_ALARMING = 0.1  # share of data whose weights are too heavy-tailed for an error to be believed
_LEVEL = 0.05  # of all intervals together
_Shared: TypeAlias = Sequence[tuple[float, float]]  # variances, and degrees of freedom of each
_ABOVE = special.ndtri(1 - _LEVEL)  # standard errors to the bound of a bias


@dataclass(frozen=True)
class _Ranked:
    name: str
    rank: int
    log_marginal: float
    standard_error: float | None
    difference: float
    difference_standard_error: float | None
    difference_mcse: float | None
    bias_bound: float | None
    difference_low: float | None
    difference_high: float | None


@dataclass(frozen=True)
class RankedRun(_Ranked):
    """One run in a comparison; means over the data, in nats.

    Attributes:
        name: What the caller called it.
        rank: One more than there are runs whose interval of the difference says they are better:
            runs that cannot be told apart may share a rank.
        log_marginal: Mean log p(x).
        standard_error: Its error as an estimate for data to come; None for a single observation.
        difference: ``log_marginal`` minus that of the best, at most 0.
        difference_standard_error: Its error over data, paired; None for a single observation.
        difference_mcse: Its Monte Carlo error on these data, as if the runs' draws were
            independent; None if unknown. It is part of ``difference_standard_error`` already, but
            for that of draws of global latents, which is part of the interval alone.
        bias_bound: How much too low ``log_marginal`` may be by importance weighting, at most; None
            if unknown.
        difference_low: Where the difference to the best begins, for data to come: an interval of
            95% for all pairs together, wider by the bounds of the biases; None if unknown.
        difference_high: Where it ends.
        k_hat_median: Median Pareto shape of the importance weights; None if unknown.
        k_hat_90: The shape that a tenth of the data exceed.
        k_hat_above_threshold: Share of data whose shape is too high.
        num_samples: Draws of z for each observation.
        estimator: How log p(x) was estimated.
    """

    k_hat_median: float | None
    k_hat_90: float | None
    k_hat_above_threshold: float | None
    num_samples: int
    estimator: str


@dataclass(frozen=True)
class RankedModel(_Ranked):
    """One model fitted with several seeds; means over its runs and the data, in nats.

    Attributes:
        name: What the caller called it.
        rank: As that of a run.
        log_marginal: Mean log p(x), over runs and data.
        standard_error: Its error over data.
        difference: ``log_marginal`` minus that of the best model, at most 0.
        difference_standard_error: Its error over data, paired.
        difference_mcse: Its Monte Carlo error.
        bias_bound: The mean of those of its runs.
        difference_low: As that of a run, given the fits.
        difference_high: Likewise.
        runs: Names of the runs.
        spread: Standard deviation of a run's mean log p(x) over the runs; None for one run.
        difference_spread: Error of the difference over seeds, from both models' spreads; None
            where one of them is unknown.
    """

    runs: tuple[str, ...]
    spread: float | None
    difference_spread: float | None


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` returns.

    Attributes:
        runs: The runs, the best first.
        models: Groups of runs, the best first; empty if no group has two runs.
        size: Number of data.
        base_measure: What all runs have in common.
    """

    runs: tuple[RankedRun, ...]
    models: tuple[RankedModel, ...]
    size: int
    base_measure: dict[str, Any]

    @property
    def notes(self) -> list[str]:
        """What to bear in mind about these estimates, a sentence each."""
        notes = []
        for run in self.runs:
            share = run.k_hat_above_threshold
            if share is not None and share > _ALARMING:
                notes.append(
                    f"{run.name}: k-hat is too high on {share:.0%} of the data; its log p(x) is "
                    "probably too low and its Monte Carlo error too small."
                )
        if len({(run.estimator, run.num_samples) for run in self.runs}) > 1:
            notes.append(
                "The runs were scored differently: fewer draws give a lower log p(x) on average."
            )
        best = self.runs[0]
        tied = [run for run in self.runs[1:] if run.rank == best.rank]
        if tied:
            names = ", ".join(run.name for run in tied)
            bounds = [run.bias_bound for run in (best, *tied) if run.bias_bound is not None]
            wide = max(bounds, default=0.0)
            error = max(run.difference_standard_error or 0.0 for run in tied)
            drawn = max(run.difference_mcse or 0.0 for run in tied)
            why = (
                f"importance weighting may have cost up to {wide:.2g} nats: more draws, "
                '`proposal="defensive"` or `ais` say more.'
                if wide > max(error, drawn)
                else "more draws say more: `num_globals` of what is shared, or `num_samples`."
                if drawn > error
                else "more data say more."
            )
            notes.append(f"{best.name} cannot be told from {names} by these scores; {why}")
        return notes

    def summary(self) -> dict[str, Any]:
        """Returns all of it as plain values, ready for JSON; what is unknown is None."""
        return {
            "runs": [dataclasses.asdict(run) for run in self.runs],
            "models": [
                dataclasses.asdict(model) | {"runs": list(model.runs)} for model in self.models
            ],
            "size": self.size,
            "notes": self.notes,
            "base_measure": dict(self.base_measure),
        }

    def __repr__(self) -> str:
        lines = [f"Comparison({plural(self.size, 'observation')}, nats per observation)"]
        for row in (*self.runs, *self.models):
            lines.append(
                f"  {row.rank}. {row.name}  log p(x) {row.log_marginal:.2f}, difference "
                f"{row.difference:.2f} ± {_shown(row.difference_standard_error)} over data"
            )
            if row.difference_low is not None and row is not self.runs[0]:
                lines[-1] += f", {row.difference_low:.2f} to {row.difference_high:.2f}"
            if isinstance(row, RankedModel):
                lines[-1] += f", ± {_shown(row.difference_spread)} over seeds"
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = []
        for row in (*self.runs, *self.models):
            low, high = row.difference_low, row.difference_high
            between = "–" if low is None or row.difference == 0 else f"{low:.2f} to {high:.2f}"
            error = _shown(row.difference_standard_error)
            numbers = (f"{row.log_marginal:.2f}", f"{row.difference:.2f}", error, between)
            rows.append((row.rank, row.name, *numbers))
        head = ("rank", "model", "log p(x)", "difference", "± over data", "95%, all together")
        notes = ["nats per observation; difference: to the best, paired", *self.notes]
        return shown(
            f"Comparison: {plural(self.size, 'observation')}", head, rows, notes=notes, text=2
        )


def check_comparable(measures: Mapping[str, Mapping[str, Any]], argument: str = "scores") -> None:
    """Refuses base measures that are not all the same.

    Args:
        measures: Base measures by the name of what was scored.
        argument: What the caller called them.

    Raises:
        ValueError: If two differ; it names both and what differs.

    Example:
        >>> check_comparable({"a": {"measure": "counting"}, "b": {"measure": "lebesgue"}})
        Traceback (most recent call last):
            ...
        ValueError: `scores`: expected one base measure for all, got 'a' with measure counting \
and 'b' with measure lebesgue
    """
    (first, reference), *others = measures.items()
    for name, measure in others:
        # A condition is what a model makes its prediction from; a covariate, such as a size factor,
        # may have been taken from the data that are predicted.
        covariates = sorted((measure.keys() | reference.keys()) - {*_PARTS, "cond"})
        parts = [*_PARTS, *covariates]
        differing = [part for part in parts if measure.get(part) != reference.get(part)]
        if differing:
            ours, theirs = (
                ", ".join(f"{part} {_short(each.get(part))}" for part in differing)
                for each in (reference, measure)
            )
            raise ValueError(
                f"`{argument}`: expected one base measure for all, got {first!r} with {ours} "
                f"and {name!r} with {theirs}"
            )


def compare(scores: Mapping[str, Scores], *, groups: Mapping[str, str] | None = None) -> Comparison:
    r"""Ranks models by their log p(x) of the same held-out data.

    What an observation is worth varies far more from observation to observation than from model to
    model, so differences are taken observation by observation:

    .. math:: d_i = \log \hat p_a(x_i) - \log \hat p_b(x_i), \quad
        \mathrm{se}(\bar d) = \sqrt{\frac{1}{N (N - 1)} \sum_i (d_i - \bar d)^2}

    That error is of the difference as an estimate for data to come, given the two fits. How much
    a fit owes to its seed is another matter: give the runs of one model a common name in
    ``groups``, and their spread stands beside it.

    Importance weighting makes log p(x) too low, by more the worse the guide, which no error over
    data covers: two guides of one and the same model differ by many of them. So each mean has a
    bound of its bias, from what ten times the draws have gained (see
    :attr:`~pyro_vae.evaluation.Scores.bias`), and the interval of each difference is Student's, of
    95% for all pairs of runs together (Bonferroni), wider by those bounds. Draws of global latents
    are common to all observations, so that their variance, by the jackknife, is added to that over
    data, with degrees of freedom by Welch and Satterthwaite. Only runs whose interval leaves out 0
    are ranked one above the other.

    References:
        Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC
        (Vehtari et al., 2017), https://arxiv.org/abs/1507.04544
        Uncertainty in Bayesian Leave-One-Out Cross-Validation Based Model Comparison
        (Sivula et al., 2025), https://arxiv.org/abs/2008.10296
        An Approximate Distribution of Estimates of Variance Components (Satterthwaite, 1946),
        https://doi.org/10.2307/3002019

    Args:
        scores: At least two results of :func:`pyro_vae.evaluate` by name, on the same data in the
            same order.
        groups: The name of the model for each run that is one of several fits of it; a run that
            is not named here is a model of its own.

    Returns:
        The comparison; ``comparison.summary()`` is ready for JSON.

    Raises:
        ValueError: If there are fewer than two, their base measures differ, or a log p(x) is not
            finite.

    Example:
        >>> import torch, pyro_vae as pv
        >>> x = torch.ones(5, 4)
        >>> parts = pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,))
        >>> scores = {name: pv.evaluate(pv.VAE(*parts), x, num_samples=50) for name in ("a", "b")}
        >>> comparison = compare(scores)
        >>> comparison.runs[0].difference, comparison.size
        (0.0, 5)
    """
    if len(scores) < 2:
        raise expected("scores", "at least two to compare", list(scores))
    for name, each in scores.items():
        if not isinstance(each, Scores):
            raise expected(f"scores[{name!r}]", "Scores", each)
    for name in groups or {}:
        if name not in scores:
            raise unknown_name("groups", name, scores)
    check_comparable({name: each.base_measure for name, each in scores.items()})
    columns = {name: each.log_marginal for name, each in scores.items()}
    for name, column in columns.items():
        if not np.isfinite(column).all():
            raise expected(
                f"scores[{name!r}]",
                "a finite log p(x) of every observation",
                f"{np.sum(~np.isfinite(column))} of {len(column)} that are not",
            )
    # The error of an observation under shared draws is no part that it has for itself.
    squares = {
        name: each.mcse**2 if each.mean_without_draw is None else np.zeros_like(each.mcse)
        for name, each in scores.items()
    }
    shared = {name: _of_shared(each) for name, each in scores.items()}
    biases = {name: _bias_bound(each.bias) for name, each in scores.items()}
    runs = []
    for row in _rank(columns, squares, shared, biases):
        own = scores[row["name"]]
        summary, known = own.summary(), own.k_hat[~np.isnan(own.k_hat)]
        runs.append(
            RankedRun(
                **row,
                k_hat_median=summary["k_hat_median"],
                k_hat_90=_finite(np.quantile(known, 0.9, method="higher")) if len(known) else None,
                k_hat_above_threshold=summary["k_hat_above_threshold"],
                num_samples=summary["num_samples"],
                estimator=summary["estimator"],
            )
        )
    first, *_ = scores.values()
    return Comparison(
        runs=tuple(runs),
        models=_models(columns, squares, shared, biases, groups or {}),
        size=len(first.log_marginal),
        base_measure=dict(first.base_measure),
    )


def _models(
    columns: Mapping[str, np.ndarray],
    squares: Mapping[str, np.ndarray],
    shared: Mapping[str, _Shared],
    biases: Mapping[str, float],
    groups: Mapping[str, str],
) -> tuple[RankedModel, ...]:
    members: dict[str, list[str]] = {}
    for name in columns:
        members.setdefault(groups.get(name, name), []).append(name)
    if len(members) == len(columns):
        return ()
    means = {name: _mean([columns[run] for run in runs]) for name, runs in members.items()}
    errors = {
        name: _mean([squares[run] for run in runs]) / len(runs) for name, runs in members.items()
    }
    common = {
        name: [(v / len(runs) ** 2, freedom) for run in runs for v, freedom in shared[run]]
        for name, runs in members.items()
    }
    # Of a model's mean over its runs, a variance that two of them are needed for.
    variances = {
        name: np.var([columns[run].mean() for run in runs], ddof=1) / len(runs)
        if len(runs) > 1
        else math.nan
        for name, runs in members.items()
    }
    bounds = {name: float(np.mean([biases[run] for run in runs])) for name, runs in members.items()}
    ranked = _rank(means, errors, common, bounds)
    best = ranked[0]["name"]
    models = []
    for row in ranked:
        name = row["name"]
        between = 0.0 if name == best else math.sqrt(variances[name] + variances[best])
        models.append(
            RankedModel(
                **row,
                runs=tuple(members[name]),
                spread=_finite(math.sqrt(variances[name] * len(members[name]))),
                difference_spread=_finite(between),
            )
        )
    return tuple(models)


def _of_shared(scores: Scores) -> _Shared:
    """The variance of a mean that draws of global latents cause, where there are some."""
    if scores.mean_without_draw is None:
        return []
    return [(scores.mean_mcse**2, len(scores.mean_without_draw) - 1)]


def _widened(error: float, freedom: float, others: _Shared) -> tuple[float, float]:
    """An error with other variances added, and its degrees of freedom."""
    if not any(variance != 0 for variance, _ in others):
        return error, freedom
    if any(math.isnan(variance) for variance, _ in others):
        return math.nan, freedom
    parts = [(error**2, freedom), *others]
    total = sum(variance for variance, _ in parts)
    return math.sqrt(total), total**2 / sum(v**2 / of for v, of in parts)


def _bias_bound(bias: np.ndarray) -> float:
    """A bound of the mean of a bias: never below 0, and NaN where it is not known."""
    if not bias.any():
        return 0.0
    error = standard_error(bias)
    bound = math.nan if error is None else float(bias.mean()) + _ABOVE * error
    return bound if math.isnan(bound) else max(0.0, bound)


def _rank(
    columns: Mapping[str, np.ndarray],
    squares: Mapping[str, np.ndarray],
    shared: Mapping[str, _Shared],
    biases: Mapping[str, float],
) -> list[dict[str, Any]]:
    """What every row has, the best first.

    Args:
        columns: log p(x) of the same data, by name.
        squares: Their Monte Carlo variances, of what each observation has for itself.
        shared: Those of their means, of what all observations share.
        biases: Bounds of how much too low their means are.
    """
    order = sorted(columns, key=lambda name: -columns[name].mean())
    best, rows = order[0], []
    size, pairs = len(columns[best]), max(1, len(order) * (len(order) - 1) // 2)

    def interval(one: str, other: str) -> tuple[float, float]:
        difference = columns[one] - columns[other]
        mean, error = difference.mean(), standard_error(difference)
        if error is None:
            margin = math.nan
        else:
            error, freedom = _widened(error, size - 1, [*shared[one], *shared[other]])
            margin = special.stdtrit(freedom, 1 - _LEVEL / (2 * pairs)) * error
        return mean - margin - biases[other], mean + margin + biases[one]

    for i, name in enumerate(order):
        difference = columns[name] - columns[best]
        variance = squares[name] + squares[best] if i > 0 else np.zeros_like(difference)
        own = math.sqrt(variance.sum()) / len(variance)
        both = [*shared[name], *shared[best]] if i > 0 else []
        common = math.sqrt(sum(each for each, _ in both))
        low, high = interval(name, best) if i > 0 else (0.0, 0.0)
        rows.append(
            {
                "name": name,
                "rank": 1 + sum(bool(interval(name, other)[1] < 0) for other in order[:i]),
                "log_marginal": float(columns[name].mean()),
                "standard_error": standard_error(columns[name]),
                "difference": float(difference.mean()),
                "difference_standard_error": standard_error(difference),
                "difference_mcse": _finite(math.hypot(own, common)),
                "bias_bound": _finite(biases[name]),
                "difference_low": _finite(low),
                "difference_high": _finite(high),
            }
        )
    return rows


def standard_error(values: np.ndarray) -> float | None:
    """Returns the standard error of the mean of independent values; None for fewer than two."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def fold_error(values: np.ndarray, fold: np.ndarray) -> float:
    """Returns the standard error of a mean of values that are dependent within folds.

    For folds of equal size it is that of the mean of the folds' means.

    Example:
        >>> round(fold_error(np.array([1.0, 1.0, 2.0, 2.0]), np.array([0, 0, 1, 1])), 6)
        0.5
    """
    sums = np.bincount(fold, weights=values - values.mean())
    return math.sqrt(len(sums) / (len(sums) - 1) * (sums**2).sum()) / len(values)


def _mean(columns: Sequence[np.ndarray]) -> np.ndarray:
    return np.asarray(np.mean(columns, axis=0))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _short(value: object) -> str:
    """A fingerprint by its first digits, anything else as it is."""
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
