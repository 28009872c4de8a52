"""What a program reads: the code that it runs, and the names in there.

A profiler's hook shows each code object as it is entered. The names in its byte code are those of
every attribute and global variable that it can read, save those it makes up as it runs: code that
looks names up (``getattr``, ``vars``) is taken to read every field there is.
"""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Reads", "is_constant"]

_LIBRARIES = {"torch", "pyro", "numpy", "pyro_vae"}
_CONSTANT = _LIBRARIES | sys.stdlib_module_names - {"__main__"}  # modules that do not change
# What reads attributes whose names are not in the byte code.
_LOOKS_UP = frozenset(
    (
        *("getattr", "hasattr", "vars", "dir", "globals", "locals", "eval", "exec", "__dict__"),
        *("__getattribute__", "attrgetter", "methodcaller", "__import__", "dumps", "modules"),
    )
)
# What tells one object from another by its address, which may be a key to what is kept of it.
_IDENTIFIES = frozenset(
    ("id", "hash", "__hash__", "data_ptr", "_cdata", "_version", "is_set_to", "globals", "eval")
) | {"exec", "locals", "vars", "storage", "untyped_storage"}
_LOOK_UP = frozenset(("copy", "copyreg", "dataclasses", "inspect", "pickle", "pprint", "reprlib"))


def is_constant(module: str | None) -> bool:
    """Tells whether the variables of a module, by its name, are taken not to change."""
    # A named tuple's constructor has a module of its own.
    top = (module or "").partition(".")[0]
    return top in _CONSTANT or top.startswith("namedtuple_")


class Reads:
    """Creates the record of the code that programs run.

    Attributes:
        complete: Whether all has been seen: another profiler's hook may have been in the way.
        looks_up: Whether some code reads attributes by names that are not in the code.
        identifies: Whether some code of the programs' own may tell objects by their addresses.
        names: Names in the code that ran, of attributes and of variables.
        spaces: The global variables of modules whose code ran, and the names in that code.
    """

    def __init__(self) -> None:
        self.complete = True
        self.looks_up = False
        self.identifies = False
        self.names: set[str] = set()
        self.spaces: dict[int, tuple[dict[str, Any], set[str]]] = {}
        self._codes: dict[int, types.CodeType] = {}  # holds them: an id is good while it lives
        self._pairs: set[tuple[int, int]] = set()
        self._closures: list[types.CodeType] = []
        self._nested: set[int] = set()

    @contextmanager
    def recording(self, libraries: bool = True) -> Iterator[None]:
        """Records the code that is entered inside it, of libraries too or of the others alone."""
        if sys.getprofile() is not None:
            self.complete = False
            yield
            return
        pairs = self._pairs
        imports: list[types.FrameType] = []

        def enter(frame: types.FrameType, event: str, _: Any) -> None:
            if imports:
                # What an import runs is not run again.
                if event == "return" and frame is imports[0]:
                    imports.clear()
            elif event == "call" and (id(frame.f_code), id(frame.f_globals)) not in pairs:
                if frame.f_code.co_name == "_find_and_load":
                    imports.append(frame)
                elif libraries or not is_constant(frame.f_globals.get("__name__")):
                    self.enter(frame.f_code, frame.f_globals)

        # What a collection of garbage calls is no code of the program.
        collects = gc.isenabled()
        gc.disable()
        sys.setprofile(enter)
        try:
            yield
        finally:
            if collects:
                gc.enable()
            if sys.getprofile() is not enter:
                self.complete = False
            sys.setprofile(None)

    def enter(self, code: types.CodeType, namespace: dict[str, Any]) -> None:
        """Records that code has run, with these global variables."""
        self._pairs.add((id(code), id(namespace)))
        self._codes[id(code)] = code
        self.names.update(code.co_names, _strings(code.co_consts))
        module = namespace.get("__name__")
        looks_up = not _LOOKS_UP.isdisjoint(code.co_names)
        if is_constant(module):
            self.looks_up |= looks_up and str(module).partition(".")[0] in _LOOK_UP
            return
        self.looks_up |= looks_up
        self.identifies |= not _IDENTIFIES.isdisjoint(code.co_names)
        self.spaces.setdefault(id(namespace), (namespace, set()))[1].update(
            namespace if not _EVERYTHING.isdisjoint(code.co_names) else code.co_names
        )
        self._nested.update(id(const) for const in code.co_consts)
        if code.co_freevars:
            self._closures.append(code)

    def size(self) -> int:
        """Returns a number that grows with what is read."""
        return len(self._codes) + len(self.names) + self.looks_up

    def entered(self, code: types.CodeType) -> bool:
        """Tells whether the code has run."""
        return id(code) in self._codes

    def unexplained(self, found: set[int]) -> list[types.CodeType]:
        """Returns code with variables of its enclosing functions that comes from elsewhere.

        Args:
            found: Ids of the code of functions that are known.
        """
        # A function that other code has made as it ran has its variables from there.
        return [c for c in self._closures if id(c) not in found and id(c) not in self._nested]


_EVERYTHING = frozenset(("globals", "eval", "exec"))


def _strings(constants: tuple[Any, ...]) -> Iterator[str]:
    """Strings that may be names, as in ``getattr(self, "scale")``."""
    for constant in constants:
        if isinstance(constant, str) and constant.isidentifier():
            yield constant
        elif isinstance(constant, tuple):
            yield from _strings(constant)
