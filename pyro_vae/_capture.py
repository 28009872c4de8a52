"""Capture: run a Python program on tensors once, keep what it did as one compiled graph.

Everything the program reaches (arguments, parameters, buffers, tensors in attributes, closures and
globals) becomes an input of the graph, found by identity, so that the program itself is run as it
is. Plain Python values it reaches are baked in, and therefore guarded: see :class:`Reach`.
"""

from __future__ import annotations

import functools
import random
import sys
import types
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyro
import pyro.infer.trace_elbo
import pyro.infer.trace_mean_field_elbo
import pyro.infer.traceenum_elbo
import torch
from pyro.nn import PyroModule
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

__all__ = [
    "Graph",
    "NotCapturable",
    "Reach",
    "ReadsBack",
    "elements",
    "layout",
    "preserved",
    "values_stay_tensors",
]

Function = Callable[..., Any]
_PLAIN = (int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_LIBRARIES = {"torch", "pyro", "numpy", "builtins", "functools", "collections", "weakref"}
_CONSTANT = _LIBRARIES | sys.stdlib_module_names | {"pyro_vae"}  # modules that do not change
_BOOKKEEPING = frozenset(vars(PyroModule()))  # fields of any module
_MISSING = object()


class NotCapturable(Exception):
    """Why a program cannot be one graph, in one line."""


class ReadsBack(NotCapturable):
    """The program makes a number of a tensor, which it can only do while it runs."""


class Reach:
    """Creates the record of what some programs can reach: their tensors and their plain values.

    A graph has the plain values baked in and holds the tensors as inputs, so it stands for the
    programs as long as :meth:`unchanged` says that both are still the same ones.

    Args:
        roots: Modules, functions, bound methods, objectives.
    """

    def __init__(self, *roots: Any) -> None:
        self.tensors: list[Tensor] = []
        self._slots: list[tuple[Callable[[Any], Any], list[Any]]] = []
        self._values: list[Any] = []
        self._names: list[str] = []
        self._seen: dict[int, Any] = {}  # holds what it has seen: an id is good while it lives
        for root in roots:
            self._visit(root)
        self.freeze()

    def freeze(self) -> None:
        """Takes everything as it now is."""
        self._ids = self._identities()
        self._pointers = [t.data_ptr() for t in self.tensors]
        self._trained = list(map(_training, self.tensors))
        self._layouts = [layout(t) for t in self.tensors]

    def changed(self) -> str | None:
        """Returns the name of something that is no longer what it was, or None."""
        # Identity first: it costs some tens of nanoseconds a value, and this runs at every step.
        if self._identities() != self._ids:
            values = [get(key) for get, keys in self._slots for key in keys]
            for i, (now, then) in enumerate(zip(values, self._values, strict=True)):
                if not _same(now, then):
                    return self._names[i]
            self._values = values
            self._ids = self._identities()
        if list(map(_training, self.tensors)) != self._trained:
            return "what is to be trained"
        if [t.data_ptr() for t in self.tensors] != self._pointers:
            if [layout(t) for t in self.tensors] != self._layouts:
                return "a tensor's shape, dtype or device"
            self._pointers = [t.data_ptr() for t in self.tensors]
        return None

    def put_back(self) -> None:
        """Gives fields and variables that trial runs have replaced what they had before."""
        values = iter(self._values)
        for get, keys in self._slots:
            for key in keys:
                then, now = next(values), get(key)
                if not (_is_plain(then) or isinstance(then, Tensor)) or _same(now, then):
                    continue
                owner = getattr(get, "__self__", None)
                if isinstance(owner, dict) and key in owner:
                    owner[key] = then
                elif isinstance(get, functools.partial) and get.func is _cell:
                    get.args[0][key].cell_contents = then

    def _visit(self, thing: Any) -> None:
        if id(thing) in self._seen or _is_plain(thing):
            return
        self._seen[id(thing)] = thing
        if isinstance(thing, _GENERATORS):
            raise NotCapturable(f"it has random numbers of its own ({type(thing).__name__})")
        if isinstance(thing, Iterator) and type(thing).__module__ in ("builtins", "itertools"):
            raise NotCapturable(f"it has an iterator ({type(thing).__name__}), which moves on")
        if isinstance(thing, Tensor):
            self.tensors.append(thing)
        elif isinstance(thing, nn.Module):
            self._module(thing)
        elif isinstance(thing, types.MethodType):
            self._visit(thing.__self__)
            self._visit(thing.__func__)
        elif isinstance(thing, types.FunctionType):
            self._function(thing)
        elif isinstance(thing, type):
            self._class(thing)
        elif isinstance(thing, types.BuiltinMethodType):
            if not isinstance(thing.__self__, types.ModuleType):
                self._visit(thing.__self__)
        elif isinstance(thing, functools.partial):
            for part in (thing.func, *thing.args, *thing.keywords.values()):
                self._visit(part)
        elif isinstance(thing, dict):
            self.watch(thing.get, list(thing), type(thing).__name__)
            self._size(thing, type(thing).__name__)
        elif isinstance(thing, (list, tuple, deque)):
            # One more than there are: what is appended is noticed too.
            keys = range(len(thing) + (not isinstance(thing, tuple)))
            self.watch(functools.partial(_item, thing), keys, type(thing).__name__)
        elif isinstance(thing, set):
            self.watch(thing.__contains__, list(thing), "set", visit=False)
            self._size(thing, "set")
        elif isinstance(thing, np.ndarray):
            self.watch(functools.partial(_has_bytes, thing), [thing.tobytes()], "array")
        elif isinstance(thing, _WITH_FIELDS) or not _of_a_library(type(thing)):
            if isinstance(thing, (IndepMessenger, TraceMessenger)):
                return  # made anew by every run
            self._visit(type(thing))
            fields = getattr(thing, "__dict__", None)
            if isinstance(fields, dict):
                self.watch(fields.get, list(fields), type(thing).__name__)
                if not _of_a_library(type(thing)):
                    self._size(fields, type(thing).__name__)
            wrapped = getattr(thing, "__wrapped__", None)
            if wrapped is not None:
                self._visit(wrapped)

    def _module(self, module: nn.Module) -> None:
        name = type(module).__name__
        fields = module.__dict__
        for part in ("_parameters", "_buffers", "_modules"):
            self.watch(fields[part].get, list(fields[part]), name)
        own = ["training"]
        if _of_a_library(type(module)):
            # Rates: of dropout, of running averages.
            own += [key for key, value in fields.items() if isinstance(value, float)]
        else:
            own += [key for key in fields if key not in _BOOKKEEPING and key != "training"]
            self._size(fields, name)
        self.watch(fields.get, own, name)
        self._visit(type(module))

    def _class(self, owner: type) -> None:
        for base in owner.__mro__:
            if _of_a_library(base) or _is_ours(base):
                continue
            values = []
            for name, value in vars(base).items():
                if isinstance(value, (staticmethod, classmethod)):
                    self._visit(value.__func__)
                elif isinstance(value, property):
                    self._visit(value.fget)
                elif isinstance(value, types.FunctionType):
                    self._visit(value)
                elif not name.startswith("__") and not hasattr(value, "__get__"):
                    values.append(name)
            self.watch(vars(base).get, values, base.__name__)

    def _size(self, container: Any, owner: str) -> None:
        # A truth value, whose identity says what it is, as that of a large number does not.
        self.watch(functools.partial(_has_size, container), [len(container)], owner)

    def _function(self, function: types.FunctionType) -> None:
        if _of_a_library(function):
            return
        if not _is_ours(function):
            names = list(_names(function.__code__))
            self._namespace(function.__globals__, names, function.__name__)
        cells = function.__closure__ or ()
        self.watch(functools.partial(_cell, cells), range(len(cells)), function.__name__)
        for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._visit(value)

    def _namespace(self, namespace: dict[str, Any], names: Sequence[str], owner: str) -> None:
        """Watches what code with these names in it reads of a module, or of modules in there."""
        names = list(dict.fromkeys(names))
        spaces = {id(namespace): namespace}
        waiting = [namespace]
        while waiting:
            space = waiting.pop()
            found = [name for name in names if name in space]
            self.watch(space.get, found, owner)
            for name in found:
                module = space[name]
                if not isinstance(module, types.ModuleType) or id(vars(module)) in spaces:
                    continue
                if module.__name__.partition(".")[0] not in _CONSTANT:
                    spaces[id(vars(module))] = vars(module)
                    waiting.append(vars(module))

    def watch(
        self, get: Callable[[Any], Any], keys: Sequence[Any], owner: str, visit: bool = True
    ) -> None:
        """Adds ``get(key)``, for each key, to what must stay the same."""
        keys = [key for key in keys if not isinstance(get(key), types.ModuleType | weakref.ref)]
        if not keys:
            return
        self._slots.append((get, keys))
        for key in keys:
            self._values.append(get(key))
            self._names.append(f"{owner}.{key}")
        if visit:
            for key in keys:
                self._visit(get(key))

    def _identities(self) -> list[int]:
        ids: list[int] = []
        for get, keys in self._slots:
            ids += map(id, map(get, keys))
        return ids


def _of_a_library(thing: Any) -> bool:
    """Tells whether code is of a library, whose globals and private fields do not change."""
    return (thing.__module__ or "").partition(".")[0] in _LIBRARIES


_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_WITH_FIELDS = (torch.distributions.Distribution, pyro.infer.ELBO, Messenger)


def _training(tensor: Tensor) -> tuple[bool, bool]:
    hooks = tensor._backward_hooks or tensor._post_accumulate_grad_hooks
    return tensor.requires_grad, bool(hooks)


def _has_size(container: Any, size: int) -> bool:
    return len(container) == size


def _has_bytes(array: Any, values: bytes) -> bool:
    return bool(array.tobytes() == values)


def _is_ours(thing: Any) -> bool:
    """Tells whether code is of this package, whose globals do not change either."""
    return (thing.__module__ or "").partition(".")[0] == "pyro_vae"


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _item(sequence: Sequence[Any] | deque[Any], index: int) -> Any:
    return sequence[index] if index < len(sequence) else _MISSING


def _cell(cells: Sequence[types.CellType], index: int) -> Any:
    try:
        return cells[index].cell_contents
    except ValueError:  # a variable of the enclosing function that has no value yet
        return _MISSING


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, frozenset)):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


