"""The settings of a search are proposed by a sampler of Optuna, which is told how good each is.

The package is imported where it is first used. What it logs and warns of is of its studies, of
which nobody but this module knows, so that it is silent while it is called, and only then.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pyro_vae._errors import expected, plain, positive_integer, unknown_name

__all__ = ["OPTUNA", "Search", "package"]

OPTUNA = "optuna"


def package(argument: str) -> Any:
    """Returns Optuna.

    Args:
        argument: What asked for it.

    Raises:
        ValueError: If it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import optuna
    except ModuleNotFoundError:
        raise expected(argument, "optuna, by pip install 'pyro-vae[optuna]'", OPTUNA) from None
    return optuna


class Search:
    """A search by the tree-structured Parzen estimator: the same trials for the same seed.

    Args:
        how: By which package.
        grid: For each argument a list of values, which have no order, or a distribution of
            :mod:`optuna.distributions`.
        trials: How many settings are proposed, again and again the same one among them.
        seed: Of the sampler.

    Attributes:
        trials: The same.
        version: Of the package, as another one may propose others.

    Raises:
        ValueError: If an argument is not what it should be, there is nothing to choose from, or the
            package is missing.
    """

    def __init__(self, how: object, grid: object, trials: object, seed: int) -> None:
        if how != OPTUNA:
            raise unknown_name("search", how, [OPTUNA])
        if trials is None:
            raise expected("trials", "the number of settings that a search proposes", None)
        self.trials = positive_integer("trials", trials)
        if not isinstance(grid, Mapping) or len(grid) == 0:
            raise expected("grid", "values for each argument, which a search combines", grid)
        self._optuna = package("search")
        self._seed = seed
        self.version: str = self._optuna.__version__
        self._distributions, self._values = dict[str, Any](), dict[str, dict[Any, Any]]()
        for name, values in grid.items():
            self._add(name, values)
        # Of a range of real numbers there is no end.
        self._size = math.prod(map(_size, self._distributions.values()))
        if self._size < 2:
            raise expected("grid", "at least two settings to choose from", grid)

    def _add(self, name: str, values: Any) -> None:
        kinds = self._optuna.distributions
        if isinstance(values, kinds.CategoricalDistribution):
            values = values.choices
        if isinstance(values, kinds.BaseDistribution):
            self._distributions[name] = values
            return
        if isinstance(values, str) or not isinstance(values, Sequence) or len(values) == 0:
            what = "a list of values, or a distribution of optuna.distributions"
            raise expected(f"grid[{name!r}]", what, values)
        values = [plain(value) for value in values]
        choices = _choices(values)
        self._values[name] = dict(zip(choices, values, strict=True))
        self._distributions[name] = kinds.CategoricalDistribution(choices)

    def ends(self) -> list[dict[str, Any]]:
        """Returns settings that have each value of a list, and both ends of a range, once.

        The others of each are the first of theirs.
        """
        ends = {
            name: list(self._values[name].values())
            if name in self._values
            else [distribution.low, distribution.high]
            for name, distribution in self._distributions.items()
        }
        first = {name: values[0] for name, values in ends.items()}
        others = [first | {name: value} for name, values in ends.items() for value in values[1:]]
        return [first, *others]

    def run(self, score: Callable[[int, int, dict[str, Any]], float | None]) -> Any:
        """Proposes settings, until there are as many as asked for, or all that there are.

        Args:
            score: From how many trials there were, the number of a setting and the setting to how
                good it is; None if that cannot be known. It is called once for each setting.

        Returns:
            The study.
        """
        known: dict[tuple[Any, ...], float | None] = {}
        failed = self._optuna.trial.TrialState.FAIL
        with self._quiet():
            sampler = self._optuna.samplers.TPESampler(seed=self._seed)
            study = self._optuna.create_study(direction="maximize", sampler=sampler)
        for number in range(self.trials):
            with self._quiet():
                trial = study.ask(self._distributions)
            proposed = tuple(trial.params[name] for name in self._distributions)
            if proposed not in known:
                known[proposed] = score(number, len(known), self._setting(trial.params))
            value = known[proposed]
            with self._quiet():
                study.tell(trial, value, state=failed if value is None else None)
            if len(known) == self._size:
                break
        return study

    def _setting(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: self._values[name][params[name]] if name in self._values else params[name]
            for name in self._distributions
        }

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        logging = self._optuna.logging
        before = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.set_verbosity(before)


def _choices(values: Sequence[Any]) -> list[Any]:
    """Returns what a study has for values: themselves, their words, or their numbers in the list.

    It has simple values alone, each once, of which 1 and True are the same.
    """
    simple = all(value is None or isinstance(value, bool | int | float | str) for value in values)
    if simple and len(set(values)) == len(values):
        return list(values)
    words = [str(value) for value in values]
    return words if len(set(words)) == len(words) else list(range(len(values)))


def _size(distribution: Any) -> float:
    """How many values it has; infinity for real numbers."""
    if hasattr(distribution, "choices"):
        return len(distribution.choices)
    if distribution.single():
        return 1
    if distribution.step is None:
        return math.inf
    return math.floor((distribution.high - distribution.low) / distribution.step + 0.5) + 1
