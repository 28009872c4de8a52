"""Every public name is in the reference, with a docstring."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pyro_vae

_PAGES = sorted((Path(__file__).parents[1] / "docs" / "reference").glob("*.md"))
_SOURCE = "\n".join(
    path.read_text(encoding="utf-8") for path in Path(pyro_vae.__path__[0]).rglob("*.py")
)


def _public() -> Iterator[ModuleType]:
    """The package, and the packages that it exports."""
    yield pyro_vae
    for name in pyro_vae.__all__:
        if isinstance(what := getattr(pyro_vae, name), ModuleType):
            yield what


def _written() -> tuple[set[str], list[object]]:
    """The modules that the pages document, and what these and the pages name."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in _PAGES)
    modules = set(re.findall(r"^\.\. automodule:: (\S+)$", text, re.MULTILINE))
    found: list[object] = []
    for name in modules:
        module = importlib.import_module(name)
        found += [getattr(module, each) for each in module.__all__]
    for block in text.split(".. currentmodule:: ")[1:]:
        module = importlib.import_module(block.split()[0])
        named = re.findall(r"^\.\. auto(?:class|function|data):: (\w+)$", block, re.MULTILINE)
        found += [getattr(module, each) for each in named]
    return modules, found


def documented() -> list[object]:
    """All that is exported or has a place on a page, once each, but for modules."""
    found = _written()[1]
    for module in _public():
        found += [getattr(module, name) for name in module.__all__ if not name.startswith("__")]
    unlike_modules = [each for each in found if not isinstance(each, ModuleType)]
    return list({id(each): each for each in unlike_modules}.values())


def _is_told(what: object, name: str) -> bool:
    """Whether it has a docstring: of an alias or a constant, the string below its assignment."""
    if isinstance(what, ModuleType) or inspect.isclass(what) or inspect.isroutine(what):
        return bool(inspect.getdoc(what))
    return re.search(rf'^{name}\b[^\n]* = [^\n]*\n"""', _SOURCE, re.MULTILINE) is not None


def test_every_public_name_is_in_the_reference() -> None:
    """Fails when a name is exported and no page has it, or it has nothing to show there."""
    modules, found = _written()
    seen, missing = 0, []
    for module in _public():
        for name in module.__all__:
            what = getattr(module, name)
            if name.startswith("__"):
                continue
            seen += 1
            there = (
                what.__name__ in modules
                if isinstance(what, ModuleType)
                else any(what is each for each in found)
            )
            if not there or not _is_told(what, name):
                missing.append(f"{module.__name__}.{name}")
    assert missing == []
    assert seen > 100
