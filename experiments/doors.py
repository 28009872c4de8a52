"""All that people have data in: read right, or refused in a line that names what helps.

    python experiments/doors.py             # results/doors.json: every form of data
    python experiments/doors.py --timing    # results/doors_timing.json, of the tables it names
    python experiments/doors.py --table     # results/doors.md and doors_timing.md of both

The packages of ``pip install '.[data]' sparse`` hold some of it. A form is read as it comes, with
no rows held out, and what was read is compared with what was written: numbers within a rounding of
float32, names, kinds, labels, and words and dates as the schema decodes them. Silence where
something was decided is no reading either: the line that is due is looked for.

``--timing`` reads tables of text by :func:`pyro_vae.data.load`, pandas and polars in turns, each
time in a process of its own that has read a small one before, on one thread. The peak memory is
what the kernel has seen of the process while it read, less what it held before.
"""

from __future__ import annotations

import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import common
import numpy as np
import pandas as pd

import pyro_vae as pv

ROUNDING = 2.0**-23
ROWS, ROUNDS, WIDTH, BLOCK = (10_000, 100_000, 1_000_000), 3, 100, 10_000
TOOLS = ("pandas.read_csv", "polars.read_csv", "pv.data.load")


class _Lines(logging.Handler):
    """What was said."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


@contextmanager
def _listening() -> Iterator[_Lines]:
    lines, log = _Lines(), logging.getLogger("pyro_vae")
    log.addHandler(lines)
    propagate, log.propagate = log.propagate, False
    try:
        yield lines
    finally:
        log.removeHandler(lines)
        log.propagate = propagate


def _apart(found: Any, true: Any) -> str:
    """What is wrong with numbers, or nothing."""
    found, true = np.asarray(found, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if found.shape != true.shape:
        return f"shape {found.shape}, not {true.shape}"
    close = np.abs(found - true) <= ROUNDING * np.abs(true)
    wrong = ~(close | (np.isnan(found) & np.isnan(true)))
    return f"{found[wrong][0]} for {true[wrong][0]}" if wrong.any() else ""


def _unlike(found: pd.DataFrame, true: pd.DataFrame) -> str:
    """What is wrong with a table, or nothing."""
    for name in true.columns:
        if name not in found:
            return f"no column {name}"
        own, other = found[name], true[name].reset_index(drop=True)
        if pd.api.types.is_numeric_dtype(other.dtype):
            if wrong := _apart(own.to_numpy(dtype=np.float64, na_value=np.nan), other):
                return f"{name}: {wrong}"
            continue
        pairs = zip(own.astype(object), other.astype(object), strict=True)
        for one, two in pairs:
            if isinstance(one, pd.Timestamp) and isinstance(two, str):
                two = pd.Timestamp(two)
            if not (pd.isna(one) and pd.isna(two)) and str(one) != str(two):
                return f"{name}: {one!r} for {two!r}"
    return ""


def _misread(data: pv.data.Dataset, gives: Any, said: list[str]) -> str:
    """What was read otherwise than it was written, or nothing."""
    if gives.x is not None and (wrong := _apart(data.train, gives.x)):
        return wrong
    if gives.names is not None and list(data.names) != gives.names:
        return f"names {list(data.names)}"
    for name, kind in gives.kinds.items():
        found = data.schema[name].kind if data.schema is not None else "none"
        if found != kind:
            return f"{name} is {found}, not {kind}"
    if gives.table is not None:
        if data.schema is None:
            return "no schema"
        if wrong := _unlike(data.schema.decode(data.train), gives.table):
            return wrong
    if gives.labels is not None and list(data.labels["train"]) != list(gives.labels):
        return f"labels {data.labels['train']}"
    return "" if any(gives.says in line for line in ("", *said)) and (
        not gives.says or any(gives.says in line for line in said)
    ) else f"nothing said of {gives.says!r}"  # fmt: skip


def judged(make: Any, options: dict[str, Any], wanted: Any, folder: Path) -> tuple[str, str]:
    """What came of one form, and what is to know about it."""
    with _listening() as lines, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data = pv.data.load(make(folder), **{"validation": 0, "test": 0} | options)
        except ValueError as error:
            line = str(error)
            if not hasattr(wanted, "x"):
                lost = [name for name in wanted.names if name not in line]
                one = "\n" not in line
                return ("refused", line) if not lost and one else ("unnamed", f"{lost}: {line}")
            return "refused wrongly", line
        except Exception as error:  # whatever it is, that is no line
            return "traceback", f"{type(error).__name__}: {error}"
    if not hasattr(wanted, "x"):
        return "misread", "taken, and not refused"
    wrong = _misread(data, wanted, lines.said)
    return ("misread", wrong) if wrong else ("right", "")


def tried() -> list[dict[str, str]]:
    """Every form, with what came of it."""
    import doors_cases as files
    import doors_objects as objects

    groups = {
        "text, first row": files.HEADERS, "text, signs": files.SIGNS,
        "text, missing": files.MISSING, "text, columns": files.COLUMNS | files.ROLES,
        "files": files.FILES,
        "arrays and images in files": files.ARRAYS, "tables": objects.TABLES,
        "containers": objects.CONTAINERS | objects.DATA_SETS,
        "arrays and others": objects.OTHERS,
    }  # fmt: skip
    rows = []
    for group, cases in groups.items():
        for name, (make, options, wanted) in cases.items():
            with tempfile.TemporaryDirectory() as folder:
                came, note = judged(make, options, wanted, Path(folder))
            note = note.replace(f"{folder}/", "").replace(folder, "FOLDER")
            rows.append({"group": group, "form": name, "came": came, "note": note})
            if came not in ("right", "refused"):
                print(f"{group}: {name}: {came}: {note}", flush=True)
    for name, call in objects.CALLS.items():
        wrong = call()
        came = "misread" if wrong else "right"
        rows.append({"group": "functions", "form": name, "came": came, "note": wrong})
        if wrong:
            print(f"functions: {name}: {wrong}", flush=True)
    return rows


# --- Timing ---------------------------------------------------------------------------------------

READING = """
import os, sys, time
tool, small, path = sys.argv[1:]
if tool == "pandas.read_csv":
    import pandas; read = pandas.read_csv
