"""Signals: when a run that is to stop does so, and what it leaves."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import pytest
from stopping import X, build, fit, same_run, signal_at, stopped
from torch._inductor import compile_fx

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


def test_sigterm_has_its_own_code(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert stopped(tmp_path / "run", 6, signal.SIGTERM).signum == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


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
