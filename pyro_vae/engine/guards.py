"""Guards: whether what was read is still there, object by object, asked before every step.

Objects are compared by identity. In Python that takes some 50 ns for each, so that torch does it,
by the C++ guards of Dynamo: of a dict it compares the version, a number that grows whenever
something is written to it, and of functions, variables, lists and the like what they hold, for 10
to 30 ns each. Since Python 3.12 that number is torch's own, and does not grow with every assignment
to an attribute: there the values of a dict are compared one by one. What C++ does not know is asked
in Python. Where an answer is no, everything is looked at in Python: something may have been written
to a dict that is not read.

References:
    PEP 509, Add a private version to dict (Victor Stinner, 2016),
    https://peps.python.org/pep-0509/
"""

from __future__ import annotations

import functools
import gc
import operator
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from itertools import chain
from typing import Any

from torch._C._dynamo.guards import RootGuardManager, dict_version
from torch.utils.hooks import RemovableHandle

__all__ = ["GONE", "Guards"]

_LONGEST = 64  # list whose elements are looked at in C++, where each takes an object of its own
_PATIENCE = 64  # checks for which one more time in C++ may wait: building that takes milliseconds
_COUNTED = sys.version_info < (3, 12)  # whether Python itself counts what is written to a dict
_END = object()
GONE = (KeyError, ValueError, AttributeError)  # an entry, a variable, a field
_SAYS = ([""], None)  # what a guard in C++ says when it fails: nobody asks


class Guards:
    """Creates an empty list of what is to stay as it is, and the check that it has."""

    def __init__(self) -> None:
        self._spaces: dict[int, _Space] = {}
        self._attributes: list[tuple[Any, str]] = []
        self._lists: list[list[Any]] = []
        self._objects: list[Any] = []
        self._calls: list[Callable[[], Iterable[Any]]] = []
        self._busy: set[int] = set()  # dicts that something was written to between two checks
        self._check: Callable[[], bool] | None = None
        self._checks = 0  # since the last was built
        self._wait = 1

    # What to watch

    def entries(self, space: Any, keys: Iterable[str]) -> None:
        """Watches the values of some keys, which are there, in a dict or a view of one."""
        if (behind := _behind(space)) is not None:
            self._space(behind).keys.update(dict.fromkeys(keys))
        else:
            self.call(functools.partial(_values, space, tuple(keys)))

    def namespace(self, thing: Any) -> None:
        """Watches which dict has the fields of an object."""
        space = self._space(thing.__dict__)
        if space.owner is None:
            space.owner = thing
        else:  # it shares them with another
            self.attribute(thing, "__dict__")

    def size(self, space: Sized) -> None:
        """Watches how many entries there are."""
        if (behind := _behind(space)) is not None:
            self._space(behind).sized = True
        else:
            self.call(Unchanged(lambda: len(space)))

    def whole(self, mapping: Mapping[Any, Any]) -> None:
        """Watches all keys and values, and their order."""
        behind = _behind(mapping)
        if behind is None:
            self.call(functools.partial(_elements, mapping.keys, mapping.values))
            return
        space = self._space(behind)
        space.whole = space.sized = True
        if isinstance(behind, OrderedDict):  # it keeps its order elsewhere
            self.call(functools.partial(_elements, functools.partial(OrderedDict.keys, behind)))

    def elements(self, container: Iterable[Any]) -> None:
        """Watches what is in a container, in that order."""
        if type(container) is list and len(container) <= _LONGEST:
            self._lists.append(container)
        else:
            self.call(functools.partial(_elements, container.__iter__))

    def attribute(self, thing: Any, name: str) -> None:
        """Watches an attribute, which has a value, that is looked up in C."""
        self._attributes.append((thing, name))

    def kind(self, thing: Any) -> None:
        """Watches the class of an object."""
        self._objects.append(thing)

    def call(self, read: Callable[[], Iterable[Any]]) -> None:
        """Watches what a function returns."""
        self._calls.append(read)

    def loosen(self, value: Any) -> Callable[[], Any] | None:
        """Watches a value no more, and returns what reads it anew, if it is in one place.

        Not in a list: that is watched as a whole.
        """
        spaces = [(each, key) for each in self._spaces.values() for key in each.where(value)]
        attributes = [place for place in self._attributes if getattr(*place) is value]
        if len(spaces) + len(attributes) != 1:
            return None
        if attributes:
            self._attributes = [place for place in self._attributes if place is not attributes[0]]
            return functools.partial(getattr, *attributes[0])
        space, key = spaces[0]
        space.loosen(key)
        self._busy.add(id(space.space))
        return functools.partial(dict.__getitem__, space.space, key)

    # The check

    def freeze(self, before: Guards | None = None) -> None:
        """Takes everything as it now is.

        Args:
            before: Guards whose place these take, and which know what is busy.
        """
        if before is not None:
            self._busy |= before._busy
        for space in self._spaces.values():
            space.freeze()
        self._held = list(self._hold())
        self._called = list(self._call())
        self._handles = RemovableHandle.next_id
        self._check = None

    def stand(self) -> bool:
        """Tells whether all is as it was."""
        self._checks += 1
        return (
            self._check is not None
            and self._check()
            and RemovableHandle.next_id == self._handles  # nobody has registered a hook
            and (not self._calls or _same(self._call(), self._called))
        ) or self._look()

    @property
    def count(self) -> int:
        """How many values there are to look at."""
        spaces = sum(len(space.values) for space in self._spaces.values())
        return spaces + len(self._held) + len(self._called)

    def _space(self, space: dict[Any, Any]) -> _Space:
        return self._spaces.setdefault(id(space), _Space(space))

    def _hold(self) -> Iterator[Any]:
        for thing, name in self._attributes:
            yield getattr(thing, name)
        for each in self._lists:
            yield from (*each, _END)
        yield from map(type, self._objects)

    def _call(self) -> Iterator[Any]:
        return chain.from_iterable([read() for read in self._calls])

    def _look(self) -> bool:
        """Looks at every value."""
        spaces = self._spaces.values()
        try:
            if not (
                RemovableHandle.next_id == self._handles
                and all(space.stands() for space in spaces)
                and _same(self._hold(), self._held)
                and _same(self._call(), self._called)
            ):
                return False
        except GONE:
            return False
        if self._check is None or self._checks >= self._wait:
            if self._check is not None:
                self._busy |= {id(s.space) for s in spaces if dict_version(s.space) != s.version}
                self._wait = min(2 * self._wait, _PATIENCE)
            self._build()
        return True

    def _build(self) -> None:
        """Makes the check in C++, of what has just been found to be as it was."""
        root, owners = RootGuardManager(), list[Any]()

        def of(owner: Any) -> Any:
            owners.append(owner)
            return _part(root.list_getitem_manager, len(owners) - 1)

        for key, space in self._spaces.items():
            space.freeze()
            changes = not _COUNTED or key in self._busy
            space.guard(of(space.space if space.owner is None else space.owner), changes)
        for thing, name in self._attributes:
            _is(of(thing).getattr_manager, getattr(thing, name), name)
        for each in self._lists:
            manager = of(each)
            manager.add_length_check_guard(len(each), *_SAYS)
            for i, value in enumerate(each):
                _is(manager.list_getitem_manager, value, i)
        for thing in self._objects:
            of(thing).add_type_match_guard(id(type(thing)), *_SAYS)
        self._check = functools.partial(root.check, owners)
        self._checks = 0


