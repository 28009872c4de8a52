"""The choice of any constructor argument: cross-validated on held-out log p(x)."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pyro_vae._errors import check_seed, expected, plain, positive_integer
from pyro_vae._jobs import each, threads
from pyro_vae._kept import SELECTION, Fit, described, keeping
from pyro_vae._untouched import seeded
from pyro_vae.candidates import Candidate, Failed, Selection, ranked, words
from pyro_vae.checkpoint import model_spec, write_json
from pyro_vae.data import Dataset
from pyro_vae.data.dataset import SPLITS, fingerprint
from pyro_vae.data.rows import Given, Numbers, Rows
from pyro_vae.evaluation import evaluate
from pyro_vae.evaluation._common import describe
from pyro_vae.evaluation.comparison import check_comparable
from pyro_vae.programs import VAE
from pyro_vae.programs.accept import as_tensor
from pyro_vae.programs.protocol import is_amortized
from pyro_vae.training.fit import fit
from pyro_vae.training.recipe import SHORT_FITS

__all__ = ["Candidate", "Failed", "Selection", "combinations", "select"]

_OTHERS = "; `compare` ranks Programs that are fitted"
_COLUMNS = ("log_marginal", "mcse", "unreliable")  # of each observation that is held out
Built: TypeAlias = VAE | tuple[VAE, Mapping[str, Any]]


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
    out: str | Path | None = None,
    resume: bool = False,
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

    Fits are shared by as many processes as joblib is configured to have: inside
    ``joblib.parallel_config(n_jobs=4)``, or with ``backend="dask"`` or ``"ray"`` on a cluster. Each
    has the seed of its number, and one thread (or ``OMP_NUM_THREADS``), so that the result is the
    same for any number of them.

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
            what is next; of several jobs as each ends, with the first that has not.
        out: A folder to make, where the scores of each fit are kept as it ends, and
            ``selection.json`` at last.
        resume: Whether to go on in that folder, with the fits that are missing.
        options: For every fit, as in :func:`pyro_vae.fit`; ``compile`` is False if not given,
            since compiling takes longer than a short fit.

    Returns:
        The selection; ``selection.chosen.arguments`` is the setting to fit to all data.

    Raises:
        ValueError: If an argument is out of range, settings differ in what log p(x) is a density
            of, ``build`` cannot be sent to another process, or the folder is of another selection.
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
    models = [_Model.of(build, setting, pool) for setting in settings]
    check_comparable({words(s): m.measure for s, m in zip(settings, models, strict=True)}, "grid")
    began = time.perf_counter()
    options = SHORT_FITS | options
    fits = _Fits(build, settings, pool, fold, num_samples, validation, seed, options)
    numbers = list(itertools.product(range(len(settings)), range(seeds), range(folds)))
    asked = {} if out is None else fits.described() | {"folds": folds, "seeds": seeds}
    asked |= {"models": [model.spec for model in models]}
    with keeping(out, resume, asked) as kept:
        found = {fit: result for fit, result in kept.read().items() if fit in set(numbers)}
        # Closed at once, should this be interrupted: it ends the processes that fit.
        with closing(_results(fits, numbers, found, on_fit)) as results:
            for fit, result in results:
                found[fit] = result
                kept.add(fit, result)
        selection = _selection(fits, seeds, models, found, began)
        if out is not None:
            write_json(Path(out) / SELECTION, selection.summary())
    return selection


def _check_options(settings: Sequence[Mapping[str, Any]], validation: float) -> None:
    if len(settings) < 2:
        raise expected("grid", "at least two settings to choose from", settings)
    if not 0 <= validation < 1:
        raise expected("validation", "a fraction in [0, 1)", validation)


@dataclass(frozen=True)
class _Fits:
    """Fits a setting to all folds but one, and scores it on that one; in whatever process."""

    build: Callable[..., Built]
    settings: Sequence[dict[str, Any]]
    pool: _Pool
    fold: np.ndarray
    num_samples: int
    validation: float
    seed: int
    options: Mapping[str, Any]

    def __call__(self, number: Fit) -> dict[str, Any]:
        """Returns scores by name, or why there are none.

        Args:
            number: Of the setting, of its seed, and of the fold that is left out.
        """
        i, s, k = number
        pool, seed = self.pool, self.seed
        vae, own = _built(self.build, self.settings[i], seed + s)
        train, with_it = pool.training(np.flatnonzero(self.fold != k), self.validation)
        try:
            # An objective counts its steps, by which a warm-up goes: each fit has one of its own.
            shared = {"objective": copy.deepcopy(self.options.get("objective"))}
            options = {"progress": False} | dict(self.options) | shared | dict(own)
            fit(vae, train, seed=seed + s, **with_it, **options)
        except FloatingPointError as error:
            return {"failed": f"fold {k + 1}, {error}"}
        held = pool.rows(vae)[np.flatnonzero(self.fold == k)]
        scores = evaluate(vae, held.x, num_samples=self.num_samples, seed=seed, **held.given)
        if not np.isfinite(scores.log_marginal).all():
            return {"failed": f"fold {k + 1}, held-out log p(x) is not finite"}
        columns = {
            name: torch.from_numpy(np.array(getattr(scores, name), dtype=np.float64))
            for name in _COLUMNS
        }
        if scores.summary()["k_hat_above_threshold"] is None:
            columns["unreliable"].fill_(math.nan)  # too few draws to know
        return columns

    def words(self, number: Fit) -> str:
        """Returns which fit it is."""
        i, s, k = number
        return f"{words(self.settings[i])}: fold {k + 1}, seed {self.seed + s}"

    def described(self) -> dict[str, Any]:
        """Returns what a selection is known again by, besides its models."""
        parts = {"x": self.pool.x, **Rows(self.pool.x, self.pool.given).tensors()}
        if self.pool.fitted is not self.pool.x:
            parts["fitted"] = self.pool.fitted
        return {
            "grid": described(self.settings),
            "data": {name: fingerprint(each) for name, each in parts.items()},
            "num_samples": self.num_samples,
            "validation": self.validation,
            "seed": self.seed,
            "options": described(self.options),
            "threads": threads(),
        }


def _results(
    fits: _Fits,
    numbers: Sequence[Fit],
    found: Mapping[Fit, Mapping[str, Any]],
    on_fit: Callable[[int, int, str], None] | None,
) -> Generator[tuple[Fit, dict[str, Any]]]:
    """Yields what fits come to that are not found yet, as they end.

    A setting that failed in one fold is not fitted to the next ones. It is to those before, which
    several jobs may have left: it failed in the first fold in which it does, whoever ends first.
    """
    failed = dict[int, Fit]()
    for before in sorted(found):
        if "failed" in found[before]:
            failed.setdefault(before[0], before)
    ended, begun = set(found), list[Fit]()

    def is_left(number: Fit) -> bool:
        return number not in ended and number < failed.get(number[0], (number[0] + 1, 0, 0))

    def left() -> Iterator[Fit]:
        for number in numbers:
            if is_left(number):
                begun.append(number)
                yield number

    def report() -> None:
        if on_fit is not None:
            following = next((n for n in numbers if is_left(n)), None)
            done = len(numbers) if following is None else numbers.index(following)
            on_fit(done, len(numbers), "" if following is None else fits.words(following))

    report()
    with closing(each(fits, left(), "build")) as results:
        for at, result in results:
            number = begun[at]
            ended.add(number)
            if "failed" in result:
                failed[number[0]] = min(number, failed.get(number[0], number))
            yield number, result
            report()


def _selection(
    fits: _Fits,
    seeds: int,
    models: Sequence[_Model],
    found: Mapping[Fit, Mapping[str, Any]],
    began: float,
) -> Selection:
    """Returns what the scores come to.

    Args:
        fits: What was fitted.
        seeds: Fits of each setting in each fold.
        models: That of each setting.
        found: What each fit came to.
        began: When the first one did, by :func:`time.perf_counter`.

    Raises:
        FloatingPointError: If every setting failed.
    """
    settings, fold = fits.settings, fits.fold
    failed: dict[int, Failed] = {}
    columns = {n: np.full((len(settings), seeds, len(fold)), math.nan) for n in _COLUMNS}
    for (i, s, k), result in sorted(found.items()):
        if "failed" in result:
            failed.setdefault(i, Failed(settings[i], result["failed"]))
            continue
        for name, column in columns.items():
            column[i, s, fold == k] = result[name].numpy()
    kept = [i for i in range(len(settings)) if i not in failed]
    if not kept:
        reasons = "; ".join(f"{each.label}: {each.reason}" for each in failed.values())
        raise FloatingPointError(f"every setting failed: {reasons}")
    columns = {name: column[kept] for name, column in columns.items()}
    sizes = [models[i].size for i in kept]
    return Selection(
        candidates=ranked([settings[i] for i in kept], sizes, fold, **columns),
        log_marginal=columns["log_marginal"],
        fold=fold,
        num_samples=fits.num_samples,
        seconds=time.perf_counter() - began,
        base_measure=models[kept[0]].measure,
        failed=tuple(failed.values()),
    )


@dataclass(frozen=True)
class _Model:
    """What is known of the model of a setting before it is fitted.

    Attributes:
        size: Its parameters.
        measure: Its base measure.
        spec: What it is known again by, with the options of its fits.
    """

    size: int
    measure: dict[str, Any]
    spec: dict[str, Any]

    @classmethod
    def of(cls, build: Callable[..., Built], setting: Mapping[str, Any], pool: _Pool) -> _Model:
        """Builds every setting before any is fitted: the last may be the one that is wrong."""
        vae, own = _built(build, setting, 0)
        state = {
            name: [str(tensor.dtype), *tensor.shape] for name, tensor in vae.state_dict().items()
        }
        try:
            parts = model_spec(vae)
        except ValueError:  # of arguments of the user's own
            parts = {}
        spec = {"parts": described(parts), "tensors": state, "options": described(own)}
        size = sum(p.numel() for p in vae.parameters())
        return cls(size, describe(vae, pool.rows(vae), pool.measure), spec)


def _built(
    build: Callable[..., Built], setting: Mapping[str, Any], seed: int
) -> tuple[VAE, Mapping[str, Any]]:
    with seeded(seed):
        built = build(**setting)
    vae, options = built if isinstance(built, tuple) else (built, {})
    if not isinstance(vae, VAE):
        raise expected("build", f"a function that returns a VAE{_OTHERS * is_amortized(vae)}", vae)
    return vae, options


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
        self._data, self.fitted, self.x = data, fitted, fitted
        self.given: Given = {}
        if isinstance(data, Dataset):
            parts = [data.given(split) for split in ("train", "validation")]
            self.given = tree_map(lambda *each: torch.cat(each).cpu(), *parts)
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
        return Rows(self.x, vae.uses(Rows(self.x, self.given)).given)

    def training(self, rows: np.ndarray, validation: float) -> tuple[Any, dict[str, Any]]:
        """Returns data for :func:`fit`, and options that go with them."""
        shuffled = np.random.default_rng(len(rows)).permutation(rows)
        held, kept = np.split(shuffled, [round(validation * len(rows))])
        train, epochs_by = self.fitted[kept], self.x[held]
        if isinstance(self._data, Tensor):
            return train, {"validation": epochs_by} if len(epochs_by) > 0 else {}
        both = Rows(self.x, self.given)
        of_split = {"train": both[kept].given, "validation": both[held].given}
        parts: dict[str, Any] = {
            name: {split: dict(given)[name] for split, given in of_split.items()}
            for name in self.given
        }
        return dataclasses.replace(
            self._data,
            train=train,
            validation=epochs_by,
            test=train[:0],
            labels=dict.fromkeys(SPLITS),
            **parts,
        ), {}
