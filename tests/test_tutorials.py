"""The tutorials run as they are printed, each as a program of its own; a warning is an error."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib as mpl
import pytest

TUTORIALS = sorted((Path(__file__).parents[1] / "docs" / "tutorials").glob("*.md"))
_CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def _cells(page: Path) -> list[str]:
    return _CELL.findall(page.read_text(encoding="utf-8"))


def test_every_tutorial_is_listed_and_has_cells() -> None:
    """Fails when the index lacks one, or one has nothing to run."""
    index = (TUTORIALS[0].parents[1] / "index.md").read_text(encoding="utf-8")
    assert re.findall(r"^tutorials/(\w+)$", index, re.MULTILINE)
    for page in TUTORIALS:
        assert f"tutorials/{page.stem}\n" in index
        assert len(_cells(page)) >= 3, page.stem


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_runs(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    names: dict[str, object] = {"__name__": page.stem}
    for cell in _cells(page):
        exec(compile(cell, page.name, "exec"), names)
