"""One walk over everything that programs reach, from which another one can be told."""

from __future__ import annotations

import functools
import logging
import operator
import random
import sys
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer.autoguide import AutoGuide
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn

from pyro_vae.engine.errors import NotCapturable
from pyro_vae.engine.guards import Guards
from pyro_vae.engine.kinds import KINDS, MISSING, PLAIN
from pyro_vae.engine.reads import Reads, is_constant

__all__ = ["Walk"]

_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
# Those are looked at before and after a run.
_GLOBAL_GENERATORS = (random._inst, np.random.mtrand._rand, torch.default_generator)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OF_PYRO = {"training", "_pyro_name", "_pyro_params", "_pyro_samples"}
_BOOKKEEPING = frozenset(vars(PyroModule())) - _OF_PYRO  # fields of any module
_MEMBERS = ("_parameters", "_buffers", "_modules")
# Every field of those counts: they read them by names that they make up.
_WHOLE = (
    torch.distributions.Distribution,
    torch.distributions.Transform,
    torch.distributions.constraints.Constraint,
    pyro.infer.ELBO,
    Messenger,
)
# Fields that runs make anew, and that nothing but the same run reads.
_MADE_ANEW: dict[type, frozenset[str]] = {
    TraceMessenger: frozenset(("trace",)),
    AutoGuide: frozenset(("plates",)),
    # Computed of the last two tensors, and looked up for those very tensors alone.
    torch.distributions.Transform: frozenset(
        (
            *("_cached_x_y", "_cached_logDetJ", "_cached_log_scale", "_cached_log_df_inv_dx"),
            *("_cached_A", "_cached_W_pre", "_cached_C", "_cached_T_C"),
        )
    ),
}
# What takes the steps: it moves on with each, and a program hardly ever reads it.
_MACHINERY = (
    pyro.infer.SVI,
    pyro.optim.PyroOptim,
    torch.optim.Optimizer,
    torch.optim.lr_scheduler.LRScheduler,
)
_LOGGING: dict[type, tuple[str, ...]] = {
    logging.Logger: ("level", "disabled", "parent", "manager"),
    logging.Manager: ("_disable",),
}
# Of the standard library's own objects, those that hold what a user has put there.
_HOLDERS = {"collections", "types", "argparse", "functools", "_thread", "threading", "contextvars"}


class _Again(int):
    """An object that has been met: the number of the entry where it was."""


