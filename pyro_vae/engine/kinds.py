"""What is behind an object of a kind of Python's or NumPy's own, and how to look at it again."""

from __future__ import annotations

import array
import contextvars
import functools
import operator
import types
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.engine.guards import Unchanged

if TYPE_CHECKING:
    from pyro_vae.engine.walk import Walk

__all__ = ["KINDS", "MISSING", "PLAIN"]

_NUMBERS = (int, float, complex, bool, str, bytes, type(None), type(...), type(NotImplemented))
_OF_TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format)
PLAIN = frozenset((*_NUMBERS, *_OF_TORCH))
MISSING = object()  # where there is no value


def _wrapped(walk: Walk, thing: Any, name: str) -> bool:
    walk.meet(f"{name}.__func__", thing.__func__)
    return True


def _property(walk: Walk, thing: Any, name: str) -> bool:
    for part in ("fget", "fset", "func"):
        walk.meet(f"{name}.{part}", getattr(thing, part, None))
    return type(thing) in (property, functools.cached_property)


def _method(walk: Walk, thing: Any, name: str) -> bool:
    walk.meet(f"{name}.__self__", thing.__self__)
    walk.meet(f"{name}.__func__", thing.__func__)
    return True


def _builtin(walk: Walk, thing: Any, name: str) -> bool:
    owner = thing.__self__
    if owner is None or isinstance(owner, types.ModuleType):
        return False
    walk.meet(f"{name}.__self__", owner)
    walk.meet(f"{name}.__name__", thing.__name__)
    return True


def _slice(walk: Walk, thing: slice | range, name: str) -> bool:
    for part in ("start", "stop", "step"):
        walk.meet(f"{name}.{part}", getattr(thing, part))
    return True


def _number(walk: Walk, thing: np.generic, name: str) -> bool:
    walk.meet(f"{name}.dtype", thing.dtype.str)
    walk.meet(f"{name}.bytes", thing.tobytes())
    return type(thing) is not np.object_ and type(thing) is not np.void


def _view(walk: Walk, thing: Any, name: str) -> bool:
    walk.meet(f"{name}.mapping", thing.mapping)
    return True


def _set(walk: Walk, thing: set[Any] | frozenset[Any], name: str) -> bool:
    walk.meet(f"{name} has the size", len(thing))
    if isinstance(thing, set):
        walk.guards.elements(thing)
    # The order in which it is iterated over is read, too.
    for i, value in enumerate(list(thing)):
        walk.meet(f"{name}.{i}", value)
    return walk.subclass(thing, (set, frozenset))


def _array(walk: Walk, thing: Any, name: str) -> bool:
    read = functools.partial(_contents, thing)
    walk.guards.call(Unchanged(read))
    objects = isinstance(thing, np.ndarray) and thing.dtype.hasobject
    parts = ("dtype", "shape") if objects else ("dtype", "shape", "bytes")
    for part, value in zip(parts, read(), strict=False):
        walk.meet(f"{name}.{part}", value)
    if objects:
        for i, value in enumerate(thing.ravel().tolist()):
            walk.meet(f"{name}.{i}", value)
    return walk.subclass(thing, (np.ndarray, bytearray, array.array, memoryview))


def _context(walk: Walk, thing: Any, name: str) -> bool:
    def read() -> tuple[Any]:
        return (thing.get(MISSING),)

    walk.guards.call(read)
    walk.meet(f"{name}.{thing.name}", *read())
    return False


def _weak(walk: Walk, thing: Any, name: str) -> bool:
    def read() -> tuple[Any]:
        return (thing(),)

    walk.guards.call(read)
    walk.meet(f"{name}()", thing())
    return type(thing) is weakref.ref


def _code(walk: Walk, thing: types.CodeType, name: str) -> bool:
    walk.meet("code", thing.co_code)
    for part in (thing.co_names, thing.co_varnames, thing.co_freevars, thing.co_consts):
        walk.meet("code's names", part)
    return True


def _cell(walk: Walk, thing: types.CellType, name: str) -> bool:
    def read() -> tuple[Any]:
        try:
            return (thing.cell_contents,)
        except ValueError:  # a variable of the enclosing function that has no value yet
            return (MISSING,)

    (value,) = read()
    if value is MISSING:
        walk.guards.call(read)
    else:
        walk.guards.attribute(thing, "cell_contents")
    walk.meet(name, value)
    if type(value) in PLAIN or isinstance(value, Tensor):
        walk.undo.append((thing, "cell_contents", value))
    return True


def _look_up(walk: Walk, thing: Any, name: str) -> bool:
    """A getter of attributes, whose names are in no byte code."""
    if walk.reads is not None:
        walk.reads.looks_up = True
    walk.meet(f"{name}.parts", thing.__reduce__()[1:])
    return True


def _contents(memory: Any) -> tuple[str, tuple[int, ...], bytes]:
    content = bytes(memory) if isinstance(memory, bytearray) else memory.tobytes()
    return str(getattr(memory, "dtype", None)), getattr(memory, "shape", ()), content


# Each visit returns whether the entries that it adds say all there is to say.
KINDS: tuple[tuple[tuple[type, ...], Callable[[Walk, Any, str], bool]], ...] = (
    ((types.CodeType,), _code),
    ((types.CellType,), _cell),
    ((types.MethodType,), _method),
    ((staticmethod, classmethod), _wrapped),
    ((property, functools.cached_property), _property),
    ((types.BuiltinMethodType, types.MethodWrapperType), _builtin),
    ((operator.attrgetter, operator.methodcaller), _look_up),
    ((slice, range), _slice),
    ((type({}.keys()), type({}.values()), type({}.items())), _view),
    ((set, frozenset), _set),
    ((np.generic,), _number),
    ((np.ndarray, bytearray, array.array, memoryview), _array),
    ((contextvars.ContextVar,), _context),
    ((weakref.ref,), _weak),
)
