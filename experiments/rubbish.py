"""Generated rubbish on the command line: one line and exit code 2, or a correct run.

    python experiments/rubbish.py           # 5,000 in this process, 50 in their own: 30 minutes
    python experiments/rubbish.py --smoke   # 200 and 2, no figure

Hypothesis makes command lines, config files, arrays and CSV files. Whatever is said must be one
line without a traceback, and whatever is refused must leave nothing behind. Pictures are not drawn.
"""

from __future__ import annotations

import argparse
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
import hypothesis.extra.numpy as arrays
import numpy as np
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyro_vae import likelihoods, priors, report
from pyro_vae.cli import main
from pyro_vae.cli.fit import DEFAULT_PARTS, fit_parser
from pyro_vae.cli.parsing import parts_of

QUICK = ["--encoder.hidden", "[4]", "--decoder.hidden", "[4]", "--latent-dim", "2", "--epochs", "1"]
QUICK += ["--num-samples", "5", "--compile", "false", "--device", "cpu", "--json"]
LONG = ("--epochs", "--num-samples", "--compile", "--patience", "--config", "--data-root")
FLAGS = [
    flag
    for flag in fit_parser(parts_of([], {}, DEFAULT_PARTS), "fit", "").flags()
    if flag not in LONG and not flag.endswith(".help")
]
VERBS = ["fit", "evaluate", "sample", "check", "compare", "report", "select", "fitt", "", "--fit"]
word = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
number = st.one_of(
    st.integers(-3, 40).map(str),
    st.sampled_from(["nan", "inf", "-inf", "1e400", "-0", "1e-320", "0x10", str(2**70), "1_0"]),
    st.floats().map(str),
)
value = st.one_of(
    word,
    number,
    st.sampled_from(["true", "null", "[]", "[4,4]", "[0]", "[x]", "{}", "{a: 1}", "!!python/none"]),
    st.sampled_from(["digits.csv", "../x", "/", ".", "~", "/dev/null", "os.system", "Normal"]),
)
option = st.tuples(st.sampled_from([*FLAGS, "--likelihood", "--prior", "--nonsense"]), value)
leaf = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), word)
tree = st.recursive(
    leaf,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(word, inner, max_size=3)),
    max_leaves=6,
)
key = st.one_of(st.sampled_from([flag[2:].replace("-", "_") for flag in FLAGS]), word)
law = st.sampled_from([*likelihoods.__all__, "Nothing"])
dtype = st.one_of(
    arrays.floating_dtypes(endianness="="),
    arrays.integer_dtypes(),
    arrays.boolean_dtypes(),
    arrays.complex_number_dtypes(),
    arrays.unicode_string_dtypes(max_len=3),
)
array = arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6))
cell = st.one_of(number, word, st.just(""), st.just('"'), st.just("1"))
table = st.lists(st.lists(cell, max_size=4).map(",".join), max_size=12).map("\n".join)


@st.composite
def command(draw: Any) -> tuple[list[str], dict[str, bytes]]:
    """A command line: options that are, values that are not, or the other way round."""
    verb = draw(st.sampled_from(VERBS))
    operand = draw(st.one_of(st.sampled_from(["digits.csv", "digts", "nowhere"]), word))
    options = draw(st.lists(option, max_size=3))
    flat = [token for pair in options for token in pair]
    flat = draw(st.permutations(flat)) if draw(st.integers(0, 4)) == 0 else flat
    return [verb, operand, *(QUICK if verb == "fit" else []), *flat], {}


@st.composite
def config(draw: Any) -> tuple[list[str], dict[str, bytes]]:
    """A config file."""
    content = draw(st.one_of(st.dictionaries(key, tree, max_size=3), tree))
    text = draw(st.one_of(st.just(yaml.safe_dump(content)), word, st.just(f"{content!r}: !!a {{")))
    data = text.encode() if draw(st.integers(0, 3)) else draw(st.binary(max_size=40))
    return ["fit", "digits.csv", *QUICK, "--config", "made.yaml"], {"made.yaml": data}


