"""Errors of a step, in the words of whoever called `fit`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from pyro_vae._errors import out_of_memory
from pyro_vae.engine import NonFinite
from pyro_vae.programs import Amortized
from pyro_vae.training.callbacks import Callbacks
from pyro_vae.training.recipe import Recipe
from pyro_vae.training.resume import RunInProgress
from pyro_vae.training.state import State

__all__ = ["explained"]

_NAMED = 8  # rows of a batch


class _Fit(Protocol):
    """What is known of the fit."""

    state: State
    recipe: Recipe
    callbacks: Callbacks
    progress: RunInProgress | None

    @property
    def vae(self) -> Amortized:
        """The model."""


@contextmanager
def explained(fit: _Fit) -> Iterator[None]:
    """Inside it, errors say in which epoch they were, and what may be done."""
    epoch = fit.state.epoch
    try:
        yield
    except NonFinite as error:
        raise _located(fit, error) from None
    except (RuntimeError, MemoryError) as error:
        if error is fit.callbacks.raised or not out_of_memory(error):
            raise
        size = fit.recipe.batch_size
        raise MemoryError(
            f"out of memory in epoch {epoch}: lower `batch_size`, now {size}, or the widths of "
            "the networks"
        ) from None
    except ValueError as error:
        if error is fit.callbacks.raised:
            raise
        reason = str(error).splitlines()[0]
        if "Trace Shapes:" in str(error) and "invalid values" not in reason:
            raise ValueError(reason) from error  # the cause has the shapes that Pyro saw
        if "invalid values" not in reason:
            raise
        # A distribution refuses parameters that are not finite before there is a loss.
        raise FloatingPointError(f"epoch {epoch}: {reason.rstrip(':')}") from None


def _located(fit: _Fit, error: NonFinite) -> FloatingPointError:
    """Says which batch it was; with a folder, leaves there what reproduces it."""
    message = f"epoch {fit.state.epoch}: {error}"
    if error.rows is not None:
        rows = ", ".join(map(str, error.rows[:_NAMED].tolist()))
        more = ", ..." if len(error.rows) > _NAMED else ""
        message += f"; rows {rows}{more} of the data"
    if fit.progress is not None:
        state = {"message": str(error), "step": error.step, "rows": error.rows}
        state |= {"batch": error.batch, "torch": error.random, "model": fit.vae.state_dict()}
        message += f"; reproduced by {fit.progress.reproduce(state)}"
        if len(last := fit.progress.checkpoints[-1:]):
            message += f"; the last checkpoint is {last[0]}"
    return FloatingPointError(message)
