"""The choice of any constructor argument: cross-validated on held-out log p(x)."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from pyro_vae._errors import check_seed, expected, plain, positive_integer
from pyro_vae._jobs import each, threads
from pyro_vae._kept import SELECTION, Fit, Kept, described, keeping
from pyro_vae._pool import Built, Model, Pool, built
from pyro_vae._search import OPTUNA, Search
from pyro_vae.candidates import Candidate, Failed, Selection, ranked, words
from pyro_vae.checkpoint import write_json
from pyro_vae.data import Dataset
from pyro_vae.data.dataset import fingerprint
from pyro_vae.data.rows import Numbers, Rows
from pyro_vae.evaluation import evaluate
from pyro_vae.evaluation.comparison import check_comparable
from pyro_vae.training.differences import differences
from pyro_vae.training.fit import fit
from pyro_vae.training.parts import of_one_fit
from pyro_vae.training.recipe import SHORT_FITS

__all__ = ["Candidate", "Failed", "Selection", "combinations", "select"]

_COLUMNS = ("log_marginal", "mcse", "unreliable")  # of each observation that is held out


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
            of_search = type(values).__module__.partition(".")[0] == OPTUNA
            hint = f"; with search={OPTUNA!r} a distribution, too" if of_search else ""
            raise expected(f"grid[{name!r}]", f"a list of values{hint}", values)
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def select(
    build: Callable[..., Built],
    data: Dataset | Numbers,
    grid: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    search: Literal["optuna"] | None = None,
    trials: int | None = None,
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

    With ``search="optuna"`` not all combinations are tried: a tree-structured Parzen estimator of
    Optuna proposes one setting after another, from how good those before were, by the mean
    held-out log p(x). Each is cross-validated as above, by the same folds and seeds. One that is
    proposed again is not fitted again, and one that ``build`` refuses is a failed one. The same
    seed comes to the same settings, with whatever jobs, where versions of Optuna are the same. The
    best of many is so in part by luck: its log p(x) is too high an estimate of what test data will
    show.

    Fits are shared by as many processes as joblib is configured to have: inside
    ``joblib.parallel_config(n_jobs=4)``, or with ``backend="dask"`` or ``"ray"`` on a cluster. Each
    has the seed of its number, and one thread (or ``OMP_NUM_THREADS``), so that the result is the
    same for any number of them.

    References:
        Cross-validatory choice and assessment of statistical predictions (Stone, 1974),
        https://doi.org/10.1111/j.2517-6161.1974.tb00994.x
        No Unbiased Estimator of the Variance of K-Fold Cross-Validation
        (Bengio and Grandvalet, 2004), https://www.jmlr.org/papers/v5/grandvalet04a.html
        Algorithms for Hyper-Parameter Optimization (Bergstra et al., 2011),
        https://papers.nips.cc/paper/4443-algorithms-for-hyper-parameter-optimization.pdf
        Optuna: A Next-generation Hyperparameter Optimization Framework (Akiba et al., 2019),
        https://arxiv.org/abs/1907.10902

    Args:
        build: From a setting, as keyword arguments, to a model, or to a model and options of
            :func:`pyro_vae.fit` that go with it, such as ``objective``.
        data: A dataset, with what goes with each observation; or a tensor, ``(N, *event_shape)``.
        grid: Values for each argument, all combinations of which are tried; or the settings
            themselves. In a search the values are choices that have no order, and in their place
            may be a distribution, such as ``optuna.distributions.FloatDistribution``.
        search: What proposes settings, in place of all combinations; None for these. It needs the
            package: ``pip install 'pyro-vae[optuna]'``.
        trials: How many settings a search proposes, unless there are fewer.
        folds: Parts that the data are cut into.
        seeds: Fits of each setting in each fold.
        num_samples: Draws of z for each held-out observation.
        validation: Fraction of the data fitted to that is set apart to choose the epoch; 0 keeps
            the last epoch.
        seed: Of the folds, of the first fits, of the draws and of a search.
        on_fit: Called before each fit, and at the end, with the number done, the number in all and
            what is next; of several jobs as each ends, with the first that has not.
        out: A folder to make, where the scores of each fit are kept as it ends, and
            ``selection.json`` at last.
        resume: Whether to go on in that folder, with the fits that are missing; a search may go on
            to more trials.
        options: For every fit, as in :func:`pyro_vae.fit`; ``compile`` is False if not given,
            since compiling takes longer than a short fit.

    Returns:
        The selection; ``selection.chosen.arguments`` is the setting to fit to all data.

    Raises:
        ValueError: If an argument is out of range, settings differ in what log p(x) is a density
            of, ``build`` cannot be sent to another process, the folder is of another selection, or
            Optuna is not installed and asked for.
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
    folds, seeds = positive_integer("folds", folds), positive_integer("seeds", seeds)
    num_samples, seed = positive_integer("num_samples", num_samples), check_seed("seed", seed)
    by = _search(search, grid, trials, seed)
    settings = _settings(grid) if by is None else by.ends()
    _check_options(settings, validation)
    pool = Pool(data, seed)
    fold = pool.folds(folds)
    models = [Model.of(build, setting, pool) for setting in settings]
    check_comparable({words(s): m.measure for s, m in zip(settings, models, strict=True)}, "grid")
    began = time.perf_counter()
    options = SHORT_FITS | options
    fits = _Fits(build, settings, pool, fold, seeds, num_samples, validation, seed, options)
    asked = {} if out is None else fits.described() | {"folds": folds, "seeds": seeds}
    asked |= {"models": [model.spec for model in models]}
    if by is not None:
        asked |= {"search": {"grid": described(grid), OPTUNA: by.version}}
    with keeping(out, resume, asked) as kept:
        if by is None:
            numbers = [number for i in range(len(settings)) for number in fits.of(i)]
            known, before = set(numbers), kept.read()
            found = {fit: result for fit, result in before.items() if fit in known}
            _complete(fits, numbers, found, kept, on_fit)
            selection = _selection(fits, dict(enumerate(models)), found, began)
        else:
            tried = _Trials(fits, models[0], kept, on_fit, by.trials)
            study = by.run(tried)
            tried.report_end()
            selection = _selection(tried.fits, tried.models, tried.found, began, study)
        if out is not None:
            write_json(Path(out) / SELECTION, selection.summary())
    return selection


def _search(search: object, grid: object, trials: object, seed: int) -> Search | None:
    if search is not None:
        return Search(search, grid, trials, seed)
    if trials is not None:
        raise expected("trials", f"none without search={OPTUNA!r}", trials)
    return None


def _settings(grid: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    chosen = combinations(grid) if isinstance(grid, Mapping) else grid
    return [{name: plain(value) for name, value in each.items()} for each in chosen]


def _check_options(settings: Sequence[Mapping[str, Any]], validation: float) -> None:
    if len(settings) < 2:
        raise expected("grid", "at least two settings to choose from", settings)
    if not 0 <= validation < 1:
        raise expected("validation", "a fraction in [0, 1)", validation)


@dataclass(frozen=True)
class _Fits:
    """Fits a setting to all folds but one, and scores it on that one; in whatever process."""

    build: Callable[..., Built]
    settings: list[dict[str, Any]]
    pool: Pool
    fold: np.ndarray
    seeds: int
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
        vae, own = built(self.build, self.settings[i], seed + s)
        train, with_it = pool.training(np.flatnonzero(self.fold != k), self.validation)
        try:
            options = {"progress": False} | dict(self.options) | dict(own)
            options["objective"] = of_one_fit(options.get("objective"), vae)
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

    def of(self, i: int) -> list[Fit]:
        """Returns the numbers of the fits of a setting."""
        return list(itertools.product([i], range(self.seeds), range(int(self.fold.max()) + 1)))

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


def _complete(
    fits: _Fits,
    numbers: Sequence[Fit],
    found: dict[Fit, dict[str, Any]],
    kept: Kept,
    on_fit: Callable[[int, int, str], None] | None,
    **beside: Any,
) -> None:
    """Makes the fits that are not found yet, and keeps them, with what else there is to say."""
    # Closed at once, should this be interrupted: it ends the processes that fit.
    with closing(_results(fits, numbers, found, on_fit)) as results:
        for fit, result in results:
            found[fit] = result
            kept.add(fit, result | beside)


class _Trials:
    """Cross-validates settings as they are proposed, or takes what was kept of them.

    Args:
        fits: What is common to all.
        model: That whose base measure all have.
        kept: What was kept, and where to keep more.
        on_fit: As :func:`select` has it.
        trials: How many there may be.
    """

    def __init__(
        self,
        fits: _Fits,
        model: Model,
        kept: Kept,
        on_fit: Callable[[int, int, str], None] | None,
        trials: int,
    ) -> None:
        self.fits = dataclasses.replace(fits, settings=[])
        self.models: dict[int, Model] = {}
        self.found: dict[Fit, dict[str, Any]] = {}
        self._first, self._kept, self._before = model, kept, kept.read()
        self._on_fit, self._total = on_fit, trials * len(fits.of(0))

    def __call__(self, trial: int, i: int, setting: dict[str, Any]) -> float | None:
        """Returns the mean held-out log p(x) of a setting; None if it failed.

        Args:
            trial: How many trials there were.
            i: The number of the setting.
            setting: It, which was not proposed before.
        """
        fits, numbers, known = self.fits, self.fits.of(i), described(setting)
        fits.settings.append(setting)
        try:
            self.models[i] = model = Model.of(fits.build, setting, fits.pool)
            first = {"the others": self._first.measure}
            check_comparable(first | {words(setting): model.measure}, "grid")
        except ValueError as error:  # values that are fine one by one
            self.found[numbers[0]] = {"failed": str(error).partition("\n")[0]}
            return None
        for number in numbers:
            if number in self._before:
                self.found[number] = self._again(trial, number, known)
        _complete(fits, numbers, self.found, self._kept, self._reporting(trial), setting=known)
        results = [self.found[number] for number in numbers if number in self.found]
        if any("failed" in each for each in results):
            return None
        # By NumPy, which adds up in one order whatever the number of threads.
        return float(np.concatenate([each["log_marginal"].numpy() for each in results]).mean())

    def _again(self, trial: int, number: Fit, setting: Any) -> dict[str, Any]:
        """Returns what was kept of a fit, if it is of the same setting."""
        result = self._before[number]
        if changed := differences({"setting": result.get("setting")}, {"setting": setting}):
            what = f"`resume`: expected trial {trial + 1} as it was kept, got another"
            raise ValueError(f"{what}, of another processor or package: {changed}")
        return result

    def _reporting(self, trial: int) -> Callable[[int, int, str], None] | None:
        on_fit, begun = self._on_fit, trial * len(self.fits.of(0))
        if on_fit is None:
            return None

        def report(done: int, _: int, following: str) -> None:
            if following:
                on_fit(begun + done, self._total, following)

        return report

    def report_end(self) -> None:
        """Says that nothing follows."""
        if self._on_fit is not None:
            self._on_fit(self._total, self._total, "")


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
    models: Mapping[int, Model],
    found: Mapping[Fit, Mapping[str, Any]],
    began: float,
    study: Any = None,
) -> Selection:
    """Returns what the scores come to.

    Args:
        fits: What was fitted.
        models: That of each setting that could be fitted, by its number.
        found: What each fit came to.
        began: When the first one did, by :func:`time.perf_counter`.
        study: That of a search.

    Raises:
        FloatingPointError: If every setting failed.
    """
    settings, fold = fits.settings, fits.fold
    failed: dict[int, Failed] = {}
    columns = {n: np.full((len(settings), fits.seeds, len(fold)), math.nan) for n in _COLUMNS}
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
        study=study,
    )
