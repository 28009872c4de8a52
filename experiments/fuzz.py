"""Fuzzing of the command line: one line and exit code 2, or a correct run.

    python experiments/fuzz.py           # 5,000 in this process, 50 in their own: 30 minutes
    python experiments/fuzz.py --smoke   # 200 and 2, no figure

Hypothesis generates command lines, config files, arrays and CSV files (``fuzz_cases.py``). An error
must be one line without a traceback, and what is refused must leave nothing behind. Pictures are
not drawn.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import common
from fuzz_cases import Case, command, config, numbers, text
from hypothesis import HealthCheck, given, settings

from pyro_vae import report
from pyro_vae.cli import main

KINDS = {"command lines": command, "configs": config, "arrays": numbers, "CSV files": text}


class Slow(BaseException):
    """It takes too long."""


def outcome(argv: list[str], own_process: bool) -> tuple[int | None, str]:
    """Runs a command; returns its exit code and what it printed on standard error."""
    if own_process:
        script = Path(sys.executable).with_name("pyro-vae")
        done = subprocess.run([script, *argv], capture_output=True, text=True, timeout=300)
        return done.returncode, done.stderr
    printed = io.StringIO()

    def late(signum: int, frame: object) -> None:
        raise Slow

    signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
            return main(argv), printed.getvalue()
    except BaseException:
        return None, traceback.format_exc()
    finally:
        signal.alarm(0)


def verdict(code: Any, printed: str) -> str:
    """Returns what an exit code and a text say: correct, refused in one line, or what is wrong."""
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    if code == 0:
        return "correct"
    if code != 2 or "Traceback" in printed:
        return f"exit code {code}: {printed[-1500:]}"
    if len(errors) != 1 or not printed.endswith(errors[0] + "\n"):
        return f"not one line: {printed[-500:]}"
    return "refused"


def judge(argv: list[str], files: dict[str, bytes], own_process: bool) -> str:
    """Returns what became of a command: correct, refused, or what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "a", "b")
        home.mkdir(parents=True)
        os.chdir(home)
        Path("digits.csv").write_text("\n".join(["0,1,0", "1,0,1", "1,1,0"] * 10))
        for name, content in files.items():
            Path(name).write_bytes(content)
        before = sorted(Path(folder).rglob("*"))
        code, printed = outcome(argv, own_process)
        after = sorted(Path(folder).rglob("*"))
        os.chdir(common.HERE)
    found = verdict(code, printed)
    if found == "refused" and before != after and "--resume goes on with" not in printed:
        return f"left behind: {sorted(set(after) - set(before))}"
    return found


def tally(cases: list[Case], own_process: bool) -> dict[str, int]:
    """Runs commands; counts what was refused and what was right, and prints what is wrong."""
    counts = {"refused": 0, "correct": 0, "wrong": 0}
    for case in cases:
        found = judge(*case, own_process)
        counts[found if found in counts else "wrong"] += 1
        if found not in counts:
            print(f"{case}\n{found}\n", flush=True)
    return counts


def generated(kind: Any, count: int) -> list[Case]:
    """Returns cases of one kind, the same ones each time."""
    cases: list[Case] = []

    def collect(case: Case) -> None:
        cases.append(case)

    quiet = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
    settings(max_examples=count, derandomize=True, **quiet)(given(kind())(collect))()
    return cases


def row(counts: dict[str, int], what: str) -> dict[str, str]:
    """Returns a row of the table."""
    came = "{refused:,} refused in one line with nothing left behind, {correct:,} correct runs, "
    came += "{wrong} anything else"
    return {"what": f"{sum(counts.values()):,} {what}", "came_of_it": came.format(**counts)}


def run(commands: int, processes: int, keep: bool) -> None:
    """Runs one kind after the other, and a few of all once more as a user does."""
    report.pictures = lambda *args: []
    kept: list[Case] = []
    result: dict[str, Any] = {"rows": []}
    for name, kind in KINDS.items():
        cases = generated(kind, commands // len(KINDS))
        kept += cases
        result[name] = tally(cases, own_process=False)
        result["rows"].append(row(result[name], f"generated {name}"))
        print(result["rows"][-1], flush=True)
        if keep:
            common.write("fuzz", result)
    own = tally(random.Random(0).sample(kept, processes), own_process=True)
    result["own process"] = own
    result["rows"].append(row(own, "of these, each in a process of its own"))
    print(result["rows"][-1])
    if keep:
        common.write("fuzz", result)


if __name__ == "__main__":
    parser = common.Parser(__doc__)
    smoke = parser.options().smoke
    run(200 if smoke else 5000, 2 if smoke else 50, keep=not smoke)
