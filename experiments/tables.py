"""Puts the tables of results/ into the README and docs/, between their markers.

After the other scripts have written theirs, with ``--table``:

    python experiments/tables.py
"""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
PAGES = [HERE.parent / "README.md", *sorted([*DOCS.glob("*.md"), *DOCS.glob("gallery/*.md")])]


def filled(text: str) -> str:
    """Returns a page with each ``<!-- table NAME -->`` section taken from results/NAME.md."""

    def section(found: re.Match[str]) -> str:
        table = (HERE / "results" / f"{found[1]}.md").read_text(encoding="utf-8").strip()
        return f"<!-- table {found[1]} -->\n{table}\n<!-- end -->"

    return re.sub(r"<!-- table (\w+) -->\n.*?<!-- end -->", section, text, flags=re.DOTALL)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
