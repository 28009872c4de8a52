"""Rules of the package that no linter checks; import-linter checks the direction of imports."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pyro_vae

_PACKAGE = Path(pyro_vae.__path__[0])


def _lines_that_sample(source: str) -> list[int]:
    """The lines that name ``pyro.sample``, under whatever name ``pyro`` was imported."""
    nodes = list(ast.walk(ast.parse(source)))
    aliases = {
        alias.asname or "pyro"
        for node in nodes
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name.partition(".")[0] == "pyro" and not (alias.asname and "." in alias.name)
    }
    lines = []
    for node in nodes:
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr="sample") if name in aliases:
                lines.append(node.lineno)
            case ast.ImportFrom(module="pyro" | "pyro.primitives", names=imported, lineno=line):
                lines.extend(line for alias in imported if alias.name == "sample")
    return lines


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import pyro\npyro.sample('z', d)", [2]),
        ("import pyro as p\n\ndraw = p.sample", [3]),
        ("import pyro.infer\npyro.sample('z', d)", [2]),
        ("from pyro import sample as draw", [1]),
        ("from pyro.primitives import plate, sample", [1]),
        ("import pyro.distributions as dist\ndist.sample", []),
        ("import pyro\nd.sample()\npyro.plate('data', 3)", []),
    ],
)
def test_a_planted_call_is_found(source: str, lines: list[int]) -> None:
    assert _lines_that_sample(source) == lines


def test_only_the_vae_samples() -> None:
    """Sites are named and drawn in one place, so that ``z``, ``x`` and their plate are the same."""
    where = {
        path.relative_to(_PACKAGE).as_posix()
        for path in _PACKAGE.rglob("*.py")
        if _lines_that_sample(path.read_text(encoding="utf-8"))
    }
    assert where == {"vae.py"}
