"""A fresh copy of a fitted program, fitted to other rows."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import pyro
from pyro.infer import ELBO as PyroELBO  # noqa: N811 - an acronym in both
from pyro.optim import PyroOptim

from pyro_vae._errors import check_seed, expected, positive_integer
from pyro_vae.data.rows import Rows
from pyro_vae.programs import VAE, Program
from pyro_vae.training.fit import fit
from pyro_vae.training.recipe import Recipe
from pyro_vae.training.run import Fitted

__all__ = ["default_epochs", "refitted"]

_SHARE = 4  # of the epochs of the fit, one in so many: a warm start has little to go, but
_LEAST_STEPS = 1000  # as many, or what is drawn stays too near to where it started
_HELD_OUT = 0.1  # of the rows, where validation rows chose the epoch of the fit, too
_LEAST_HELD_OUT = 20  # rows that learned scales are calibrated by; of few rows none are held out
_MOST_HELD_OUT = 0.2


def default_epochs(recipe: Recipe, size: int) -> int:
    """Returns the epochs of a refit to so many rows.

    It is a quarter of those of the fit, rounded up, of 1,000 steps at least; never more than those
    of the fit.

    Example:
        >>> recipe = Recipe(epochs=30, batch_size=100)
        >>> (
        ...     default_epochs(recipe, 50_000),
        ...     default_epochs(recipe, 5000),
        ...     default_epochs(recipe, 200),
        ... )
        (8, 20, 30)
    """
    steps = math.ceil(size / recipe.batch_size)
    return min(recipe.epochs, max(-(-recipe.epochs // _SHARE), -(-_LEAST_STEPS // steps)))


def refitted(
    vae: Fitted,
    rows: Rows,
    seed: int,
    *,
    objective: PyroELBO,
    recipe: Recipe,
    epochs: int | None,
    validates: bool,
) -> Fitted:
    """Returns a copy of a program, fitted to other rows; see :meth:`pyro_vae.Run.refit`.

    Args:
        vae: The fitted program, which is left as it is.
        rows: Observations, with what goes with them.
        seed: Of all that the fit draws.
        objective: What was minimised, as far as it came.
        recipe: How.
        epochs: Passes over the rows; :func:`default_epochs` if not given.
        validates: Whether held-out rows choose the epoch, and calibrate learned scales.

    Raises:
        ValueError: If the rows do not suit the program, or it cannot be copied.
    """
    if not isinstance(rows, Rows):
        raise expected("rows", "`pyro_vae.data.Rows`: x, and what goes with it", rows)
    share = max(_HELD_OUT, _LEAST_HELD_OUT / max(len(rows), 1)) if validates else 1.0
    validates = share <= _MOST_HELD_OUT  # of few rows none are set apart
    recipe = replace(
        recipe,
        epochs=positive_integer("epochs", epochs)
        if epochs is not None
        else default_epochs(recipe, max(len(rows), 1)),
        seed=check_seed("seed", seed),
        # A graph is compiled for each copy: only where there is enough work for it to pay.
        compile=recipe.compile and "auto",
        optim=_afresh(recipe.optim),
        patience=None,
        monitor=recipe.monitor if validates else None,
        restore=recipe.restore if validates or recipe.restore != "best" else None,
    )
    twin, beside = _copied(vae), cast("dict[str, Any]", rows.given)
    with pyro.get_param_store().scope(), _silently():
        fit(
            twin,
            rows.x,
            objective=copy.deepcopy(objective),
            device=twin.device,
            validation=share if validates else None,
            progress=False,
            **beside,
            **vars(recipe),
        )
    return twin


def _copied(vae: Fitted) -> Fitted:
    """Returns a copy that shares no parameter with what it is a copy of.

    Raises:
        ValueError: If a program is a function that reaches networks, which a copy of it reaches,
            too.
    """
    if isinstance(vae, Program) and not vae.can_be_copied:
        what = "a VAE, or a Program of modules; for others, a function from rows and a seed to one"
        raise expected("program", f"{what} that is built and fitted anew", vae)
    if not isinstance(vae, VAE | Program):
        raise expected("program", "a VAE, or a Program", vae)
    return copy.deepcopy(vae)


def _afresh(optim: Any) -> Any:
    """Returns an optimiser of Pyro's without what it remembers of the parameters it has moved."""
    if not isinstance(optim, PyroOptim):
        return optim
    return PyroOptim(optim.pt_optim_constructor, optim.pt_optim_args, optim.pt_clip_args)


@contextmanager
def _silently() -> Iterator[None]:
    """Inside it nothing is logged, and nobody is warned: whoever fitted first was."""
    levels = {log: log.level for log in map(logging.getLogger, ("pyro_vae", "pyro_vae.training"))}
    try:
        for log in levels:  # one that has a level of its own does not ask those above it
            log.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in levels.items():
            log.setLevel(level)
