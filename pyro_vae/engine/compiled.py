"""The compiled engine: it captures steps as graphs, and runs those as long as they stand."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyro
import torch
from pyro.infer.util import zero_grads
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import site_is_subsample
from torch import Tensor, get_default_dtype, is_grad_enabled, is_inference_mode_enabled
from torch._C import _is_any_autocast_enabled
from torch.utils import _device

from pyro_vae.engine.captured import Captured, all_finite
from pyro_vae.engine.dependencies import Dependencies
from pyro_vae.engine.eager import EagerEngine
from pyro_vae.engine.errors import NotCapturable, NotReparameterised, ReadsBack
from pyro_vae.engine.graph import Graph
from pyro_vae.engine.losses import preparation, refusal
from pyro_vae.engine.memory import preserved
from pyro_vae.engine.numbers import Numbers, Placed, try_inputs
from pyro_vae.engine.problem import Loss, Problem
from pyro_vae.engine.protocol import Batch, EngineName
from pyro_vae.engine.reads import Reads
from pyro_vae.engine.walk import Walk
from pyro_vae.objectives import Objective

__all__ = ["CompiledEngine"]

log = logging.getLogger("pyro_vae")
_REMEMBERED = 256  # calls whose repetition is waited for
_COMPILE_SECONDS = 50.0  # two small graphs (full and short batch) on one core, nothing cached


class CompiledEngine:
    """Creates the engine that runs loss, gradients and update as one graph.

    What it cannot capture runs eagerly, and one line says why.

    Args:
        problem: What to take steps of.
        max_graphs: How many graphs are held. Beyond it a call has to come again, several times,
            before it takes the place of the one unused for longest.
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
        self._graphs: dict[Any, list[Captured]] = {}
        self._refused: dict[Any, str] = {}
        self._read: dict[Any, Reads] = {}  # by steps that were taken in place of a rehearsal
        self._numbers = Numbers(self._say)
        self._met: dict[Any, int] = {}  # how often calls came that are to come again first
        self._uses = 0
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
        placed, inputs, key = self._place(batch, tensors, count)
        captured = self._find(key)
        if captured is None:
            losses: list[Loss] = []
            if self._wanted(key):
                captured, losses = self._capture(key, batch, tensors, count, placed)
                while placed is not None and placed.stale:
                    placed, inputs, key = self._place(batch, tensors, count)
                    captured = self._find(key)
                    if captured is None and key not in self._refused:
                        captured, losses = self._capture(key, batch, tensors, count, placed)
            if captured is None:
                return self._eagerly(batch, tensors, count, losses)
        self._last = captured.graph
        self.masks = bool(captured.slots)
        return self._replay(captured, inputs, count)

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
        return self._eager.steps(batch, tensors, count, taken)

    def _replay(self, captured: Captured, tensors: Sequence[Tensor], count: int) -> Tensor:
        losses, *grads = captured.graph(captured.rows(count), *tensors)
        if captured.slots:
            skip = self._problem.on_nonfinite == "skip"
            taken = sum(bool(all_finite(loss)) for loss in losses) if skip else count
            for slot in captured.slots:
                slot.step += taken
            return losses
        for param, grad in zip(captured.params, grads, strict=True):
            param.grad = grad
        if self._problem.on_nonfinite == "ignore" or bool(all_finite(losses)):
            self._problem.optim.step(captured.params)
        zero_grads(captured.params)
        return losses

    def _place(
        self, batch: Batch, tensors: Sequence[Tensor], count: int
    ) -> tuple[Placed | None, Sequence[Tensor], Any]:
        """Returns where the numbers of a call are, the inputs of its graph, and the key of that."""
        placed, own = None, batch.key
        if batch.numbers:
            placed = self._numbers.place(batch, tensors, self._problem.device)
            tensors, own = placed.tensors, placed.key
        around = get_default_dtype(), _device.CURRENT_DEVICE
        return placed, tensors, (own, count, self._problem.serial, *around)

    def _find(self, key: Any) -> Captured | None:
        for captured in self._graphs.get(key, ()):
            if captured.dependencies.changed() is None:
                if captured.slots:
                    self._problem.optim.hold()
                if captured.in_step():
                    captured.used = self._uses = self._uses + 1
                    return captured
        return None

    def _wanted(self, key: Any) -> bool:
        """Tells whether a graph is to be captured of a call that has none.

        Where a constant changes from call to call, or there are as many graphs as may be, a call
        has to come again before, the more often the more graphs there have been. So what stops
        changing is captured in the end, and what does not costs no more compilations than the
        logarithm of its steps.
        """
        if key in self._refused or len(self._refused) >= self._max_graphs:
            return False
        over = self.captures - self._max_graphs
        if over < 0 and not self._numbers.moving:
            return True
        if over >= 0:
            self._say(f"{self._max_graphs} graphs are captured, and this would be one more")
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
        self,
        key: Any,
        batch: Batch,
        tensors: Sequence[Tensor],
        count: int,
        placed: Placed | None,
    ) -> tuple[Captured | None, list[Loss]]:
        """Captures ``count`` steps; returns the losses of steps it could not but take."""
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
            trial = self._rehearse(dependencies, batch, tensors)
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
                self._pays(self._steps_left)
            start = time.perf_counter()
            log.info("CompiledSVI compiles %s", "a step" if count == 1 else f"{count} steps")
            inside, inputs = batch, tensors
            if placed is not None:
                state = [*dependencies.tensors, *trial.met]
                try_inputs(placed, batch, tensors, self._problem, trial.trained, state)
                inside, inputs = placed.batch, placed.tensors
            captured = self._record(dependencies, trial, inside, inputs, count)
            log.info("CompiledSVI compiled in %.1f s", time.perf_counter() - start)
        except NotCapturable as reason:
            if dependencies is not None:
                dependencies.put_back()
            if placed is not None and placed.places:
                # It may be for them: as constants they show whether it is.
                for place in () if placed.stale else placed.places:
                    placed.refuse(place, str(reason))
            else:
                self._refuse(key, str(reason))
            return None, []
        self.captures += 1
        self._make_place()
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
        prepared = preparation(problem.loss)
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
            if created or moves or preparation(problem.loss) != prepared:
                undo.clear()
                return _Trial(params, trained, [problem.step(loss, params)])
            if self._steps_left is not None and self._worthwhile is None:
                # The first run is cold, and another program may have the processor for a while.
                self._eager_seconds = min(self._seconds(args, kwargs) for _ in range(3))
        for param in params:
            param.grad = None
        if sites.fault is not None and isinstance(problem.loss, Objective):
            raise sites.fault  # a loss of Pyro's has the term that its gradient then needs
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
    ) -> Captured:
        problem, params = self._problem, trial.trained
        if any(slot.option("subsample_aware") for slot in problem.optim.slots(params)):
            raise NotCapturable("the optimiser looks at which rows a step has drawn")
        problem.optim.hold()
        inside = not problem.optim.refusal(params)
        if count > 1 and not inside:
            self.unrolls = False
            raise NotCapturable("the optimiser's update is no part of a graph: one step at a time")
        device = problem.device
        finite = self._finite.setdefault(device, torch.ones((), dtype=torch.bool, device=device))
        slots = problem.optim.slots(params) if inside else []
        trained = set(map(id, params))
        idle = [p for p in trial.met if p.requires_grad and id(p) not in trained]
        captured = Captured(problem, dependencies, params, idle, slots, finite)
        dependencies.narrow()
        own = [*captured.watch(), finite]
        state = [*dependencies.tensors, *trial.met, *own]
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
                at = (
                    "before any site"
                    if sites.last is None
                    else f"at site `{sites.last}` or after it"
                )
                raise NotCapturable(f"{reason}, {at}") from reason
        if (name := dependencies.changed()) is not None:
            raise NotCapturable(f"{name} changes at every run")
        # What is the engine's own is read by the engine: programs may reach it, and do not read it.
        engines = set(map(id, own))
        dependencies.cover(each for each in captured.graph.held if id(each) not in engines)
        return captured


class _Trial(NamedTuple):
    """One run of the programs: parameters met, those to be trained, and losses of steps taken."""

    met: list[Tensor]
    trained: list[Tensor]
    losses: list[Loss]


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


def _watch_store(names: Sequence[str], walk: Walk) -> None:
    store = vars(pyro.get_param_store())
    # Clearing the store makes new dicts.
    for part in ("_params", "_constraints"):
        walk.entries("param store", store, (part,), follow=False)
        walk.entries("param store", store[part], names)
