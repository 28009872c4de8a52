"""The choice of any constructor argument: cross-validated on held-out log p(x)."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pyro_vae._errors import check_seed, expected, plain, plural, positive_integer
from pyro_vae._untouched import seeded
from pyro_vae.data import Dataset
from pyro_vae.data.dataset import SPLITS
from pyro_vae.data.rows import Given, Numbers, Rows
from pyro_vae.evaluation import evaluate
from pyro_vae.evaluation._common import describe
from pyro_vae.evaluation.comparison import check_comparable, fold_error, standard_error
from pyro_vae.programs import VAE
from pyro_vae.programs.accept import as_tensor
from pyro_vae.programs.protocol import is_amortized
from pyro_vae.training.fit import fit
from pyro_vae.training.recipe import SHORT_FITS

__all__ = ["Candidate", "Failed", "Selection", "combinations", "select"]

_OTHERS = "; `compare` ranks Programs that are fitted"
Built: TypeAlias = VAE | tuple[VAE, Mapping[str, Any]]


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
        return _words(self.arguments)


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
        return _words(self.arguments)


@dataclass(frozen=True, repr=False)
class Selection:
    """What :func:`select` returns.

    Attributes:
        candidates: Those that were fitted and scored, in the order of the grid.
        log_marginal: Held-out log p(x), shape ``(candidates, seeds, N)``.
        fold: The fold in which each observation was held out, shape ``(N,)``.
        num_samples: Draws of z for each observation.
        seconds: Wall-clock time.
        base_measure: What the log-densities are densities of.
        failed: Settings of which a fit or its scores were not finite, and why.
    """

    candidates: tuple[Candidate, ...]
    log_marginal: np.ndarray
    fold: np.ndarray
    num_samples: int
    seconds: float
    base_measure: dict[str, Any]
    failed: tuple[Failed, ...] = ()

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


def combinations(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Returns every combination of the values, the last argument varying fastest.

    Raises:
        ValueError: If an argument has no values, or there is no argument.

    Example:
        >>> combinations({"dim": [2, 4], "lr": [0.1]})
        [{'dim': 2, 'lr': 0.1}, {'dim': 4, 'lr': 0.1}]
    """
    if len(grid) == 0:
        raise expected("grid", "at least one argument and its values", grid)
    for name, values in grid.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or len(values) == 0:
            raise expected(f"grid[{name!r}]", "a list of values", values)
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def select(
    build: Callable[..., Built],
    data: Dataset | Numbers,
    grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]],
    *,
    folds: int = 5,
    seeds: int = 1,
    num_samples: int = 200,
    validation: float = 0.1,
    seed: int = 0,
    on_fit: Callable[[int, int, str], None] | None = None,
    **options: Any,
) -> Selection:
    r"""Cross-validates constructor arguments on held-out log p(x).

    Training and validation data are shuffled and cut into folds; the test data stay untouched.
    Each setting is fitted, for each seed, to all folds but one, and scored on that one by
    importance weighting, so that every observation is scored once a seed by fits that never saw it.
    A part of the data fitted to is set apart to choose the epoch. Settings are compared in pairs,

    .. math:: \bar d = \frac1N \sum_k \sum_{i \in F_k} d_i, \quad
        \mathrm{se}^2_\text{folds} = \frac{K}{K - 1} \frac{1}{N^2}
        \sum_k \Big(\sum_{i \in F_k} (d_i - \bar d)\Big)^2,

    where d averages over seeds. Data of one fold share a fit, so errors over data alone leave out
    what a fit owes to its training set. No estimate of the error of cross-validation is unbiased:
    training sets overlap.

    A setting whose loss or held-out log p(x) is not finite in some fold is given up, and
    reported as failed; the others go on.

    References:
        Cross-validatory choice and assessment of statistical predictions (Stone, 1974),
        https://doi.org/10.1111/j.2517-6161.1974.tb00994.x
        No Unbiased Estimator of the Variance of K-Fold Cross-Validation
        (Bengio and Grandvalet, 2004), https://www.jmlr.org/papers/v5/grandvalet04a.html

    Args:
        build: From a setting, as keyword arguments, to a model, or to a model and options of
            :func:`pyro_vae.fit` that go with it, such as ``objective``.
        data: A dataset, with what goes with each observation; or a tensor, ``(N, *event_shape)``.
        grid: Values for each argument, all combinations of which are tried; or the settings
            themselves.
        folds: Parts that the data are cut into.
        seeds: Fits of each setting in each fold.
        num_samples: Draws of z for each held-out observation.
        validation: Fraction of the data fitted to that is set apart to choose the epoch; 0 keeps
            the last epoch.
        seed: Of the folds, of the first fits and of the draws.
        on_fit: Called before each fit, and at the end, with the number done, the number in all and
            what is next.
        options: For every fit, as in :func:`pyro_vae.fit`; ``compile`` is False if not given,
            since compiling takes longer than a short fit.

    Returns:
        The selection; ``selection.chosen.arguments`` is the setting to fit to all data.

    Raises:
        ValueError: If an argument is out of range, or settings differ in what log p(x) is a density
            of.
        FloatingPointError: If every setting fails.

    Example:
        >>> import pyro_vae as pv
        >>> def build(dim):
        ...     return pv.VAE(
        ...         pv.priors.Normal(dim), pv.guides.Normal(dim), pv.likelihoods.Bernoulli((4,))
        ...     )
        >>> x = torch.eye(4).repeat(5, 1)
        >>> selection = select(build, x, {"dim": [1, 2]}, folds=2, num_samples=20, epochs=1)
        >>> [candidate.arguments for candidate in selection.candidates], len(selection.fold)
        ([{'dim': 1}, {'dim': 2}], 20)
    """
    chosen = combinations(grid) if isinstance(grid, Mapping) else grid
    settings = [{name: plain(value) for name, value in each.items()} for each in chosen]
    folds, seeds = positive_integer("folds", folds), positive_integer("seeds", seeds)
    num_samples, seed = positive_integer("num_samples", num_samples), check_seed("seed", seed)
    _check_options(settings, validation)
    pool = _Pool(data, seed)
    fold = pool.folds(folds)
    sizes = _checked_sizes(build, settings, pool)
    began = time.perf_counter()
    options = SHORT_FITS | options
    validated = _CrossValidation(
        build, settings, pool, fold, seeds, num_samples, validation, seed, options
    )
    fits = list(itertools.product(range(len(settings)), range(seeds), range(folds)))
    for done, (i, s, k) in enumerate(fits):
        if i in validated.failed:
            continue
        if on_fit is not None:
            on_fit(done, len(fits), f"{_words(settings[i])}: fold {k + 1}, seed {seed + s}")
        validated.fit(i, s, k)
    if on_fit is not None:
        on_fit(len(fits), len(fits), "")
    return validated.selection(sizes, began)


