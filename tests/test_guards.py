"""Guards are few where a program reads little, and none is passed over."""

from __future__ import annotations

import collections
import itertools
import logging
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from steps import equals_stock
from torch import Tensor, nn

from pyro_vae.engine import CompiledSVI
from pyro_vae.engine.dependencies import Dependencies
from pyro_vae.engine.guards import Guards

logger = logging.getLogger("tests.of.guards")


class Holder:
    def __init__(self, value: Any) -> None:
        self.value = value


def _changes() -> dict[str, tuple[Any, Callable[[Guards, Any], None], Callable[[Any], Any]]]:
    """What is watched, how it is, and a change of it."""

    def function(a: int = 1, *, b: int = 2) -> int:
        return a + b

    def other() -> int:
        return 0

    def bare() -> None: ...

    value = 1.0
    (cell,) = (lambda: value).__closure__  # type: ignore[misc]
    code = ("__code__", "__defaults__", "__kwdefaults__")

    def attributes(guards: Guards, thing: Any) -> None:
        for name in code:
            guards.attribute(thing, name)

    entries: Any = lambda g, v: g.entries(v, ["a"])  # noqa: E731
    return {
        "value of a key": ({"a": 1, "b": 2}, entries, lambda v: v.update(a=1.0)),
        "key gone": ({"a": 1, "b": 2}, entries, lambda v: v.pop("a")),
        "size": ({"a": 1}, Guards.size, lambda v: v.update(b=2)),
        "whole: value": ({"a": 1}, Guards.whole, lambda v: v.update(a=True)),
        "whole: size": ({"a": 1}, Guards.whole, lambda v: v.update(b=1)),
        "whole: order": ({"a": 1, "b": 1}, Guards.whole, lambda v: v.update(a=v.pop("a"))),
        "whole: order of an OrderedDict": (
            collections.OrderedDict(a=1, b=1),
            Guards.whole,
            lambda v: v.move_to_end("a"),
        ),
        "whole: not a dict": (collections.UserDict(a=1), Guards.whole, lambda v: v.update(a=2)),
        "class": (
            type("Class", (), {"a": 1}),
            lambda g, v: g.entries(vars(v), ["a"]),
            lambda v: setattr(v, "a", 2),
        ),
        "list": ([1, 2], Guards.elements, lambda v: v.__setitem__(1, 3)),
        "longer list": ([1, 2], Guards.elements, lambda v: v.append(2)),
        "list of a thousand": (list(range(1000)), Guards.elements, lambda v: v.reverse()),
        "deque": (collections.deque([1, 2]), Guards.elements, lambda v: v.rotate()),
        "longer deque": (collections.deque([1, 1]), Guards.elements, lambda v: v.append(1)),
        "set": ({1}, Guards.elements, lambda v: v.add(2)),
        "code": (function, attributes, lambda v: setattr(v, "__code__", other.__code__)),
        "defaults": (function, attributes, lambda v: setattr(v, "__defaults__", (3,))),
        "keyword defaults": (function, attributes, lambda v: setattr(v, "__kwdefaults__", {})),
        "first defaults": (bare, attributes, lambda v: setattr(v, "__defaults__", (3,))),
        "variable": (
            cell,
            lambda g, v: g.attribute(v, "cell_contents"),
            lambda v: setattr(v, "cell_contents", 2.0),
        ),
        "variable without a value": (
            cell,
            lambda g, v: g.attribute(v, "cell_contents"),
            lambda v: delattr(v, "cell_contents"),
        ),
        "kind": (Holder(1), Guards.kind, lambda v: setattr(v, "__class__", Derived)),
        "what a call returns": ([1], lambda g, v: g.call(lambda: v), lambda v: v.insert(0, 0)),
    }


