"""The compiled engine: it captures steps as graphs, and runs those as long as they stand."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyro
import pyro.infer
import torch
from pyro.infer.util import zero_grads
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import site_is_subsample
from torch import Tensor, get_default_dtype, is_grad_enabled, is_inference_mode_enabled
from torch._C import _is_any_autocast_enabled
from torch.utils import _device

from pyro_vae.engine import updates
from pyro_vae.engine.dependencies import Dependencies
from pyro_vae.engine.eager import EagerEngine
from pyro_vae.engine.errors import NotCapturable, NotReparameterised, ReadsBack
from pyro_vae.engine.graph import Graph
from pyro_vae.engine.memory import preserved
from pyro_vae.engine.optim import Slot
from pyro_vae.engine.problem import Problem, clipping
from pyro_vae.engine.protocol import Batch, EngineName
from pyro_vae.engine.reads import Reads
from pyro_vae.engine.walk import Walk
from pyro_vae.objectives import Objective

__all__ = ["CompiledEngine"]

log = logging.getLogger("pyro_vae")
_STOCK = (pyro.infer.Trace_ELBO, pyro.infer.TraceMeanField_ELBO)
_COMPILE_SECONDS = 50.0  # two small graphs (full and short batch) on one core, nothing cached


class CompiledEngine:
    """Creates the engine that runs loss, gradients and update as one graph.

    What it cannot capture runs eagerly, and one line says why.

    Args:
        problem: What to take steps of.
        max_graphs: How many graphs are captured before new situations run eagerly.
        steps_left: Returns how many steps there are to go; compiling then has to pay for itself.
    """

    def __init__(
        self, problem: Problem, max_graphs: int, steps_left: Callable[[], int] | None = None
    ) -> None:
        self._problem = problem
        self._eager = EagerEngine(problem)
        self._last: EagerEngine | Graph = self._eager
        self.masks = False
        self.captures = 0
        self.unrolls = True
        self._max_graphs = max_graphs
        self._graphs: dict[Any, list[_Captured]] = {}
        self._refused: dict[Any, str] = {}
        self._read: dict[Any, Reads] = {}  # by steps that were taken in place of a rehearsal
        self._said: set[str] = set()
        self._steps_left = steps_left
        self._left: int | None = None  # steps that there were to go when that was asked first
        self._worthwhile: bool | None = None  # whether compiling pays: decided once, and kept
        self._eager_seconds = 0.0
        # On each device whether every loss so far has been finite, known to its graphs alone.
        self._finite: dict[torch.device, Tensor] = {}

    @property
    def name(self) -> EngineName:
        return self._last.name

    @property
    def random(self) -> Tensor | None:
        return self._eager.random if self._last is self._eager else None

    def steps(self, batch: Batch, tensors: Sequence[Tensor], count: int) -> Tensor:
        # A graph would have what surrounds its capture baked in. Each is looked at where it is
        # used: this runs at every step.
        if (
            _PYRO_STACK
            or not is_grad_enabled()
            or is_inference_mode_enabled()
            or _is_any_autocast_enabled()
        ):
            self._say_what_surrounds()
            return self._eagerly(batch, tensors, count)
        key = batch.key, count, get_default_dtype(), _device.CURRENT_DEVICE
        captured = self._find(key)
        if captured is None:
            losses: list[float] = []
            if self._wanted(key):
                captured, losses = self._capture(key, batch, tensors, count)
            if captured is None:
                return self._eagerly(batch, tensors, count, losses)
        self._last = captured.graph
        self.masks = bool(captured.slots)
        return self._replay(captured, tensors, count)

    def rewind(self, count: int) -> None:
        self._problem.optim.rewind(count)
        for finite in self._finite.values():
            finite.fill_(True)

    def state_dict(self) -> dict[str, Any]:
        return {"worthwhile": self._worthwhile}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._worthwhile = state["worthwhile"]
        self._graphs.clear()  # they hold the state that has been replaced

    # Which graph, if any

    def _eagerly(
        self, batch: Batch, tensors: Sequence[Tensor], count: int, taken: Sequence[float] = ()
    ) -> Tensor:
        self._last = self._eager
        self.masks = False
        return self._eager.steps(batch, tensors, count, taken)

    def _replay(self, captured: _Captured, tensors: Sequence[Tensor], count: int) -> Tensor:
        losses, *grads = captured.graph(captured.rows(count), *tensors)
        if captured.slots:
            taken = int(losses.isfinite().sum()) if self._problem.skip else count
            for slot in captured.slots:
                slot.step += taken
            return losses
        for param, grad in zip(captured.params, grads, strict=True):
            param.grad = grad
        if bool(losses.isfinite()):
            self._problem.optim.step(captured.params)
        zero_grads(captured.params)
        return losses

    def _find(self, key: Any) -> _Captured | None:
        for captured in self._graphs.get(key, ()):
            if captured.dependencies.changed() is None:
                if captured.slots:
                    self._problem.optim.hold()
                if captured.in_step():
                    return captured
        return None

    def _wanted(self, key: Any) -> bool:
        if key in self._refused or len(self._refused) >= self._max_graphs:
            return False
        if self.captures >= self._max_graphs:
            self._refuse(key, f"{self.captures} graphs are captured, and this would be one more")
            return False
        return True

    def _refuse(self, key: Any, reason: str) -> None:
        self._refused[key] = reason
        self._say(reason)

    def _say(self, reason: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            log.warning("CompiledSVI runs eagerly: %s", reason)

    def _say_what_surrounds(self) -> None:
        if _PYRO_STACK:
            self._say(f"{type(_PYRO_STACK[-1]).__name__} is active around the step")
        elif _is_any_autocast_enabled():
            self._say("autocast is on around the step; `precision` is part of a graph")

    # What a graph is made of

    def _capture(
        self, key: Any, batch: Batch, tensors: Sequence[Tensor], count: int
    ) -> tuple[_Captured | None, list[float]]:
        """Captures ``count`` steps; returns the losses of steps it could not but take."""
        dependencies = None
        loss = self._problem.loss
        try:
            if isinstance(loss, pyro.infer.ELBO) and not (
                type(loss) in _STOCK or isinstance(loss, Objective)
            ):
                known = ", ".join(stock.__name__ for stock in _STOCK)
                raise NotCapturable(
                    f"loss {type(loss).__name__} is none of {known}, and may read values back"
                )
            programs = self._problem.model, self._problem.guide
            dependencies = Dependencies(*programs, loss, batch.reads)
            if dependencies.moving and key in self._read:
                dependencies.reads = self._read[key]
                dependencies.narrow()
            trial = self._rehearse(dependencies, batch, tensors)
            if trial.losses:
                self._read[key] = dependencies.reads
                return None, trial.losses
            # Those without a gradient too, as a step that is not compiled.
            self._problem.optim.adopt(trial.met)
            if self._steps_left is not None:
                self._pays(self._steps_left)
            start = time.perf_counter()
            log.info("CompiledSVI compiles %s", "a step" if count == 1 else f"{count} steps")
            captured = self._record(dependencies, trial, batch, tensors, count)
            log.info("CompiledSVI compiled in %.1f s", time.perf_counter() - start)
        except NotCapturable as reason:
            if dependencies is not None:
                dependencies.put_back()
            self._refuse(key, str(reason))
            return None, []
        self.captures += 1
        self._graphs.setdefault(key, []).append(captured)
        return captured, []

    def _rehearse(
        self, dependencies: Dependencies, batch: Batch, tensors: Sequence[Tensor]
    ) -> _Trial:
        """Runs the programs once with Pyro's validation on, and takes no step.

        Unless that run has created parameters: creating them draws random numbers that a stock step
        draws too, once, so that the run is then the step. It is also where it may have moved what
        cannot be put back, such as an iterator: whether the programs read that is known after it.
        """
        problem = self._problem
        store = pyro.get_param_store()._params
        state = list({id(t): t for t in (*dependencies.tensors, *store.values())}.values())
        known = set(map(id, state))
        nesting = getattr(problem.loss, "max_plate_nesting", None)
        moves = bool(dependencies.moving) and not dependencies.reads.size()
        for tensor in state:
            if tensor.is_leaf:
                tensor.grad = None
        with preserved(state) as undo, pyro.validation_enabled(True), _Sites() as sites:
            with dependencies.reads.recording():
                args, kwargs = batch.arguments(tensors, 0)
                loss, params = problem.gradients(args, kwargs)
            trained = [
                param
                for param in params
                if param.grad is not None
                or (param.requires_grad and problem.optim.has_moved(param))
            ]
            created = any(id(param) not in known for param in params)
            met = getattr(problem.loss, "max_plate_nesting", None) != nesting
            if created or moves or met:
                undo.clear()
                return _Trial(params, trained, [problem.step(loss, params)])
            if self._steps_left is not None and self._worthwhile is None:
                # The first run is cold, and another program may have the processor for a while.
                self._eager_seconds = min(self._seconds(args, kwargs) for _ in range(3))
        for param in params:
            param.grad = None
        if sites.fault is not None:
            raise sites.fault
        if any(param._backward_hooks or param._post_accumulate_grad_hooks for param in trained):
            raise NotCapturable("a parameter has a hook on its gradient")
        if not trained:
            raise NotCapturable("no parameter has a gradient; are the modules registered?")
        return _Trial(params, trained, [])

    def _seconds(self, args: Any, kwargs: Any) -> float:
        start = time.perf_counter()
        self._problem.gradients(args, kwargs)
        return time.perf_counter() - start

    def _pays(self, steps_left: Callable[[], int]) -> None:
        if self._left is None:
            self._left = steps_left()
        if self._worthwhile is None:
            # Compiled steps take well under half of the time.
            self._worthwhile = 0.5 * self._left * self._eager_seconds >= _COMPILE_SECONDS
        if not self._worthwhile:
            # One line, also where batches of several shapes ask.
            raise NotCapturable(
                f"with {self._left} steps left, compiling would take longer than it saves"
            )

    def _record(
        self,
        dependencies: Dependencies,
        trial: _Trial,
        batch: Batch,
        tensors: Sequence[Tensor],
        count: int,
    ) -> _Captured:
        problem, params = self._problem, trial.trained
        problem.optim.hold()
        inside = not problem.optim.refusal(params)
        if count > 1 and not inside:
            self.unrolls = False
            raise NotCapturable("the optimiser's update is no part of a graph: one step at a time")
        problem.device = device = params[0].device
        finite = self._finite.setdefault(device, torch.ones((), dtype=torch.bool, device=device))
        slots = problem.optim.slots(params) if inside else []
        captured = _Captured(problem, dependencies, params, slots, finite)
        dependencies.narrow()
        state = [*dependencies.tensors, *params, *captured.watch(), finite]
        names = map(pyro.get_param_store().param_name, trial.met)
        stored = [name for name in names if name is not None]
        dependencies.also(functools.partial(_watch_store, stored))

        def steps(rows: Tensor, *tensors: Tensor) -> list[Tensor]:
            with dependencies.reads.recording(libraries=False):
                taken = [captured.step(*batch.arguments(tensors, i), rows[i]) for i in range(count)]
            grads = () if captured.slots else taken[-1][1]
            return [torch.stack([loss for loss, _ in taken]), *grads]

        with torch.no_grad(), _Sites() as sites:
            try:
                captured.graph = Graph(steps, state, [captured.rows(count), *tensors])
            except ReadsBack as reason:
                raise NotCapturable(f"{reason}, at site `{sites.last}` or after it") from reason
        if (name := dependencies.changed()) is not None:
            raise NotCapturable(f"{name} changes at every run")
        dependencies.cover(captured.graph.held)
        return captured


class _Trial(NamedTuple):
    """One run of the programs: parameters met, those to be trained, and losses of steps taken."""

    met: list[Tensor]
    trained: list[Tensor]
    losses: list[float]


class _Sites(Messenger):
    """Finds a latent site whose draws cannot be differentiated."""

    def __init__(self) -> None:
        super().__init__()
        self.met: set[str] = set()
        self.fault: NotReparameterised | None = None
        self.last: str | None = None

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        self.last = msg["name"]
        # The guide runs first: what the model says about a site of the guide's is not the draw.
        if msg["name"] in self.met or msg["is_observed"] or site_is_subsample(msg):
            return
        self.met.add(msg["name"])
        reparameterised = msg["fn"].has_rsample or "relaxed" in msg["infer"]
        if not reparameterised and self.fault is None:
            self.fault = NotReparameterised(msg["name"], type(msg["fn"]).__name__)


class _Captured:
    """A graph of some steps, what it stands for, and the optimiser state it moves.

    Args:
        problem: What the steps are taken of.
        dependencies: What has to stand for the graph to stand.
        params: The parameters it trains.
        slots: Where their optimisers are; none if the optimiser steps by itself.
        finite: Whether every loss so far has been finite, shape ``()``.
    """

    graph: Graph

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
        with torch.enable_grad():
            loss = problem.differentiable_loss(args, kwargs)
        grads: Sequence[Tensor] = torch.autograd.grad(loss, self.params, materialize_grads=True)
        loss = loss.detach()
        if problem.clip_norm is not None:
            norm, scale = clipping(grads, problem.clip_norm)
            grads = [grad * scale for grad in grads]
            loss = torch.where(norm.isfinite(), loss, math.nan)
        self._advance(grads, rows, loss)
        return loss, grads

    def _advance(self, grads: Sequence[Tensor], rows: Tensor, loss: Tensor) -> None:
        """Updates parameters and schedules, as long as every loss so far has been finite.

        So a run stops where it went wrong without the host having to look at each loss.
        """
        ok = loss.isfinite()
        if self.slots:
            before = self._finite | self._problem.skip  # what is left out does not end the run
            ok = self._finite.copy_(before & ok)
            for slot, grad, row in zip(self.slots, grads, self._cohorts, strict=True):
                updates.update(slot.optimizer, slot.group, slot.param, grad, rows[row], ok)
        if isinstance(self._problem.loss, Objective):
            step = self._problem.loss.step.clone()
            self._problem.loss.advance()
            self._problem.loss.step.copy_(torch.where(ok, self._problem.loss.step, step))


def _watch_store(names: Sequence[str], walk: Walk) -> None:
    store = vars(pyro.get_param_store())
    # Clearing the store makes new dicts.
    for part in ("_params", "_constraints"):
        walk.entries("param store", store, (part,), follow=False)
        walk.entries("param store", store[part], names)


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