elif tool == "polars.read_csv":
    import polars; read = polars.read_csv
else:
    import logging, pyro_vae; read = pyro_vae.data.load
    logging.getLogger("pyro_vae").setLevel(logging.ERROR)
def held(what):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(what)) * 1024
read(small)
before = held("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
began = time.perf_counter(), time.process_time()
table = read(path)
ended = time.perf_counter(), time.process_time()
print(ended[0] - began[0], ended[1] - began[1], held("VmHWM") - before)
"""


def _block(mixed: bool) -> pd.DataFrame:
    """Ten thousand rows."""
    random = np.random.default_rng(0)
    values = random.normal(size=(BLOCK, WIDTH))
    frame = pd.DataFrame(values, columns=[f"c{i}" for i in range(WIDTH)])
    if mixed:
        days = pd.Timestamp("2020-01-01") + pd.to_timedelta(random.integers(0, 2000, BLOCK), "D")
        for i in range(60, 80):
            frame[f"c{i}"] = random.poisson(3.0, BLOCK)
        for i in range(80, 90):
            frame[f"c{i}"] = random.choice(["red", "green", "blue", "black", "white"], BLOCK)
        for i in range(90, 95):
            frame[f"c{i}"] = days.strftime("%Y-%m-%d")
        for i in range(95, 100):
            frame[f"c{i}"] = random.random(BLOCK) < 0.3
    return frame


def _written(path: Path, rows: int, mixed: bool) -> Path:
    """A table of text, of blocks that are the same."""
    frame = _block(mixed)
    body = frame.to_csv(index=False, header=False, float_format="%.8g")
    with path.open("w") as file:
        file.write(",".join(frame.columns) + "\n")
        for _ in range(rows // BLOCK):
            file.write(body)
    return path


def timed(rows: int, mixed: bool, rounds: int) -> dict[str, dict[str, float]]:
    """Medians of each tool for a table, in turns."""
    own: dict[str, list[list[float]]] = {tool: [] for tool in TOOLS}
    with tempfile.TemporaryDirectory() as folder:
        small = _written(Path(folder) / "small.csv", BLOCK, True)
        path = _written(Path(folder) / "t.csv", rows, mixed)
        for _ in range(rounds):
            for tool in TOOLS:
                command = [sys.executable, "-c", READING, tool, str(small), str(path)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                own[tool].append([float(each) for each in done.stdout.split()])
                print(tool, *own[tool][-1], flush=True)
    names = ("seconds", "of the processor", "bytes")
    return {
        tool: dict(zip(names, map(statistics.median, zip(*each, strict=True)), strict=True))
        for tool, each in own.items()
    }


def timing(names: list[str], smoke: bool) -> None:
    """Times tables, all unless some are named, and keeps what is known of others."""
    import polars

    libraries = {"pandas": pd.__version__, "polars": polars.__version__}
    for name, (rows, mixed) in _sizes(smoke).items():
        if names and name not in names:
            continue
        found = {"rows": rows, "rounds": 1 if smoke else ROUNDS, "libraries": libraries}
        found["tools"] = timed(rows, mixed, found["rounds"])
        if not smoke:
            known = [each["tables"] for each in common.read("doors_timing.json")]
            common.write("doors_timing", {"tables": (known[0] if known else {}) | {name: found}})


# --- Tables ---------------------------------------------------------------------------------------


def table(rows: list[dict[str, str]]) -> str:
    """A row for each group, as Markdown."""
    lines = ["| group | forms | read right | refused, and what helps is named | anything else |"]
    lines.append("|---|---:|---:|---:|---:|")
    groups = list(dict.fromkeys(row["group"] for row in rows))
    for group in (*groups, None):
        came = Counter(row["came"] for row in rows if group in (None, row["group"]))
        right, refused = came.pop("right", 0), came.pop("refused", 0)
        others = sum(came.values())
        cells = [group or "all", right + refused + others, right, refused, others]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def timing_table(result: dict[str, Any]) -> str:
    """A row for each table and tool, as Markdown."""
    lines = ["| table | reader | seconds | ÷ pandas | peak memory, MB | ÷ table in float64 |"]
    lines.append("|---|---|---:|---:|---:|---:|")
    order = [name for name in _sizes(False) if name in result["tables"]]
    for name in order:
        found = result["tables"][name]
        for tool, own in found["tools"].items():
            times = own["of the processor"] / found["tools"][TOOLS[0]]["of the processor"]
            lines.append(
                f"| {name} | `{tool}` | {own['of the processor']:.2f} | {times:.2f} "
                f"| {own['bytes'] / 1e6:,.0f} | {own['bytes'] / (8 * WIDTH * found['rows']):.2f} |"
            )
    libraries = result["tables"][order[0]]["libraries"]
    of = ", ".join(f"{name} {number}" for name, number in libraries.items())
    note = f"Medians of {ROUNDS} rounds, seconds of the processor on one thread of a shared machine"
    note += f"; {of}; {result['environment']['cpu']}. x in float32 is half of a table in float64."
    return "\n".join(lines) + f"\n\n{note}\n"


def _sizes(smoke: bool) -> dict[str, tuple[int, bool]]:
    if smoke:
        return {"10,000 × 100 numbers": (ROWS[0], False)}
    sizes = {f"{rows:,} × {WIDTH} numbers": (rows, False) for rows in ROWS}
    return sizes | {f"{ROWS[1]:,} × {WIDTH}, mixed": (ROWS[1], True)}


def main() -> None:
    """Runs what was asked for."""
    parser = common.Parser(__doc__, table="the tables of docs/data.md")
    parser.add_argument("--timing", nargs="*", help="time and memory, of all tables or some")
    options = parser.options()
    began = time.perf_counter()
    if options.timing is not None:
        timing(options.timing, options.smoke)
    elif not options.table:
        rows = tried()
        came = Counter(row["came"] for row in rows)
        print(f"{len(rows)} forms: {dict(came)}, {time.perf_counter() - began:.0f} s")
        if not options.smoke:
            common.write("doors", {"forms": rows, "came": dict(came)})
        if came.keys() - {"right", "refused"}:
            raise SystemExit(1)
    if options.table:
        for name, make in (("doors", lambda r: table(r["forms"])), ("doors_timing", timing_table)):
            result = json.loads((common.RESULTS / f"{name}.json").read_text())
            (common.RESULTS / f"{name}.md").write_text(make(result), encoding="utf-8")


if __name__ == "__main__":
    main()