def _check_options(settings: Sequence[Mapping[str, Any]], validation: float) -> None:
    if len(settings) < 2:
        raise expected("grid", "at least two settings to choose from", settings)
    if not 0 <= validation < 1:
        raise expected("validation", "a fraction in [0, 1)", validation)


@dataclass
class _CrossValidation:
    """The fits of all settings to all folds but one, and their scores on that one."""

    build: Callable[..., Built]
    settings: Sequence[dict[str, Any]]
    pool: _Pool
    fold: np.ndarray
    seeds: int
    num_samples: int
    validation: float
    seed: int
    options: Mapping[str, Any]

    def __post_init__(self) -> None:
        self.failed: dict[int, Failed] = {}
        shape = (len(self.settings), self.seeds, len(self.fold))
        names = ("log_marginal", "mcse", "unreliable")
        self.columns = {name: np.full(shape, math.nan) for name in names}

    def fit(self, i: int, s: int, k: int) -> None:
        """Fits setting ``i`` with seed ``s`` to all but fold ``k``, and scores it there."""
        pool, seed = self.pool, self.seed
        self.vae, own = _built(self.build, self.settings[i], seed + s)
        train, with_it = pool.training(np.flatnonzero(self.fold != k), self.validation)
        try:
            options = {"progress": False} | dict(self.options) | dict(own)
            fit(self.vae, train, seed=seed + s, **with_it, **options)
        except FloatingPointError as error:
            self.failed[i] = Failed(self.settings[i], f"fold {k + 1}, {error}")
            return
        rows = np.flatnonzero(self.fold == k)
        held = pool.rows(self.vae)[rows]
        scores = evaluate(self.vae, held.x, num_samples=self.num_samples, seed=seed, **held.given)
        if not np.isfinite(scores.log_marginal).all():
            reason = f"fold {k + 1}, held-out log p(x) is not finite"
            self.failed[i] = Failed(self.settings[i], reason)
            return
        for name, column in self.columns.items():
            column[i, s, rows] = getattr(scores, name)
        if scores.summary()["k_hat_above_threshold"] is None:
            self.columns["unreliable"][i, s, rows] = math.nan  # too few draws to know

    def selection(self, sizes: Sequence[int], began: float) -> Selection:
        """Returns what the scores come to.

        Args:
            sizes: Parameters of each setting.
            began: When the first fit did, by :func:`time.perf_counter`.

        Raises:
            FloatingPointError: If every setting failed.
        """
        kept = [i for i in range(len(self.settings)) if i not in self.failed]
        if not kept:
            reasons = "; ".join(f"{each.label}: {each.reason}" for each in self.failed.values())
            raise FloatingPointError(f"every setting failed: {reasons}")
        columns = {name: column[kept] for name, column in self.columns.items()}
        settings, sizes = [self.settings[i] for i in kept], [sizes[i] for i in kept]
        pool = self.pool
        return Selection(
            candidates=_candidates(settings, sizes, self.fold, **columns),
            log_marginal=columns["log_marginal"],
            fold=self.fold,
            num_samples=self.num_samples,
            seconds=time.perf_counter() - began,
            base_measure=describe(self.vae, pool.rows(self.vae), pool.measure),
            failed=tuple(self.failed.values()),
        )