class Derived(Holder):
    pass


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("name", _changes())
def test_a_change_is_found(name: str, busy: bool) -> None:
    """Fails for a guard left out; ``busy``, for one left out where other things are written to."""
    thing, watch, change = _changes()[name]
    guards = Guards()
    watch(guards, thing)
    guards.freeze()
    for i in range(200):
        if busy and isinstance(thing, dict) and "size" not in name:
            held = thing["a"]
            thing["a"] = i
            thing["a"] = held
        assert guards.stand()
    change(thing)
    assert not guards.stand()


def test_a_change_between_freezing_and_the_first_look_is_found() -> None:
    """Fails where a version is taken when it is first compared."""
    space = {"a": 1}
    guards = Guards()
    guards.entries(space, ["a"])
    guards.freeze()
    space["a"] = 2
    assert not guards.stand()


def test_what_is_written_to_again_and_again_is_not_looked_at_in_python(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fails where each write costs a look at everything."""
    looks = []
    look = Guards._look
    monkeypatch.setattr(Guards, "_look", lambda self: looks.append(1) or look(self))
    space = {"a": 1, "step": 0}
    guards = Guards()
    guards.entries(space, ["a"])
    guards.freeze()
    for _ in range(100):
        space["step"] += 1
        assert guards.stand()
    assert len(looks) <= 3


class Program:
    """As a test class is: with methods that no step runs, and what cannot be watched."""

    serials_of_test = itertools.count()
    inner: Any = None

    def __init__(self) -> None:
        self.names = (f"name_{next(self.serials_of_test)}" for _ in range(3))
        self.shift = 1.0

    def test_something(self) -> None:
        next(self.serials_of_test)
        pytest.fail(next(self.names))

    def model(self, x: Tensor) -> None:
        logger.debug("a batch of %d", len(x))
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z + self.shift, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0))


def _dependencies(svi: CompiledSVI) -> Dependencies:
    ((captured,),) = svi._engine._graphs.values()  # type: ignore[attr-defined]
    return captured.dependencies


@pytest.mark.usefixtures("interpreted", "double")
def test_what_no_step_reads_is_not_watched() -> None:
    """Fails where the methods of a class, or all the loggers of a process, are walked through."""

    def run(engine: type) -> tuple[list[float], Any]:
        program = Program()
        svi = engine(program.model, program.guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        x = torch.tensor([1.0, 2.0, 3.0])
        losses = [svi.step(x) for _ in range(3)]
        logger.isEnabledFor(logging.DEBUG)  # which writes to a logger
        program.names = iter(())  # type: ignore[assignment]
        losses += [svi.step(x) for _ in range(3)]
        program.shift = 3.0
        return losses + [svi.step(x) for _ in range(3)], svi

    # One before and one after the only change that counts.
    svi = equals_stock(run)
    assert svi.engine == "inductor"
    assert svi.captures == 2
    first = next(iter(svi._engine._graphs.values()))[0]  # type: ignore[attr-defined]
    assert 5 < first.dependencies.count < 80


class Trainer:
    """A program that holds what takes its steps, and what they have come to."""

    def __init__(self, engine: type) -> None:
        self.net = nn.Linear(1, 1)
        nn.init.zeros_(self.net.weight)
        nn.init.zeros_(self.net.bias)
        self.optimizer: Any = None
        self.svi = engine(self.model, self.guide, self._optimizer, Trace_ELBO())
        self.losses: list[float] = []

    def _optimizer(self, params: Any) -> torch.optim.Optimizer:
        self.optimizer = torch.optim.Adam(params, lr=0.05)
        return self.optimizer

    def model(self, x: Tensor) -> None:
        name = "net"  # so that any field may be read
        net = pyro.module(name, getattr(self, name))
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(net(x[:, None])[:, 0] + z, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.sample("z", dist.Normal(0.0, 1.0))


@pytest.mark.usefixtures("interpreted", "double")
def test_what_takes_the_steps_is_not_watched() -> None:
    """Fails where a walk goes into graphs and optimisers that a program happens to hold."""
    trainer = Trainer(CompiledSVI)
    for _ in range(5):
        trainer.svi.step(torch.tensor([1.0, 2.0]))
    assert trainer.svi.captures == 1
    assert trainer.svi.engine == "inductor"
    assert _dependencies(trainer.svi).count < 300


@pytest.mark.usefixtures("interpreted", "double")
def test_a_learning_rate_that_a_program_reads_is_watched() -> None:
    """Fails where optimisers are passed over."""

    def run(engine: type) -> tuple[list[float], Any]:
        rate = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)

        def model(x: Tensor) -> None:
            z = pyro.sample("z", dist.Normal(0.0, rate.param_groups[0]["lr"]))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x: Tensor) -> None:
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0))

        svi = engine(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        losses = [svi.step(torch.ones(())) for _ in range(3)]
        rate.param_groups[0]["lr"] = 3.0
        return losses + [svi.step(torch.ones(())) for _ in range(3)], svi

    assert equals_stock(run).engine == "inductor"


@pytest.mark.usefixtures("interpreted", "double")
@pytest.mark.parametrize("level", [logging.DEBUG, logging.ERROR])
def test_a_logger_that_says_something_else_is_noticed(level: int) -> None:
    """Fails where the level of a logger in reach is not watched."""

    def run(engine: type) -> tuple[list[float], Any]:
        shifts = []

        def model(x: Tensor) -> None:
            shift = 2.0 if logger.isEnabledFor(level) else 0.0
            z = pyro.sample("z", dist.Normal(shift, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            shifts.append(shift)

        def guide(x: Tensor) -> None:
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0))

        svi = engine(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        before = logger.level
        try:
            logger.setLevel(logging.CRITICAL)
            losses = [svi.step(torch.ones(())) for _ in range(3)]
            logger.setLevel(level)
            return losses + [svi.step(torch.ones(())) for _ in range(3)], svi
        finally:
            logger.setLevel(before)

    equals_stock(run)


class Scaled(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.inner = nn.Linear(1, 1)
        nn.init.constant_(self.inner.weight, scale)
        self.inner.requires_grad_(False)

    def forward(self, z: Tensor) -> Tensor:
        return self.inner(z[..., None])[..., 0]


def _defaults(scale: float) -> Any:
    return collections.defaultdict(lambda: scale)


REPLACED: dict[str, tuple[Any, Callable[[Any], Any], Callable[[Any, Tensor], Tensor]]] = {
    "namespace of an object": (
        lambda: Holder(1.0),
        lambda v: setattr(v, "__dict__", {"value": 3.0}),
        lambda v, z: z * v.value,
    ),
    "members of a module": (
        lambda: Scaled(1.0),
        lambda v: v.__dict__.update(vars(Scaled(3.0))),
        lambda v, z: v(z),
    ),
    "namespace of a module": (
        lambda: Scaled(1.0),
        lambda v: setattr(v, "__dict__", vars(Scaled(3.0))),
        lambda v, z: v(z),
    ),
    "order of an OrderedDict": (
        lambda: collections.OrderedDict(a=1.0, b=3.0),
        lambda v: v.move_to_end("a"),
        lambda v, z: z * next(iter(v.values())),
    ),
    "factory of defaults": (
        lambda: _defaults(1.0),
        lambda v: setattr(v, "default_factory", _defaults(3.0).default_factory),
        lambda v, z: z * v.default_factory(),
    ),
}


@pytest.mark.usefixtures("interpreted", "double")
@pytest.mark.parametrize("name", REPLACED)
def test_a_replaced_container_is_noticed(name: str) -> None:
    """Fails where what was in a container is watched, and not which it is."""
    make, change, use = REPLACED[name]

    def run(engine: type) -> tuple[list[float], Any]:
        value = make()

        def model(x: Tensor) -> None:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(use(value, z), 1.0), obs=x)

        def guide(x: Tensor) -> None:
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0))

        svi = engine(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        losses = [svi.step(torch.ones(())) for _ in range(3)]
        change(value)
        return losses + [svi.step(torch.ones(())) for _ in range(3)], svi

    assert equals_stock(run).engine == "inductor"
