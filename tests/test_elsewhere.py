"""A run that goes on elsewhere: moved, behind a link, read-only, forked, with another clock."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from stopping import X, build, fit, same_run, signal_at, stopped

import pyro_vae as pv
from pyro_vae._signals import Interrupted
from pyro_vae.training.resume import in_progress

pytestmark = pytest.mark.usefixtures("interruptible")


def test_a_run_that_was_moved_goes_on(tmp_path: Path) -> None:
    """Fails when a checkpoint is looked for where the run was begun."""
    stopped(tmp_path / "run", 6)
    (tmp_path / "far").mkdir()
    (tmp_path / "run").rename(tmp_path / "far" / "other")
    resumed = fit(build(5), X, out=tmp_path / "far" / "other", resume=True)
    assert same_run(fit(build(), X), resumed)
    assert not (tmp_path / "run").exists()


def test_a_run_behind_a_link_goes_on_and_is_locked(tmp_path: Path) -> None:
    """Fails when the lock is of the link, and two processes write to one folder."""
    stopped(tmp_path / "run", 6)
    (tmp_path / "link").symlink_to("run")
    with (
        in_progress(tmp_path / "run", resume=True),
        pytest.raises(ValueError, match="a run folder that no other process is writing to"),
        in_progress(tmp_path / "link", resume=True),
    ):
        pass
    assert same_run(fit(build(), X), fit(build(5), X, out=tmp_path / "link", resume=True))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "run" / "model.json").exists()


def test_a_clock_that_is_set_back_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when a newer checkpoint is told by its time, or seconds become negative."""
    stopped(tmp_path / "run", 6, checkpoint_every=2)
    back = time.time() - 10**8
    for i, path in enumerate(sorted((tmp_path / "run" / "checkpoints").iterdir())):
        os.utime(path, (back - i, back - i))  # the newest is the oldest by the clock
    for clock in ("time", "monotonic", "perf_counter"):
        own = getattr(time, clock)
        monkeypatch.setattr(time, clock, lambda own=own: own() - 10**8)
    resumed = fit(build(5), X, out=tmp_path / "run", resume=True)
    assert same_run(fit(build(), X), resumed)
    assert all(each >= 0 for each in resumed.history["seconds"])


def test_a_run_goes_on_with_other_threads(tmp_path: Path) -> None:
    """By the same numbers but for rounding, which the order of sums decides."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        stopped(tmp_path / "run", 6)
        whole = fit(build(), X)
        torch.set_num_threads(2)
        resumed = fit(build(5), X, out=tmp_path / "run", resume=True)
    finally:
        torch.set_num_threads(before)
    assert resumed.steps == whole.steps
    for name, value in whole.last_weights.items():
        assert torch.allclose(value, resumed.last_weights[name], rtol=1e-3, atol=1e-5), name


def test_a_folder_that_cannot_be_written_to_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a file system that is read-only, for root too. Fails when the run is lost."""
    stopped(tmp_path / "run", 6, checkpoint_every=3)
    folder = tmp_path / "run" / "checkpoints"
    kept = {path: path.read_bytes() for path in folder.iterdir()}
    own = os.open

    def refused(path: Any, flags: int, *mode: Any, **options: Any) -> int:
        if flags & os.O_CREAT and Path(path).is_relative_to(tmp_path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return own(path, flags, *mode, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        says = "step 9 in .*: Read-only file system; step-0000000006 stands; --resume goes on with"
        with pytest.raises(OSError, match=says) as error:
            fit(build(5), X, out=tmp_path / "run", resume=True, checkpoint_every=3)
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in folder.iterdir()} == kept
    assert same_run(fit(build(), X), fit(build(5), X, out=tmp_path / "run", resume=True))


def test_a_fork_after_the_import_goes_on(tmp_path: Path) -> None:
    """Fails when the lock, a generator or a signal handler is that of the parent."""
    whole = fit(build(), X)
    stopped(tmp_path / "run", 6)
    if (pid := os.fork()) == 0:
        code = 1
        try:
            torch.set_num_threads(1)  # a pool of threads is the parent's
            with signal_at(9, signal.SIGTERM), pytest.raises(Interrupted):
                fit(build(5), X, out=tmp_path / "run", resume=True)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert same_run(whole, fit(build(5), X, out=tmp_path / "run", resume=True))


def test_what_is_written_through_a_hard_link_is_a_file_of_its_own(tmp_path: Path) -> None:
    """Fails when a file is written in place: of a copy made by links both would change."""
    run = pv.save(build(), tmp_path / "run")
    (tmp_path / "copy").mkdir()
    for path in run.iterdir():
        os.link(path, tmp_path / "copy" / path.name)
    before = (tmp_path / "copy" / "model.json").read_bytes()
    (run / "model.json").unlink()
    pv.save(build(7), run)
    assert (tmp_path / "copy" / "model.json").read_bytes() == before
    assert pv.load(tmp_path / "copy").state_dict().keys() == build().state_dict().keys()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("word", "code"), [("--version", 0), ("nonsense", 2)])
def test_closed_streams_are_no_traceback(closed: str, word: str, code: int) -> None:
    """Python has None for a stream that is closed; fails when that is flushed."""
    command = f'exec "{sys.executable}" -m pyro_vae.cli {word} {closed}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    wanted = {("--version", "stdout"): "pyro-vae ", ("nonsense", "stderr"): "error: `command`"}
    for name, sign in (("stdout", ">&-"), ("stderr", "2>&-")):
        said = wanted.get((word, name), "")
        shut = sign in closed.split()
        assert getattr(done, name).startswith("" if shut else said)
        assert bool(getattr(done, name)) == bool(said and not shut)


def test_standard_output_on_a_full_disk_is_one_line() -> None:
    """Fails, with a traceback, when what was printed is first written as the process ends."""
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "pyro_vae.cli", "--version"]
        buffered = {key: each for key, each in os.environ.items() if key != "PYTHONUNBUFFERED"}
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=buffered)
    assert done.returncode == 2
    assert done.stderr == "error: standard output: [Errno 28] No space left on device\n"


def test_the_numbers_of_closed_streams_are_no_files() -> None:
    """Fails when a run's next file is number 2, where all that has an error to report writes."""
    code = "import os; from pyro_vae.cli import _open_streams; _open_streams();"
    code += "os._exit(os.open(os.devnull, os.O_RDONLY))"
    command = f'exec "{sys.executable}" -c "$CODE" <&- >&- 2>&-'
    done = subprocess.run(["bash", "-c", command], env=os.environ | {"CODE": code})
    assert done.returncode > 2
