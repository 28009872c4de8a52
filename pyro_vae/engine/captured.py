"""A graph of some steps, and what it stands for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_vae.engine import updates
from pyro_vae.engine.dependencies import Dependencies
from pyro_vae.engine.graph import Graph
from pyro_vae.engine.number import AsTensors
from pyro_vae.engine.optim import Slot
from pyro_vae.engine.problem import Problem, clipping
from pyro_vae.engine.walk import Walk
from pyro_vae.objectives import Objective

__all__ = ["Captured", "all_finite"]


class Captured:
    """A graph of some steps, what it stands for, and the optimiser state it moves.

    Args:
        problem: What the steps are taken of.
        dependencies: What has to stand for the graph to stand.
        params: The parameters it trains.
        slots: Where their optimisers are; none if the optimiser steps by itself.
        finite: Whether every loss so far has been finite, shape ``()``.
    """

    graph: Graph
    used = 0  # when it was last: a count of all uses
    taken = 0  # steps
    due: float = 1  # steps after which it is to be checked
    checks = 0  # times that it was

    def __init__(
        self,
        problem: Problem,
        dependencies: Dependencies,
        params: list[Tensor],
        slots: list[Slot],
        finite: Tensor,
    ) -> None:
        self._problem = problem
        self.dependencies = dependencies
        self.params = params
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

    def in_step(self) -> bool:
        """Tells whether slots that share a row still have the same step count."""
        return [slot.step for slot in self.slots] == [slot.step for slot in self._heads]

    def has_ended(self) -> bool:
        """Tells whether an earlier loss that was not finite keeps it from moving anything."""
        return bool(self.slots) and not bool(self._finite)

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

    def step(self, args: Any, kwargs: Any, rows: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """Takes one step as tensor operations, and returns its loss and gradients."""
        problem = self._problem
        with torch.enable_grad(), AsTensors():
            loss, surrogate, moved = problem.differentiable_loss(args, kwargs)
        grads: Sequence[Tensor] = torch.autograd.grad(
            surrogate, self.params, materialize_grads=True
        )
        if problem.clip_norm is not None:
            norm, scale = clipping(grads, problem.clip_norm)
            grads = [grad * scale for grad in grads]
            if problem.on_nonfinite != "ignore":
                loss = torch.where(norm.isfinite(), loss, math.nan)
        self._advance(grads, rows, loss, moved)
        return loss, grads

    def _advance(
        self,
        grads: Sequence[Tensor],
        rows: Tensor,
        loss: Tensor,
        moved: Sequence[tuple[Tensor, Tensor]],
    ) -> None:
        """Updates parameters and schedules, as long as every loss so far has been finite.

        So a run stops where it went wrong without the host having to look at each loss.
        """
        policy = self._problem.on_nonfinite
        ok = torch.ones_like(self._finite) if policy == "ignore" else all_finite(loss)
        if self.slots:
            # What is left out does not end the run.
            ok = self._finite.copy_(ok if policy == "skip" else self._finite & ok)
            for slot, grad, row in zip(self.slots, grads, self._cohorts, strict=True):
                updates.update(slot.optimizer, slot.group, slot.param, grad, rows[row], ok)
        for tensor, now in moved:
            tensor.data.copy_(torch.where(ok, now, tensor))
        if isinstance(self._problem.loss, Objective):
            step = self._problem.loss.step.clone()
            self._problem.loss.advance()
            self._problem.loss.step.copy_(torch.where(ok, self._problem.loss.step, step))


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