def _same(now: Any, then: Any) -> bool:
    """Tells whether a value that has been replaced says the same as the one before it."""
    if now is then:
        return True
    if type(now) is not type(then) or isinstance(now, (Tensor, nn.Module, types.FunctionType)):
        return False
    if _is_plain(now):
        return bool(now == then)
    if isinstance(now, dict):
        return list(now) == list(then) and all(_same(now[key], then[key]) for key in now)
    if isinstance(now, (list, tuple)):
        return len(now) == len(then) and all(map(_same, now, then))
    # An AutoGuide makes its plates anew at every call.
    return _of_a_library(type(now))


def layout(tensor: Tensor) -> tuple[Any, ...]:
    """Returns what a graph takes for granted about a tensor."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def elements(tensor: Tensor) -> Tensor:
    """Returns a view of the tensor with each element in memory once.

    An expanded tensor shows elements several times, and torch refuses to write to it.

    Example:
        >>> elements(torch.zeros(3, 1).expand(2, 3, 4)).shape
        torch.Size([1, 3, 1])
    """
    tensor = tensor.detach()
    for dim, stride in enumerate(tensor.stride()):
        if stride == 0 and tensor.shape[dim] > 1:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


def _as_tensor(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


@contextmanager
def values_stay_tensors() -> Iterator[None]:
    """Inside it, Pyro's own ELBOs leave their values on the device, and nothing is validated.

    They read values back in two helpers only, to return the loss as a number and to warn.
    """
    modules = (
        pyro.infer.trace_elbo,
        pyro.infer.trace_mean_field_elbo,
        pyro.infer.traceenum_elbo,
    )
    replaced: dict[str, Any] = {"torch_item": _as_tensor, "warn_if_nan": lambda *args: None}
    # A distribution made earlier goes on validating, whatever the default has become since.
    replaced["_validate_sample"] = lambda self, value: None
    owners = (*modules, torch.distributions.Distribution)
    saved = [(o, name, vars(o)[name]) for o in owners for name in replaced if name in vars(o)]
    try:
        for owner, name, _ in saved:
            setattr(owner, name, replaced[name])
        with pyro.validation_enabled(False):
            yield
    finally:
        for owner, name, value in saved:
            setattr(owner, name, value)


@contextmanager
def preserved(tensors: Sequence[Tensor]) -> Iterator[list[Callable[[], None]]]:
    """Puts back, on leaving, random states and the values of the tensors.

    Yields:
        What will be done on leaving; clear the list to keep things as they then are.
    """
    # What was made in inference mode cannot be changed outside it.
    places = [elements(t) for t in tensors if not t.is_inference()]
    values = [place.clone() for place in places]

    @torch.no_grad()
    def put_back() -> None:
        for place, value in zip(places, values, strict=True):
            place.copy_(value)

    undo: list[Callable[[], None]] = [
        put_back,
        functools.partial(random.setstate, random.getstate()),
        functools.partial(np.random.set_state, np.random.get_state()),
        functools.partial(torch.set_rng_state, torch.get_rng_state()),
    ]
    for device in {t.device for t in tensors if t.is_cuda}:
        state = torch.cuda.get_rng_state(device)
        undo.append(functools.partial(torch.cuda.set_rng_state, state, device))
    try:
        yield undo
    finally:
        for action in undo:
            action()


class Graph:
    """Creates the compiled graph of ``function``: same arguments, same effects, same results.

    The first call compiles. What it takes to be the same is the caller's to guard: the layouts of
    the arguments, and the :class:`Reach` of the programs inside.

    Args:
        function: Takes tensors; returns a list of tensors; may update in place what it reaches.
        reach: What it reaches besides its arguments.
        args: Tensors like those it will be called with.

    Raises:
        NotCapturable: If the program reads values back, or draws numbers that are not torch's.
    """

    def __init__(self, function: Function, reach: Sequence[Tensor], args: Sequence[Tensor]) -> None:
        # An argument may be the very tensor that the program also reaches some other way.
        args = [arg.detach() for arg in args]
        state = list({id(t): t for t in reach}.values())
        module = _trace(function, state, args)
        # One entry an input of the graph: the tensor itself, or the number of the argument.
        self._inputs: list[Tensor | int] = []
        graph = module.graph
        placeholders = [node for node in graph.nodes if node.op == "placeholder"]
        for node, source in zip(placeholders, [*state, *range(len(args))], strict=True):
            if node.users:
                self._inputs.append(source)
            else:
                graph.erase_node(node)
        constants = [node for node in graph.nodes if node.op == "get_attr"]
        for node in constants:
            # What the reach has missed is read where it is, too, instead of being baked in.
            with graph.inserting_before(next(iter(graph.nodes))):
                placeholder = graph.placeholder(node.name + "_lifted")
            node.replace_all_uses_with(placeholder)
            graph.erase_node(node)
            self._inputs.insert(0, getattr(module, node.target))
        module.recompile()
        self._call: Callable[[list[Tensor]], Sequence[Tensor]] | None = None
        self._template: list[Any] = []
        self._from_args: list[tuple[int, int]] = []
        self._outputs: list[int] = []
        self._places: list[int] = []
        self._on_cuda = all(t.is_cuda for t in self._fill(args))
        self._compile(module, args)

    @property
    def engine(self) -> Literal["inductor", "cuda-graph"]:
        """What runs it."""
        return "cuda-graph" if self._on_cuda else "inductor"

    def __call__(self, *args: Tensor) -> list[Tensor]:
        """Runs the graph."""
        with torch.no_grad():
            if self._call is None:
                return self._first_call(args)
            if self._on_cuda:
                return self._replay(args)
            return self._direct(args)

    def _direct(self, args: Sequence[Tensor]) -> list[Tensor]:
        assert self._call is not None
        inputs = self._template.copy()
        for position, number in self._from_args:
            inputs[position] = args[number]
        outputs = self._call(inputs)
        return [outputs[i] for i in self._outputs]

    def _replay(self, args: Sequence[Tensor]) -> list[Tensor]:
        """Replays the compiled code's launches from a CUDA graph.

        The compiler's own CUDA graphs leave out code that updates its inputs, as this does. A graph
        has addresses baked in: small arguments are copied to where they were when it was recorded;
        it is recorded again when a large one (a data set) or a parameter has moved.
        """
        large = [arg for arg in args if not _is_small(arg)]
        held = [tensor for tensor in self._inputs if isinstance(tensor, Tensor)] + large
        places = [tensor.data_ptr() for tensor in held]
        if places != self._places:
            self._places = places
            self._static = [_twin(arg) if _is_small(arg) else arg for arg in args]
            self._cuda_graph = torch.cuda.CUDAGraph()
            # The default generator is registered with every capture: each replay draws anew.
            with torch.cuda.graph(self._cuda_graph):
                self._static_outputs = self._direct(self._static)
        for static, arg in zip(self._static, args, strict=True):
            if _is_small(arg):
                elements(static).copy_(elements(arg), non_blocking=True)
        self._cuda_graph.replay()
        return [output.clone() for output in self._static_outputs]

    def _fill(self, args: Sequence[Tensor]) -> list[Tensor]:
        return [args[s] if isinstance(s, int) else s for s in self._inputs]

    def _compile(self, module: torch.fx.GraphModule, args: Sequence[Tensor]) -> None:
        # Seconds to import: not for a program that compiles nothing.
        from torch._inductor import compile_fx, config

        self._passed: list[Any] = []
        self._returned: Sequence[Any] = []

        def inner(module: torch.fx.GraphModule, examples: Any, **kwargs: Any) -> Any:
            self._code = compile_fx.compile_fx_inner(module, examples, **kwargs)

            def record(boxed: list[Any]) -> Any:
                self._passed = list(boxed)
                self._returned = self._code(boxed)
                return self._returned

            record._boxed_call = True  # type: ignore[attr-defined]
            return record

        try:
            with (
                torch.no_grad(),
                config.patch(self._options(args)),
                warnings.catch_warnings(action="ignore"),  # the compiler's, about its own code
            ):
                examples = [tensor.detach() for tensor in self._fill(args)]
                self._outer: Any = compile_fx.compile_fx(module, examples, inner_compile=inner)
        except Exception as error:  # whatever stops the compiler: the program itself still runs
            raise NotCapturable(f"the compiler failed: {_first_line(error)}") from error

    def _options(self, args: Sequence[Tensor]) -> dict[str, Any]:
        on_cpu = all(tensor.device.type == "cpu" for tensor in self._fill(args))
        # Layouts are guarded already. On the CPU torch's own random numbers are several times
        # faster than the compiler's, which come one at a time, and are those of an eager step.
        return {"size_asserts": False, **({"fallback_random": True} if on_cpu else {})}

    def _first_call(self, args: Sequence[Tensor]) -> list[Tensor]:
        """Runs once, and finds the shortest way to the compiled code.

        AOT autograd wraps that in a prologue which costs a tenth of a small step. What it passes on
        is our inputs in some order, and tokens without elements: seen once, the same list can be
        put together without it. Should anything else come, the wrapper stays.
        """
        inputs = self._fill(args)
        outputs = list(self._outer(*inputs))
        number = {id(tensor): i for i, tensor in enumerate(inputs)}
        order = {id(tensor): i for i, tensor in enumerate(self._returned)}
        plain = all(id(t) in number or _is_token(t) for t in self._passed)
        if self._passed and plain and all(id(t) in order for t in outputs):
            self._call = self._code
            self._outputs = [order[id(t)] for t in outputs]
            sources = [self._inputs[number[id(t)]] if id(t) in number else t for t in self._passed]
        else:
            self._call = lambda boxed: self._outer(*boxed)
            self._outputs = list(range(len(outputs)))
            sources = self._inputs
        self._template = [None if isinstance(source, int) else source for source in sources]
        self._from_args = [(i, s) for i, s in enumerate(sources) if isinstance(s, int)]
        del self._passed, self._returned
        return outputs


def _twin(tensor: Tensor) -> Tensor:
    """Returns a copy with the very strides that compiled code takes for granted."""
    twin = torch.empty_strided(
        tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device
    )
    elements(twin).copy_(elements(tensor))
    return twin


def _is_small(tensor: Tensor) -> bool:
    return tensor.numel() <= 2**20


def _is_token(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 0


def _draws() -> tuple[Any, ...]:
    """The state of the random numbers that are not torch's."""
    return random.getstate(), str(np.random.get_state())


