"""Random Pyro programs with a change between two steps: CompiledSVI against stock SVI.

    python experiments/random_programs.py            # 2,000: an hour or two on one core
    python experiments/random_programs.py --smoke    # 20, no figure
    python experiments/random_programs.py --show 17  # the source of one, and what becomes of it

Each program is drawn by its number (``tests/random_programs.py``), takes three steps, then
something that it reads is changed, and it takes three more. Losses and parameters agree to 1e-9
in double precision, or it is ``wrong``; it was ``captured``, or one line said why it ran eagerly,
and whether that is true of the program is checked. Graphs are interpreted, but for one in
twenty, which is compiled. Stopped, it goes on where it was.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import common

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from random_programs import interpreted, is_true, numbered, outcome

SEED, COUNT, COMPILED = 0, 2000, 20
ROWS = common.RUNS / "random_programs.jsonl"  # what is done so far, a line for each


def one(number: int, compiled: bool) -> dict[str, Any]:
    """Runs a program; returns what became of it."""
    drawn = numbered(SEED, number)
    start = time.perf_counter()
    with nullcontext() if compiled else interpreted():
        became = outcome(drawn)
    return {
        "number": number,
        "became": became.kind,
        "why": became.why[:300],
        "true": became.kind != "eager" or is_true(became.why, drawn),
        "compiled": compiled,
        "seconds": round(time.perf_counter() - start, 2),
    }


def done() -> dict[int, dict[str, Any]]:
    """Returns the rows so far, by number; the last may be cut off."""
    rows = {}
    for line in ROWS.read_text().splitlines() if ROWS.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows[row["number"]] = row
    return rows


def report(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts what became of the programs."""
    reasons = Counter(row["why"].split("; ")[0] for row in rows if row["became"] == "eager")
    return {
        "seed": SEED,
        "programs": len(rows),
        **{k: sum(r["became"] == k for r in rows) for k in ("captured", "eager", "wrong")},
        "stock fails": sum(row["became"] == "stock fails" for row in rows),
        "compiled": sum(row["compiled"] and row["became"] == "captured" for row in rows),
        "reasons that are not true": [r["number"] for r in rows if not r["true"]],
        "wrong programs": [r["number"] for r in rows if r["became"] == "wrong"],
        "reasons": dict(reasons.most_common()),
    }


def main(count: int) -> dict[str, Any]:
    """Runs the programs that have not been run."""
    ROWS.parent.mkdir(exist_ok=True)
    rows = done()
    with ROWS.open("a") as lines:
        lines.write("\n")  # the last line may be cut off
        for number in range(count):
            if number in rows:
                continue
            rows[number] = row = one(number, compiled=number % COMPILED == 7)
            lines.write(json.dumps(row) + "\n")
            lines.flush()
            if row["became"] == "wrong" or not row["true"]:
                print(number, row["became"], row["why"], flush=True)
    return report([rows[number] for number in range(count)])


if __name__ == "__main__":
    parser = common.Parser(__doc__, smoke="20 programs, no figure")
    parser.add_argument("--show", type=int, help="the number of a program")
    parser.add_argument("--count", type=int, default=COUNT)
    options = parser.options()
    if options.show is not None:
        print(numbered(SEED, options.show), one(options.show, compiled=False))
    elif options.smoke:
        print(report([one(number, compiled=False) for number in range(20)]))
    else:
        result = main(options.count)
        print(json.dumps(result, indent=2))
        common.write("random_programs", result)
