"""Signals: when a run that is to stop does so, and what it leaves."""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from stopping import X, build, fit, same_run, signal_at, stopped
from torch._inductor import compile_fx

from pyro_vae import cli
from pyro_vae._signals import Interrupted, stopping
from pyro_vae.training.health import Health

pytestmark = pytest.mark.usefixtures("interruptible")


def test_a_signal_after_the_last_step_is_heeded(tmp_path: Path) -> None:
    """It comes while the last epoch is looked at. Fails when only a next step would ask for it."""
    look = Health.look

    def interrupted(self: Health, line: Mapping[str, float]) -> None:
        look(self, line)
        if line["epoch"] == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    says = re.escape(f"stopped by SIGTERM at step 16; --resume goes on with {tmp_path / 'run'}")
    with (
        mock.patch.object(Health, "look", interrupted),
        pytest.raises(Interrupted, match=says) as left,
    ):
        fit(build(), X, out=tmp_path / "run")
    assert left.value.signum == signal.SIGTERM
    assert same_run(fit(build(), X), fit(build(5), X, out=tmp_path / "run", resume=True))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_each_signal_has_its_own_code(signum: signal.Signals, tmp_path: Path) -> None:
    """Fails when a terminal that is closed ends a run without a checkpoint."""
    before = signal.getsignal(signum)
    assert stopped(tmp_path / "run", 6, signum).signum == signum
    assert signal.getsignal(signum) == before
    assert same_run(fit(build(), X), fit(build(5), X, out=tmp_path / "run", resume=True))


def test_a_terminal_that_takes_no_word_loses_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that was closed: writing there is an error, which is not to take the place of all."""

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Closed())
    assert stopped(tmp_path / "run", 6, signal.SIGHUP).signum == signal.SIGHUP
    assert any((tmp_path / "run" / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("signum", "says"),
    [
        (signal.SIGINT, "interrupted"),
        (signal.SIGTERM, "terminated"),
        (signal.SIGHUP, "the terminal was closed"),
    ],
)
@pytest.mark.parametrize("then", [None, OSError("of a closed terminal")])
def test_a_stop_is_no_error(
    signum: signal.Signals,
    says: str,
    then: OSError | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line and a code, also if what is put in order meets an error of its own."""

    def stop(argv: list[str]) -> None:
        try:
            os.kill(os.getpid(), signum)
        finally:
            if then is not None and signum != signal.SIGINT:
                raise then

    monkeypatch.setattr(cli, "_module", lambda verb: SimpleNamespace(run=stop))
    assert cli.main(["fit", "digits"]) == 128 + signum
    assert capsys.readouterr().err == f"{says}\n"


def test_a_second_interrupt_is_at_once(tmp_path: Path) -> None:
    """And keeps what was written before."""
    with signal_at(6, signal.SIGINT, signal.SIGINT), pytest.raises(Interrupted) as left:
        fit(build(), X, out=tmp_path / "run", checkpoint_every=4)
    assert "left at once; --resume goes on with" in str(left.value)
    assert [path.name[:15] for path in (tmp_path / "run" / "checkpoints").iterdir()] == [
        "step-0000000004"
    ]
    with signal_at(3, signal.SIGINT, signal.SIGINT), pytest.raises(Interrupted, match="at once$"):
        fit(build(), X, out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.breaks_capture
def test_an_interrupt_while_compiling_is_not_the_compilers_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A terminal interrupts what the compiler has started, too. Fails if that is warned of."""

    def interrupted(*args: object, **options: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        raise RuntimeError("C++ compile error")

    monkeypatch.setattr(compile_fx, "compile_fx", interrupted)
    with pytest.raises(Interrupted, match="stopped by SIGINT at step ") as left:
        fit(build(), X, out=tmp_path / "run", compile=True, epochs=50)
    assert left.value.signum == signal.SIGINT
    assert list((tmp_path / "run" / "checkpoints").iterdir())
    assert "runs eagerly" not in caplog.text
    assert not stopping()


def test_without_a_folder_signals_are_left_alone() -> None:
    with signal_at(3, signal.SIGINT), pytest.raises(KeyboardInterrupt) as left:
        fit(build(), X)
    assert not isinstance(left.value, Interrupted)


@pytest.mark.parametrize("words", [["--help"], ["fit", "--help-all"]])
def test_a_reader_that_leaves_gets_no_traceback(words: list[str]) -> None:
    """As ``head`` does. Fails when the pipe that it closed is an error."""
    command = [sys.executable, "-m", "pyro_vae.cli", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