class Walk:
    """Creates the list of everything that some programs reach, and of where to look at it again.

    Args:
        roots: Modules, functions, bound methods, objectives.
        reads: What the programs have run; where it is left out, they may read anything.
        strict: Whether to refuse what has a state that nobody can see.

    Attributes:
        tensors: In the order they were met.
        guards: What is to be looked at again.
        moving: Reasons to refuse what has been met.
        codes: Ids of the code of functions.
        undo: What to do to put back a field or a variable: its owner, name and value.
        remembers: Whether there is a function that keeps its results by the identity of arguments.
    """

    def __init__(self, roots: Sequence[Any], reads: Reads | None = None, strict: bool = True):
        self.tensors: list[Tensor] = []
        self.guards = Guards()
        self.undo: list[tuple[Any, str, Any]] = []
        self.moving: list[str] = []
        self.codes: set[int] = set()
        self.remembers = False
        self._names: list[str] = []
        self._values: list[Any] = []
        self._open: list[bool] = []  # whether the entries that follow say all there is to say
        self._seen: dict[int, int] = {}
        self._held: list[Any] = []  # an id is good while it lives
        self._waiting: deque[tuple[int, Any]] = deque()
        self.reads = reads
        self.strict = strict
        for i, root in enumerate(roots):
            self.meet(f"argument {i}", root)
        self.finish()
        if reads is not None:
            for namespace, names in list(reads.spaces.values()):
                self._namespace(namespace, names)
            self.finish()

    def finish(self) -> None:
        """Visits what has been met."""
        while self._waiting:
            at, thing = self._waiting.popleft()
            self._open[at] = self._visit(thing)

    def meet(self, name: str, value: Any, follow: bool = True) -> None:
        """Adds an entry, and what is behind it later on."""
        at = len(self._values)
        self._names.append(name)
        self._open.append(False)
        if type(value) in PLAIN or not follow:
            self._values.append(value)
            self._held.append(value)
        elif id(value) in self._seen:
            self._values.append(_Again(self._seen[id(value)]))
        else:
            self._values.append(value)
            self._held.append(value)
            self._seen[id(value)] = at
            self._waiting.append((at, value))

    def entries(self, owner: str, namespace: Any, keys: Iterable[str], follow: bool = True) -> None:
        """Adds entries of a namespace, and has them looked at."""
        keys = [key for key in keys if key in namespace]
        if not keys:
            return
        self.guards.entries(namespace, keys)
        for key in keys:
            value = namespace[key]
            self.meet(f"{owner}.{key}", value, follow)
            if isinstance(namespace, dict) and (type(value) in PLAIN or isinstance(value, Tensor)):
                self.undo.append((namespace, key, value))

    def difference(self, later: Walk, replaced: list[int] | None = None) -> str | None:
        """Returns the name of the first entry that is another one in a later walk, or None.

        Args:
            later: The other walk.
            replaced: Where to put the numbers of entries that are another tensor there, in place of
                returning the name.
        """
        for i, (name, now) in enumerate(zip(later._names, later._values, strict=True)):
            if i == len(self._names):
                return name
            if name != self._names[i] or not self._matches(i, later, now):
                if replaced is None or not (self.tensor(i) is not None is not later.tensor(i)):
                    return self._names[i]
                replaced.append(i)
        if len(self._names) > len(later._names):
            return self._names[len(later._names)]
        return None

    def name(self, at: int) -> str:
        """Returns the name of an entry."""
        return self._names[at]

    def tensor(self, at: int) -> Tensor | None:
        """Returns the tensor that has been met first at an entry; None where there is none."""
        value = self._values[at]
        is_first = isinstance(value, Tensor) and self._seen.get(id(value)) == at
        return value if is_first else None

    def is_met_once(self, at: int) -> bool:
        """Tells whether nothing else is what an entry is."""
        value = self._values[at]
        return not any(
            other == at if type(other) is _Again else other is value and i != at
            for i, other in enumerate(self._values)
        )

    def has_met(self, value: Any) -> bool:
        """Tells whether some entry is an object."""
        return id(value) in self._seen

    def replace(self, at: int, tensor: Tensor) -> None:
        """Makes an entry, which is met once and is a tensor without fields, another such one."""
        then = self._values[at]
        self.tensors[next(i for i, each in enumerate(self.tensors) if each is then)] = tensor
        self._seen[id(tensor)] = self._seen.pop(id(then))
        self._values[at] = tensor

    def _matches(self, at: int, later: Walk, now: Any) -> bool:
        then = self._values[at]
        if now is then:
            return True
        if type(now) is not type(then):
            return False
        if type(now) in PLAIN or type(now) is _Again:
            return repr(now) == repr(then)  # NaN is NaN, and 0.0 is not -0.0
        return self._open[at] and later._open[at]

    # What is behind an entry. Each returns whether its entries say all there is to say.

    def _visit(self, thing: Any) -> bool:
        name = type(thing).__name__
        if isinstance(thing, _GENERATORS):
            if not any(thing is known for known in _GLOBAL_GENERATORS):
                self._refuse(f"it has random numbers of its own ({name})")
            return False
        if isinstance(thing, Iterator) and type(thing).__module__ in ("builtins", "itertools"):
            self._refuse(f"it has an iterator ({name}), which moves on")
            return False
        if isinstance(thing, Tensor):
            self.tensors.append(thing)
            weak = {key for key, value in vars(thing).items() if isinstance(value, weakref.ref)}
            # The rows that a step drew, for an optimiser that asks: such a one is refused.
            self._fields(thing, vars(thing), {"_pyro_subsample", *weak})
            return False
        if isinstance(thing, nn.Module):
            return self._module(thing)
        for kinds, visit in (*KINDS, *_OWN):
            if isinstance(thing, kinds):
                return bool(visit(self, thing, name))
        return self.object(thing)

    def _machinery(self, thing: Any, name: str) -> bool:
        """Visits fields that the code of the programs themselves names, not that of libraries."""
        fields = vars(thing)
        if self.reads is not None:
            named = set[str]().union(*(names for _, names in self.reads.spaces.values()))
            self.entries(name, fields, [key for key in fields if key in named])
        elif self.strict:
            keys = [key for key, value in fields.items() if type(value) in PLAIN]
            self.entries(name, fields, keys)
        return False

    def _refuse(self, reason: str) -> None:
        self.moving.append(reason)
        if self.strict:
            raise NotCapturable(reason)

    def _type(self, thing: type, name: str) -> bool:
        own = self.reads
        if own is not None and issubclass(thing, torch.autograd.Function):
            # The backward pass may run in a thread that nobody watches.
            for value in vars(thing).values():
                function = getattr(value, "__func__", value)
                if isinstance(function, types.FunctionType):
                    own.enter(function.__code__, function.__globals__)
        for base in thing.__mro__:
            if is_constant(base.__module__):
                continue
            space = vars(base)
            keys = [key for key, value in space.items() if self._is_read_of_class(key, value)]
            self.entries(base.__name__, space, keys)
            self.guards.size(space)
        if not is_constant(type(thing).__module__):
            self.meet(f"{thing.__name__}.__class__", type(thing))
        return False

    def _is_read_of_class(self, key: str, value: Any) -> bool:
        if isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType)):
            return False
        if key.startswith("__") and key.endswith("__"):
            # Python itself reads methods with such names.
            return isinstance(value, (types.FunctionType, staticmethod, classmethod))
        return key != "_abc_impl" and self._is_read(key)

    def _is_read(self, key: str) -> bool:
        reads = self.reads
        return reads is None or reads.looks_up or key in reads.names

    def _partial(self, thing: functools.partial[Any], name: str) -> bool:
        self.guards.call(functools.partial(_PARTS, thing))
        for part, value in zip(("func", "args", "keywords"), _PARTS(thing), strict=True):
            self.meet(f"{name}.{part}", value)
        return self.object(thing, (functools.partial,)) or type(thing) is functools.partial

    def _mapping(self, thing: Mapping[Any, Any], name: str) -> bool:
        self.guards.whole(thing)
        self.meet(f"{name} has the size", len(thing))
        items = dict.items(thing) if isinstance(thing, dict) else thing.items()
        if isinstance(thing, OrderedDict):  # it keeps its order elsewhere
            items = OrderedDict.items(thing)
        for key, value in list(items):
            self.meet(f"{name}'s key", key)
            self.meet(f"{name}.{key if type(key) in PLAIN else type(key).__name__}", value)
            if isinstance(thing, dict) and (type(value) in PLAIN or isinstance(value, Tensor)):
                self.undo.append((thing, key, value))
        if isinstance(thing, defaultdict):
            self.guards.call(functools.partial(_FACTORY, thing))
            self.meet(f"{name}.default_factory", thing.default_factory)
        return self.subclass(thing, (dict, types.MappingProxyType, defaultdict, OrderedDict))

    def _sequence(self, thing: Sequence[Any], name: str) -> bool:
        self.meet(f"{name} has the size", len(thing))
        if not isinstance(thing, tuple):
            self.guards.elements(thing)
        for i, value in enumerate(list(thing)):
            self.meet(f"{name}.{i}", value)
        return self.subclass(thing, (list, tuple, deque, torch.Size))

    def subclass(self, thing: Any, kinds: tuple[type, ...]) -> bool:
        return type(thing) in kinds or self.object(thing, kinds)

    def _space(self, thing: types.ModuleType, name: str) -> bool:
        if not is_constant(thing.__name__):
            space = vars(thing)
            reads = self.reads
            names = set(space) if reads is None or reads.looks_up else reads.names
            if self.strict or reads is not None:
                self._namespace(space, names)
        return False

    def _function(self, thing: types.FunctionType, name: str) -> bool:
        name, code, reads = thing.__name__, thing.__code__, self.reads
        self.codes.add(id(code))
        self.meet(f"{name}.__code__", code)
        if thing.__dict__:
            self._fields(thing, thing.__dict__, {"__wrapped__"} - (reads.names if reads else set()))
        if reads is not None and not reads.entered(code):
            return True  # nobody calls it
        for variable, cell in zip(code.co_freevars, thing.__closure__ or (), strict=True):
            self.meet(f"{name}.{variable}", cell)
        if not is_constant(thing.__globals__.get("__name__")):
            for part in ("__code__", "__defaults__", "__kwdefaults__"):
                self.guards.attribute(thing, part)
            if reads is None:
                self._namespace(thing.__globals__, set(_names(code)))
        self.meet(f"{name}.__defaults__", thing.__defaults__)
        self.meet(f"{name}.__kwdefaults__", thing.__kwdefaults__)
        return True

    def _namespace(self, space: dict[str, Any], names: Iterable[str]) -> None:
        """Watches what code with these names in it reads of a module, or of modules in there."""
        names = sorted(names)
        owner = str(space.get("__name__"))
        found = [name for name in names if name in space]
        self.guards.size(space)
        modules = {n: space[n] for n in found if isinstance(space[n], types.ModuleType)}
        self.entries(owner, space, [name for name in found if name not in modules])
        self.entries(owner, space, modules, follow=False)
        for module in modules.values():
            if not is_constant(module.__name__) and id(vars(module)) not in self._seen:
                self._seen[id(vars(module))] = -1
                self._namespace(vars(module), names)

    def _module(self, module: nn.Module) -> bool:
        name, fields = type(module).__name__, vars(module)
        if not all(isinstance(fields.get(part), dict) for part in _MEMBERS):
            raise NotCapturable(f"{name} is no Python module")
        for part in _MEMBERS:
            members = fields[part]
            self.guards.whole(members)
            for key, value in members.items():
                self.meet(f"{name}.{key}", value)
                if isinstance(value, Tensor):
                    self.undo.append((members, key, value))
        self.guards.entries(fields, [part for part in (*_MEMBERS, *_HOOKS) if part in fields])
        for part in _HOOKS:
            if fields.get(part):
                self.meet(f"{name}.{part}", fields[part])
        self._fields(module, fields, _BOOKKEEPING)
        self.guards.kind(module)
        self._class_of(module)
        return True

    def object(self, thing: Any, known: tuple[type, ...] = ()) -> bool:
        """Visits fields and slots; of classes that are not written in Python, some are known."""
        kind = type(thing)
        for logs, names in _LOGGING.items():
            if isinstance(thing, logs):
                # What a logger holds is no business of a program's, save whether it says something.
                self.entries(kind.__name__, vars(thing), names)
                return False
        top = kind.__module__.partition(".")[0]
        if self.reads is None and top in sys.stdlib_module_names - _HOLDERS - {"__main__"}:
            return False
        if kind.__flags__ & _IS_HEAP_TYPE or top in _HOLDERS:
            self._class_of(thing)
        fields = getattr(thing, "__dict__", None)
        described = isinstance(fields, dict) or any("__slots__" in vars(b) for b in kind.__mro__)
        if isinstance(fields, dict):
            self._fields(thing, fields)
        for base in kind.__mro__:
            for slot, place in list(vars(base).items()) if "__slots__" in vars(base) else ():
                if isinstance(place, types.MemberDescriptorType) and self._is_read(slot):
                    (value,) = _slot(place, thing)
                    if value is MISSING or getattr(kind, slot, None) is not place:
                        self.guards.call(functools.partial(_slot, place, thing))
                    else:
                        self.guards.attribute(thing, slot)
                    self.meet(f"{kind.__name__}.{slot}", value)
        if isinstance(thing, functools._lru_cache_wrapper):
            self.remembers = True
            self.meet(f"{kind.__name__}.__wrapped__", thing.__wrapped__)
        self.guards.kind(thing)
        known = (*known, object, types.SimpleNamespace)
        return described and all(b in known or _is_python(b) for b in kind.__mro__)

    def _class_of(self, thing: Any) -> None:
        self.meet(f"{type(thing).__name__}'s class", type(thing))

    def _fields(self, thing: Any, fields: dict[str, Any], but: Iterable[str] = ()) -> None:
        left_out = set(but)
        for kind, names in _MADE_ANEW.items():
            if isinstance(thing, kind):
                left_out |= names
        whole = isinstance(thing, _WHOLE) or hasattr(type(thing), "__match_args__")
        keys = [k for k in fields if k not in left_out and (whole or self._is_read(k))]
        follow = not isinstance(thing, AutoGuide)
        self.guards.size(fields)
        if type(thing).__dictoffset__ and not isinstance(thing, Tensor):
            self.guards.namespace(thing)
        name = type(thing).__name__
        if not follow and "prototype_trace" in keys:
            # It is made once, and never written to.
            keys.remove("prototype_trace")
            self.entries(name, fields, ["prototype_trace"], follow=False)
        self.entries(name, fields, keys)


_PARTS = operator.attrgetter("func", "args", "keywords")
_FACTORY = operator.attrgetter("default_factory", "default_factory")
_IS_HEAP_TYPE = 1 << 9
_IS_IMMUTABLE = 1 << 8


_OWN: tuple[tuple[tuple[type, ...], Callable[[Walk, Any, str], bool]], ...] = (
    (_MACHINERY, Walk._machinery),
    ((types.FunctionType,), Walk._function),
    ((type,), Walk._type),
    ((functools.partial,), Walk._partial),
    ((dict, types.MappingProxyType), Walk._mapping),
    ((list, tuple, deque), Walk._sequence),
    ((types.ModuleType,), Walk._space),
)


def _is_python(kind: type) -> bool:
    """Tells whether a class is written in Python, so that its fields are all there is."""
    return bool(kind.__flags__ & _IS_HEAP_TYPE) and not kind.__flags__ & _IS_IMMUTABLE


def _slot(place: Any, thing: Any) -> tuple[Any]:
    try:
        return (place.__get__(thing),)
    except AttributeError:  # it has no value yet
        return (MISSING,)


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