@contextmanager
def _never_seeded() -> Iterator[None]:
    """Refuses a program that sets the state of torch's random numbers: a graph would not."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise NotCapturable("it sets the state of torch's random numbers")

    names = ("manual_seed", "seed", "set_rng_state")
    saved = [(owner, name, vars(owner)[name]) for owner in (torch, torch.random) for name in names]
    try:
        for owner, name, _ in saved:
            setattr(owner, name, refuse)
        yield
    finally:
        for owner, name, value in saved:
            setattr(owner, name, value)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _trace(
    function: Function, state: Sequence[Tensor], args: Sequence[Tensor]
) -> torch.fx.GraphModule:
    """Runs ``function`` once under make_fx, on real tensors that it leaves as they were."""
    tensors = [*state, *args]
    draws = _draws()
    with preserved(state), _never_seeded():
        try:
            # The tracer knows a tensor by its identity: it is enough to name them as inputs.
            module = make_fx(lambda *_: function(*args))(*tensors)
        except NotCapturable:
            raise
        except Exception as error:  # the program has just run: it is the capture that fails
            reason = _first_line(error)
            if "trying to get value out of a tracing tensor" in reason:
                reason = "it reads a value back (control flow on data, or `.item()`)"
                raise ReadsBack(reason) from error
            raise NotCapturable(reason) from error
        if draws != _draws():
            raise NotCapturable("it draws from Python's or NumPy's random numbers")
    module.graph.eliminate_dead_code()
    if _mkl_is_slow():
        _use_onednn(module.graph)
    for node in module.graph.nodes:
        node.meta.clear()  # fake tensors of a tracing mode that the compiler does not share
    module.graph.set_codegen(torch.fx.graph.CodeGen())  # a flat signature
    return module


# MKL takes its slow path on processors that are not Intel's: 85 GFLOP/s where oneDNN, which comes
# with torch too, has 210 (AMD EPYC, AVX-512, one thread). Small products are quicker in MKL.
_WORTH = 2**22  # multiplications


@functools.cache
def _mkl_is_slow() -> bool:
    try:
        vendor = "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        vendor = False
    return vendor and torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()


@torch.library.custom_op("pyro_vae::onednn_mm", mutates_args=(), device_types="cpu")
def _onednn_mm(a: Tensor, b: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")


@_onednn_mm.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


def _use_onednn(graph: torch.fx.Graph) -> None:
    """Has the large matrix products of a graph done by oneDNN, in the same precision."""
    aten, onednn = torch.ops.aten, torch.ops.pyro_vae.onednn_mm.default
    for node in list(graph.nodes):
        if node.target not in (aten.mm.default, aten.addmm.default) or node.kwargs:
            continue
        *bias, a, b = node.args
        left, right = a.meta["val"], b.meta["val"]
        size = left.shape[0] * left.shape[1] * right.shape[1]
        if left.dtype != torch.float32 or left.device.type != "cpu" or size < _WORTH:
            continue
        with graph.inserting_before(node):
            product = graph.call_function(onednn, (a, b))
            if bias:
                product = graph.call_function(aten.add.Tensor, (product, bias[0]))
        node.replace_all_uses_with(product)
        graph.erase_node(node)
