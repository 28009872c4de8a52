"""The first run of a program, which shows what there is to capture, and its capture."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae.engine.captured import Captured
from pyro_vae.engine.costs import Work
from pyro_vae.engine.dependencies import Dependencies
from pyro_vae.engine.errors import NotCapturable, NotReparameterised, ReadsBack
from pyro_vae.engine.graph import Graph
from pyro_vae.engine.losses import preparation
from pyro_vae.engine.memory import preserved
from pyro_vae.engine.problem import Loss, Problem
from pyro_vae.engine.protocol import Batch
from pyro_vae.engine.walk import Walk
from pyro_vae.objectives import Objective

__all__ = ["Trial", "record", "rehearse"]


class Trial(NamedTuple):
    """One run of the programs.

    Attributes:
        met: The parameters.
        trained: Those of them that are to be trained.
        losses: Of a step that it could not but take.
        work: What there is to do in a step, if that was asked.
    """

    met: list[Tensor]
    trained: list[Tensor]
    losses: list[Loss]
    work: Work | None


def rehearse(
    problem: Problem,
    dependencies: Dependencies,
    batch: Batch,
    tensors: Sequence[Tensor],
    counted: bool,
) -> Trial:
    """Runs the programs once, and takes no step.

    Unless that run has created parameters: creating them draws random numbers that a stock step
    draws too, once, so that the run is then the step. It is also where it may have moved what
    cannot be put back, such as an iterator: whether the programs read that is known after it.

    Args:
        problem: What steps are taken of.
        dependencies: All that the programs reach, whose reads are recorded.
        batch: How the arguments are made.
        tensors: What from.
        counted: Whether to find out how much there is to do in a step.

    Raises:
        NotCapturable: If there is something about the parameters or the sites that is in the way.
    """
    store = pyro.get_param_store()._params
    state = list({id(t): t for t in (*dependencies.tensors, *store.values())}.values())
    known = set(map(id, state))
    prepared = preparation(problem.loss)
    moves = bool(dependencies.moving) and not dependencies.reads.size()
    for tensor in state:
        if tensor.is_leaf:
            tensor.grad = None
    with preserved(state) as undo, _Sites() as sites:
        with dependencies.reads.recording():
            args, kwargs = batch.arguments(tensors, 0)
            loss, params = problem.gradients(args, kwargs)
        trained = [
            param
            for param in params
            if param.grad is not None or (param.requires_grad and problem.optim.has_moved(param))
        ]
        created = any(id(param) not in known for param in params)
        if created or moves or preparation(problem.loss) != prepared:
            undo.clear()
            return Trial(params, trained, [problem.step(loss, params)], None)
        work = None
        if counted:
            with Work() as work:
                problem.gradients(args, kwargs)
    for param in params:
        param.grad = None
    if sites.fault is not None and isinstance(problem.loss, Objective):
        raise sites.fault  # a loss of Pyro's has the term that its gradient then needs
    if any(param._backward_hooks or param._post_accumulate_grad_hooks for param in trained):
        raise NotCapturable("a parameter has a hook on its gradient")
    if not trained:
        raise NotCapturable("no parameter has a gradient; are the modules registered?")
    return Trial(params, trained, [], work)


def record(
    problem: Problem,
    dependencies: Dependencies,
    trial: Trial,
    batch: Batch,
    tensors: Sequence[Tensor],
    count: int,
    finite: Tensor,
    kind: type[Graph] = Graph,
) -> Captured:
    """Returns the graph of steps.

    Args:
        problem: What steps are taken of.
        dependencies: All that the programs reach, with what they read.
        trial: One run of them.
        batch: How the arguments are made.
        tensors: What from.
        count: How many steps.
        finite: Whether every step so far was as it has to be, shape ``()``.
        kind: Of the graph.

    Raises:
        NotCapturable: If it is impossible.
    """
    params = trial.trained
    if any(slot.option("subsample_aware") for slot in problem.optim.slots(params)):
        raise NotCapturable("the optimiser looks at which rows a step has drawn")
    problem.optim.hold()
    inside = not problem.optim.refusal(params)
    if count > 1 and not inside:
        raise NotCapturable("the optimiser's update is no part of a graph: one step at a time")
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
        valid = [step.valid for step in taken if step.valid is not None]
        grads = () if captured.slots else taken[-1].grads
        losses = torch.stack([step.loss for step in taken])
        return [losses, *([torch.stack(valid)] if captured.validates else []), *grads]

    args = [captured.rows(count), *tensors]
    captured.graph = _traced(captured, kind, steps, state, args)
    if (name := dependencies.changed()) is not None:
        raise NotCapturable(f"{name} changes at every run")
    # What is the engine's own is read by the engine: programs may reach it, and do not read it.
    engines = set(map(id, own))
    dependencies.cover(each for each in captured.graph.held if id(each) not in engines)
    if not captured.is_unchecked:
        dependencies.rebind(captured.rebind)
    return captured


def _traced(
    captured: Captured,
    kind: type[Graph],
    steps: Callable[..., list[Tensor]],
    state: Sequence[Tensor],
    args: Sequence[Tensor],
) -> Graph:
    """Returns the graph of steps, with their validation in it if that is possible."""
    with torch.no_grad(), _Sites() as sites:
        while True:
            try:
                return kind(steps, state, args)
            except NotCapturable as reason:
                if captured.validates and captured.cannot_validate():
                    captured.validates, captured.is_unchecked = False, True
                elif isinstance(reason, ReadsBack):
                    met = sites.last is not None
                    at = f"at site `{sites.last}` or after it" if met else "before any site"
                    raise NotCapturable(f"{reason}, {at}") from reason
                else:
                    raise


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
