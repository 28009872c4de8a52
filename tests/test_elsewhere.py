"""A run that goes on elsewhere: moved, behind a link, read-only, forked, with another clock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes wherever it likes")
def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    _told_and_kept(tmp_path / "run")


def test_the_same_in_a_process_that_may_not_write(tmp_path: Path) -> None:
    """As nobody, where the tests run as root. Fails with a traceback, or when the run is lost."""
    if os.geteuid() != 0:
        pytest.skip("the test above is it")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and not folder.stat().st_mode & 0o005:
            folder.chmod(folder.stat().st_mode | 0o055)
    if (pid := os.fork()) == 0:
        code = 1
        try:
            os.chmod(tmp_path, 0o777)
            os.setuid(65534)
            _told_and_kept(tmp_path / "run")
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _told_and_kept(run: Path) -> None:
    stopped(run, 6, checkpoint_every=3)
    kept = {path: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    (run / "checkpoints").chmod(0o555)
    run.chmod(0o555)
    with pytest.raises(OSError, match="Permission denied.*; --resume goes on with") as error:
        fit(build(5), X, out=run, resume=True, checkpoint_every=3)
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in (run / "checkpoints").iterdir()} == kept
    run.chmod(0o755)
    (run / "checkpoints").chmod(0o755)
    assert same_run(fit(build(), X), fit(build(5), X, out=run, resume=True))


def test_a_fork_after_the_import_goes_on(tmp_path: Path) -> None:
    """Fails when the lock, a generator or a signal handler is that of the parent."""
    whole = fit(build(), X)
    stopped(tmp_path / "run", 6)
    if (pid := os.fork()) == 0:
        code = 1
        try:
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


@pytest.mark.parametrize("closed", ["<&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_traceback(closed: str, tmp_path: Path) -> None:
    """Python has None for a stream that is closed, or its number is another file's."""
    code = f"from pyro_vae.cli import main; open({str(tmp_path / 'code')!r}, 'w').write("
    code += "str(main(['nonsense'])) + str(main(['--version'])))"
    command = f'exec "{sys.executable}" -c "$CODE" {closed}'
    done = subprocess.run(
        ["bash", "-c", command], env=os.environ | {"CODE": code}, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
    assert (tmp_path / "code").read_text() == "20"
