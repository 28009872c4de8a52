"""Run folders that are damaged, truncated or from a stranger: what is detected, what resumes.

    python experiments/damage.py           # about 2 minutes on one core
    python experiments/damage.py --smoke   # fewer, no figure

200 cuts and 200 changed bytes of a checkpoint; a file system that fills up while one is written;
folders that were made to run something, or to take all memory.
"""

from __future__ import annotations

import io
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stderr, suppress
from pathlib import Path

import common
from reliable import X, fit, model, same

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.training.resume import RunInProgress

sys.path.insert(0, str(common.HERE.parent / "tests"))
import hostile  # the tests have the same folders


class Left(BaseException):
    """Leaves a fit as no error does."""


def unfinished(folder: Path) -> None:
    """Writes a run folder with checkpoints of steps 5 and 10."""

    def leave(line: object) -> None:
        if len(RunInProgress(folder, 5, 3, False).checkpoints) == 2:
            raise Left

    with suppress(Left):
        fit(model(), X, out=folder, checkpoint_every=5, on_epoch=leave)


def damaged(folder: Path, count: int) -> dict[str, str]:
    """Cuts a checkpoint many times, and changes as many bytes of it."""
    whole, rng = fit(model(), X), random.Random(0)
    unfinished(folder)
    progress = RunInProgress(folder, 5, 3, True)
    *_, before, last = progress.checkpoints
    content = last.read_bytes()
    cuts = [content[: rng.randrange(len(content))] for _ in range(count)]
    places = [rng.randrange(len(content)) for _ in range(count)]
    flips = [content[:i] + bytes([content[i] ^ 255]) + content[i + 1 :] for i in places]
    found = used = 0
    for each in cuts + flips:
        last.write_bytes(each)
        try:
            fit(model(), X, out=folder, resume=True)
        except ValueError as error:
            found += str(last) in str(error) and "\n" not in str(error)
        state = RunInProgress(folder, 5, 3, "previous").read()
        used += state is not None and state["step"] == int(before.name[5:15])
    resumed = same(whole, fit(model(), X, out=folder, resume="previous"))
    return {
        "what": f"a checkpoint cut at {count} random lengths, {count} random bytes of it changed",
        "came_of_it": f"{found} of {2 * count} found out, the one before used in {used}; "
        f"resumed from that one: {'bit-identical' if resumed else 'different'}",
    }


def full_disk(folder: Path, _: int) -> dict[str, str]:
    """Fits on a file system of half a megabyte, then gives it more."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True).returncode == 0
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    whole = fit(model(200), X)
    options = {"out": folder / "run", "checkpoint_every": 2, "keep": 9}
    message = ""
    try:
        if not mounted:  # the next best: files of one checkpoint, and not of more
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            fit(model(200), X, **options | {"epochs": 1, "out": folder / "probe"}, on_epoch=None)
            resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, limits[1]))
        fit(model(200), X, **options)
    except OSError as error:
        message = str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    stands = [path.name[:15] for path in sorted((folder / "run" / "checkpoints").glob("step-*"))]
    if mounted:
        subprocess.run(["mount", "-o", "remount,size=50m", str(folder)], check=True)
    resumed = same(whole, fit(model(200), X, **options, resume=True))
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)
    print(message)
    how = "a tmpfs of 600 kB" if mounted else "a limit on file sizes (no mount allowed)"
    return {
        "what": f"a file system that fills up while a checkpoint is written: {how}",
        "came_of_it": f'"{message.partition(" in ")[0]}: {message.rpartition(": ")[2]}"; '
        f"resumed from {stands[-1]}: {'bit-identical' if resumed else 'different'}",
    }


def strange(folder: Path, _: int) -> dict[str, str]:
    """Reads folders from a stranger by the command line."""
    run, refused, slowest = folder / "run", 0, 0.0
    faults = list(hostile.every(run, folder))
    for what in faults:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        pv.save(model(), run)
        hostile.every(run, folder)[what]()
        stderr = io.StringIO()
        began = time.thread_time()
        with redirect_stderr(stderr):
            code = main(["evaluate", str(run), "--json"])
        slowest = max(slowest, time.thread_time() - began)
        printed = stderr.getvalue()
        ran = (folder / "ran").exists()
        one_line = printed.startswith("error: ") and printed.count("\n") == 1
        refused += code == 2 and one_line and "model." in printed and not ran
        print(f"{what}: {printed.strip()}")
    return {
        "what": f"{len(faults)} folders from a stranger (`tests/hostile.py`): pickles, links, "
        "pipes, devices, headers that overlap, overflow or name a tensor twice, weights that are "
        "no numbers, classes, sizes and depths made up",
        "came_of_it": f"{refused} of {len(faults)} refused in one line, nothing run; the slowest "
        f"after {slowest:.1f} s of the processor",
    }


if __name__ == "__main__":
    parser = common.Parser(__doc__)
    smoke = parser.options().smoke
    rows = []
    for fault in (damaged, full_disk, strange):
        with tempfile.TemporaryDirectory() as scratch:
            rows.append(fault(Path(scratch, "run"), 20 if smoke else 200))
        print(rows[-1], flush=True)
    if not smoke:
        common.write("damage", {"rows": rows})
