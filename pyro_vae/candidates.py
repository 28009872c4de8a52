"""What a selection finds: settings, their held-out scores, and which of them to take."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyro_vae._errors import plural, shortened
from pyro_vae.evaluation.comparison import fold_error, standard_error

__all__ = ["Candidate", "Failed", "Selection", "ranked", "words"]


@dataclass(frozen=True)
class Candidate:
    """One setting of the arguments; means over held-out data, in nats.

    Attributes:
        arguments: The setting.
        rank: 1 for the best.
        log_marginal: Mean log p(x) of data that were not fitted to, over folds and seeds.
        standard_error: Its error over data.
        mcse: Its Monte Carlo error; None if unknown.
        difference: ``log_marginal`` minus that of the best, at most 0.
        difference_standard_error: Its error over data, paired, given the fits.
        difference_fold_error: The same with the folds as units: it includes that another training
            set gives another fit, and rests on as few numbers as there are folds.
        seed_means: Mean log p(x) for each seed.
        spread: Standard deviation of ``seed_means``; None for one seed.
        num_parameters: Size of the model.
        k_hat_above_threshold: Share of the scores with a k-hat too high; None if unknown.
    """

    arguments: dict[str, Any]
    rank: int
    log_marginal: float
    standard_error: float | None
    mcse: float | None
    difference: float
    difference_standard_error: float | None
    difference_fold_error: float
    seed_means: tuple[float, ...]
    spread: float | None
    num_parameters: int
    k_hat_above_threshold: float | None

    @property
    def label(self) -> str:
        """The setting, on one line."""
        return words(self.arguments)


@dataclass(frozen=True)
class Failed:
    """A setting that cannot be chosen.

    Attributes:
        arguments: The setting.
        reason: What was not finite, and in which fold.
    """

    arguments: dict[str, Any]
    reason: str

    @property
    def label(self) -> str:
        """The setting, on one line."""
        return words(self.arguments)


@dataclass(frozen=True, repr=False)
class Selection:
    """What :func:`pyro_vae.select` returns.

    Attributes:
        candidates: Those that were fitted and scored, in the order of the grid, or of the trials of
            a search.
        log_marginal: Held-out log p(x), shape ``(candidates, seeds, N)``.
        fold: The fold in which each observation was held out, shape ``(N,)``.
        num_samples: Draws of z for each observation.
        seconds: Wall-clock time.
        base_measure: What the log-densities are densities of.
        failed: Settings of which a fit or its scores were not finite, and why; of a search also
            those that could not be built.
        study: Optuna's own study of a search, for its pictures and its importances; None of a grid.
    """

    candidates: tuple[Candidate, ...]
    log_marginal: np.ndarray
    fold: np.ndarray
    num_samples: int
    seconds: float
    base_measure: dict[str, Any]
    failed: tuple[Failed, ...] = ()
    study: Any = None

    @property
    def trials(self) -> int | None:
        """How many settings a search proposed, some of them again; None of a grid."""
        return None if self.study is None else len(self.study.trials)

    @property
    def best(self) -> Candidate:
        """The one with the highest held-out log p(x)."""
        return next(each for each in self.candidates if each.rank == 1)

    @property
    def chosen(self) -> Candidate:
        """The smallest model within one standard error of the best.

        The error is that of the paired difference, over data or over folds, whichever is larger.
        Of models of equal size it is the better one.

        References:
            The Elements of Statistical Learning (Hastie et al., 2009), section 7.10
        """
        near = [each for each in self.candidates if -each.difference <= _error(each)]
        return min(near, key=lambda each: (each.num_parameters, each.rank))

    def summary(self) -> dict[str, Any]:
        """Returns all but the arrays, ready for JSON."""
        return {
            "candidates": [
                dataclasses.asdict(each) | {"seed_means": list(each.seed_means)}
                for each in self.candidates
            ],
            "failed": [dataclasses.asdict(each) for each in self.failed],
            "best": self.best.arguments,
            "chosen": self.chosen.arguments,
            "trials": self.trials,
            "folds": int(self.fold.max()) + 1,
            "seeds": self.log_marginal.shape[1],
            "size": len(self.fold),
            "num_samples": self.num_samples,
            "seconds": self.seconds,
            "base_measure": dict(self.base_measure),
        }

    def __repr__(self) -> str:
        folds, seeds = int(self.fold.max()) + 1, self.log_marginal.shape[1]
        data = plural(len(self.fold), "observation")
        sizes = f"{data}, {plural(folds, 'fold')}, {plural(seeds, 'seed')}"
        lines = [f"Selection({sizes}, nats per observation)"]
        for each in sorted(self.candidates, key=lambda each: each.rank):
            lines.append(
                f"  {each.rank}. {each.label}  log p(x) {each.log_marginal:.2f}, difference "
                f"{each.difference:.2f} ± {_error(each):.2g}"
            )
        lines += [f"  failed: {each.label}: {each.reason}" for each in self.failed]
        return "\n".join(lines)


def ranked(
    settings: Sequence[dict[str, Any]],
    sizes: Sequence[int],
    fold: np.ndarray,
    log_marginal: np.ndarray,
    mcse: np.ndarray,
    unreliable: np.ndarray,
) -> tuple[Candidate, ...]:
    """Returns what follows from scores of shape ``(candidates, seeds, N)``."""
    by_observation = log_marginal.mean(1)
    errors = np.sqrt((mcse**2).sum((1, 2))) / log_marginal[0].size
    order = np.argsort(-by_observation.mean(1), kind="stable").tolist()
    candidates = []
    for i, setting in enumerate(settings):
        difference = by_observation[i] - by_observation[order[0]]
        means = log_marginal[i].mean(1)
        known = unreliable[i][~np.isnan(unreliable[i])]
        candidates.append(
            Candidate(
                arguments=setting,
                rank=order.index(i) + 1,
                log_marginal=float(by_observation[i].mean()),
                standard_error=standard_error(by_observation[i]),
                mcse=float(errors[i]) if math.isfinite(errors[i]) else None,
                difference=float(difference.mean()),
                difference_standard_error=standard_error(difference),
                difference_fold_error=fold_error(difference, fold),
                seed_means=tuple(means.tolist()),
                spread=float(means.std(ddof=1)) if len(means) > 1 else None,
                num_parameters=sizes[i],
                k_hat_above_threshold=float(known.mean()) if len(known) else None,
            )
        )
    return tuple(candidates)


def _error(candidate: Candidate) -> float:
    return max(candidate.difference_standard_error or 0.0, candidate.difference_fold_error)


def words(setting: Mapping[str, Any]) -> str:
    """Returns a setting on one line, of numbers with many digits the first ones.

    Example:
        >>> words({"dim": 2, "lr": 0.0013294857193847, "beta": 1.0})
        'dim 2, lr 0.001329, beta 1.0'
    """
    return ", ".join(f"{name} {shortened(value)}" for name, value in setting.items())