@st.composite
def numbers(draw: Any) -> tuple[list[str], dict[str, bytes]]:
    """An array, perhaps a damaged one."""
    file, suffix = io.BytesIO(), draw(st.sampled_from([".npy", ".npz"]))
    if suffix == ".npy":
        np.save(file, draw(array))
    else:
        names = st.sampled_from(["x", "train", "test", "y", "y_train", "other"])
        np.savez(file, **draw(st.dictionaries(names, array, max_size=3)))
    content = file.getvalue()
    if draw(st.integers(0, 3)) == 0:
        content = content[: draw(st.integers(0, len(content)))]
    name = f"made{suffix}"
    return ["fit", name, *QUICK, "--likelihood", draw(law)], {name: content}


@st.composite
def text(draw: Any) -> tuple[list[str], dict[str, bytes]]:
    """A CSV file."""
    content = draw(table).encode() if draw(st.integers(0, 5)) else draw(st.binary(max_size=60))
    argv = ["fit", "made.csv", *QUICK, "--likelihood", draw(law)]
    return [*argv, "--prior", draw(st.sampled_from(priors.__all__))], {"made.csv": content}


class Slow(BaseException):
    """It takes too long."""


def outcome(argv: list[str], own_process: bool) -> tuple[int | None, str]:
    """Runs a command; returns its exit code and what it said on standard error."""
    if own_process:
        script = Path(sys.executable).with_name("pyro-vae")
        done = subprocess.run([script, *argv], capture_output=True, text=True, timeout=300)
        return done.returncode, done.stderr
    said = io.StringIO()

    def late(signum: int, frame: object) -> None:
        raise Slow

    signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            return main(argv), said.getvalue()
    except BaseException:
        return None, traceback.format_exc()
    finally:
        signal.alarm(0)


def judge(argv: list[str], files: dict[str, bytes], own_process: bool = False) -> str:
    """Returns what became of a command: correct, refused, or what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "a", "b")
        home.mkdir(parents=True)
        os.chdir(home)
        Path("digits.csv").write_text("\n".join(["0,1,0", "1,0,1", "1,1,0"] * 10))
        for name, content in files.items():
            Path(name).write_bytes(content)
        before = sorted(Path(folder).rglob("*"))
        code, said = outcome(argv, own_process)
        after = sorted(Path(folder).rglob("*"))
        os.chdir(common.HERE)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if code == 0:
        return "correct"
    if code != 2 or "Traceback" in said:
        return f"exit code {code}: {said[-1500:]}"
    if len(errors) != 1 or not said.endswith(errors[0] + "\n"):
        return f"not one line: {said[-500:]}"
    if before != after and "--resume goes on with" not in said:
        return f"left behind: {sorted(set(after) - set(before))}"
    return "refused"


def run(commands: int, processes: int) -> dict[str, Any]:
    """Returns how many were refused, and how many were right."""
    report.pictures = lambda *args: []
    counts = {"refused": 0, "correct": 0, "wrong": 0}
    kept: list[tuple[list[str], dict[str, bytes]]] = []

    def count(case: tuple[list[str], dict[str, bytes]], own_process: bool) -> None:
        found = judge(*case, own_process)
        counts[found if found in counts else "wrong"] += 1
        if found not in counts:
            print(f"{case}\n{found}\n", flush=True)

    def one(case: tuple[list[str], dict[str, bytes]]) -> None:
        kept.append(case)
        count(case, own_process=False)

    checks = list(HealthCheck)
    for kind in (command, config, numbers, text):
        limits = settings(
            max_examples=commands // 4, deadline=None, database=None, suppress_health_check=checks
        )
        limits(given(kind())(one))()
        print(kind.__name__, counts, flush=True)
    in_process = dict(counts)
    for case in random.Random(0).sample(kept, min(processes, len(kept))):
        count(case, own_process=True)
    own = {name: count - in_process[name] for name, count in counts.items()}
    print("in their own processes", own, flush=True)
    rows = [
        {
            "what": f"{sum(each.values()):,} generated command lines, configs, arrays and CSV files"
            + where,
            "came_of_it": f"{each['refused']:,} refused in one line with nothing left behind, "
            f"{each['correct']:,} correct runs, {each['wrong']} anything else",
        }
        for each, where in ((in_process, ""), (own, ", each in a process of its own"))
    ]
    return {"rows": rows, "in_process": in_process, "own_process": own}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a minute's check, no figure")
    torch.set_num_threads(1)
    if parser.parse_args().smoke:
        run(200, 2)
    else:
        common.write("rubbish", run(5000, 50))
