"""Tensors that are replaced between two steps are read, and no graph is made anew for them."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from random_programs import interpreted
from steps import equals_stock
from torch import Tensor, nn

from pyro_vae.engine import CompiledSVI
from pyro_vae.engine.dependencies import Dependencies
from pyro_vae.engine.errors import GraphMismatch
from pyro_vae.engine.graph import Graph

pytestmark = pytest.mark.usefixtures("traced", "double")

GLOBAL = torch.zeros(3)
STEPS = 4


@pytest.fixture
def traced() -> Iterator[None]:
    """Runs graphs operation by operation, and traces them in half of the time."""
    with interpreted():
        yield


def data(i: int) -> Tensor:
    """Returns another tensor, of other values, at each step."""
    return torch.tensor([1.0, 2.0, 3.0]) * (i + 1) / 2


class Program:
    """A program whose data, or whatever else, is where ``read`` finds it."""

    def __init__(self, read: Callable[[], Any]) -> None:
        self.read = read

    def model(self, *args: Any) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        x = self.read()
        with pyro.plate("data", 3):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, *args: Any) -> None:
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0))


def trained(
    make: Callable[[], tuple[Callable[[], Any], Callable[[int], None]]], steps: int = STEPS
) -> CompiledSVI:
    """Replaces something before each step, with stock SVI and with ours, which have to agree.

    Args:
        make: Returns what reads the data, and what replaces something before step ``i``.
        steps: How many.
    """

    def run(engine: type) -> tuple[list[float], Any]:
        read, replace = make()
        program = Program(read)
        svi = engine(program.model, program.guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        losses = []
        for i in range(steps):
            replace(i)
            losses.append(svi.step())
        return losses, svi

    return equals_stock(run)


class Holder:
    def __init__(self, value: Any) -> None:
        self.value = value


@dataclasses.dataclass(slots=True)
class Slotted:
    value: Any


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", data(0))


def attribute(holder: Any) -> tuple[Callable[[], Any], Callable[[int], None]]:
    return lambda: holder.value, lambda i: setattr(holder, "value", data(i))


def _variable() -> tuple[Callable[[], Any], Callable[[int], None]]:
    x = data(0)

    def replace(i: int) -> None:
        nonlocal x
        x = data(i)

    return lambda: x, replace


def _global() -> tuple[Callable[[], Any], Callable[[int], None]]:
    def replace(i: int) -> None:
        global GLOBAL
        GLOBAL = data(i)

    return lambda: GLOBAL, replace


def _item(container: Any, key: Any) -> tuple[Callable[[], Any], Callable[[int], None]]:
    return lambda: container[key], lambda i: container.__setitem__(key, data(i))


def _object(
    make: Callable[[Tensor], Any], read: Callable[[Any], Tensor]
) -> tuple[Callable[[], Any], Callable[[int], None]]:
    holder = Holder(make(data(0)))
    return lambda: read(holder.value), lambda i: setattr(holder, "value", make(data(i)))


def _rows() -> tuple[Callable[[], Any], Callable[[int], None]]:
    """Batches are views of one tensor, and that is in reach too."""
    table, holder = torch.arange(30.0).reshape(10, 3), Holder(None)
    holder.value = table[0]
    holder.table = table  # type: ignore[attr-defined]
    return (
        lambda: holder.value + 0 * holder.table[0],  # type: ignore[attr-defined]
        lambda i: setattr(holder, "value", table[i]),
    )


def _columns() -> tuple[Callable[[], Any], Callable[[int], None]]:
    """Two views of one tensor, replaced together."""
    table, holder = torch.arange(60.0).reshape(10, 3, 2), Holder((None, None))

    def replace(i: int) -> None:
        holder.value = table[i].unbind(-1)

    replace(0)
    return lambda: holder.value[0] - holder.value[1] ** 2, replace


def _swapped() -> tuple[Callable[[], Any], Callable[[int], None]]:
    holder = Holder([data(0), data(5)])
    return lambda: holder.value[0] - holder.value[1] ** 2, lambda i: holder.value.reverse()


def _expanded() -> tuple[Callable[[], Any], Callable[[int], None]]:
    holder = Holder(None)

    def replace(i: int) -> None:
        holder.value = torch.tensor(float(i)).expand(3)

    replace(0)
    return lambda: holder.value, replace


def _frozen() -> tuple[Callable[[], Any], Callable[[int], None]]:
    """A parameter that is neither trained nor registered."""
    holder = Holder(nn.Parameter(data(0), requires_grad=False))

    def replace(i: int) -> None:
        holder.value = nn.Parameter(data(i), requires_grad=False)

    return lambda: holder.value, replace


READ_ANEW: dict[str, Callable[[], Any]] = {
    "attribute": lambda: attribute(Holder(data(0))),
    "attribute of a module": lambda: attribute(nn.Identity()),
    "attribute of a Pyro module": lambda: attribute(PyroModule()),
    "buffer": lambda: attribute(Net()),
    "slot": lambda: attribute(Slotted(data(0))),
    "class's attribute": lambda: attribute(type("Class", (), {"value": data(0)})),
    "variable": _variable,
    "global variable": _global,
    "entry of a dict": lambda: _item({"a": data(0), "b": 1.0}, "a"),
    "element of a list": lambda: _item([data(0), 1.0], 0),
    "in a tuple": lambda: _object(lambda x: (x, 1.0), lambda v: v[0]),
    "in a list": lambda: _object(lambda x: [x, 1.0], lambda v: v[0]),
    "in an object": lambda: _object(Holder, lambda v: v.value),
    "in a distribution": lambda: _object(lambda x: dist.Normal(x, 2.0), lambda v: v.mean),
    "row of a tensor": _rows,
    "views of a tensor": _columns,
    "two that change places": _swapped,
    "expanded": _expanded,
    "frozen parameter": _frozen,
}


@pytest.mark.parametrize("name", READ_ANEW)
def test_a_replaced_tensor_is_read_by_the_same_graph(name: str) -> None:
    """Fails where it is stale, or where each step has a graph of its own."""
    svi = trained(READ_ANEW[name])
    assert svi.captures == 1
    assert svi.engine_steps["inductor"] >= STEPS - 1


# What no graph that stands may read in the place of another


def _two_names() -> tuple[Callable[[], Any], Callable[[int], None]]:
    """One tensor by two names, of which one is replaced."""
    first = data(0)
    holder, other = Holder(first), Holder(first)
    return (
        lambda: holder.value - other.value**2,
        lambda i: i > 1 and setattr(other, "value", data(i)),
    )


def _one_of_them() -> tuple[Callable[[], Any], Callable[[int], None]]:
    """Two tensors, of which one is replaced by the other."""
    holder, other = Holder(data(0)), Holder(data(1))
    return (
        lambda: holder.value - other.value**2,
        lambda i: i > 1 and setattr(other, "value", holder.value),
    )


def _tuple_and_name() -> tuple[Callable[[], Any], Callable[[int], None]]:
    """Replaced at each step; from the third on a tuple has what the name has no more."""
    holder, both = Holder(None), Holder((None,))

    def replace(i: int) -> None:
        holder.value = data(i)
        if i < 3:
            both.value = (holder.value,)

    replace(0)
    return lambda: holder.value - both.value[0] ** 2, replace


def _kept(make: Callable[[Tensor], Any]) -> Callable[[], Any]:
    def start() -> tuple[Callable[[], Any], Callable[[int], None]]:
        holder = Holder(data(0))
        kept = make(holder.value)
        return lambda: kept(holder.value), lambda i: i > 1 and setattr(holder, "value", data(i))

    return start


def _by_id(first: Tensor) -> Callable[[Tensor], Tensor]:
    found = {id(first): first**2}

    def square(x: Tensor) -> Tensor:
        if id(x) not in found:
            found.clear()
            found[id(x)] = x**2
        return found[id(x)]

    return square


def _by_identity(first: Tensor) -> Callable[[Tensor], Tensor]:
    last = Holder(first)
    last.square = first**2  # type: ignore[attr-defined]

    def square(x: Tensor) -> Tensor:
        if x is not last.value:
            last.value, last.square = x, x**2  # type: ignore[attr-defined]
        return last.square  # type: ignore[attr-defined,no-any-return]

    return square


def _by_key(first: Tensor) -> Callable[[Tensor], Tensor]:
    found = {first: first**2}

    def square(x: Tensor) -> Tensor:
        if x not in found:
            found.clear()
            found[x] = x**2
        return found[x]

    return square


def _number(_: Tensor) -> Callable[[Tensor], Tensor]:
    total = functools.lru_cache(lambda x: float(x.sum()))
    return lambda x: torch.ones(3) * total(x)


def _field(_: Tensor) -> Callable[[Tensor], Tensor]:
    def square(x: Any) -> Tensor:
        if not hasattr(x, "_squared"):
            x._squared = x**2
        return x._squared  # type: ignore[no-any-return]

    return square


def _into(replaced: Callable[[int], Tensor], first: Callable[[], Tensor] = lambda: data(0)) -> Any:
    """Replaced from the third step on."""

    def start() -> tuple[Callable[[], Any], Callable[[int], None]]:
        holder = Holder(first())
        return lambda: holder.value, lambda i: i > 1 and setattr(holder, "value", replaced(i))

    return start


def _placed() -> tuple[Callable[[], Any], Callable[[int], None]]:
    """Each is a row of one tensor, and what is read begins at the second value of all."""
    table, holder = torch.arange(30.0).reshape(10, 3), Holder(None)
    holder.value = table[0]
    return (
        lambda: holder.value.as_strided((3,), (1,), 1),
        lambda i: i > 1 and setattr(holder, "value", table[i]),
    )


class Sub(Tensor):
    pass


def _of_loc(_: int) -> Tensor:
    """A view of a parameter that is trained."""
    loc = pyro.get_param_store()._params["loc"]
    return loc.data.expand(3)


CAPTURED_ANEW: dict[str, Callable[[], Any]] = {
    "one of two names": _two_names,
    "by another in reach": _one_of_them,
    "by a name, not in a tuple": _tuple_and_name,
    "what is kept by id": _kept(_by_id),
    "what is kept by identity": _kept(_by_identity),
    "what is kept by a key": _kept(_by_key),
    "what a function keeps": _kept(lambda _: functools.lru_cache(lambda x: x**2)),
    "number that a function keeps": _kept(_number),
    "what a transform keeps": _kept(lambda _: dist.transforms.ExpTransform(cache_size=1).inv),
    "what is kept in its fields": _kept(_field),
    "another shape": _into(lambda i: torch.ones(1)),
    "other strides": _into(lambda i: torch.arange(12.0).reshape(3, 4)[:, i % 4]),
    "no more expanded": _into(data, lambda: torch.ones(()).expand(3)),
    "another dtype": _into(lambda i: data(i).float()),
    "with a gradient": _into(lambda i: data(i).requires_grad_()),
    "a parameter": _into(lambda i: nn.Parameter(data(i), requires_grad=False)),
    "another class": _into(lambda i: data(i).as_subclass(Sub)),
    "with a field": _into(lambda i: _with_a_field(data(i))),
    "read by its place in memory": _placed,
    "negated": _into(lambda i: torch._neg_view(data(i))),
    "a view of what is trained": _into(_of_loc, lambda: torch.ones(()).expand(3)),
}


def _with_a_field(x: Tensor) -> Tensor:
    x.value = 1.0  # type: ignore[attr-defined]
    return x


@pytest.mark.long
@pytest.mark.parametrize("name", CAPTURED_ANEW)
def test_what_is_not_known_to_be_the_same_program_is_captured_anew(name: str) -> None:
    """Fails where a graph goes on that has something else baked in than the tensor."""
    svi = trained(CAPTURED_ANEW[name])
    assert svi.captures > 1 or svi.engine == "eager"


@pytest.mark.long
def test_a_buffer_that_is_written_to_is_not_read_anew() -> None:
    """Fails where a graph writes to a tensor that has taken the place of one it writes to."""

    def start() -> tuple[Callable[[], Any], Callable[[int], None]]:
        holder = Holder(torch.zeros(3))

        def read() -> Tensor:
            holder.value.add_(1.0)
            return holder.value.clone()

        return read, lambda i: i > 1 and setattr(holder, "value", data(i))

    assert trained(start).captures == 3


def test_what_shares_memory_with_what_is_written_to_is_not_read_anew() -> None:
    """Fails where a view of a buffer is replaced, and compiled code takes it for one."""

    def start() -> tuple[Callable[[], Any], Callable[[int], None]]:
        count = torch.zeros(3)
        view, holder = Holder(count[:]), Holder(count)

        def read() -> Tensor:
            holder.value.add_(1.0)
            return holder.value * 2 + view.value

        return read, lambda i: i > 1 and setattr(view, "value", data(i))

    assert trained(start).captures > 1


def test_a_tensor_that_is_replaced_again_costs_no_look_at_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fails where each new tensor costs a walk over all that a program reaches."""
    walks = []
    again = Dependencies._again
    monkeypatch.setattr(Dependencies, "_again", lambda self: walks.append(1) or again(self))
    svi = trained(READ_ANEW["attribute"], steps=30)
    assert svi.captures == 1
    assert len(walks) < 6


