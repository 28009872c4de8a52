"""The tests under the oldest and under the newest versions of everything that is depended on.

    python experiments/versions.py oldest   # with the Python of the environment of .ci/lowest
    python experiments/versions.py newest   # with that of `pip install '.[test]'`: 10 minutes each
    python experiments/versions.py --table  # results/versions.md

The counts are those of pytest's last line.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import requires, version
from typing import Any

import common
from packaging.requirements import Requirement


def versions() -> dict[str, str]:
    """Returns what is installed of what the package and its tests depend on."""
    needed = [Requirement(line) for line in requires("pyro-vae") or []]
    extra = {"extra": "test"}
    here = [each.name for each in needed if each.marker is None or each.marker.evaluate(extra)]
    return {name: version(name) for name in here}


def tests() -> dict[str, Any]:
    """Runs them; returns how many passed, were skipped and failed, and which did."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow"]
    lines = []
    with subprocess.Popen(
        command, cwd=common.HERE.parent, stdout=subprocess.PIPE, text=True
    ) as running:
        for line in running.stdout or []:
            print(line, end="", flush=True)
            lines.append(line)
    counts = {word: int(count) for count, word in re.findall(r"(\d+) ([a-z]+)", lines[-1])}
    failed = [line.split()[1] for line in lines if line.startswith(("FAILED ", "ERROR "))]
    found = {word: counts.get(word, 0) for word in ("passed", "skipped", "failed", "errors")}
    return found | {"which": failed, "last_line": lines[-1].strip()}


def table() -> str:
    """Returns a row for each end, as Markdown."""
    (found,) = common.read("versions.json")
    lines = [
        "| versions | Python | of what | passed | failed | skipped |",
        "|---|---|---|---:|---:|---:|",
    ]
    for end in ("oldest", "newest"):
        if end not in found:
            continue
        of = ", ".join(f"{name} {number}" for name, number in found[end]["versions"].items())
        counts = (found[end]["tests"][word] for word in ("passed", "failed", "skipped"))
        cells = [end, found[end]["environment"]["python"], of, *(f"{count:,}" for count in counts)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = common.Parser(__doc__, smoke=None, table="the table of what was found", threads=None)
    parser.add_argument("end", choices=["oldest", "newest"], nargs="?")
    options = parser.options()
    if options.end:
        found = {"environment": common.environment(), "versions": versions(), "tests": tests()}
        path = common.RESULTS / "versions.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(before | {options.end: found}, indent=2) + "\n")
    if options.table:
        (common.RESULTS / "versions.md").write_text(table(), encoding="utf-8")