def _built(
    build: Callable[..., Built], setting: Mapping[str, Any], seed: int
) -> tuple[VAE, Mapping[str, Any]]:
    with seeded(seed):
        built = build(**setting)
    vae, options = built if isinstance(built, tuple) else (built, {})
    if not isinstance(vae, VAE):
        raise expected("build", f"a function that returns a VAE{_OTHERS * is_amortized(vae)}", vae)
    return vae, options


def _checked_sizes(
    build: Callable[..., Built], settings: Sequence[Mapping[str, Any]], pool: _Pool
) -> list[int]:
    """Builds every setting before any is fitted: the last may be the one that is wrong."""
    sizes, measures = [], {}
    for setting in settings:
        vae, _ = _built(build, setting, 0)
        measures[_words(setting)] = describe(vae, pool.rows(vae), pool.measure)
        sizes.append(sum(p.numel() for p in vae.parameters()))
    check_comparable(measures, "grid")
    return sizes


class _Pool:
    """The data to choose by, shuffled; as they are scored, and as they are fitted to."""

    def __init__(self, data: Dataset | Numbers, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        if isinstance(data, Dataset):
            fitted = torch.cat([data.train, data.validation]).cpu()
            described = data.base_measure("train")
            names = ("data", "binarize", "dequantize", "transform")
            self.measure = {name: described[name] for name in names}
            self.measure["split"] = "train and validation, held out in turn"
        elif isinstance(data := as_tensor(data, "data"), Tensor):
            fitted, self.measure = data, {}
        else:
            raise expected("data", "a Dataset, a tensor or an array", data)
        self._data, self._fitted, self.x = data, fitted, fitted
        self._given: Given = {}
        if isinstance(data, Dataset):
            parts = [data.given(split) for split in ("train", "validation")]
            self._given = tree_map(lambda *each: torch.cat(each).cpu(), *parts)
        self._order = torch.randperm(len(fitted), generator=generator).numpy()
        if isinstance(data, Dataset) and data.binarize == "stochastic":
            # Scored on one draw, the same for all; fitted to fresh ones. What was drawn already,
            # the validation data, stays as it is under both.
            uniform = torch.rand(fitted.shape, generator=generator)
            self.x = (uniform < fitted).to(fitted.dtype)

    def folds(self, count: int) -> np.ndarray:
        """Returns which fold each observation is in."""
        if not 2 <= count <= len(self.x):
            raise expected("folds", f"an integer from 2 to {len(self.x)}", count)
        fold = np.empty(len(self.x), dtype=np.int64)
        fold[self._order] = np.arange(len(fold)) * count // len(fold)
        return fold

    def rows(self, vae: VAE) -> Rows:
        """Returns the data as they are scored, with what a model has a use for."""
        return Rows(self.x, vae.uses(Rows(self.x, self._given)).given)

    def training(self, rows: np.ndarray, validation: float) -> tuple[Any, dict[str, Any]]:
        """Returns data for :func:`fit`, and options that go with them."""
        shuffled = np.random.default_rng(len(rows)).permutation(rows)
        held, kept = np.split(shuffled, [round(validation * len(rows))])
        train, epochs_by = self._fitted[kept], self.x[held]
        if isinstance(self._data, Tensor):
            return train, {"validation": epochs_by} if len(epochs_by) > 0 else {}
        both = Rows(self.x, self._given)
        of_split = {"train": both[kept].given, "validation": both[held].given}
        parts: dict[str, Any] = {
            name: {split: dict(given)[name] for split, given in of_split.items()}
            for name in self._given
        }
        return dataclasses.replace(
            self._data,
            train=train,
            validation=epochs_by,
            test=train[:0],
            labels=dict.fromkeys(SPLITS),
            **parts,
        ), {}


def _candidates(
    settings: Sequence[dict[str, Any]],
    sizes: Sequence[int],
    fold: np.ndarray,
    log_marginal: np.ndarray,
    mcse: np.ndarray,
    unreliable: np.ndarray,
) -> tuple[Candidate, ...]:
    """What follows from scores of shape ``(candidates, seeds, N)``."""
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


def _words(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in setting.items())
