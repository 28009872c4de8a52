"""What a program reads is never stale in a graph, wherever it is read from."""

from __future__ import annotations

import collections
import gc
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import (
    SVI,
    Trace_ELBO,
)
from steps import against_stock, eager_and_captured, equals_stock, normal_guide, normal_model
from torch import Tensor, nn

from pyro_vae.engine import CompiledSVI
from pyro_vae.engine.graph import Graph
from pyro_vae.engine.memory import preserved, twin


class _Regressor(nn.Module):
    """A program with everything that could go stale."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.scale = 1.0
        self.offset = torch.zeros(())

    def model(self, x: Tensor, y: Tensor) -> None:
        pyro.module("net", self.net)
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            mean = self.net(x).squeeze(-1) + shift + self.offset
            pyro.sample("y", dist.Normal(mean, self.scale), obs=y)

    def guide(self, x: Tensor, y: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(()))
        pyro.sample("shift", dist.Normal(loc, 1.0))


def _evaluation_mode(program: _Regressor) -> None:
    program.eval()


def _other_scale(program: _Regressor) -> None:
    program.scale = 3.0


def _other_offset(program: _Regressor) -> None:
    program.offset = torch.ones(())


def _offset_in_place(program: _Regressor) -> None:
    program.offset.add_(1.0)


def _other_storage(program: _Regressor) -> None:
    program.net[0].weight.data = program.net[0].weight.data * 2


def _other_strides(program: _Regressor) -> None:
    program.net[0].weight.data = program.net[0].weight.data.t().contiguous().t()


def _frozen(program: _Regressor) -> None:
    program.net[0].weight.requires_grad_(False)


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
@pytest.mark.filterwarnings("ignore:grad and param do not obey", "ignore:.*not registered")
@pytest.mark.parametrize(
    ("change", "captures"),
    [
        (_evaluation_mode, 2),
        (_other_scale, 2),
        (_other_offset, 1),
        (_offset_in_place, 1),
        (_other_storage, 1),
        (_other_strides, 2),
        (_frozen, 2),
    ],
)
def test_what_the_program_reads_is_never_stale(
    change: Callable[[_Regressor], None], captures: int
) -> None:
    """Fails when a guard is taken out of ``Dependencies``."""

    def run(compiled: bool) -> tuple[list[float], CompiledSVI]:
        program = _Regressor()
        x, y = torch.randn(10, 3), torch.randn(10)
        optim = pyro.optim.Adam({"lr": 0.01})
        svi = CompiledSVI(program.model, program.guide, optim, Trace_ELBO(), compile=compiled)
        losses = [svi.step(x, y) for _ in range(5)]
        change(program)
        return losses + [svi.step(x, y) for _ in range(5)], svi

    _, captured = eager_and_captured(run)
    assert captured.captures == captures


_elsewhere = types.ModuleType("elsewhere")


class _Settings:
    scale = 1.0


class _Reader(nn.Module):
    """A program that reads one number, from one place of many."""

    own_class = 1.0

    def __init__(self, read: Callable[[_Reader], Any]) -> None:
        super().__init__()
        self.read = read
        self.dropout = nn.Dropout(0.2)
        self.array = np.ones(1)
        self._private = 1.0
        self.some = [1.0]
        self.by_name: dict[str, float] = {}
        self.members = {1}
        self.queue = collections.deque([1.0])
        self.conditioned = pyro.condition(self.unconditioned, data={"x": torch.ones(4)})

    @property
    def settings(self) -> float:
        return _Settings.scale

    def unconditioned(self, x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 4):
            pyro.sample("x", dist.Normal(z, self.read(self)))

    def forward(self, x: Tensor, *others: Any) -> None:
        self.conditioned(x)


def _handler(program: _Reader) -> Any:
    return program.conditioned.func.args[0]


READS: dict[str, tuple[Callable[[_Reader], Any], Callable[[_Reader], Any]]] = {
    "module": (lambda p: _elsewhere.scale, lambda p: setattr(_elsewhere, "scale", 3.0)),
    "class": (lambda p: _Settings.scale, lambda p: setattr(_Settings, "scale", 3.0)),
    "property": (lambda p: p.settings, lambda p: setattr(_Settings, "scale", 3.0)),
    "own class": (lambda p: p.own_class, lambda p: setattr(_Reader, "own_class", 3.0)),
    "private": (lambda p: p._private, lambda p: setattr(p, "_private", 3.0)),
    "appended": (lambda p: sum(p.some), lambda p: p.some.append(2.0)),
    "new key": (lambda p: p.by_name.get("a", 1.0), lambda p: p.by_name.update(a=3.0)),
    "new attribute": (lambda p: getattr(p, "late", 1.0), lambda p: setattr(p, "late", 3.0)),
    "set": (lambda p: float(len(p.members)), lambda p: p.members.add(2)),
    "deque": (lambda p: sum(p.queue), lambda p: p.queue.append(2.0)),
    "array": (lambda p: float(p.array[0]), lambda p: p.array.fill(3.0)),
    "dropout": (lambda p: 1 + p.dropout(torch.ones(4)), lambda p: setattr(p.dropout, "p", 0.9)),
    "handler": (lambda p: 1.0, lambda p: _handler(p).data.update(x=torch.full((4,), 5.0))),
}


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", READS)
def test_what_is_read_from_anywhere_is_never_stale(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fails when its guard is taken out of ``Dependencies``: seen before there were any."""
    monkeypatch.setattr(_Settings, "scale", 1.0)
    monkeypatch.setattr(_Reader, "own_class", 1.0)
    read, change = READS[name]

    def run(compiled: bool) -> tuple[list[float], CompiledSVI]:
        _elsewhere.scale = _Settings.scale = _Reader.own_class = 1.0
        program = _Reader(read)
        optim = pyro.optim.Adam({"lr": 0.01})
        svi = CompiledSVI(program, normal_guide, optim, Trace_ELBO(), compile=compiled)
        losses = [svi.step(torch.ones(4)) for _ in range(3)]
        change(program)
        return losses + [svi.step(torch.ones(4)) for _ in range(3)], svi

    _, captured = eager_and_captured(run)
    # A handler's data are a tensor, and another one is read by the same graph.
    assert captured.captures == (1 if name == "handler" else 2)


