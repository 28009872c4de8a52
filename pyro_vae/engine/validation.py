"""Validation inside a graph: what distributions check of a step's values becomes one flag.

Distributions check their parameters and what is scored: they reduce a constraint to one truth
value, and raise an error by it. While a step is captured the outcome is known, as the program runs
on real tensors; the graph notes whether it is the same at each later step. So the checks are those
of the distributions themselves, with whatever control flow on truth values they have. Checks of
other kinds (of a number that is read, or by NumPy) are none that a graph can make: then a program
is validated when it is captured, and not at each step.
"""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pyro
import torch
from pyro.poutine import scale_messenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import is_validation_enabled
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from pyro_vae.engine.replacing import replaced

__all__ = ["Checks", "checks", "recording", "validated_in_tensors"]

_CHECKING = ("__init__", "_validate_sample", "check")  # functions of these:
_OWNERS = (Distribution, Constraint, Messenger)
_innermost: list[Checks | None] = [None]


class Checks:
    """Creates the record of the truth values that the checks of a step have read.

    Attributes:
        failed: Whether a check has read something that is no truth value.
    """

    def __init__(self) -> None:
        self._passed: list[Tensor] = []
        self.failed = False

    def record(self, value: Tensor, outcome: bool) -> None:
        """Notes that a check has read ``value``, shape ``()``."""
        self._passed.append(value if outcome else value.logical_not())

    def flag(self) -> Tensor | None:
        """Returns whether every value is as it was, shape ``()``; None if there is none."""
        return functools.reduce(torch.logical_and, self._passed) if self._passed else None


@contextmanager
def recording(checks: Checks | None) -> Iterator[None]:
    """Inside it, what distributions check is recorded; None records nothing."""
    _innermost.append(checks)
    try:
        yield
    except Exception as error:
        frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
        if checks is not None and any(map(_checks, frames)):
            checks.failed = True
        raise
    finally:
        _innermost.pop()


def checks() -> Checks | None:
    """Returns where checks are recorded, if it is a check that runs now."""
    found = _innermost[-1]
    if found is None:
        return None
    frames = (frame for frame, _ in traceback.walk_stack(sys._getframe(1)))
    return found if any(map(_checks, frames)) else None


@contextmanager
def validated_in_tensors() -> Iterator[None]:
    """Inside it nothing is validated, unless checks are recorded; then only what those record."""
    recorded = _innermost[-1] is not None
    parts: list[tuple[Any, str, Any]] = [
        (Distribution, "_validate_args", Distribution._validate_args and recorded)
    ]
    if recorded:
        # All that this module does with it is to check a scale. That of a number that is an input
        # of the graph is known by its sign, which is part of the key.
        scaled = is_validation_enabled()

        def checks_scale() -> bool:
            return scaled and type(sys._getframe(1).f_locals["scale"]) in (Tensor, nn.Parameter)

        parts.append((scale_messenger, "is_validation_enabled", checks_scale))
    else:
        # One made earlier goes on validating, whatever the default has become since.
        parts.append((Distribution, "_validate_sample", lambda self, value: None))
    with pyro.validation_enabled(False), replaced(parts):
        yield


def _checks(frame: FrameType) -> bool:
    """Tells whether code checks what a distribution, a constraint or a handler is given."""
    code = frame.f_code
    if code.co_name not in _CHECKING or not code.co_varnames:
        return False
    return isinstance(frame.f_locals.get(code.co_varnames[0]), _OWNERS)
