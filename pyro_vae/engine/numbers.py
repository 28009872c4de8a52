"""Numbers among the arguments of a step: inputs of a graph, or constants that are guarded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.engine.errors import NotCapturable
from pyro_vae.engine.memory import preserved
from pyro_vae.engine.number import AsTensors, Number
from pyro_vae.engine.problem import Problem
from pyro_vae.engine.protocol import Arguments, Batch

__all__ = ["Numbers", "Placed", "try_inputs"]

_LARGEST = 2**53  # up to which double precision has every integer


@dataclass
class _Family:
    """The numbers of calls that have the same arguments otherwise, and what has become of each.

    Attributes:
        last: Their values in the last call.
        inputs: Whether each is an input.
        refused: Why one cannot be, by place.
        passed: The values of the last call as tensors, by the places of those in it.
    """

    last: tuple[Any, ...]
    inputs: list[bool]
    refused: dict[int, str] = field(default_factory=dict)
    passed: dict[tuple[int, ...], Tensor] = field(default_factory=dict)


class Numbers:
    """Creates the record of which numbers are inputs of graphs.

    A real number is one until that has turned out to be impossible; an integer, which most often
    is a size or a choice, once it has changed.

    Args:
        report: What is called with the reason why a number that changes is a constant.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self._families: dict[Any, _Family] = {}
        self._report = report
        self.moving = False  # whether a constant of the last call was another one before

    def place(self, batch: Batch, tensors: Sequence[Tensor], device: torch.device) -> Placed:
        """Returns a call with its inputs in place of numbers, and the others in its key."""
        values = tuple(map(_plain, batch.numbers))
        family = self._families.get(batch.key)
        if family is None:
            family = _Family(values, [isinstance(value, float) for value in values])
            self._families[batch.key] = family
        self.moving = False
        if values != family.last:
            for place, (now, then) in enumerate(zip(values, family.last, strict=True)):
                if now == then or family.inputs[place]:
                    continue
                if place in family.refused:
                    self._report(
                        f"number {place + 1} among the arguments changes, and "
                        f"{family.refused[place]}"
                    )
                    self.moving = True
                else:
                    family.inputs[place] = True
            family.last, family.passed = values, {}
        places = [
            place
            for place, value in enumerate(values)
            if family.inputs[place] and math.isfinite(value) and abs(value) <= _LARGEST
        ]
        return Placed(batch, tuple(tensors), values, places, family, device)


class Placed:
    """A call some of whose numbers are inputs.

    Attributes:
        places: Which of the numbers.
        key: The key of the batch, with the values of the other numbers, and the signs of these:
            programs refuse those of the wrong one.
        stale: Whether one of its inputs has become a constant since.
    """

    def __init__(
        self,
        batch: Batch,
        tensors: tuple[Tensor, ...],
        values: tuple[Any, ...],
        places: list[int],
        family: _Family,
        device: torch.device,
    ) -> None:
        self.places = places
        self.stale = False  # whether it is to be placed anew
        self._batch, self._tensors, self._family = batch, tensors, family
        self._values, self._device = values, device
        known = tuple(
            (value > 0) - (value < 0) if place in places else ("is", value)
            for place, value in enumerate(values)
        )
        self.key = batch.key, tuple(places), known

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors of the call, and that of the inputs, shape ``(places,)``."""
        if not self.places:
            return self._tensors
        passed = self._family.passed.get(tuple(self.places))
        if passed is None or passed.device != self._device:
            numbers = [float(self._values[place]) for place in self.places]
            passed = torch.tensor(numbers, dtype=torch.float64, device=self._device)
            self._family.passed[tuple(self.places)] = passed
        return *self._tensors, passed

    @property
    def batch(self) -> Batch:
        """How the arguments are made of these tensors."""
        return self._batch._replace(key=self.key, arguments=self._arguments)

    def only(self, places: list[int]) -> Placed:
        """Returns the call with these inputs alone."""
        return Placed(self._batch, self._tensors, self._values, places, self._family, self._device)

    def refuse(self, place: int, reason: str) -> None:
        """Makes a number a constant, for the reason given."""
        self._family.inputs[place] = False
        self._family.refused[place] = reason
        self.stale = True

    def _arguments(self, tensors: Sequence[Tensor], step: int) -> Arguments:
        assert self._batch.filled is not None
        numbers = list(self._batch.numbers)
        if not self.places:
            return self._batch.filled(tensors, numbers)
        *rest, row = tensors
        for position, place in enumerate(self.places):
            value = row[position]
            whole = isinstance(self._values[place], int)
            pure = type(numbers[place]) in (int, float, np.float64)
            numbers[place] = Number(value.long() if whole else value, pure)
        return self._batch.filled(rest, numbers)


def try_inputs(
    placed: Placed,
    batch: Batch,
    tensors: Sequence[Tensor],
    problem: Problem,
    params: Sequence[Tensor],
    state: Sequence[Tensor],
) -> None:
    """Compares a run with inputs in place of numbers with one of the numbers themselves.

    Args:
        placed: The call with inputs.
        batch: The call itself.
        tensors: Its tensors.
        problem: What is run.
        params: The parameters whose gradients are compared.
        state: What the runs may change, and is put back.

    Raises:
        NotCapturable: If they differ. Then numbers that are to blame are constants from now on.
    """

    def run(batch: Batch, tensors: Sequence[Tensor]) -> list[Tensor]:
        with preserved(state), torch.enable_grad(), AsTensors():
            loss, surrogate, _ = problem.differentiable_loss(*batch.arguments(tensors, 0))
            return [loss, *torch.autograd.grad(surrogate, params, materialize_grads=True)]

    def difference(call: Placed) -> str | None:
        try:
            found = run(call.batch, call.tensors)
        except Exception as error:  # whatever a program says to what is no number of Python
            return (str(error).strip() or type(error).__name__).splitlines()[0]
        if is_expected(found):
            return None
        return "the program computes something else with it as a tensor"

    def is_expected(found: list[Tensor]) -> bool:
        rtol, atol = (1e-9, 1e-12) if found[0].dtype == torch.float64 else (1e-4, 1e-6)
        return all(
            now.dtype == then.dtype and torch.allclose(now, then, rtol, atol, equal_nan=True)
            for now, then in zip(found, expected, strict=True)
        )

    if not placed.places:
        return
    expected = run(batch, tensors)
    if (reason := difference(placed)) is None or not is_expected(run(batch, tensors)):
        return  # what computes something else at every run is refused for that
    alone = {place: difference(placed.only([place])) for place in placed.places}
    to_blame = {p: why for p, why in alone.items() if why} or dict.fromkeys(alone, reason)
    for place, why in to_blame.items():
        placed.refuse(place, why)
    raise NotCapturable(reason)


def _plain(value: Any) -> Any:
    """Returns the number of Python that a number of NumPy is."""
    return value.item() if hasattr(value, "item") else value