class _Argument:
    scale = 1.0


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("kind", ["object", "module", "array", "set", "type"])
def test_arguments_that_are_no_tensors_are_never_stale(kind: str) -> None:
    """Each fails when arguments are told apart by hash alone."""

    def model(x: Tensor, other: Any) -> None:
        scale = {
            "object": lambda: other.scale,
            "module": lambda: 1 + other(torch.ones(4)),
            "array": lambda: float(other[0]),
            "set": lambda: float(len(other)),
            "type": lambda: 3.0 if other is True else 1.0,
        }[kind]()
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, scale), obs=x)

    def guide(x: Tensor, other: Any) -> None:
        normal_guide(x)

    def run(compiled: bool) -> tuple[list[float], CompiledSVI]:
        other: Any
        other, change = {
            "object": (_Argument(), lambda: setattr(other, "scale", 3.0)),
            "module": (nn.Dropout(0.5), lambda: other.eval()),
            "array": (np.ones(1), lambda: other.fill(3.0)),
            "set": ({1}, lambda: other.add(2)),
            "type": (1, lambda: None),
        }[kind]
        optim = pyro.optim.Adam({"lr": 0.01})
        svi = CompiledSVI(model, guide, optim, Trace_ELBO(), compile=compiled)
        losses = [svi.step(torch.ones(4), other) for _ in range(3)]
        change()
        other = True if kind == "type" else other
        return losses + [svi.step(torch.ones(4), other) for _ in range(3)], svi

    _, captured = eager_and_captured(run)
    assert captured.captures == 2


@pytest.mark.usefixtures("interpreted")
def test_going_back_to_an_earlier_mode_takes_the_earlier_graph() -> None:
    program = _Regressor()
    x, y = torch.randn(10, 3), torch.randn(10)
    svi = CompiledSVI(program.model, program.guide, pyro.optim.Adam({}), Trace_ELBO())
    for mode in (True, False, True, False, True):
        program.train(mode)
        svi.step(x, y)
        svi.step(x, y)
    assert svi.captures == 2


