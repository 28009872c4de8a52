"""The compiled engine: it captures steps as graphs, and runs those as long as they stand."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro.infer.util import zero_grads
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, get_default_dtype, is_grad_enabled, is_inference_mode_enabled
from torch._C import _is_any_autocast_enabled
from torch.distributions import Distribution
from torch.utils import _device

from pyro_vae._errors import out_of_memory, plural
from pyro_vae.engine.captured import Captured, all_finite
from pyro_vae.engine.costs import Work, costs_of
from pyro_vae.engine.dependencies import Dependencies
from pyro_vae.engine.eager import EagerEngine
from pyro_vae.engine.errors import GraphMismatch, NotCapturable, NotWorthwhile, Stopping
from pyro_vae.engine.generators import draw_from, drawn_from
from pyro_vae.engine.graph import Graph
from pyro_vae.engine.losses import refusal
from pyro_vae.engine.memory import preserved
from pyro_vae.engine.numbers import Numbers, Placed, try_inputs
from pyro_vae.engine.problem import Loss, Problem
from pyro_vae.engine.protocol import Attempt, Batch, Call, EngineName
from pyro_vae.engine.reads import Reads
from pyro_vae.engine.rehearsal import record, rehearse
from pyro_vae.engine.validation import validated_in_tensors
from pyro_vae.engine.watchdog import Watchdog

__all__ = ["CompiledEngine"]

log = logging.getLogger("pyro_vae")
_REMEMBERED = 256  # calls whose repetition is waited for
_IN_VAIN = 3  # graphs in a row of one call that were of little use, and are put up with
_LITTLE = 2  # steps


class CompiledEngine:
    """Creates the engine that runs loss, gradients and update as one graph.

    What it cannot capture runs eagerly, and one line says why.

    Args:
        problem: What to take steps of.
        max_graphs: How many graphs are held. Beyond it a call has to come again, several times,
            before it takes the place of the one unused for longest.
        watchdog: What checks graphs.
        steps_left: Returns how many steps there are to go; compiling then has to pay for itself.
    """

    def __init__(
        self,
        problem: Problem,
        max_graphs: int,
        watchdog: Watchdog,
        steps_left: Callable[[], int] | None = None,
    ) -> None:
        self._problem = problem
        self._watchdog = watchdog
        self._eager = EagerEngine(problem)
        self._last: EagerEngine | Graph = self._eager
        self.attempt: Attempt | None = None
        self.masks = False
        self.captures = 0
        self.unrolls = True
        self._max_graphs = max_graphs
        self._graphs: dict[Any, list[Captured]] = {}
        self._refused: dict[Any, str] = {}
        self._read: dict[Any, Reads] = {}  # by steps that were taken in place of a rehearsal
        self._numbers = Numbers(self._say)
        self._met: dict[Any, int] = {}  # how often calls came that are to come again first
        self._in_vain: dict[Any, int] = {}  # graphs of a call, of which each was of little use
        self._changed: str | None = None  # what was last found to be in the way of a graph
        self._uses = 0
        self._said: set[str] = set()
        self._steps_left = steps_left
        self._left: int | None = None  # steps that there were to go when that was asked first
        self._worthwhile: bool | None = None  # whether compiling pays: decided once, and kept
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
        placed, call = self._place(batch, tensors, count)
        captured = self._find(call.key)
        if captured is None:
            if self._is_over():
                # An earlier step, which nobody has looked at yet, was refused.
                none = torch.full((count,), math.nan, device=self._problem.device)
                self.attempt = Attempt(batch, tensors, none, torch.zeros_like(none).bool(), {})
                return none
            losses: list[Loss] = []
            if self._wanted(call.key):
                captured, losses = self._capture(call, placed)
                while placed is not None and placed.stale:
                    placed, call = self._place(batch, tensors, count)
                    captured = self._find(call.key)
                    if captured is None and call.key not in self._refused:
                        captured, losses = self._capture(call, placed)
            if captured is None:
                return self._eagerly(batch, tensors, count, losses)
        return self._replay(captured, call)

    def again(self, attempt: Attempt) -> Tensor:
        batch, tensors, count, done = attempt.batch, attempt.tensors, *attempt.counts()
        draw_from(attempt.random, self._problem.device)
        programs = self._problem.model, self._problem.guide, self._problem.loss
        stored = pyro.get_param_store()._params.values()
        # To where the first of them began, random numbers move on, and nothing else.
        with preserved([*Dependencies(*programs).tensors, *stored]) as undo, validated_in_tensors():
            del undo[1:]
            for number in range(done):
                _, params = self._problem.gradients(*batch.arguments(tensors, number))
                for param in params:
                    param.grad = None
        return self._eagerly(batch, tensors, count, attempt.losses[:done].tolist())

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
        self, batch: Batch, tensors: Sequence[Tensor], count: int, taken: Sequence[Loss] = ()
    ) -> Tensor:
        self._last = self._eager
        self.masks = False
        self.attempt = None
        return self._eager.steps(batch, tensors, count, taken)

    def _replay(self, captured: Captured, call: Call) -> Tensor:
        batch, tensors, count = call.batch, call.tensors, call.steps
        self._last = captured.graph
        self.masks = bool(captured.slots)
        refuses = captured.validates and self._problem.on_nonfinite == "ignore"
        random = drawn_from(self._problem.device) if refuses else {}
        captured.taken += count
        try:
            if captured.taken < captured.due:
                outputs = captured.graph(captured.rows(count), *call.inputs)
            else:
                outputs = self._checked(captured, call)
        except RuntimeError as error:
            # A value outside a support may be an index outside a tensor, and was checked as well.
            at_once = count == 1 and captured.validates and not isinstance(error, GraphMismatch)
            if not at_once or out_of_memory(error):
                raise
            self.rewind(0)
            if random:
                draw_from(random, self._problem.device)
            return self._eagerly(batch, tensors, count)
        valid = outputs.pop(1) if captured.validates else None
        losses, *grads = outputs
        self.attempt = None
        if refuses and valid is not None:
            self.attempt = Attempt(batch, tensors, losses, valid, random)
        self._taken(captured, losses, valid, grads)
        return losses

    def _is_over(self) -> bool:
        """Tells whether a step was refused before, so that none is to be taken yet."""
        if self._problem.on_nonfinite != "ignore" or not self._finite:
            return False
        return not all(map(bool, self._finite.values()))

    def _checked(self, captured: Captured, call: Call) -> list[Tensor]:
        try:
            return self._watchdog.run(captured, call)
        except GraphMismatch:
            self._graphs.clear()  # what one did not notice, others may not have either
            self._refuse(call.key, "a graph of it was found to be wrong")
            raise

    def _taken(
        self, captured: Captured, losses: Tensor, valid: Tensor | None, grads: Sequence[Tensor]
    ) -> None:
        """Does what a graph leaves to the host."""
        policy = self._problem.on_nonfinite
        if captured.slots:
            skip = policy == "skip"
            taken = sum(bool(all_finite(loss)) for loss in losses) if skip else len(losses)
            for slot in captured.slots:
                slot.step += taken
            return
        for param, grad in zip(captured.params, grads, strict=True):
            param.grad = grad
        as_it_has_to_be = valid if policy == "ignore" else all_finite(losses)
        if as_it_has_to_be is None or bool(as_it_has_to_be):
            self._problem.optim.step(captured.params)
        zero_grads(captured.params)

    def _place(
        self, batch: Batch, tensors: Sequence[Tensor], count: int
    ) -> tuple[Placed | None, Call]:
        """Returns where the numbers of a call are, and the call."""
        placed, own, inputs = None, batch.key, tensors
        if batch.numbers:
            placed = self._numbers.place(batch, tensors, self._problem.device)
            inputs, own = placed.tensors, placed.key
        around = get_default_dtype(), _device.CURRENT_DEVICE, Distribution._validate_args
        key = own, count, self._problem.serial, *around
        return placed, Call(key, batch, tensors, inputs, count)

    def _find(self, key: Any) -> Captured | None:
        for captured in self._graphs.get(key, ()):
            self._changed = captured.dependencies.changed()
            if self._changed is None:
                if captured.slots:
                    self._problem.optim.hold()
                if captured.in_step():
                    captured.used = self._uses = self._uses + 1
                    return captured
                self._changed = "the step count of a parameter"
        return None

    def _wanted(self, key: Any) -> bool:
        """Tells whether a graph is to be captured of a call that has none.

        Where a constant or an object changes from call to call, or there are as many graphs as may
        be, a call has to come again before, the more often the more graphs there have been. So what
        stops changing is captured in the end, and what does not costs no more compilations than the
        logarithm of its steps.
        """
        if key in self._refused or len(self._refused) >= self._max_graphs:
            return False
        over, in_vain = self.captures - self._max_graphs, self._in_vain.get(key, 0)
        if over < 0 and in_vain < _IN_VAIN and not self._numbers.moving:
            return True
        if over >= 0:
            self._say(f"{self._max_graphs} graphs are captured, and this would be one more")
        elif in_vain == _IN_VAIN:
            self._say(f"{self._changed} changes from call to call, and graphs have it baked in")
        over = max(over, 2 * (in_vain - _IN_VAIN))
        count = self._met.pop(key, 0) + 1
        self._met[key] = count
        if len(self._met) > _REMEMBERED:
            del self._met[next(iter(self._met))]
        if count < max(2, 2 ** (over + 3)):
            return False
        del self._met[key]
        return True

    def _make_place(self) -> None:
        """Forgets the graph that has not been used for longest, where there are as many as may."""
        held = [(captured.used, key) for key, each in self._graphs.items() for captured in each]
        if len(held) >= self._max_graphs:
            _, key = min(held, key=lambda pair: pair[0])
            oldest = min(self._graphs[key], key=lambda captured: captured.used)
            self._graphs[key].remove(oldest)

    def _refuse(self, key: Any, reason: str, level: int = logging.WARNING) -> None:
        self._refused[key] = reason
        self._say(reason, level)

    def _say(self, reason: str, level: int = logging.WARNING) -> None:
        if reason not in self._said:
            self._said.add(reason)
            log.log(level, "CompiledSVI runs eagerly: %s", reason)

    def _say_what_surrounds(self) -> None:
        if _PYRO_STACK:
            self._say(f"{type(_PYRO_STACK[-1]).__name__} is active around the step")
        elif _is_any_autocast_enabled():
            self._say("autocast is on around the step; `precision` is part of a graph")

    # What a graph is made of

    def _capture(self, call: Call, placed: Placed | None) -> tuple[Captured | None, list[Loss]]:
        """Captures the steps; returns the losses of those it could not but take."""
        key, batch, tensors, _, count = call
        dependencies = None
        loss = self._problem.loss
        try:
            if loss is None:
                raise NotCapturable("`loss_and_grads` is a function, and may do anything")
            if (reason := refusal(loss)) is not None:
                raise NotCapturable(reason)
            programs = self._problem.model, self._problem.guide
            dependencies = Dependencies(*programs, loss, batch.reads)
            if dependencies.moving and key in self._read:
                dependencies.reads = self._read[key]
                dependencies.narrow()
            counted = self._steps_left is not None and self._worthwhile is None
            try:
                trial = rehearse(self._problem, dependencies, batch, tensors, counted)
            except ValueError as error:
                if self._problem.on_nonfinite == "ignore" or "invalid values" not in str(error):
                    raise
                return None, []  # an eager step finds the same, and knows what to do about it
            if trial.losses:
                self._read[key] = dependencies.reads
                return None, trial.losses
            if self._problem.settle(trial.trained[0].device):
                reads = dependencies.reads
                dependencies = Dependencies(*programs, loss, batch.reads)
                dependencies.reads = reads
            # Those without a gradient too, as a step that is not compiled.
            self._problem.optim.adopt(trial.met)
            if self._steps_left is not None:
                self._pays(self._steps_left, trial.work)
            start = time.perf_counter()
            log.info("CompiledSVI compiles %s", "a step" if count == 1 else f"{count} steps")
            inside, inputs = batch, tensors
            if placed is not None:
                state = [*dependencies.tensors, *trial.met]
                try_inputs(placed, batch, tensors, self._problem, trial.trained, state)
                inside, inputs = placed.batch, placed.tensors
            if count > 1 and self._problem.optim.refusal(trial.trained):
                self.unrolls = False
            captured = record(
                self._problem, dependencies, trial, inside, inputs, count, self._flag()
            )
            log.info("CompiledSVI compiled in %.1f s", time.perf_counter() - start)
        except NotCapturable as reason:
            if dependencies is not None:
                dependencies.put_back()
            quiet = isinstance(reason, NotWorthwhile | Stopping)
            if placed is not None and placed.places and not quiet:
                # It may be for them: as constants they show whether it is.
                for place in () if placed.stale else placed.places:
                    placed.refuse(place, str(reason))
            else:
                self._refuse(key, str(reason), logging.INFO if quiet else logging.WARNING)
            return None, []
        self._watchdog.schedule(captured)
        self.captures += 1
        self._make_place()
        graphs = self._graphs.setdefault(key, [])
        useless = bool(graphs) and graphs[-1].taken <= _LITTLE
        self._in_vain[key] = self._in_vain.get(key, 0) + 1 if useless else 0
        graphs.append(captured)
        return captured, []

    def _flag(self) -> Tensor:
        """Returns the flag of the device: whether every step so far was as it has to be."""
        device = self._problem.device
        return self._finite.setdefault(device, torch.ones((), dtype=torch.bool, device=device))

    def _pays(self, steps_left: Callable[[], int], work: Work | None) -> None:
        if self._left is None:
            self._left = steps_left()
        if self._worthwhile is None and work is not None:
            self._worthwhile = costs_of(self._problem.device).pay(work, self._left)
        if not self._worthwhile:
            # One line, also where batches of several shapes ask.
            raise NotWorthwhile(
                f"with {plural(self._left, 'step')} left, compiling would take longer than it saves"
            )
