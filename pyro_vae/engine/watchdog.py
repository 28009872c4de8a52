"""The watchdog: it compares some steps of graphs with steps of the programs themselves.

What a graph has baked in is watched, and yet nobody can watch everything: clocks, files, the
environment, extensions in C, another thread. So a step is taken twice from one state, by the
programs and by the graph, with the same random numbers. Losses, parameters and the optimisers'
state after it are compared: that is linear in the gradients, which parameters after a step of
Adam's are not.

Tolerances are shares of the largest entry of what moves: 1e-9 in double precision, 1e-4 in single,
0.05 below, and four units in the last place of the values themselves. What differs by more is
compared with what rounding makes of it, which is measured (``rounding``): eight times the largest
difference among eight runs is allowed.
"""

from __future__ import annotations

import math
import platform
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import pyro
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from pyro_vae._errors import out_of_memory
from pyro_vae.engine.captured import Captured
from pyro_vae.engine.errors import GraphMismatch
from pyro_vae.engine.memory import Snapshot, elements
from pyro_vae.engine.problem import Loss, Problem, is_finite
from pyro_vae.engine.protocol import Call
from pyro_vae.engine.rounding import RandomRounding
from pyro_vae.engine.validation import validated_in_tensors

__all__ = ["CheckEvery", "Expected", "Watchdog"]

CheckEvery: TypeAlias = int | Literal["auto"] | None
_RUNS = 8  # with random rounding
_TIMES = 8.0  # the largest difference that those make
_FEW = 0.05  # of the entries of a parameter
_ULPS = 4  # units in the last place of a value that moves by less


class _Result(NamedTuple):
    """What is compared: losses, gradients where the graph has them, and tensors that were moved.

    Attributes:
        name: Of the parameter that it is, or belongs to; None for what is none's.
        what: What it is of that parameter.
        tensor: The one that moves; None for losses and gradients.
        before: What it was.
    """

    name: str | None
    what: str
    tensor: Tensor | None = None
    before: Tensor | None = None


class _Trial(NamedTuple):
    """Some steps that a graph is to take, and all that they may change."""

    captured: Captured
    call: Call
    state: list[Tensor]
    before: Snapshot


class Expected(NamedTuple):
    """What the programs make of some steps that are not taken yet: see :meth:`Watchdog.expect`.

    Attributes:
        trial: The steps.
        results: What there is to compare.
        values: Its values.
        random: The state of torch's generator behind the steps.
    """

    trial: _Trial
    results: list[_Result]
    values: list[Tensor]
    random: Tensor


