"""Rules of the package that no linter checks; import-linter checks the direction of imports."""

from __future__ import annotations

import ast
import re
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


def test_only_the_pyro_programs_sample() -> None:
    """Sites are named and drawn in one place, so that ``z``, ``x`` and their plate are the same."""
    where = {
        path.relative_to(_PACKAGE).as_posix()
        for path in _PACKAGE.rglob("*.py")
        if _lines_that_sample(path.read_text(encoding="utf-8"))
    }
    assert where == {"programs/pyro_programs.py"}


_EXPERIMENTS = sorted((Path(__file__).parents[1] / "experiments").glob("*.py"))
_PAGE = 65  # lines, which one reads without turning a page


def _blocks(source: str) -> list[tuple[str, int]]:
    """The functions, methods and top-level statements of a script, and how many lines each has."""
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    others = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [
        (getattr(node, "name", type(node).__name__), (node.end_lineno or 0) - node.lineno + 1)
        for node in [*functions, *others]
    ]


def test_a_block_is_measured_with_what_is_nested_in_it() -> None:
    source = "def f():\n    def g():\n        pass\n\n    g()\n\n\nif True:\n    f()\n"
    assert _blocks(source) == [("f", 5), ("g", 2), ("If", 2)]


@pytest.mark.parametrize("path", _EXPERIMENTS, ids=lambda path: path.stem)
def test_the_loop_of_an_experiment_is_visible_at_once(path: Path) -> None:
    """A script may be as long as it needs; its loop fits on a page, not squeezed to do so."""
    source = path.read_text(encoding="utf-8")
    assert [(name, lines) for name, lines in _blocks(source) if lines > _PAGE] == []


@pytest.mark.parametrize("path", _EXPERIMENTS, ids=lambda path: path.stem)
def test_experiments_share_one_parser(path: Path) -> None:
    """``--smoke`` and its like are declared in common.py: no script has them otherwise."""
    source = path.read_text(encoding="utf-8")
    assert ("argparse" in source) == (path.stem == "common")
    declared = re.findall(r'"--(smoke|table|data-root|threads)", ', source)
    assert sorted(declared) == (
        ["data-root", "smoke", "table", "threads"] if path.stem == "common" else []
    )
