"""Every tutorial is listed; the gate executes them as it builds the documentation."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
TUTORIALS = [*sorted((DOCS / "tutorials").glob("*.md")), DOCS / "gallery.md"]
_CELL = re.compile(
    r"^```\{code-cell\} ipython3\n(?:---\n.*?^---\n)?(.*?)^```$", re.DOTALL | re.MULTILINE
)


def test_every_tutorial_is_listed_and_has_cells() -> None:
    """Fails when the index lacks one, or one has nothing to run, or what is no Python."""
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^((?:tutorials/)\w+|gallery)$", index, re.MULTILINE)
    assert sorted(listed) == sorted(
        str(page.relative_to(DOCS).with_suffix("")) for page in TUTORIALS
    )
    for page in TUTORIALS:
        cells = _CELL.findall(page.read_text(encoding="utf-8"))
        assert len(cells) >= 3, page.stem
        for cell in cells:
            compile(cell, page.name, "exec")
