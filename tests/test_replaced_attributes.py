"""Attributes that are replaced between two steps are noticed, whatever they are."""

from __future__ import annotations

import collections
import contextvars
import dataclasses
import functools
import operator
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from steps import equals_stock
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("interpreted", "double")
Normal = dist.Normal


def guide(x: Tensor) -> None:
    pyro.sample("z", Normal(pyro.param("loc", torch.zeros(())), 1.0))


class Model:
    """A program that reads its one attribute, ``v``."""

    def __init__(self, v: Any, use: Callable[[Any, Tensor], Any]) -> None:
        self.v = v
        self.use = use

    def __call__(self, x: Tensor) -> None:
        z = pyro.sample("z", Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", self.use(self.v, z), obs=x)


@dataclasses.dataclass(slots=True)
class Slotted:
    scale: float


class Settings:
    scale = 1.0

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def double(self) -> float:
        return 2 * self.scale

    def square(self) -> float:
        return 3 * self.scale


class Attributes(dict[str, Any]):
    def __getattr__(self, name: str) -> Any:
        return self[name]


class Delegating:
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class ByName:
    """A descriptor that keeps its value under a name that is in no code."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = "kept_" + name

    def __get__(self, owner: Any, kind: type) -> Any:
        return owner.__dict__[self.name]

    def __set__(self, owner: Any, value: Any) -> None:
        owner.__dict__[self.name] = value


class Described:
    scale = ByName()

    def __init__(self, scale: float) -> None:
        self.scale = scale


class Stateful(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, z: Tensor) -> Tensor:
        return z * self.scale


def _read(name: str) -> Callable[[Any, Tensor], Any]:
    return lambda v, z: Normal(z, getattr(v, name))


def _closure(scale: float) -> Callable[[], float]:
    return lambda: scale


def _with_default(scale: float) -> Callable[[], float]:
    def function(scale: float = scale) -> float:
        return scale

    return function


Use = Callable[[Any, Tensor], Any]
SCALE: Use = lambda v, z: Normal(z, v.scale)  # noqa: E731
CALL: Use = lambda v, z: Normal(z, v())  # noqa: E731
REPLACED: dict[str, tuple[Callable[[], Any], Callable[[], Any], Use]] = {
    "NumPy scalar": (
        lambda: np.float32(1),
        lambda: np.float32(3),
        lambda v, z: Normal(z, float(v)),
    ),
    "NumPy array": (
        lambda: np.array([1.0]),
        lambda: np.array([3.0]),
        lambda v, z: Normal(z, float(v[0])),
    ),
    "NumPy array of objects": (
        lambda: np.array([Settings(1.0)]),
        lambda: np.array([Settings(3.0)]),
        lambda v, z: Normal(z, v[0].scale),
    ),
    "NumPy dtype": (
        lambda: np.dtype("f4"),
        lambda: np.dtype("f8"),
        lambda v, z: Normal(z, float(v.itemsize)),
    ),
    "distribution": (
        lambda: Normal(0.0, 1.0),
        lambda: Normal(5.0, 1.0),
        lambda v, z: Normal(z + v.mean, 1.0),
    ),
    "class": (lambda: dist.Normal, lambda: dist.Laplace, lambda v, z: v(z, 1.0)),
    "torch function": (lambda: torch.tanh, lambda: torch.exp, lambda v, z: Normal(v(z), 1.0)),
    "activation": (nn.Tanh, nn.Softplus, lambda v, z: Normal(v(z), 1.0)),
    "slice": (
        lambda: slice(0, 4),
        lambda: slice(4, 8),
        lambda v, z: Normal(z + torch.arange(8.0)[v], 1.0),
    ),
    "range": (lambda: range(3), lambda: range(3, 6), lambda v, z: Normal(z + sum(v), 1.0)),
    "set": (lambda: {"a"}, lambda: {"b"}, lambda v, z: Normal(z, 3.0 if "b" in v else 1.0)),
    "frozenset": (
        lambda: frozenset("a"),
        lambda: frozenset("b"),
        lambda v, z: Normal(z, 3.0 if "b" in v else 1.0),
    ),
    "list": (lambda: [1.0], lambda: [3.0], lambda v, z: Normal(z, v[0])),
    "tuple": (lambda: (1.0, []), lambda: (3.0, []), lambda v, z: Normal(z, v[0])),
    "dict": (lambda: {"a": 1.0}, lambda: {"a": 3.0}, lambda v, z: Normal(z, v["a"])),
    "dict's view": (
        lambda: {"a": 1.0}.values(),
        lambda: {"a": 3.0}.values(),
        lambda v, z: Normal(z, sum(v)),
    ),
    "proxy of a dict": (
        lambda: types.MappingProxyType({"a": 1.0}),
        lambda: types.MappingProxyType({"a": 3.0}),
        lambda v, z: Normal(z, v["a"]),
    ),
    "deque": (
        lambda: collections.deque([1.0]),
        lambda: collections.deque([3.0]),
        lambda v, z: Normal(z, v[0]),
    ),
    "OrderedDict": (
        lambda: collections.OrderedDict(a=1.0),
        lambda: collections.OrderedDict(a=3.0),
        lambda v, z: Normal(z, v["a"]),
    ),
    "Counter": (
        lambda: collections.Counter("a"),
        lambda: collections.Counter("aaa"),
        lambda v, z: Normal(z, float(v["a"])),
    ),
    "ChainMap": (
        lambda: collections.ChainMap({}, {"a": 1.0}),
        lambda: collections.ChainMap({}, {"a": 3.0}),
        lambda v, z: Normal(z, v["a"]),
    ),
    "UserDict": (
        lambda: collections.UserDict(a=1.0),
        lambda: collections.UserDict(a=3.0),
        lambda v, z: Normal(z, v["a"]),
    ),
    "defaultdict": (
        lambda: collections.defaultdict(lambda: 1.0),
        lambda: collections.defaultdict(lambda: 3.0),
        lambda v, z: Normal(z, v.default_factory()),
    ),
    "dict with attributes": (
        lambda: Attributes(scale=1.0),
        lambda: Attributes(scale=3.0),
        SCALE,
    ),
    "partial": (
        lambda: functools.partial(Normal, scale=1.0),
        lambda: functools.partial(Normal, scale=3.0),
        lambda v, z: v(z),
    ),
    "transform": (
        lambda: dist.transforms.AffineTransform(0.0, 1.0),
        lambda: dist.transforms.AffineTransform(3.0, 2.0),
        lambda v, z: dist.TransformedDistribution(Normal(z, 1.0), [v]),
    ),
    "bound method": (lambda: Settings().double, lambda: Settings(2.0).double, CALL),
    "another bound method": (lambda: Settings().double, lambda: Settings().square, CALL),
    "method of a list": (
        lambda: [1.0].__getitem__,
        lambda: [3.0].__getitem__,
        lambda v, z: Normal(z, v(0)),
    ),
    "function": (lambda: lambda: 1.0, lambda: lambda: 3.0, CALL),
    "closure": (lambda: _closure(1.0), lambda: _closure(3.0), CALL),
    "default argument": (lambda: _with_default(1.0), lambda: _with_default(3.0), CALL),
    "object": (Settings, lambda: Settings(3.0), SCALE),
    "slotted dataclass": (lambda: Slotted(1.0), lambda: Slotted(3.0), SCALE),
    "SimpleNamespace": (
        lambda: types.SimpleNamespace(scale=1.0),
        lambda: types.SimpleNamespace(scale=3.0),
        SCALE,
    ),
    "object that delegates": (
        lambda: Delegating(Settings()),
        lambda: Delegating(Settings(3.0)),
        SCALE,
    ),
    "attribute getter": (
        lambda: operator.attrgetter("real"),
        lambda: operator.attrgetter("imag"),
        lambda v, z: Normal(z, 1.0 + v(1 + 2j)),
    ),
    "item getter": (
        lambda: operator.itemgetter(0),
        lambda: operator.itemgetter(1),
        lambda v, z: Normal(z, v([1.0, 3.0])),
    ),
    "cached function": (
        lambda: functools.lru_cache(_closure(1.0)),
        lambda: functools.lru_cache(_closure(3.0)),
        CALL,
    ),
    "weak reference": (
        lambda: weakref.ref(_ONE),
        lambda: weakref.ref(_THREE),
        lambda v, z: SCALE(v(), z),
    ),
    "bytearray": (
        lambda: bytearray(b"\1"),
        lambda: bytearray(b"\3"),
        lambda v, z: Normal(z, float(v[0])),
    ),
    "module": (lambda: _namespace(1.0), lambda: _namespace(3.0), SCALE),
    "True for 1": (lambda: 1, lambda: True, lambda v, z: Normal(z, 3.0 if v is True else 1.0)),
    "-0.0 for 0.0": (lambda: 0.0, lambda: -0.0, lambda v, z: Normal(z, 2.0 + np.copysign(1.0, v))),
    "string": (lambda: "a", lambda: "b", lambda v, z: Normal(z, 3.0 if v == "b" else 1.0)),
    "constraint": (
        lambda: dist.constraints.positive,
        lambda: dist.constraints.unit_interval,
        lambda v, z: Normal(torch.distributions.transform_to(v)(z), 1.0),
    ),
    "plate": (
        lambda: pyro.plate("p", 2),
        lambda: pyro.plate("p", 3),
        lambda v, z: Normal(z, float(v.size)),
    ),
    "handler": (
        lambda: poutine.scale(scale=1.0),
        lambda: poutine.scale(scale=3.0),
        lambda v, z: Normal(z, v.scale),
    ),
    "module with a number": (
        lambda: Stateful(1.0),
        lambda: Stateful(3.0),
        lambda v, z: Normal(v(z), 1.0),
    ),
}
_ONE, _THREE = Settings(1.0), Settings(3.0)


def _namespace(scale: float) -> types.ModuleType:
    module = types.ModuleType("some_settings")
    module.scale = scale  # type: ignore[attr-defined]
    return module


def _steps(model: Any, change: Callable[[], Any], steps: int = 4) -> Any:
    def run(engine: type) -> tuple[list[float], Any]:
        svi = engine(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        x = torch.tensor([1.0, 2.0, 3.0, 4.0])
        losses = [svi.step(x) for _ in range(steps)]
        change()
        return losses + [svi.step(x) for _ in range(steps)], svi

    return run


@pytest.mark.parametrize("name", REPLACED)
def test_a_replaced_attribute_is_noticed(name: str) -> None:
    """Fails for what is taken to be the same since it is of the same type."""
    before, after, use = REPLACED[name]

    def run(engine: type) -> tuple[list[float], Any]:
        model = Model(before(), use)
        return _steps(model, lambda: setattr(model, "v", after()))(engine)

    # Two distributions that have no more than tensors of their own are read by one graph.
    assert equals_stock(run).captures == (1 if name == "distribution" else 2)


# They have a state that cannot be seen.
NEVER_ALIKE = {
    "transform",
    *("item getter", "cached function", "module"),
}


@pytest.mark.parametrize("name", sorted(REPLACED.keys() - NEVER_ALIKE))
def test_an_attribute_replaced_by_its_like_is_the_same(name: str) -> None:
    """Fails where every new object is another one: a graph for each step that makes one."""
    before, _, use = REPLACED[name]

    def run(engine: type) -> tuple[list[float], Any]:
        model = Model(before(), use)
        return _steps(model, lambda: setattr(model, "v", before()))(engine)

    assert equals_stock(run).captures == 1


IN_PLACE: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], Use]] = {
    "list": (lambda: [1.0], lambda v: v.__setitem__(0, 3.0), lambda v, z: Normal(z, v[0])),
    "list in a list": (
        lambda: [[1.0]],
        lambda v: v[0].__setitem__(0, 3.0),
        lambda v, z: Normal(z, v[0][0]),
    ),
    "from one list to the next": (
        lambda: ([1.0, 3.0], [2.0]),
        lambda v: v[1].insert(0, v[0].pop()),
        lambda v, z: Normal(z, float(sum(v[0]) + 10 * len(v[1]))),
    ),
    "dict's key": (
        lambda: {"a": 1.0},
        lambda v: v.update(b=v.pop("a")),
        lambda v, z: Normal(z, v.get("a", 3.0)),
    ),
    "dict's order": (
        lambda: {"a": 1.0, "b": 3.0},
        lambda v: v.update(a=v.pop("a")),
        lambda v, z: Normal(z, next(iter(v.values()))),
    ),
    "set": (
        lambda: {"a"},
        lambda v: (v.remove("a"), v.add("b")),
        lambda v, z: Normal(z, 3.0 if "b" in v else 1.0),
    ),
    "array": (
        lambda: np.ones(1),
        lambda v: v.fill(3.0),
        lambda v, z: Normal(z, float(v[0])),
    ),
    "bytearray": (
        lambda: bytearray(b"\1"),
        lambda v: v.__setitem__(0, 3),
        lambda v, z: Normal(z, float(v[0])),
    ),
    "slot": (lambda: Slotted(1.0), lambda v: setattr(v, "scale", 3.0), SCALE),
    "UserDict": (
        lambda: collections.UserDict(a=1.0),
        lambda v: v.update(a=3.0),
        lambda v, z: Normal(z, v["a"]),
    ),
    "SimpleNamespace": (
        lambda: types.SimpleNamespace(scale=1.0),
        lambda v: setattr(v, "scale", 3.0),
        SCALE,
    ),
    "behind a bound method": (
        lambda: Settings().double,
        lambda v: setattr(v.__self__, "scale", 3.0),
        CALL,
    ),
    "behind a partial": (
        lambda: functools.partial(Normal, scale=1.0),
        lambda v: v.keywords.update(scale=3.0),
        lambda v, z: v(z),
    ),
    "behind a lambda": (
        lambda: _closure(1.0),
        lambda v: setattr(v.__closure__[0], "cell_contents", 3.0),
        CALL,
    ),
    "default argument": (
        lambda: _with_default(1.0),
        lambda v: setattr(v, "__defaults__", (3.0,)),
        CALL,
    ),
    "code of a function": (
        lambda: _with_default(1.0),
        lambda v: setattr(v, "__code__", (lambda scale: 3.0).__code__),
        CALL,
    ),
    "attribute of a function": (
        lambda: _annotated(),
        lambda v: setattr(v, "scale", 3.0),
        SCALE,
    ),
    "behind a weak reference": (
        lambda: weakref.ref(_ONE),
        lambda v: setattr(v(), "scale", 3.0),
        lambda v, z: SCALE(v(), z),
    ),
    "behind getattr": (
        lambda: types.SimpleNamespace(scale_1=1.0),
        lambda v: setattr(v, "scale_1", 3.0),
        lambda v, z: Normal(z, getattr(v, f"scale_{len([v])}")),
    ),
    "behind vars": (
        Settings,
        lambda v: setattr(v, "scale", 3.0),
        lambda v, z: Normal(z, sum(vars(v).values())),
    ),
    "behind a descriptor": (
        lambda: Described(1.0),
        lambda v: setattr(v, "scale", 3.0),
        SCALE,
    ),
    "behind dataclasses": (
        lambda: Slotted(1.0),
        lambda v: setattr(v, "scale", 3.0),
        lambda v, z: Normal(z, dataclasses.astuple(v)[0]),
    ),
    "behind an attribute getter": (
        lambda: (operator.attrgetter("inner.odd"), types.SimpleNamespace(inner=_odd(1.0))),
        lambda v: setattr(v[1].inner, "odd", 3.0),
        lambda v, z: Normal(z, v[0](v[1])),
    ),
    "context variable": (
        lambda: _CONTEXT,
        lambda v: v.set(3.0),
        lambda v, z: Normal(z, v.get(1.0)),
    ),
    "variable of a thread": (
        lambda: _local(),
        lambda v: setattr(v, "scale", 3.0),
        SCALE,
    ),
    "class of an object": (
        Settings,
        lambda v: setattr(v, "__class__", Doubled),
        lambda v, z: Normal(z, v.double()),
    ),
    "method of an object": (
        Settings,
        lambda v: setattr(v, "double", lambda: 3.0),
        lambda v, z: Normal(z, v.double()),
    ),
    "plate": (
        lambda: pyro.plate("p", 2),
        lambda v: setattr(v, "size", 3),
        lambda v, z: Normal(z, float(v.size)),
    ),
    "Dropout(0)": (
        lambda: nn.Dropout(0),
        lambda v: setattr(v, "p", 0.5),
        lambda v, z: Normal(v(z + torch.ones(4)), 1.0),
    ),
    "forward hook": (
        nn.Tanh,
        lambda v: v.register_forward_hook(lambda module, args, out: out + 3.0),
        lambda v, z: Normal(v(z), 1.0),
    ),
    "forward hook in its place": (
        lambda: _hooked(1.0),
        lambda v: _hook_again(v, 3.0),
        lambda v, z: Normal(v(z), 1.0),
    ),
    "option of a layer": (
        lambda: nn.LayerNorm(4),
        lambda v: setattr(v, "eps", 0.5),
        lambda v, z: Normal(v(z + torch.arange(4.0)), 1.0),
    ),
    "strides of a tensor": (
        lambda: torch.arange(16.0).view(4, 4),
        lambda v: v.t_(),
        lambda v, z: Normal(z + v[0], 1.0),
    ),
    "attribute of a tensor": (
        lambda: _tensor_with_scale(),
        lambda v: setattr(v, "scale", 3.0),
        lambda v, z: Normal(z + v, v.scale),
    ),
}
_CONTEXT: contextvars.ContextVar[float] = contextvars.ContextVar("scale")


class Doubled(Settings):
    def double(self) -> float:
        return 4 * self.scale


def _odd(value: float) -> Any:
    return types.SimpleNamespace(odd=value)


def _annotated() -> Any:
    function: Any = _closure(0.0)
    function.scale = 1.0
    return function


def _local() -> Any:
    local = threading.local()
    local.scale = 1.0
    return local


def _hooked(shift: float) -> Any:
    module: Any = nn.Tanh()
    module.handle = module.register_forward_hook(lambda module, args, out: out + shift)
    return module


def _hook_again(module: Any, shift: float) -> None:
    module.handle.remove()
    module.register_forward_hook(lambda module, args, out: out + shift)


def _tensor_with_scale() -> Any:
    tensor: Any = torch.zeros(4)
    tensor.scale = 1.0
    return tensor


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("name", IN_PLACE)
def test_what_changes_in_place_is_noticed(name: str, replaced: bool) -> None:
    """Fails for what is not looked into; ``replaced``, for what is no longer looked into."""
    before, change, use = IN_PLACE[name]

    def run(engine: type) -> tuple[list[float], Any]:
        _ONE.scale = 1.0
        _CONTEXT.set(1.0)
        model = Model(before(), use)

        def replace() -> None:
            model.v = before()

        if replaced:
            losses, _ = _steps(model, replace)(engine)
            pyro.clear_param_store()
        svi = engine(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        x = torch.tensor([1.0, 2.0, 3.0, 4.0])
        losses = [svi.step(x) for _ in range(3)]
        if replaced and name != "strides of a tensor":
            replace()
            losses += [svi.step(x) for _ in range(3)]
        change(model.v)
        return losses + [svi.step(x) for _ in range(3)], svi

    assert equals_stock(run).engine == "inductor"


def test_a_replaced_method_of_a_class_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(engine: type) -> tuple[list[float], Any]:
        with pytest.MonkeyPatch.context() as patch:
            model = Model(Settings(), lambda v, z: Normal(z, v.double()))
            return _steps(model, lambda: patch.setattr(Settings, "double", Settings.square))(engine)

    assert equals_stock(run).captures == 2