class Unchanged:
    """Creates what looks at something, and returns the same object as long as it is equal."""

    def __init__(self, read: Callable[[], Any]) -> None:
        self._read = read
        self._then = read()

    def __call__(self) -> tuple[bool]:
        return (self._read() == self._then,)


class _Space:
    """A dict: all that is in it, or the values of some keys."""

    def __init__(self, space: dict[Any, Any]) -> None:
        self.space = space
        self.owner: Any = None  # an object whose fields it has
        self.keys: dict[str, None] = {}
        self.whole = False
        self.sized = False
        self.loose: set[Any] = set()  # keys whose values are read by somebody else

    def freeze(self) -> None:
        self.version = dict_version(self.space)
        self.size = len(self.space)
        self.values = self._now()

    def stands(self) -> bool:
        return (
            (not self.sized or len(self.space) == self.size)
            and (self.owner is None or self.owner.__dict__ is self.space)
            and _same(self._now(), self.values)
        )

    def guard(self, manager: Any, busy: bool) -> None:
        if self.owner is not None:
            manager = _part(manager.get_generic_dict_manager)
            manager.add_id_match_guard(id(self.space), *_SAYS)
        if not busy:
            manager.add_dict_version_guard(self.space, *_SAYS)
        elif self.whole:
            manager.add_lambda_guard(lambda _: self.stands(), *_SAYS)
        else:
            if self.sized:
                manager.add_dict_length_check_guard(self.size, *_SAYS)
            for key, value in zip(self.keys, self.values, strict=True):
                _is(manager.dict_getitem_manager, value, key)

    def where(self, value: Any) -> list[Any]:
        keys = dict.keys(self.space) if self.whole else self.keys
        return [key for key in keys if dict.__getitem__(self.space, key) is value]

    def loosen(self, key: Any) -> None:
        if self.whole:
            self.loose.add(key)
        else:
            del self.keys[key]

    def _now(self) -> list[Any]:
        if self.loose:
            items = dict.items(self.space)
            return [*dict.keys(self.space), *(v for k, v in items if k not in self.loose)]
        if self.whole:
            return [*dict.keys(self.space), *dict.values(self.space)]
        return [self.space[key] for key in self.keys]


def _part(make: Callable[..., Any], *key: Any) -> Any:
    # Seconds to import: not for a program that compiles nothing.
    from torch._dynamo.guards import GuardManagerType

    return make(
        *key, source="", example_value=None, guard_manager_enum=GuardManagerType.GUARD_MANAGER
    )


def _is(make: Callable[..., Any], value: Any, *key: Any) -> None:
    _part(make, *key).add_id_match_guard(id(value), *_SAYS)


def _behind(space: Any) -> dict[Any, Any] | None:
    """Returns the dict that something is, or is a view of."""
    if isinstance(space, types.MappingProxyType):
        (space,) = gc.get_referents(space)
        return space if type(space) is dict else None
    return space if isinstance(space, dict) else None


def _values(space: Any, keys: tuple[str, ...]) -> list[Any]:
    return [space[key] for key in keys]


def _elements(*iterators: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    # What it ends with keeps it apart from what comes next.
    for each in iterators:
        yield from each()
        yield _END


def _same(now: Iterable[Any], then: Iterable[Any]) -> bool:
    return all(map(operator.is_, now, then))
