"""A graph of some steps, and what it stands for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.engine import updates
from pyro_vae.engine.dependencies import Dependencies
from pyro_vae.engine.errors import NotCapturable
from pyro_vae.engine.graph import Graph
from pyro_vae.engine.number import AsTensors
from pyro_vae.engine.optim import Slot
from pyro_vae.engine.problem import Problem, clipping
from pyro_vae.engine.validation import Checks, recording
from pyro_vae.engine.walk import Walk
from pyro_vae.objectives import Objective

__all__ = ["Captured", "Step", "all_finite"]


class Step(NamedTuple):
    """What a step comes to.

    Attributes:
        loss: The loss.
        valid: Whether what it has computed is what distributions let pass, shape ``()``; None where
            they check nothing. Where a loss that is not finite is ignored, a step behind one that
            is not valid is not either: none of them is taken.
        grads: The gradients.
    """

    loss: Tensor
    valid: Tensor | None
    grads: Sequence[Tensor]


class Captured:
    """A graph of some steps, what it stands for, and the optimiser state it moves.

    Args:
        problem: What the steps are taken of.
        dependencies: What has to stand for the graph to stand.
        params: The parameters it trains.
        idle: Those that it meets, and which have no gradient in it.
        slots: Where their optimisers are; none if the optimiser steps by itself.
        finite: Whether every loss so far has been finite, shape ``()``.
    """

    graph: Graph
    used = 0  # when it was last: a count of all uses
    taken = 0  # steps
    due: float = 1  # steps after which it is to be checked
    checks = 0  # times that it was
    validates: bool  # whether it is known which steps are valid
    is_unchecked = False  # whether there are checks that are none of a graph's
    _rebound = 0  # times that tensors were replaced
    _checks: Checks | None = None

    def __init__(
        self,
        problem: Problem,
        dependencies: Dependencies,
        params: list[Tensor],
        idle: list[Tensor],
        slots: list[Slot],
        finite: Tensor,
    ) -> None:
        self._problem = problem
        self.validates = problem.validate
        self.dependencies = dependencies
        self.params = params
        self._idle = idle
        self.slots = slots
        self._finite = finite
        # Slots of one group with one step count share a row of numbers.
        self._cohorts, self._table = _cohorts(slots)
        self._heads = [self._table[row] for row in self._cohorts]
        double = any(param.dtype == torch.float64 for param in params)
        self._dtype = torch.float64 if double else torch.float32

    def watch(self) -> list[Tensor]:
        """Watches what is baked in of the optimisers, and returns their state."""
        state: list[Tensor] = []
        for slot in self.slots:
            state += updates.prepare(slot.optimizer, slot.group, slot.param)
        self.dependencies.also(self._watch_optimizers)
        return state

    def _watch_optimizers(self, walk: Walk) -> None:
        for slot in self.slots:
            walk.entries("optimizer", vars(slot), ("group",), follow=False)
        for group in {id(slot.group): slot.group for slot in self.slots}.values():
            optimizer = next(slot.optimizer for slot in self.slots if slot.group is group)
            walk.entries("optimizer", group, updates.constants(optimizer))
            walk.entries("optimizer", vars(optimizer), ("state",), follow=False)

    def rebind(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> bool:
        """Has the graph read other tensors in the place of some, see :meth:`Graph.rebind`.

        It is checked where that happens for the first two times, as a new graph is.
        """
        if not self.graph.rebind(pairs):
            return False
        self._rebound += 1
        if self._rebound <= 2 and self.due < math.inf:
            self.due = self.taken + 1
        return True

    def in_step(self) -> bool:
        """Tells whether the optimisers are as they were for its parameters, and for no others.

        Slots that share a row have to have one step count. A parameter that another graph has moved
        goes on by its momentum, as in stock SVI.
        """
        if any(map(self._problem.optim.has_moved, self._idle)):
            return False
        return [slot.step for slot in self.slots] == [slot.step for slot in self._heads]

    def has_ended(self) -> bool:
        """Tells whether an earlier step that was not to be taken keeps it from moving anything."""
        return bool(self.slots) and not bool(self._finite)

    def cannot_validate(self) -> bool:
        """Tells whether a check has been met that is none of a graph's."""
        return self._checks is not None and self._checks.failed

    def rows(self, count: int) -> Tensor:
        """Returns the optimisers' numbers, shape ``(count, rows, WIDTH)``."""
        return torch.tensor(
            [
                [updates.numbers(slot.optimizer, slot.group, slot.step + i) for slot in self._table]
                for i in range(1, count + 1)
            ],
            dtype=self._dtype,
            device=self.params[0].device,
        )

    def step(self, args: Any, kwargs: Any, rows: Tensor) -> Step:
        """Takes one step as tensor operations."""
        problem = self._problem
        self._checks = Checks() if self.validates else None
        first, *others = problem.portions(args, kwargs)
        with torch.enable_grad(), AsTensors(), recording(self._checks):
            loss, grads, moved = self._differentiated(*first)
            for portion in others:
                part, added, averages = self._differentiated(*portion)
                if averages:
                    raise NotCapturable("running averages move within a step of several portions")
                loss = loss + part
                grads = [grad + more for grad, more in zip(grads, added, strict=True)]
        valid = None if self._checks is None else self._checks.flag()
        self.validates = valid is not None
        return self.finish(Step(loss, valid, grads), rows, moved)

    def finish(self, step: Step, rows: Tensor, moved: Sequence[tuple[Tensor, Tensor]]) -> Step:
        """Does what follows loss and gradients: these are clipped, and the step is taken."""
        problem, (loss, valid, grads) = self._problem, step
        if problem.clip_norm is not None:
            norm, scale = clipping(grads, problem.clip_norm)
            grads = [grad * scale for grad in grads]
            if problem.on_nonfinite != "ignore":
                loss = torch.where(norm.isfinite(), loss, math.nan)
        return self._advance(Step(loss, valid, grads), rows, moved)

    def _differentiated(
        self, args: Any, kwargs: Any
    ) -> tuple[Tensor, Sequence[Tensor], list[tuple[Tensor, Tensor]]]:
        """Returns the loss, its gradients, and what moves besides."""
        loss, surrogate, moved = self._problem.differentiable_loss(args, kwargs)
        if surrogate.requires_grad:
            return loss, torch.autograd.grad(surrogate, self.params, materialize_grads=True), moved
        return loss, list(map(torch.zeros_like, self.params)), moved  # momentum alone

    def _advance(self, step: Step, rows: Tensor, moved: Sequence[tuple[Tensor, Tensor]]) -> Step:
        """Updates parameters and schedules, as long as every step so far was as it has to be.

        So a run stops where it went wrong without the host having to look at each loss: that of a
        step which is not taken is NaN.
        """
        policy = self._problem.on_nonfinite
        loss, valid, grads = step
        if policy == "ignore":
            ok = torch.ones_like(self._finite) if valid is None else valid
        else:
            loss = loss if valid is None else torch.where(valid, loss, math.nan)
            ok = all_finite(loss)
        if self.slots:
            # What is left out does not end the run.
            ok = self._finite.copy_(ok if policy == "skip" else self._finite & ok)
            for slot, grad, row in zip(self.slots, grads, self._cohorts, strict=True):
                updates.update(slot.optimizer, slot.group, slot.param, grad, rows[row], ok)
        for tensor, now in moved:
            tensor.data.copy_(torch.where(ok, now, tensor))
        if isinstance(self._problem.loss, Objective):
            count = self._problem.loss.step.clone()
            self._problem.loss.advance()
            self._problem.loss.step.copy_(torch.where(ok, self._problem.loss.step, count))
        if policy == "ignore" and valid is not None:
            valid = ok.clone()
            loss = torch.where(valid, loss, math.nan)
        return Step(loss, valid, grads)


def all_finite(loss: Tensor) -> Tensor:
    """Tells whether a loss, or each of the numbers that it is, is finite, shape ``()``."""
    return loss.isfinite().all() if loss.dim() > 0 else loss.isfinite()


def _cohorts(slots: Sequence[Slot]) -> tuple[list[int], list[Slot]]:
    """Sorts slots by what their numbers depend on: the row of each, and one slot for each row."""
    rows: dict[tuple[int, int], int] = {}
    table: list[Slot] = []
    cohorts = []
    for slot in slots:
        row = rows.setdefault((id(slot.group), slot.step), len(rows))
        if row == len(table):
            table.append(slot)
        cohorts.append(row)
    return cohorts, table
