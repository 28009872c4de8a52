"""Every example in a docstring of the package as it is imported, installed or editable."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyro_vae

_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def _examples() -> Iterator[doctest.DocTest]:
    names = [info.name for info in pkgutil.walk_packages(pyro_vae.__path__, "pyro_vae.")]
    for name in ["pyro_vae", *names]:
        if not name.endswith("__main__"):  # importing that one runs the program
            yield from doctest.DocTestFinder().find(importlib.import_module(name))


@pytest.mark.parametrize("example", [e for e in _examples() if e.examples], ids=lambda e: e.name)
def test_docstring_example(
    example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # an example may write files
    said: list[str] = []
    result = doctest.DocTestRunner(optionflags=_FLAGS, verbose=False).run(example, out=said.append)
    assert result.attempted > 0
    assert result.failed == 0, "".join(said)