@pytest.mark.usefixtures("interpreted")
def test_parameters_forgotten_by_the_store_are_made_anew() -> None:
    program = _Regressor()
    x, y = torch.randn(10, 3), torch.randn(10)
    svi = CompiledSVI(program.model, program.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(5):
        svi.step(x, y)
    pyro.clear_param_store()
    svi.step(x, y)  # creates `loc` at 0 and takes one step from there
    assert pyro.param("loc").abs() <= 0.1 + 1e-6


SHARED: dict[str, Callable[[], Tensor]] = {
    "expanded": lambda: torch.zeros(()).expand(4),
    "expanded in part": lambda: torch.arange(4.0)[:, None].expand(4, 4)[:, 2],
    "expanded twice": lambda: torch.zeros(4).expand(3, 1, 4).expand(3, 2, 4)[1, 1],
    "one that is seen three times": lambda: torch.arange(4.0).expand(3, 4),
    "windows that overlap": lambda: torch.arange(6.0).unfold(0, 4, 1),
    "made in inference mode": lambda: _made_in_inference_mode(),
}


@torch.inference_mode()
def _made_in_inference_mode() -> Tensor:
    return torch.zeros(4)


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("steps", ["step", "epoch"])
@pytest.mark.parametrize("name", SHARED)
def test_tensors_that_share_memory_with_themselves_are_read(name: str, steps: str) -> None:
    """Fails, by an error of torch's, when values are put back into such a tensor as it is."""

    def run(engine: type) -> tuple[list[float], Any]:
        loc = SHARED[name]()
        prior = dist.Normal(loc, 1.0).to_event(loc.dim())  # its scale is expanded too

        def model(x: Tensor, shift: Tensor) -> None:
            z = pyro.sample("z", prior).reshape(-1, 4).sum(0)
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x + shift)

        def guide(x: Tensor, shift: Tensor) -> None:
            z = dist.Normal(pyro.param("loc", torch.zeros(loc.shape)), 1.0)
            pyro.sample("z", z.to_event(loc.dim()))

        svi = engine(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        x, shift = torch.ones(5, 4), torch.arange(5.0)[:, None].expand(5, 4)
        if steps == "step" or engine is SVI:
            return [svi.step(x, shift) for _ in range(6)], svi
        one = {"batch_size": 5, "shuffle": False}
        return [float(svi.epoch(x, shift, **one)) for _ in range(6)], svi

    svi = against_stock(run)
    if name != "made in inference mode":
        assert svi.engine_steps == {"eager": 1, "inductor": 5}  # the first creates `loc`


def test_a_trial_run_puts_back_what_shares_memory() -> None:
    small, window = torch.zeros(3), torch.arange(6.0)
    seen = [small.expand(2, 3), small.expand(4, 2, 3), window.unfold(0, 4, 1), window]
    with preserved(seen):
        small += 1
        window += 1
    assert small.tolist() == [0.0, 0.0, 0.0]
    assert window.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize(
    "tensor",
    [torch.arange(6.0).view(2, 3).t(), torch.arange(8.0)[::2], torch.arange(3.0).expand(2, 3)],
)
def test_a_twin_has_the_values_and_the_strides(tensor: Tensor) -> None:
    """Fails for a clone: it has other strides than compiled code was made for."""
    copy = twin(tensor)
    assert (copy.stride(), copy.tolist()) == (tensor.stride(), tensor.tolist())
    assert copy.data_ptr() != tensor.data_ptr()


_COLLECTED = 0


@pytest.mark.usefixtures("interpreted", "double")
def test_what_a_collection_of_garbage_calls_is_not_read() -> None:
    """It may come at any time, and what it changes is no reason against a program."""

    def count(phase: str, info: dict[str, int]) -> None:
        global _COLLECTED
        _COLLECTED += 1

    def run(engine: type) -> tuple[list[float], Any]:
        svi = engine(normal_model, normal_guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
        return [svi.step(torch.ones(3)) for _ in range(4)], svi

    before = gc.get_threshold()
    gc.callbacks.append(count)
    gc.set_threshold(5, 2, 2)
    try:
        svi = equals_stock(run)
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(count)
    assert svi.engine_steps.get("inductor", 0) >= 2
    assert _COLLECTED > 0
    assert gc.isenabled()


def test_one_object_in_two_places_of_a_call_may_be_two_in_the_next() -> None:
    """Fails where compiled code is given one argument for both, or for what is held, ever after."""
    held = torch.ones(3)
    graph = Graph(lambda x, y: [x - 2 * y + 3 * held], [held], [held, held])
    torch.testing.assert_close(graph(held, held)[0], torch.full((3,), 2.0))
    found = graph(torch.full((3,), 5.0), torch.full((3,), 7.0))[0]
    torch.testing.assert_close(found, torch.full((3,), -6.0))


def test_numbers_of_the_program_do_not_keep_the_wrapper_of_the_compiled_code() -> None:
    """Fails where a constant is passed to compiled code beside its inputs: 9 µs at every step."""
    held = torch.ones(3)
    graph = Graph(lambda x: [torch.tensor(2.0) * x + held + torch.tensor(1.0)], [held], [held])
    graph(held)
    graph._outer = None  # what wraps the code
    torch.testing.assert_close(graph(torch.full((3,), 5.0))[0], torch.full((3,), 12.0))
