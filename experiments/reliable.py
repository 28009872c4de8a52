"""The table of what was done to runs and run folders, and what became of them."""

from __future__ import annotations

import common

INSTANTS = ("before the first checkpoint", "between two writes", "while writing")


def write_table() -> None:
    """Writes results/reliable.md from the results there are."""
    rows = []
    for found in common.read("killed.json"):
        killed = ", ".join(f"{count} {what}" for what, count in found["killed"].items())
        rows.append(
            (
                f"{found['runs']} runs killed at random instants ({killed}; "
                f"{found['compiled']} of them compiled), then resumed",
                f"{found['identical']} of {found['runs']} end bit-identical",
            )
        )
    for name in ("damaged", "strange", "full_disk", "rubbish", "memory", "planted"):
        for found in common.read(f"{name}.json"):
            rows += [(row["what"], row["came_of_it"]) for row in found["rows"]]
    lines = ["| what was done | what came of it |", "|---|---|"]
    lines += [f"| {what} | {result} |" for what, result in rows]
    (common.RESULTS / "reliable.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
