"""Run folders whose files are changed at random places: refused in one line, or a correct run.

    python experiments/fuzz_folders.py           # 6,000 changes: about 10 minutes on one core
    python experiments/fuzz_folders.py --smoke   # 100, no figure

Hypothesis chooses a file of a finished run, a place in it, and what is there instead: another kind
of value, a number that is negative, huge or none, a name of something else, or nothing. A verb then
reads the folder. Half of the changes are of ``model.json``, which :func:`pyro_vae.load` reads.
Pictures are not drawn.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import numpy as np
import yaml
from fuzz import generated, verdict
from fuzz_cases import tree
from hypothesis import strategies as st

import pyro_vae as pv
from pyro_vae import report
from pyro_vae.cli import main

COUNT, LATE = 6000, 1.0  # seconds of this thread's own time
FILES = {"fit.json": 1, "data.json": 3, "schema.json": 2, "scores.json": 1, "history.json": 1,
         "engine.json": 1, "config.yaml": 2}  # fmt: skip
VERBS = ["evaluate RUN", "sample RUN", "report RUN", "compare RUN good", "encode RUN t.csv"]
VERBS += ["impute RUN t.csv", "anomalies RUN t.csv", "check RUN --num-draws 20"]
hostile = st.one_of(
    tree,
    st.sampled_from([-1, 0, 10**9, 10**30, 2**63, -(2**63), 1e308, 1e-320, -0.0, True, None, ""]),
    st.sampled_from(
        ["priors.Normal", "networks.MLP", "eval", "../..", "\x1b[2J", "\ud800", "a" * 999]
    ),
    st.sampled_from([[], {}, [[]], [1] * 5000, {"class": "priors.Normal"}, [[[[[[1]]]]]]]),
)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a tree."""
    yield at
    pairs = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, each in pairs:
        yield from places(each, (*at, key))


@st.composite
def change(draw: Any, contents: dict[str, Any]) -> tuple[list[str], dict[str, bytes]]:
    """A verb, and the file of the run that is another, as a case of ``fuzz_cases``."""
    of_model = draw(st.booleans())
    names = [name for name, weight in FILES.items() for _ in range(weight)]
    name = "model.json" if of_model else draw(st.sampled_from(names))
    content = copy.deepcopy(contents[name])
    for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
        *above, last = draw(st.sampled_from([at for at in places(content) if at] or [("x",)]))
        inside = content
        for key in above:
            inside = inside[key]
        if draw(st.integers(0, 4)) == 0 and isinstance(inside, dict):
            inside.pop(last)
        else:
            inside[last] = draw(hostile)
    text = (yaml.safe_dump if name.endswith("yaml") else json.dumps)(content)
    verb = "load" if of_model else draw(st.sampled_from(VERBS))
    return verb.split(), {name: text.encode(errors="surrogatepass")}


def read(argv: list[str]) -> tuple[int | None, str]:
    """Reads the folder ``run``; returns an exit code and what was said."""
    said = io.StringIO()
    try:
        if argv == ["load"]:
            try:
                pv.load("run")
            except ValueError as error:
                return 2, f"error: {error}\n"
            return 0, ""
        argv = [word.replace("RUN", "run") for word in argv]
        if argv[0] in ("evaluate", "check", "report", "compare"):
            argv += ["--num-samples", "5"]
        if argv[0] in ("sample", "report", "encode", "impute", "anomalies"):
            argv += ["--out", "made" + {"sample": ".npy", "report": ".html"}.get(argv[0], ".csv")]
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            return main(argv), said.getvalue()
    except BaseException:
        return None, traceback.format_exc()


def judged(argv: list[str], files: dict[str, bytes], whole: Path) -> str:
    """What came of one change."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(whole, folder, dirs_exist_ok=True)
        os.chdir(folder)
        for name, content in files.items():
            Path("run", name).write_bytes(content)
        began = time.thread_time()
        code, said = read(argv)
        late = time.thread_time() - began > LATE
        os.chdir(common.HERE)
    found = verdict(code, said)
    return "late" if late and found == "refused" else found


def prepare(folder: Path) -> dict[str, Any]:
    """Fits a small run to a table, twice; returns what its files hold."""
    os.chdir(folder)
    rng = np.random.default_rng(0)
    rows = [
        f"{a:.2f},{b:.2f},{'uvw'[c]}"
        for a, b, c in zip(*rng.normal(size=(2, 60)), rng.integers(0, 3, 60), strict=True)
    ]
    Path("t.csv").write_text("\n".join(["a,b,kind", *rows]) + "\n")
    quick = "--epochs 2 --latent-dim 2 --encoder.hidden [4] --decoder.hidden [4] --num-samples 5"
    for out in ("run", "good"):
        argv = f"fit t.csv {quick} --compile false --device cpu --json --out {out}".split()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert main(argv) == 0
    found = {
        name: json.loads(Path("run", name).read_text()) for name in FILES if name.endswith("json")
    }
    found["model.json"] = json.loads(Path("run", "model.json").read_text())
    return found | {"config.yaml": yaml.safe_load(Path("run", "config.yaml").read_text())}


def run(count: int, keep: bool) -> dict[str, Any]:
    """Makes changes and counts what came of them; prints what is wrong."""
    report.pictures = lambda *args: []
    counts = {"refused": 0, "correct": 0, "late": 0, "wrong": 0}
    with tempfile.TemporaryDirectory() as folder:
        contents = prepare(Path(folder))
        for case in generated(lambda: change(contents), count):
            found = judged(*case, Path(folder))
            counts[found if found in counts else "wrong"] += 1
            if found not in ("refused", "correct"):
                print(f"{case}\n{found}\n", flush=True)
    came = f"{counts['refused']:,} refused in one line within a second, {counts['correct']:,} "
    came += f"correct runs, {counts['late']} refused later, {counts['wrong']} anything else"
    what = f"{sum(counts.values()):,} changes of a file of a run, half of them of `model.json`"
    result = counts | {"rows": [{"what": what, "came_of_it": came}]}
    if keep:
        common.write("fuzz_folders", result)
    return result


if __name__ == "__main__":
    parser = common.Parser(__doc__)
    smoke = parser.options().smoke
    print(run(100 if smoke else COUNT, keep=not smoke))
