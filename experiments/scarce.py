"""Every verb on a disk that fills up, and with little memory: one line, and nothing lost.

    python experiments/scarce.py           # about 10 minutes on one core; mounts small file systems
    python experiments/scarce.py --smoke   # two verbs, no figure

Each verb runs in a process of its own, forked from this one, in a copy of a finished run on a file
system of its own with so many kilobytes left, or with an address space that ends so many megabytes
above what is in use. It must end well, or in one line and exit code 2; the run that it reads must
be what it was. What a fit leaves is resumed, with space and memory again, where a folder of it is
left, and must be the run that nothing happened to.
"""

from __future__ import annotations

import compileall
import contextlib
import json
import os
import resource
import shutil
import subprocess
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import common
import numpy as np
import torch._inductor.compile_fx  # noqa: F401 - once, for all processes
from killed import contents, same
from reliable import finished, forked

import pyro_vae
from pyro_vae.cli import main
from pyro_vae.training.resume import is_finished

QUICK = (
    "--latent-dim 2 --encoder.hidden [64] --decoder.hidden [64] --num-samples 20 --compile false"
)
FIT = f"fit t.csv {QUICK} --device cpu --epochs 3 --checkpoint-every 2 --json --out new"
VERBS = {
    "fit": FIT,
    "evaluate": "evaluate run --num-samples 50",
    "check": "check run --num-draws 50 --out made.nc",
    "report": "report run --num-samples 20 --num-draws 20 --out made.html",
    "select": f"select t.csv {QUICK} --epochs 2 --folds 2 --objective.beta 1,2 --out made",
    "sample": "sample run --num-samples 5000 --out made.csv",
    "impute": "impute run t.csv --num-samples 20 --out made.csv",
    "encode": "encode run t.csv --out made.csv",
    "compare": "compare run other --num-samples 50",
}
KILOBYTES, MEGABYTES = (0, 8, 40, 120, 200, 400), (1, 12, 40, 100, 200)
DISK = 6000  # kilobytes of the file system


def call(argv: str, said: Path) -> None:
    """Runs a command, whose words go to a file; its exit code is that of the process."""
    lines = said.open("w")
    with contextlib.redirect_stderr(lines), contextlib.redirect_stdout(lines):
        try:
            code = main(argv.split())
        except BaseException:
            traceback.print_exc(file=lines)
            code = 99
    with contextlib.suppress(OSError):
        lines.close()
    os._exit(code)


def with_memory(megabytes: int, argv: str, said: Path) -> None:
    """Runs a command with so much more address space."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, resource.RLIM_INFINITY))
    call(argv, said)


@contextlib.contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """Mounts a small file system."""
    folder.mkdir()
    subprocess.run(f"mount -t tmpfs -o size={DISK}k tmpfs {folder}".split(), check=True)
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)
        subprocess.run(["umount", "-l", str(folder)], check=True)


def filled(folder: Path, kilobytes: int) -> None:
    """Fills a file system up, but for so many kilobytes."""
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    with (folder / "filler").open("wb") as file:
        file.write(bytes(max(0, free - kilobytes * 1024)))


def shortage(what: str, amount: int, argv: str, said: Path, folder: Path) -> None:
    """Runs a command where something is short."""
    if what == "disk":
        filled(folder, amount)
        call(argv, said)
    with_memory(amount, argv, said)


def outcome(status: int, said: str) -> str:
    """What came of one command."""
    if not os.WIFEXITED(status):
        return f"killed by signal {os.WTERMSIG(status)}"
    code = os.waitstatus_to_exitcode(status)
    if "Traceback" in said or code not in (0, 2):
        return f"exit code {code}: {said[-1200:]}"
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if code == 2 and len(errors) != 1:
        return f"not one line: {said[-500:]}"
    return "correct" if code == 0 else "one line"


def trial(whole: Path, folder: Path, argv: str, short: Callable[[Path], object], said: Path) -> str:
    """Runs a command in a copy of a folder where something is short; what came of it."""
    with disk(folder) as here:
        shutil.copytree(whole, here, dirs_exist_ok=True)
        before = {path: path.read_bytes() for path in (here / "run").iterdir()}
        status = os.waitpid(forked(partial(short, here)), 0)[1]
        text = said.read_text()
        came = outcome(status, text)
        (here / "filler").unlink(missing_ok=True)
        if {path: path.read_bytes() for path in (here / "run").iterdir()} != before:
            return f"the run that was read is another: {text}"
        if came == "one line" and argv.startswith("fit"):
            print("  ", text.strip().splitlines()[-1][:200], flush=True)
            resumed = f"{argv} --resume" if (here / "new").exists() else argv
            if not finished(forked(partial(call, resumed, said))):
                return f"lost: {text[-300:]} {said.read_text()[-1500:]}"
            if not same(contents(here / "new"), contents(whole.parent / "fitted")):
                return f"another run: {text[-300:]}"
        elif came == "correct" and argv.startswith("fit") and not is_finished(here / "new"):
            return "not finished"
        elif came == "one line" and (left := sorted(p.name for p in here.glob("*made*"))):
            # A selection keeps the fits that are done, and goes on with them.
            if not argv.startswith("select") or left != ["made"]:
                return f"left behind: {left} {text[-200:]}"
            if not finished(forked(partial(call, f"{argv} --resume", said))):
                return f"lost: {text[-300:]} {said.read_text()[-1500:]}"
    return came


def prepare(whole: Path, said: Path) -> None:
    """Fits the runs that verbs read, and the one that a fit must come to.

    The package is compiled as an installer does it: Python's own compiler, without memory, may say
    that the syntax is wrong.
    """
    compileall.compile_dir(Path(pyro_vae.__file__).parent, quiet=1)
    os.chdir(whole)
    x = np.random.default_rng(0).normal(size=(120, 6)) @ np.random.default_rng(1).normal(
        size=(6, 6)
    )
    np.savetxt("t.csv", x, delimiter=",", fmt="%.3f", header="a,b,c,d,e,f", comments="")
    for out in ("run", "other", "new"):
        assert finished(forked(partial(call, FIT.replace("new", out), said))), said.read_text()
    Path("new").rename(whole.parent / "fitted")


def run(verbs: dict[str, str], keep: bool) -> None:
    """Runs each verb with each shortage."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        home, said = Path(scratch), Path(scratch, "said")
        (home / "whole").mkdir()
        prepare(home / "whole", said)
        for what, amounts in (("disk", KILOBYTES), ("memory", MEGABYTES)):
            counts: Counter[str] = Counter()
            for verb, argv in verbs.items():
                for amount in amounts:
                    short = partial(shortage, what, amount, argv, said)
                    came = trial(home / "whole", home / "disk", argv, short, said)
                    (home / "disk").rmdir()
                    print(f"{verb}, {what} {amount}: {came}", flush=True)
                    counts[came if came in ("correct", "one line") else "wrong"] += 1
            unit = "kilobytes of disk" if what == "disk" else "megabytes of address space"
            which = ", ".join(map(str, amounts))
            came = f"{counts['one line']} ended in one line with nothing lost, {counts['correct']} "
            came += f"went well, {counts['wrong']} anything else"
            rows.append(
                {"what": f"{', '.join(verbs)}, each with {which} {unit} left", "came_of_it": came}
            )
            if keep:
                common.write("scarce", {"rows": rows})
    print(json.dumps(rows))


if __name__ == "__main__":
    parser = common.Parser(__doc__)
    smoke = parser.options().smoke
    run({"fit": VERBS["fit"], "sample": VERBS["sample"]} if smoke else VERBS, keep=not smoke)
