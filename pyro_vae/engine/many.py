"""Steps of several fits of one form, taken at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor
from torch._C import _is_any_autocast_enabled
from torch.fx import GraphModule

from pyro_vae._errors import plural
from pyro_vae.engine.captured import Captured
from pyro_vae.engine.costs import Work, costs_of
from pyro_vae.engine.dependencies import Dependencies
from pyro_vae.engine.eager import EagerEngine
from pyro_vae.engine.errors import NotCapturable
from pyro_vae.engine.graph import Graph
from pyro_vae.engine.losses import refusal
from pyro_vae.engine.memory import preserved
from pyro_vae.engine.protocol import Batch, Call, EngineName
from pyro_vae.engine.rehearsal import record, rehearse
from pyro_vae.engine.svi import CompiledSVI
from pyro_vae.engine.vmapped import Followed, Sample, Stacks, Traced, split
from pyro_vae.engine.watchdog import Expected, Watchdog

__all__ = ["ManySVI"]

log = logging.getLogger("pyro_vae")
_CPU = torch.device("cpu")


class ManySVI:
    """Creates what takes a step of each of several fits, by one run of the operations of a step.

    Each fit has its own parameters, optimiser, schedules, rows and random numbers, and takes the
    steps that it would take by itself, up to rounding. Loss, gradients and update of one step are
    captured for each fit; all have to be the same operations on tensors of the same layouts. Those
    run once, by :func:`torch.func.vmap` over the fits. Random numbers are drawn for each fit, by
    its own generator, as its step by itself draws them.

    Steps are checked as those of graphs are: the first two of each form, and when 10, 100, 1000
    were taken, and so on, are taken by the programs of each fit as well.

    Parameters, and all else that steps move, are views of memory that the fits share until
    :meth:`part`. What raises an error here has left them somewhere on their way.

    References:
        torch.func: JAX-like composable function transforms for PyTorch (PyTorch contributors),
        https://docs.pytorch.org/docs/stable/func.html

    Args:
        svis: What would take the steps of each fit.
        compile: Whether to compile; ``"auto"`` does where it pays.
        planned_steps: Steps of each that will be taken in all, which ``"auto"`` decides from.
    """

    def __init__(
        self, svis: Sequence[CompiledSVI], *, compile: bool | str, planned_steps: int
    ) -> None:
        self._svis = svis
        self._problems = [svi._problem for svi in svis]
        self._watchdogs = [Watchdog(problem, "auto") for problem in self._problems]
        self._finite = [torch.ones((), dtype=torch.bool) for _ in svis]
        self._left = set(range(len(svis)))
        self._stacks = Stacks()
        self._compiles = None if compile == "auto" else bool(compile)
        self._planned = planned_steps
        self._forms: dict[Any, _Form] = {}

    def step(
        self,
        batches: Sequence[tuple[Batch, list[Tensor]] | None],
        random: Sequence[MutableMapping[str, Any]],
    ) -> Tensor:
        """Takes a step of each fit that has not parted.

        Args:
            batches: How the arguments of its step are made, and what from; of one that has parted
                nothing is looked at.
            random: The state of the generators of each; what torch draws is drawn from it.

        Returns:
            Losses, shape ``(fits, 1)``; of one that has parted, any number.

        Raises:
            NotCapturable: If the steps cannot be taken at once, or a loss is not finite.
            GraphMismatch: If they are no longer those of the programs.
        """
        given = {i: batches[i] for i in self._left}
        calls = {
            i: Call(each[0].key, each[0], each[1], each[1], 1)
            for i, each in given.items()
            if each is not None
        }
        keys = {call.key for call in calls.values()}
        if len(keys) != 1:
            raise NotCapturable("their rows differ in shape")
        (key,) = keys
        if (
            _PYRO_STACK
            or not torch.is_grad_enabled()
            or torch.is_inference_mode_enabled()
            or _is_any_autocast_enabled()
        ):
            raise NotCapturable("what is active around the call is none of a graph's")
        if all(svi.steps == 0 for svi in self._svis):
            return self._first(calls, random)
        if (form := self._forms.get(key)) is None:
            form = self._forms[key] = self._form(calls, random)
        expected: dict[int, Expected] = {}
        if form.taken >= form.due:
            for i, call in calls.items():
                torch.set_rng_state(random[i]["torch"])
                expected[i] = self._watchdogs[i].expect(form.captured[i], call)
        for i, call in calls.items():
            form.inputs[i] = self._inputs(form, i, call, random[i])
        args = [torch.stack(each) for each in zip(*form.inputs, strict=True)]
        if form.graph is None:
            # A capture is a run, which may overwrite what it is given.
            form.graph = self._joined(form, [arg.clone() for arg in args])
        losses = form.graph(*args)[0]
        for i, each in expected.items():
            self._watchdogs[i].compare(each, losses[i])
            if not torch.equal(each.random, random[i]["torch"]):
                raise NotCapturable("it draws other random numbers than a step by itself")
        self._count(form, losses)
        return losses

    def look(self) -> None:
        """Checks that what is baked into graphs is as it was: nothing but a step happens to it.

        Raises:
            NotCapturable: If something has changed.
        """
        for form in self._forms.values():
            for i in self._left:
                if (name := form.captured[i].dependencies.changed()) is not None:
                    raise NotCapturable(f"{name} has changed between two steps")

    def part(self, number: int) -> None:
        """Leaves a fit as it is: the memory of its tensors is its own from now on."""
        self._left.discard(number)
        self._problems[number].optim.release()
        self._stacks.part(number)

    def _first(
        self, calls: Mapping[int, Call], random: Sequence[MutableMapping[str, Any]]
    ) -> Tensor:
        """Takes the first steps by the programs alone: they find out and keep some things by it."""
        losses = []
        for i, call in calls.items():
            torch.set_rng_state(random[i]["torch"])
            with _in_one_line():
                losses.append(EagerEngine(self._problems[i]).steps(call.batch, call.tensors, 1))
            random[i]["torch"] = torch.get_rng_state()
            self._svis[i]._count("eager", 1)
        found = torch.stack(losses)
        if not found.isfinite().all():
            raise NotCapturable("the loss is not finite at the first step")
        return found

    def _inputs(
        self, form: _Form, number: int, call: Call, random: MutableMapping[str, Any]
    ) -> list[Tensor]:
        """Returns what the step of a fit takes besides its state: with what it draws at random."""
        captured = form.captured[number]
        self._problems[number].optim.hold()
        if not captured.in_step():
            raise NotCapturable("the step count of a parameter changes")
        args = [captured.rows(1), *call.tensors]
        torch.set_rng_state(random["torch"])
        with torch.no_grad():
            sources = form.sources[number]
            drawn = form.draws(*(args[each] if isinstance(each, int) else each for each in sources))
        random["torch"] = torch.get_rng_state()
        return [*args, *drawn]

    def _count(self, form: _Form, losses: Tensor) -> None:
        finite = losses.isfinite().flatten(1).all(1)
        form.taken += 1
        if form.taken > form.due:
            # As the watchdog schedules graphs.
            form.checks += 1
            form.due = 10 ** len(str(form.taken)) if form.checks > 1 else form.taken
        for i in self._left:
            svi = self._svis[i]
            if not finite[i]:
                raise NotCapturable(f"the loss is not finite at step {svi.steps}")
            for slot in form.captured[i].slots:
                slot.step += 1
            svi._count(form.name, 1)

    # What steps are made of

    def _form(self, calls: dict[int, Call], random: Sequence[MutableMapping[str, Any]]) -> _Form:
        """Captures a step of each fit."""
        captured = []
        for i, call in calls.items():
            torch.set_rng_state(random[i]["torch"])
            captured.append(self._captured(i, call))
        if len(captured) < len(self._svis):
            raise NotCapturable("a new batch size, after some of them have ended")
        sample, *others = (each.graph for each in captured)
        assert isinstance(sample, Sample)
        sources = [sample.sources]
        for graph in others:
            assert isinstance(graph, Followed)
            sources.append(sample.sources_of(graph))
        args = [captured[0].rows(1), *calls[0].tensors]
        inputs = [args[each] if isinstance(each, int) else each for each in sample.sources]
        draws, rest = split(sample.module, sample.written, inputs)
        return _Form(captured, sources, sample.written, draws, rest, [[] for _ in captured])

    def _captured(self, number: int, call: Call) -> Captured:
        problem = self._problems[number]
        if problem.loss is None or (reason := refusal(problem.loss)) is not None:
            raise NotCapturable(reason if problem.loss is not None else "its loss is a function")
        problem.settle(_CPU)
        programs = problem.model, problem.guide, problem.loss
        dependencies = Dependencies(*programs, call.batch.reads)
        with _in_one_line():
            trial = rehearse(problem, dependencies, call.batch, call.tensors, False)
        if trial.losses:
            raise NotCapturable("its first step cannot be taken back")
        problem.optim.adopt(trial.met)
        tensors, finite = call.tensors, self._finite[number]
        kind = Followed if number else Sample
        captured = record(problem, dependencies, trial, call.batch, tensors, 1, finite, kind)
        if not captured.slots:
            raise NotCapturable("the update of the optimiser is no part of a graph")
        return captured

    def _joined(self, form: _Form, args: Sequence[Tensor]) -> Graph:
        """Returns the one graph of all: that of a step, by ``vmap`` over the fits."""
        inputs: list[Tensor | int] = []
        dims: list[int | None] = []
        for sources, moves in zip(zip(*form.sources, strict=True), form.written, strict=True):
            source, dim = self._source(sources, moves)
            inputs.append(source)
            dims.append(dim)
        taken_in = sum(node.op == "placeholder" for node in form.rest.graph.nodes)
        drawn = taken_in - len(inputs)  # which come last
        count = len(args) - drawn
        together = torch.func.vmap(form.rest, in_dims=(*dims, *[0] * drawn), randomness="error")

        def step(*args: Tensor) -> list[Tensor]:
            filled = [args[each] if isinstance(each, int) else each for each in inputs]
            return list(together(*filled, *args[count:]))

        state = [each for each in inputs if isinstance(each, Tensor)]
        graph: Graph = Traced(step, state, args)
        if self._compiles is None:
            with preserved(state), Work() as work:
                graph.uncompiled(*args)
            self._compiles = costs_of(_CPU).pay(work, self._planned)
            took = "compiled" if self._compiles else "not compiled"
            log.info(
                "with %s ahead, steps of several fits are %s", plural(self._planned, "step"), took
            )
        if self._compiles:
            try:
                graph = Graph(step, state, args)
                form.name = "inductor"
            except NotCapturable as reason:
                self._compiles = False
                log.warning("steps of several fits are not compiled: %s", reason)
        return graph

    def _source(
        self, sources: Sequence[Tensor | int], moves: bool
    ) -> tuple[Tensor | int, int | None]:
        """Returns what comes in the place of an input of each fit, and the dimension of fits."""
        first = sources[0]
        if isinstance(first, int):
            return first, 0
        tensors = [each for each in sources if isinstance(each, Tensor)]
        if all(each is first for each in tensors):
            if moves:
                raise NotCapturable("their models share a tensor that a step moves")
            return first, None
        return self._stacks.stack(tensors), 0


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Inside it, what is wrong with a program is a reason: by itself it says that in full."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        raise NotCapturable((str(error) or type(error).__name__).splitlines()[0]) from error


@dataclass
class _Form:
    """Steps of batches of one shape.

    Attributes:
        captured: The step of each fit.
        sources: What is an input of that, for each fit.
        written: Which of these a step moves.
        draws: What draws the random numbers of one.
        rest: Everything else that one does.
        inputs: What each took last, besides its state.
        graph: All of them at once.
        name: What runs that.
        taken: Steps so far.
        checks: Times that they were checked.
        due: Steps after which they are to be checked.
    """

    captured: list[Captured]
    sources: list[list[Tensor | int]]
    written: list[bool]
    draws: GraphModule
    rest: GraphModule
    inputs: list[list[Tensor]]
    graph: Graph | None = None
    name: EngineName = "eager"
    taken: int = 0
    checks: int = 0
    due: float = field(default=0)
