"""Checkpoints that a thread writes: of the step at which they were begun, and never lost."""

from __future__ import annotations

import logging
import threading
import time
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from stopping import X, build, fit, same_run, signal_at
from torch import Tensor

from pyro_vae._signals import Interrupted
from pyro_vae.checkpoint import write_bytes
from pyro_vae.training import resume
from pyro_vae.training.state_file import from_file, to_bytes

WAIT = 30.0  # seconds, at most


class Late:
    """Writes a checkpoint only when a later step is taken, which a callback of it reports."""

    def __init__(self, step: int) -> None:
        self.step, self.passed = step, threading.Event()
        self.begun: list[bool] = []  # whether others than the main thread wrote
        self.seen: list[tuple[str, bool]] = []

    def on_step(self, step: int, losses: Tensor) -> None:
        if step >= self.step:
            self.passed.set()

    def on_checkpoint(self, path: Path) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        self.seen.append((path.name[:15], is_main and path.is_file()))

    def write(self, path: Path, content: bytes) -> None:
        self.begun.append(threading.current_thread() is not threading.main_thread())
        if not self.passed.wait(WAIT):
            raise OSError("no step is taken while a checkpoint is written")
        write_bytes(path, content)


def _slow(path: Path, content: bytes) -> None:
    time.sleep(0.2)
    write_bytes(path, content)


def _full(path: Path, content: bytes) -> None:
    raise OSError(28, "No space left on device")


def _checkpoints(folder: Path) -> list[str]:
    return sorted(path.name[:15] for path in (folder / "checkpoints").iterdir())


@pytest.mark.usefixtures("interruptible")
def test_steps_go_on_and_the_checkpoint_is_of_the_step_where_it_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when steps wait for it, or what is written is what they have made of it.

    The one of step 3 is written after step 5; what goes on from it is the undisturbed run.
    """
    late = Late(5)
    monkeypatch.setattr(resume, "write_bytes", late.write)
    options = {"callbacks": [late], "out": tmp_path / "run", "checkpoint_every": 3, "keep": 9}
    with signal_at(6, 2), pytest.raises(Interrupted):
        fit(build(), X, **options)
    assert late.begun == [True, True]
    assert late.seen == [("step-0000000003", True), ("step-0000000006", True)]
    next((tmp_path / "run" / "checkpoints").glob("step-0000000006*")).unlink()
    assert same_run(fit(build(), X), fit(build(), X, out=tmp_path / "run", resume=True))


@pytest.mark.usefixtures("interruptible")
def test_whoever_leaves_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal and an error alike."""
    monkeypatch.setattr(resume, "write_bytes", _slow)
    with signal_at(2, 2), pytest.raises(Interrupted, match="stopped by SIGINT at step 2"):
        fit(build(), X, out=tmp_path / "stopped")
    assert _checkpoints(tmp_path / "stopped") == ["step-0000000002"]

    class Broken:
        def on_step(self, step: int, losses: Tensor) -> None:
            if step == 4:
                raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        fit(build(), X, out=tmp_path / "broken", checkpoint_every=3, callbacks=[Broken()])
    assert _checkpoints(tmp_path / "broken") == ["step-0000000003"]


@pytest.mark.parametrize("every", [3, 16])
def test_one_that_cannot_be_written_ends_the_run(
    every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the midst of it, and at the end of its 16 steps."""
    monkeypatch.setattr(resume, "write_bytes", _full)
    with pytest.raises(
        OSError, match=rf"checkpoint of step {every} in .*: No space left on device"
    ):
        fit(build(), X, out=tmp_path / "run", checkpoint_every=every)
    assert not (tmp_path / "run").exists()


def test_of_two_errors_none_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first is raised; that of the checkpoint, which was still being written, is logged."""

    def failing(path: Path, content: bytes) -> None:
        time.sleep(0.2)
        _full(path, content)

    class Broken:
        def on_step(self, step: int, losses: Tensor) -> None:
            if step == 4:
                raise KeyError("broken")

    monkeypatch.setattr(resume, "write_bytes", failing)
    with caplog.at_level(logging.WARNING), pytest.raises(KeyError, match="broken"):
        fit(build(), X, out=tmp_path / "run", checkpoint_every=3, callbacks=[Broken()])
    assert any("checkpoint of step 3" in line for line in caplog.messages)


def test_tensors_that_share_memory_are_written_each(tmp_path: Path) -> None:
    """A whole one, a part of it, and itself again."""
    whole = torch.arange(6.0)
    (tmp_path / "s").write_bytes(to_bytes({"a": whole, "b": [whole[:4], whole], "schema": 1}))
    found = from_file(tmp_path / "s", sha256((tmp_path / "s").read_bytes()).hexdigest())
    assert torch.equal(found["a"], whole)
    assert [len(each) for each in found["b"]] == [4, 6]
