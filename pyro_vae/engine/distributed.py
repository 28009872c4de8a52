r"""Several processes that take each step together, and shards whose gradients are added up.

The loss of a batch is a sum over its observations, and so is its gradient. A batch is cut into
shards, each process computes the gradients of its own, and all take the same update,

.. math:: \nabla L = \sum_{v=1}^{V} \nabla L_v ,

each with the generator of torch set from seed, step and number of the shard. Without ``shards``
there is one shard a process, and the sum is an all-reduce inside the graph of the update: equal in
expectation to a step of one process. With ``shards=V`` the V gradients are gathered and added up in
their order, so that the very bits of a run do not depend on how many processes share them.

References:
    PyTorch Distributed: Experiences on Accelerating Data Parallel Training (Li et al., 2020),
    https://arxiv.org/abs/2006.15704
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae._errors import expected
from pyro_vae.engine.captured import Captured, Step, all_finite
from pyro_vae.engine.dependencies import Dependencies
from pyro_vae.engine.errors import NotCapturable
from pyro_vae.engine.graph import Graph
from pyro_vae.engine.optim import Optim, Slot
from pyro_vae.engine.pace import Stopwatch
from pyro_vae.engine.problem import Problem
from pyro_vae.engine.processes import Processes
from pyro_vae.engine.protocol import Attempt, Batch, Engine, EngineName
from pyro_vae.objectives import Objective

__all__ = ["SharedEngine", "Sharing", "compiles"]

_LOOK = 16  # steps on a device from one look at what processes were asked to the next
_WORTHWHILE = 50_000  # shards: compiling would pay for itself where each takes two milliseconds
_AVERAGES = "__baseline_avg_downstream_cost_"


class Sharing:
    """Creates what is known of how each step is shared.

    Args:
        processes: Who takes part.
        shards: Of each batch; None for one a process, whose gradients are added up in any order.
        rows: Of a shard; the last ones of a short batch have less or none.
        seed: Of all random numbers of steps.
        buffers: What the programs move besides parameters, such as statistics of batches, which are
            averaged over shards.

    Attributes:
        asked: Whether this process was asked to stop.
        watch: Takes the time of this process's own part of each step.
        named: Processes that were said to fall behind.
        stops: Whether any of them was, at the last step at which it was looked.
    """

    def __init__(
        self,
        processes: Processes,
        shards: int | None,
        rows: int,
        seed: int,
        buffers: Iterable[Tensor] = (),
    ) -> None:
        self.processes = processes
        self.in_order = shards is not None
        self.shards = processes.count if shards is None else shards
        self.rows = rows
        self.seed = seed
        self.buffers = list(buffers)
        self.asked = False
        self.stops = False
        self.watch = Stopwatch()
        self.named: set[int] = set()

    @property
    def own(self) -> range:
        """The shards of this process."""
        each = self.shards // self.processes.count
        return range(self.processes.rank * each, (self.processes.rank + 1) * each)

    def set_random(self, step: int, shard: int, device: torch.device) -> None:
        """Sets torch's generators for one shard of a step, or for what is between two steps."""
        text = f"{self.seed} {step} {shard}".encode()
        number = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
        torch.default_generator.manual_seed(number)
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            torch.cuda.default_generators[index].manual_seed(number)
        elif device.type == "mps":
            torch.mps.manual_seed(number)

    def brought(self, shards: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Returns what :meth:`summed` adds up, of what this process has.

        In order it is one tensor, shape ``(shards, n)``, of all processes. It is brought together
        before the graph of the update, which is then one for all numbers of processes. Otherwise it
        is what the one shard of this process comes to, each gradient by itself: the graph makes one
        tensor of them, and a copy less.
        """
        if not self.in_order:
            return list(shards[0])
        return [self.processes.stacked(torch.stack([_flat(each) for each in shards]))]

    def summed(self, brought: Sequence[Tensor]) -> Tensor:
        """Adds up what :meth:`brought` returned, in the order of the shards."""
        if not self.in_order:
            return self.processes.added(_flat(brought))
        total, *others = brought[0]
        for vector in others:
            total = total + vector
        return total


class _Gradients(Optim):
    """In place of an optimiser, takes the gradients of a step, and moves nothing.

    Args:
        optim: The optimiser that will be given their sum.
    """

    def __init__(self, optim: Optim) -> None:
        super().__init__(optim.given)
        self._of = optim
        self.params: list[Tensor] | None = None  # whose gradients are added up
        self._found: dict[Tensor, Tensor] = {}

    def take(self) -> list[Tensor]:
        """Returns the gradients of the last step; zeros where there are none."""
        found, self._found = self._found, {}
        return [found.get(param, torch.zeros_like(param)) for param in self.params or ()]

    def step(self, params: Sequence[Tensor]) -> None:
        found = {param: param.grad for param in params if param.grad is not None}
        if self.params is None:
            self.params = list(found)
        if any(param not in self.params_known for param in found):
            what = "programs whose parameters are the same ones at each step"
            raise expected("shards", what, "a parameter that has had no gradient before")
        self._found = found

    @functools.cached_property
    def params_known(self) -> set[Tensor]:
        """The same as a set: a tensor is hashed by its identity."""
        return set(self.params or ())

    def adopt(self, params: Iterable[Tensor]) -> None:
        """Has nothing to create."""

    def refusal(self, params: Iterable[Tensor]) -> bool:
        return True

    def has_moved(self, param: Tensor) -> bool:
        return self._of.has_moved(param)

    def slots(self, params: Iterable[Tensor]) -> list[Slot]:
        return [Slot(param, None, {}) for param in params]  # type: ignore[arg-type]


class SharedEngine:
    """Creates the engine whose steps are shared, and whose gradients another engine computes.

    Args:
        problem: What to take steps of.
        sharing: How they are shared.
        engine_of: Returns the engine of a problem that computes the gradients of a shard.
        compiles: Whether the update is a graph, too.
        steps: Returns how many steps were taken.
    """

    attempt: Attempt | None = None
    random: Tensor | None = None
    unrolls = False

    def __init__(
        self,
        problem: Problem,
        sharing: Sharing,
        engine_of: Callable[[Problem], Engine],
        *,
        compiles: bool,
        steps: Callable[[], int],
    ) -> None:
        self._problem = problem
        self._sharing = sharing
        self._gradients = _Gradients(problem.optim)
        # A loss that is not finite is to reach all processes.
        self._shard = replace(
            problem, optim=self._gradients, clip_norm=None, on_nonfinite="ignore", validate=False
        )
        self._engine = engine_of(self._shard)
        self._steps = steps
        self._compiles = compiles
        self._update: _Update | None = None
        self._updates = 0
        self._is_new = True
        self._width = 1  # numbers that a loss is
        self._like: list[Tensor] = []  # what each shard comes to

    @property
    def name(self) -> EngineName:
        return self._engine.name

    @property
    def masks(self) -> bool:
        return self._update is not None

    @property
    def captures(self) -> int:
        return self._engine.captures + self._updates

    def steps(self, batch: Batch, tensors: Sequence[Tensor], count: int) -> Tensor:
        index, *data = tensors
        sharing, at, device = self._sharing, self._steps(), self._problem.device
        sharing.watch.start()
        self._shard.settle(device)
        pieces = index.split(sharing.rows)
        before = _Before(self._problem, sharing)
        found = [
            self._parts(batch, pieces[shard], data, at, shard, before)
            for shard in sharing.own
            if shard < len(pieces)
        ]
        if not found and self._gradients.params is None:
            # It has no rows yet, and finds out which parameters there are.
            found = [_zeros(self._parts(batch, pieces[0], data, at, 0, before))]
        self._like = found[0] if found else self._like
        found += [_zeros(self._like) for _ in range(len(sharing.own) - len(found))]
        found[0][-1].fill_(float(sharing.asked))
        # A short batch is more for one than for others, and one process waits for none.
        if len(pieces) == sharing.shards and sharing.processes.count > 1 and device.type == "cpu":
            sharing.watch.stop()
        losses, rest = self._updated(sharing.brought(found))
        before.average(rest, len(pieces))
        if sharing.processes.count > 1 and (device.type == "cpu" or at % _LOOK == 0):
            sharing.stops = bool(rest[-1] > 0)
        # What is drawn between two steps is the same in all processes.
        sharing.set_random(at + 1, -1, device)
        return losses

    def _parts(
        self,
        batch: Batch,
        rows: Tensor,
        data: Sequence[Tensor],
        at: int,
        shard: int,
        before: _Before,
    ) -> list[Tensor]:
        """Returns loss, gradients, moves of buffers and a zero, of one shard, as vectors."""
        if self._is_new:
            # A first evaluation may draw more than others, to find out how a program is made, and
            # no graph takes it. Which shard it is of depends on the number of processes.
            self._is_new = False
            self._parts(batch, rows, data, at, shard, before)
        self._sharing.set_random(at, shard, self._problem.device)
        for param in self._gradients.params or ():
            param.grad = None  # what stock SVI leaves there makes zeros of other signs
        name, _, *others = batch.key
        one = batch._replace(key=(name, len(rows), *others))
        loss = None
        try:
            loss = self._engine.steps(one, (rows, *data), 1).reshape(-1)
        except ValueError as error:
            # As in an eager step: a distribution refuses parameters that are not finite.
            leaves_out = self._problem.on_nonfinite != "ignore" and "invalid values" in str(error)
            if not leaves_out or self._gradients.params is None:
                raise
        if any(name.startswith(_AVERAGES) for name in pyro.get_param_store()._params):
            what = "programs without running averages of a baseline, which are moved in place"
            raise expected("shards", what, "a baseline")
        grads = self._gradients.take()
        if loss is None:
            loss = torch.full((self._width,), math.nan)
        self._width = len(loss)
        moves = before.put_back()
        flat = [each.reshape(-1) for each in (*grads, *moves)]
        wide = functools.reduce(torch.promote_types, (each.dtype for each in flat), torch.float32)
        ends = [loss.to(flat[0].device), *flat, flat[0].new_zeros(1)]
        return [each.to(wide) for each in ends]

    def _updated(self, brought: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Takes the update; returns the loss, shape ``(1,)``, and what is behind the gradients."""
        params = self._gradients.params
        assert params is not None
        if self._compiles and (self._update is None or self._update.has_changed()):
            try:
                self._update = _Update(self._problem, self._sharing, params, self._width, brought)
                self._updates += 1
            except NotCapturable:
                self._update, self._compiles = None, False
        if self._update is not None:
            return self._update(brought)
        total = self._sharing.summed(brought)
        found, grads, rest = _apart(total, params, self._width)
        self._problem.optim.adopt(params)
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad.clone()
        if isinstance(self._problem.loss, Objective):
            self._problem.loss.advance()
        loss = float(found) if self._width == 1 else tuple(found.tolist())
        loss = self._problem.step(loss, params)
        return torch.tensor([loss], dtype=found.dtype), rest

    def rewind(self, count: int) -> None:
        self._problem.optim.rewind(count)
        if self._update is not None:
            self._update.finite.fill_(True)

    def again(self, attempt: Attempt) -> Tensor:
        raise AssertionError("its steps are refused by their own errors")

    def state_dict(self) -> dict[str, Any]:
        return self._engine.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._engine.load_state_dict(state)
        self._update = None  # it holds the state that has been replaced


def compiles(choice: Any, planned_steps: int | None, sharing: Sharing) -> bool:
    """Returns whether shared steps are compiled, which all processes have to decide alike.

    A clock would not: ``auto`` counts the shards that there are to come.
    """
    if choice != "auto":
        return bool(choice)
    return (planned_steps or 0) * sharing.shards >= _WORTHWHILE


class _Before:
    """What a shard moves and the next one is to find as it was: buffers, and a count of steps."""

    def __init__(self, problem: Problem, sharing: Sharing) -> None:
        self._buffers = sharing.buffers
        self._values = [each.clone() for each in self._buffers]
        loss = problem.loss
        self._step = loss.step if isinstance(loss, Objective) else None
        self._count = None if self._step is None else self._step.clone()

    @torch.no_grad()
    def put_back(self) -> list[Tensor]:
        """Puts everything back; returns by how much each buffer had moved."""
        if self._step is not None and self._count is not None:
            self._step.copy_(self._count)
        moves = []
        for buffer, value in zip(self._buffers, self._values, strict=True):
            if buffer.is_floating_point():
                moves.append(buffer - value)
            else:
                moves.append((buffer.double() - value.double()).float())  # counts, or marks
            buffer.copy_(value)
        return moves

    @torch.no_grad()
    def average(self, moves: Tensor, shards: int) -> None:
        """Moves each buffer by the mean over those shards that had rows."""
        start = 0
        for buffer, value in zip(self._buffers, self._values, strict=True):
            move = moves[start : start + buffer.numel()].view(buffer.shape) / shards
            start += buffer.numel()
            buffer.copy_(value + move if buffer.is_floating_point() else value + move.round())


class _Update:
    """Creates the graph that adds up what shards have computed, and takes the step.

    Args:
        problem: What steps are taken of.
        sharing: How they are shared.
        params: The parameters that have gradients.
        width: Numbers that a loss is.
        brought: What it will be called with.

    Raises:
        NotCapturable: If the optimiser's update is no part of a graph.
    """

    def __init__(
        self,
        problem: Problem,
        sharing: Sharing,
        params: list[Tensor],
        width: int,
        brought: Sequence[Tensor],
    ) -> None:
        self._problem = problem
        problem.optim.adopt(params)
        if problem.optim.refusal(params):
            raise NotCapturable("the optimiser's update is no part of a graph")
        problem.optim.hold()
        slots = problem.optim.slots(params)
        self.finite = torch.ones((), dtype=torch.bool, device=problem.device)
        self._captured = Captured(problem, Dependencies(), params, [], slots, self.finite)
        state = [*params, *self._captured.watch(), self.finite]
        if isinstance(problem.loss, Objective):
            state.append(problem.loss.step)

        def update(rows: Tensor, *brought: Tensor) -> list[Tensor]:
            total = sharing.summed(brought)
            loss, grads, rest = _apart(total, params, width)
            taken = self._captured.finish(Step(loss, None, grads), rows[0], ())
            return [taken.loss.unsqueeze(0), rest.clone()]

        self._graph = Graph(update, state, [self._captured.rows(1), *brought])

    def has_changed(self) -> bool:
        """Tells whether it holds no longer, as an option of the optimiser is another."""
        if self._captured.dependencies.changed() is not None:
            return True
        self._problem.optim.hold()
        return not self._captured.in_step()

    def __call__(self, brought: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        self._problem.optim.hold()
        losses, rest = self._graph(self._captured.rows(1), *brought)
        skips = self._problem.on_nonfinite == "skip"
        for slot in self._captured.slots:
            slot.step += int(not skips or bool(all_finite(losses)))
        return losses, rest


def _flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts))


def _zeros(parts: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(each) for each in parts]


def _apart(
    total: Tensor, params: Sequence[Tensor], width: int
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Returns loss, gradients and what is behind them, of the sum of all shards."""
    loss = total[:width].reshape(() if width == 1 else (width,))
    grads, start = [], width
    for param in params:
        grads.append(total[start : start + param.numel()].view(param.shape).to(param.dtype))
        start += param.numel()
    return loss, grads, total[start:]