def test_the_first_tensors_that_take_the_place_of_others_are_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fails where the watchdog sleeps while a graph is changed."""
    monkeypatch.setattr(Graph, "rebind", lambda self, pairs: True)
    holder = Holder(data(0))
    program = Program(lambda: holder.value)
    svi = CompiledSVI(program.model, program.guide, pyro.optim.SGD({"lr": 0.05}), Trace_ELBO())
    for _ in range(5):
        svi.step()
    holder.value = data(3)
    with pytest.raises(GraphMismatch, match="differs from the same step"):
        svi.step()


def test_a_value_that_is_out_of_the_support_is_refused_where_stock_refuses_it() -> None:
    """Fails where a tensor is validated once, and what takes its place is not."""

    def run(engine: type) -> tuple[list[float], Any]:
        holder = Holder(torch.ones(3))

        def model() -> None:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("data", 3):
                pyro.sample("x", dist.LogNormal(z, 1.0), obs=holder.value)

        def guide() -> None:
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0))

        svi = engine(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        losses = []
        for i in range(8):
            holder.value = torch.full((3,), 1.0 + i)
            losses.append(svi.step())
        holder.value = -torch.ones(3)
        with pytest.raises(ValueError, match="within the support"):
            svi.step()
        holder.value = torch.full((3,), 0.5)
        return [*losses, svi.step()], svi

    assert equals_stock(run).captures == 1


# What changes at every step, and is baked in


def _scales(holder: Holder) -> Callable[[], Any]:
    return lambda: np.float64(holder.value).item() * torch.ones(3)


@pytest.mark.long
def test_graphs_that_are_of_no_use_are_not_piled_up(caplog: pytest.LogCaptureFixture) -> None:
    """Fails where each step compiles a graph, which the next step cannot take."""

    def start() -> tuple[Callable[[], Any], Callable[[int], None]]:
        holder = Holder(0.0)
        return _scales(holder), lambda i: setattr(holder, "value", float(min(i, 12)))

    with caplog.at_level(logging.WARNING, "pyro_vae"):
        svi = trained(start, steps=40)
    assert svi.captures == 5  # the last when it had stopped changing
    assert svi.engine == "inductor"
    (line,) = [r.getMessage() for r in caplog.records]
    assert "Holder.value changes from call to call" in line


@pytest.mark.long
def test_a_program_that_goes_from_mode_to_mode_has_a_graph_of_each() -> None:
    """Fails where graphs that will be of use are taken for useless."""

    def start() -> tuple[Callable[[], Any], Callable[[int], None]]:
        holder = Holder(0.0)
        return _scales(holder), lambda i: setattr(holder, "value", float(i // 3))

    assert trained(start, steps=15).captures == 5
