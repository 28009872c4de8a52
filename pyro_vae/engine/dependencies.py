"""What a program depends on: everything that it may read while it runs.

Everything it reaches (arguments, parameters, buffers, tensors in attributes, closures and globals)
becomes an input of a graph, found by identity, so that the program itself is run as it is. Plain
Python values it reaches are baked in, and therefore watched: see :class:`Dependencies`.
"""

from __future__ import annotations

import functools
import random
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyro
import torch
from pyro.nn import PyroModule
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn

from pyro_vae.engine.errors import NotCapturable
from pyro_vae.engine.memory import layout

__all__ = ["Dependencies"]

_PLAIN = (int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_LIBRARIES = {"torch", "pyro", "numpy", "builtins", "functools", "collections", "weakref"}
_CONSTANT = _LIBRARIES | sys.stdlib_module_names | {"pyro_vae"}  # modules that do not change
_BOOKKEEPING = frozenset(vars(PyroModule()))  # fields of any module
_MISSING = object()


class Dependencies:
    """Creates the record of what some programs depend on: their tensors and their plain values.

    A graph has the plain values baked in and holds the tensors as inputs, so it stands for the
    programs as long as :meth:`changed` finds that both are still the same ones.

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
