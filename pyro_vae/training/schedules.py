"""Learning rates by epoch: the cosine, and whatever schedule torch has."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch.optim import SGD, Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pyro_vae._errors import expected, plural, unknown_name

__all__ = ["NAMES", "Factory", "Rates", "factory_of"]

Factory: TypeAlias = Callable[[Optimizer], LRScheduler]

_OF_OTHERS = {"LRScheduler", "LambdaLR", "MultiplicativeLR", "SequentialLR", "ChainedScheduler"}
_KNOWN = {
    name: getattr(lr_scheduler, name) for name in lr_scheduler.__all__ if name not in _OF_OTHERS
}
NAMES = ("constant", "cosine", *_KNOWN)
"""What a schedule may be called: the two of this package, and those of torch that take numbers."""


def factory_of(schedule: Any, lr: float, epochs: int) -> Factory | None:
    """Returns what makes the scheduler; None for ``constant`` and ``cosine``.

    Args:
        schedule: A name, the name of a scheduler of :mod:`torch.optim.lr_scheduler` with its
            arguments, such as ``StepLR(step_size=30)``, or a function from an optimiser to one.
        lr: The learning rate at the start.
        epochs: Passes over the data in all.

    Raises:
        ValueError: If it is none of these, or the scheduler refuses its arguments.

    Example:
        >>> factory_of("cosine", 1e-3, 10) is None
        True
        >>> factory_of("StepRL(step_size=30)", 1e-3, 10)
        Traceback (most recent call last):
        ...
        ValueError: `schedule`: did you mean 'StepLR'? expected one of constant, cosine, \
StepLR, MultiStepLR, ConstantLR, \
LinearLR, ExponentialLR, CosineAnnealingLR, ReduceLROnPlateau, CyclicLR, \
CosineAnnealingWarmRestarts, OneCycleLR and 1 more, got 'StepRL'
    """
    if schedule in ("constant", "cosine"):
        return None
    if isinstance(schedule, str):
        factory: Any = _parsed(schedule)
    elif callable(schedule):
        factory = schedule
    else:
        what = "a name, or a function from an optimiser to a scheduler of torch's"
        raise expected("schedule", what, schedule)
    try:
        Rates(factory, lr).share(epochs, [])
    except (TypeError, ValueError, ZeroDivisionError) as error:
        if str(error).startswith("`schedule`"):
            raise
        reason = str(error).splitlines()[0]
        shown = schedule if isinstance(schedule, str) else type(schedule).__name__
        through = f"one that goes through {plural(epochs, 'epoch')}"
        what = f"`schedule`: expected {through}, got {shown}, which fails: {reason}"
        raise ValueError(what) from None
    return factory


class Rates:
    """Creates a scheduler's learning rates, as shares of the first, epoch by epoch.

    The scheduler moves an optimiser that has nothing else to do, so that it is none of the engine's
    business; and it is taken through the epochs again where a run goes on.

    Args:
        factory: From an optimiser to the scheduler.
        lr: The learning rate of that optimiser.

    Raises:
        ValueError: If the function returns something else.

    Example:
        >>> halved = Rates(partial(lr_scheduler.StepLR, step_size=2, gamma=0.5), 1e-3)
        >>> [halved.share(epoch, []) for epoch in (1, 2, 3, 4, 5)]
        [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    def __init__(self, factory: Factory, lr: float) -> None:
        self._lr = lr
        self._optimizer = SGD([torch.nn.Parameter(torch.zeros(()))], lr=lr)
        self._scheduler = factory(self._optimizer)
        if not isinstance(self._scheduler, LRScheduler):
            raise expected("schedule", "a function that returns a scheduler", self._scheduler)
        self._epoch = 1

    def share(self, epoch: int, losses: Sequence[float]) -> float:
        """Returns the share of the learning rate that an epoch, counted from 1, has.

        Args:
            epoch: No earlier one than that of the last call.
            losses: Of the epochs before, for a scheduler that looks at them; it does not at one
                that is NaN.
        """
        while self._epoch < epoch:
            self._optimizer.step()  # torch warns of a scheduler that steps alone
            if not isinstance(self._scheduler, ReduceLROnPlateau):
                self._scheduler.step()
            elif losses and not math.isnan(loss := losses[self._epoch - 1]):
                self._scheduler.step(loss)
            self._epoch += 1
        return float(self._optimizer.param_groups[0]["lr"]) / self._lr


def _parsed(text: str) -> Factory:
    """Reads a name and arguments, and runs nothing."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    call = tree if isinstance(tree, ast.Call) else None
    named = tree if call is None else call.func
    if not isinstance(named, ast.Name):
        what = "a name, or one with arguments such as 'StepLR(step_size=30, gamma=0.5)'"
        raise expected("schedule", what, text)
    if named.id not in _KNOWN:
        raise unknown_name("schedule", named.id, NAMES)
    arguments: dict[str, Any] = {}
    if call is not None:
        if call.args:
            raise expected("schedule", "arguments by name, as in StepLR(step_size=30)", text)
        try:
            arguments = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            raise expected("schedule", "arguments that are numbers or names", text) from None
    return partial(_KNOWN[named.id], **arguments)