class Watchdog:
    """Creates what decides when a graph is checked, and checks it.

    Each graph is checked at its first two runs (the first follows its capture, with the very same
    inputs), and when it has taken 10, 100, 1000 steps, and so on.

    Where the compiler draws random numbers of its own (on CUDA, and for ``torch.bernoulli``) there
    is no step to compare its code with. There the operations that were captured are run one by
    one, with torch's random numbers: the capture is checked, and the compiler's code is not.

    Args:
        problem: What steps are taken of.
        every: Steps of a graph from one check to the next, besides; ``auto`` for none besides;
            None for no checks at all.
        folder: Where to write what reproduces a mismatch; a new temporary one if not given.
    """

    def __init__(self, problem: Problem, every: CheckEvery, folder: Path | None = None) -> None:
        self._problem = problem
        self._every = every
        self._folder = folder
        self._random = torch.get_rng_state()  # behind the last steps of the programs

    def schedule(self, captured: Captured) -> None:
        """Sets after how many steps the graph is to be checked next."""
        if self._every is None:
            captured.due = math.inf
            return
        captured.checks += 1
        if captured.checks <= 2:
            captured.due = captured.taken + 1
            return
        captured.due = 10 ** len(str(captured.taken))
        if self._every != "auto":
            captured.due = min(captured.due, (captured.taken // self._every + 1) * self._every)

    def run(self, captured: Captured, call: Call) -> list[Tensor]:
        """Runs the graph and returns what it does, if the programs do the same.

        Args:
            captured: The graph.
            call: The steps that it is to take.

        Raises:
            GraphMismatch: If they do not. Parameters and random numbers are then as before.
        """
        count, inputs = call.steps, call.inputs
        self.schedule(captured)
        if captured.has_ended():
            return captured.graph(captured.rows(count), *inputs)
        self._problem.optim.release()  # step counts go to where the optimisers look for them
        state = self._state(captured, call)
        trial = _Trial(captured, call, state, Snapshot(state))
        try:
            results, programs = self._first(trial)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            return captured.graph(captured.rows(count), *inputs)  # which needs less
        is_comparable = captured.graph.draws_as_torch
        run = captured.graph if is_comparable else captured.graph.uncompiled
        outputs = run(captured.rows(count), *inputs)
        losses, *rest = outputs
        if captured.validates and not bool(rest.pop(0).all()):
            _put_back(trial.before)
            return captured.graph(captured.rows(count), *inputs)  # which takes no such step
        graph = _values(results, [losses, *rest])
        if all(error <= most for error, most in _errors(results, graph, programs)):
            if is_comparable:
                return outputs
        else:
            _put_back(trial.before)
            self._look_closer(trial, results, graph, programs)
        _put_back(trial.before)
        return captured.graph(captured.rows(count), *inputs)

    def expect(self, captured: Captured, call: Call) -> Expected:
        """Takes steps by the programs, and leaves everything as it was.

        Args:
            captured: The graph whose steps they are, which somebody else runs.
            call: The steps.
        """
        self._problem.optim.release()
        state = self._state(captured, call)
        trial = _Trial(captured, call, state, Snapshot(state))
        return Expected(trial, *self._first(trial), self._random)

    def compare(self, expected: Expected, losses: Tensor) -> None:
        """Checks steps that have been taken, and leaves everything as it is.

        Args:
            expected: What the programs have made of them.
            losses: Of the steps as they were taken.

        Raises:
            GraphMismatch: If they differ.
        """
        trial, results, programs, _ = expected
        found = _values(results, [losses])
        errors = _errors(results, found, programs)
        if all(map(_is_close, results, found, programs, errors)):
            return
        after = Snapshot(trial.state)
        try:
            _put_back(trial.before)
            self._look_closer(trial, results, found, programs)
        finally:
            _put_back(after)

    # The steps of the programs

    def _state(self, captured: Captured, call: Call) -> list[Tensor]:
        single = call.batch.key[0] == "step"
        args = tree_leaves(call.arguments(0)) if single else []
        stored = pyro.get_param_store()._params.values()
        every = [*captured.params, *(moment for _, _, moment in _moments(captured))]
        every += [*stored, *captured.dependencies.tensors, *captured.graph.held, *args]
        return list({id(t): t for t in every if isinstance(t, Tensor)}.values())

    def _first(self, trial: _Trial) -> tuple[list[_Result], list[Tensor]]:
        """Takes the steps of the programs; returns what there is to compare, and its values."""
        versions = [None if t.is_inference() else t._version for t in trial.state]
        captured, before = trial.captured, trial.before.values
        results = [_Result(None, "the loss")]
        if not captured.slots:
            results += [_Result(_name(param), "the gradient of ") for param in captured.params]
        results += [
            _Result(_name(param), what, tensor, before[id(tensor)])
            for param, what, tensor in [*((p, "", p) for p in captured.params), *_moments(captured)]
        ]
        with self._taken(trial) as (losses, grads):
            self._random = torch.get_rng_state()
            known = {id(result.tensor) for result in results}
            results += [
                _Result(None, f"a tensor of shape {tuple(t.shape)}", t, before[id(t)])
                for t, version in zip(trial.state, versions, strict=True)
                if version is not None and version != t._version and id(t) not in known
                if t.is_floating_point()
            ]
            values = _values(results, [losses, *grads])
        return results, values

    @contextmanager
    def _taken(self, trial: _Trial) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Takes the steps, yields losses and gradients, and leaves everything as it was."""
        optim, store = self._problem.optim, pyro.get_param_store()
        entries = [store._params, store._param_to_name, store._constraints]
        saved = [dict(each) for each in entries]
        steps = [(slot, slot.step) for slot in optim.all_slots()]
        leaves = [tensor for tensor in trial.state if tensor.is_leaf]
        grads = [leaf.grad for leaf in leaves]
        for leaf in leaves:
            leaf.grad = None
        try:
            losses = self._losses(trial)
            none = [] if trial.captured.slots else trial.captured.params
            yield losses, [torch.zeros_like(p) if p.grad is None else p.grad for p in none]
        finally:
            for leaf, grad in zip(leaves, grads, strict=True):
                leaf.grad = grad
            for each, then in zip(entries, saved, strict=True):
                if each != then:  # a program may replace what it keeps in the store
                    each.clear()
                    each.update(then)
            if trial.captured.slots:
                optim.hold()
            for slot, step in steps:
                slot.step = step
            _put_back(trial.before)

    def _losses(self, trial: _Trial) -> Tensor:
        problem = self._problem
        losses: list[Loss] = []
        for number in range(trial.call.steps):
            args, kwargs = trial.call.arguments(number)
            try:
                with validated_in_tensors(), warnings.catch_warnings(action="ignore"):
                    loss, params = problem.gradients(args, kwargs)
            except ValueError as error:
                # As in an eager step.
                if problem.on_nonfinite == "ignore" or "invalid values" not in str(error):
                    raise
                loss, params = math.nan, []
            moves = bool(trial.captured.slots)
            losses.append(problem.step(loss, params) if moves else problem.judge(loss, params))
            if problem.on_nonfinite == "raise" and not is_finite(losses[-1]):
                break
        return torch.tensor(losses, dtype=torch.float64)

    # What differs

    def _look_closer(
        self, trial: _Trial, results: list[_Result], graph: list[Tensor], programs: list[Tensor]
    ) -> None:
        """Measures what rounding makes of the steps.

        Raises:
            GraphMismatch: If that is less than what has been found.
        """
        deviations = [0.0] * len(results)
        for seed in range(_RUNS):
            try:
                with RandomRounding(seed), self._taken(trial) as (losses, grads):
                    values = _values(results, [losses, *grads])
            except ValueError:  # what is rounded may leave a support
                continue
            found = [error for error, _ in _errors(results, values, programs)]
            deviations = list(map(max, deviations, found))
        errors = _errors(results, graph, programs)
        ratios = [
            error / (most + _TIMES * deviation + 1e-300)
            for (error, most), deviation in zip(errors, deviations, strict=True)
        ]
        differing = [i for i, ratio in enumerate(ratios) if not ratio <= 1]
        if differing:
            # A parameter itself is better known than what its optimiser keeps of it.
            differing.sort(key=lambda i: (results[i].name is None, results[i].what, -ratios[i]))
            raise self._mismatch(trial, results, graph, programs, differing)

    def _mismatch(
        self,
        trial: _Trial,
        results: list[_Result],
        graph: list[Tensor],
        programs: list[Tensor],
        differing: list[int],
    ) -> GraphMismatch:
        first = differing[0]
        now, then, _ = _farthest(graph[first], programs[first])
        parts = []
        for i in dict.fromkeys([*(i for i in differing if i == 0), first]):
            ours, theirs, at = _farthest(graph[i], programs[i])
            whose = "" if results[i].name is None else f"parameter `{results[i].name}`"
            place = f" at {at}" if at and i else ""
            parts.append(
                f"{results[i].what}{whose} is {ours:.7g}{place}, and should be {theirs:.7g}"
            )
        text = (
            "a step of a graph differs from the same step of the programs: "
            f"{'; '.join(parts)}. Something that they read has changed unnoticed, or compiled code "
            "is wrong. Parameters are as before the step"
        )
        path = self._write(trial, text)
        text += "" if path is None else f"; {path} has what reproduces it"
        return GraphMismatch(text, results[first].name, now, then, path)

    def _write(self, trial: _Trial, text: str) -> Path | None:
        """Writes what reproduces a mismatch; returns where, or None if that cannot be written."""
        _put_back(trial.before)
        state = {
            "message": text,
            "parameters": {_name(p, full=True): _saved(p) for p in trial.captured.params},
            "optim": tree_map(_saved, self._problem.optim.state_dict()),
            "batches": [tree_map(_saved, trial.call.arguments(i)) for i in range(trial.call.steps)],
            "random": {"torch": torch.get_rng_state()},
            "versions": {
                "python": platform.python_version(),
                **{each: metadata.version(each) for each in ("torch", "pyro-ppl", "pyro-vae")},
            },
        }
        if self._problem.device.type == "cuda":
            state["random"]["cuda"] = torch.cuda.get_rng_state(self._problem.device)
        _put_back(trial.before)
        try:
            folder = self._folder or Path(tempfile.mkdtemp(prefix="pyro_vae-"))
            path = folder / "mismatch.pt"
            torch.save(state, path)
        except OSError:
            return None
        return path


def _put_back(before: Snapshot) -> None:
    before.put_values_back()
    before.put_random_back()


def _moments(captured: Captured) -> Iterator[tuple[Tensor, str, Tensor]]:
    """What the optimisers keep of the parameters that a graph moves, but their step counts."""
    for slot in captured.slots:
        for key, value in slot.optimizer.state.get(slot.param, {}).items():
            if isinstance(value, Tensor) and key != "step":
                yield slot.param, f"`{key}` of ", value


def _name(param: Tensor, full: bool = False) -> str:
    name = str(pyro.get_param_store().param_name(param))
    # A store's name starts with that of the module.
    return name if full else name.rpartition("$$$")[2]


def _values(results: Sequence[_Result], outputs: Sequence[Tensor]) -> list[Tensor]:
    """Returns copies of what is to be compared."""
    made = iter(outputs)
    every = (next(made) if each.tensor is None else elements(each.tensor) for each in results)
    return [value.detach().clone() for value in every]


def _errors(
    results: Sequence[_Result], found: Sequence[Tensor], then: Sequence[Tensor]
) -> list[tuple[float, float]]:
    """Returns the largest difference of each, and the largest that is allowed without a look."""
    errors = []
    for result, ours, theirs in zip(results, found, then, strict=True):
        ours = ours[: len(theirs)] if result is results[0] else ours  # those behind were not taken
        dtype = min((ours.dtype, theirs.dtype), key=lambda each: torch.finfo(each).bits)
        precision = torch.finfo(dtype)
        share = 1e-9 if precision.bits == 64 else 1e-4 if precision.bits == 32 else 0.05
        value, other = theirs.double(), ours.double()
        move = value if result.before is None else value - result.before.double()
        error = torch.where(value == other, 0.0, (value - other).abs())
        # Arithmetic with what is not finite need not come to the same of it.
        error = torch.where(~(value.isfinite() | other.isfinite()), 0.0, error)
        error = error.nan_to_num(math.inf, math.inf)
        allowed = share * _largest(move) + _ULPS * precision.eps * _largest(value)
        errors.append((_largest(error), allowed))
    return errors


def _is_close(result: _Result, found: Tensor, then: Tensor, errors: tuple[float, float]) -> bool:
    """Tells whether a value is as it has to be without a look at what rounding makes of it.

    Where a gradient is next to nothing Adam moves a parameter by its rounding. An update that is
    wrong is so in more than a few of the entries.
    """
    error, most = errors
    if error <= most:
        return True
    if result.what or result.tensor is None:
        return False
    differ = (found.double() - then.double()).abs() > most
    return bool(found.isfinite().all()) and float(differ.double().mean()) < _FEW


def _largest(value: Tensor) -> float:
    finite = torch.where(value.isnan(), 0.0, value.abs())
    return float(finite.max()) if finite.numel() else 0.0


def _farthest(found: Tensor, then: Tensor) -> tuple[float, float, list[int]]:
    """Returns two numbers that differ most, and where that is."""
    found = found[: len(then)] if found.dim() else found
    error = (found.double() - then.double()).abs().nan_to_num(math.inf, math.inf)
    at = int(error.argmax())
    where = [int(i) for i in torch.unravel_index(torch.tensor(at), error.shape)] if at else []
    return float(found.flatten()[at]), float(then.flatten()[at]), where


def _saved(value: Any) -> Any:
    """Returns what can be loaded without the code of what it is."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    return value if isinstance(value, (int, float, str, bool, type(None))) else repr(value)
