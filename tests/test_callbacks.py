"""What follows a fit, and does not change it: callbacks, the log of epochs, the bar."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from stopping import X, build, fit, same, same_run, signal_at
from torch import Tensor

import pyro_vae as pv
from pyro_vae import _progress
from pyro_vae._signals import Interrupted
from pyro_vae.training import Callback, callbacks

pytestmark = pytest.mark.usefixtures("interruptible")


class Meddler(Callback):
    """Does all that a callback may do, and would change the run if nobody put it back."""

    def __init__(self) -> None:
        self.vae: pv.VAE | None = None
        self.called: list[str] = []

    def _meddle(self, hook: str) -> None:
        self.called.append(hook)
        vae = self.vae
        assert vae is not None
        assert not vae.training
        random.random()
        np.random.rand(3)
        vae.sample(2)
        vae.encode(X[:4]).sample()
        with torch.enable_grad():
            sum(p.square().sum() for p in vae.parameters()).backward()  # type: ignore[union-attr]
        vae.train()

    def on_step(self, step: int, losses: Tensor) -> None:
        self._meddle("step")
        losses.zero_()

    def on_epoch(self, line: Mapping[str, float]) -> None:
        self._meddle("epoch")
        line.clear()  # type: ignore[attr-defined]

    def on_checkpoint(self, path: Path) -> None:
        self._meddle("checkpoint")
        assert path.is_file()


class Recorder:
    """What was called, with what; no subclass of anything."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def on_step(self, step: int, losses: Tensor) -> None:
        self.calls.append(("step", (step, losses.tolist())))

    def on_epoch(self, line: Mapping[str, float]) -> None:
        self.calls.append(("epoch", dict(line)))

    def on_checkpoint(self, path: Path) -> None:
        self.calls.append(("checkpoint", path.name[:15]))

    def on_end(self, run: pv.Run) -> None:
        self.calls.append(("end", run))

    def on_error(self, error: BaseException) -> None:
        self.calls.append(("error", error))

    def of(self, hook: str) -> list[Any]:
        return [what for name, what in self.calls if name == hook]


ENGINES: dict[str, dict[str, Any]] = {
    "eager": {"compile": False, "epochs": 3},
    "compiled": {"compile": True, "epochs": 3, "batch_size": 15},
}


def _drawing(line: Mapping[str, float]) -> None:
    torch.rand(3)


@cache
def _plain(engine: str) -> pv.Run:
    return fit(build(), X, validation=X[:6], **ENGINES[engine])


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")  # it is capture that counts here
@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("option", ["callbacks", "progress"])
def test_a_run_is_the_same_to_the_bit(
    option: str, engine: str, interrupted: bool, tmp_path: Path
) -> None:
    """Fails when generators, modes or gradients are not put back after a call, or when what is
    handed over is not a copy.
    """
    plain, vae, meddler, seen = _plain(engine), build(), Meddler(), Recorder()
    given: dict[str, Any] = {"progress": True, "on_epoch": _drawing}
    if option == "callbacks":
        given = {"callbacks": [meddler, seen, meddler]}
    given |= ENGINES[engine] | {"out": tmp_path / "run", "checkpoint_every": 3}
    meddler.vae = vae
    if interrupted:
        with signal_at(5, 2), pytest.raises(Interrupted):
            fit(vae, X, validation=X[:6], **given)
        pyro.clear_param_store()
        meddler.vae = vae = build(5)
        given["resume"] = True
    assert same_run(plain, fit(vae, X, validation=X[:6], **given))
    assert plain.engine == {"eager": "eager", "compiled": "inductor"}[engine]
    if option == "callbacks":
        assert set(meddler.called) == {"step", "epoch", "checkpoint"}
        assert [line["elbo"] for line in seen.of("epoch")] == plain.history["elbo"]
        assert all(min(losses) > 0 for _, losses in seen.of("step"))


def test_each_method_is_called_in_its_place(tmp_path: Path) -> None:
    """4 steps an epoch, the last of 6 rows; every number is that of the history."""
    seen = Recorder()
    run = fit(build(), X, callbacks=[seen], epochs=2, out=tmp_path / "run", checkpoint_every=3)
    hooks = [hook for hook, _ in seen.calls]
    one, two = (["step"] * 4 + ["epoch"] for _ in range(2))
    assert [hook for hook in hooks if hook != "checkpoint"] == [*one, *two, "end"]
    assert hooks[-2:] == ["checkpoint", "end"]
    places = [i for i, hook in enumerate(hooks) if hook == "checkpoint"]
    steps = [hooks[:place].count("step") for place in places]  # a thread writes: some steps later
    assert 3 <= steps[0] <= 6 <= steps[1] <= 8 == steps[2]
    assert seen.of("checkpoint") == [f"step-{step:010d}" for step in (3, 6, 8)]
    assert seen.of("end") == [run]
    assert [line["elbo"] for line in seen.of("epoch")] == run.history["elbo"]
    assert [step for step, _ in seen.of("step")] == list(range(1, 9))
    losses = torch.tensor([values[0] for _, values in seen.of("step")]).view(2, 4)
    mean = losses @ torch.tensor([8.0, 8, 8, 6]) / 30
    assert torch.allclose(mean, torch.tensor(run.history["loss"]), atol=1e-5)


def test_a_resumed_run_calls_for_what_it_takes_itself(tmp_path: Path) -> None:
    first, second, again = Recorder(), Recorder(), Recorder()
    options = {"out": tmp_path / "run", "epochs": 3}
    with signal_at(6, 2), pytest.raises(Interrupted) as left:
        fit(build(), X, callbacks=[first], **options)
    fit(build(5), X, callbacks=[second], resume=True, **options)
    assert [line["epoch"] for line in first.of("epoch") + second.of("epoch")] == [1, 2, 3]
    assert [step for step, _ in first.of("step") + second.of("step")] == list(range(1, 13))
    assert [str(error) for error in first.of("error")] == [str(left.value)]
    assert first.of("end") == []
    fit(build(6), X, callbacks=[again], resume=True, **options)
    assert again.calls == []


def test_steps_are_paid_for_where_somebody_follows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a callback that derives from the base is taken to have all of its methods."""
    calls: list[str] = []
    call = callbacks.Callbacks._call

    def counting(self: Any, callback: object, hook: str, *args: Any) -> None:
        calls.append(hook)
        call(self, callback, hook, *args)

    class Epochs(Callback):
        def on_epoch(self, line: Mapping[str, float]) -> None:
            pass

    monkeypatch.setattr(callbacks.Callbacks, "_call", counting)
    fit(build(), X, epochs=2, callbacks=[Epochs()])
    assert set(calls) == {"on_epoch"}


@pytest.mark.parametrize("hook", ["on_step", "on_epoch", "on_checkpoint", "on_end"])
@pytest.mark.parametrize("kind", [ValueError, MemoryError, KeyError])
def test_an_error_comes_as_it_is_with_the_place(
    hook: str, kind: type[Exception], tmp_path: Path
) -> None:
    """Fails when it is explained as if it were one of the model, or of the folder."""
    error = kind("invalid values, out of memory")

    def fails(*args: Any) -> None:
        raise error

    broken, seen = Callback(), Recorder()
    setattr(broken, hook, fails)
    with pytest.raises(kind) as left:
        fit(build(), X, epochs=1, callbacks=[seen, broken], out=tmp_path / "r", checkpoint_every=2)
    assert left.value is error
    assert error.__notes__ == [f"in the callback Callback.{hook}"]
    assert seen.of("error") == [error]


def test_after_an_error_a_run_goes_on(tmp_path: Path) -> None:
    """As a run does that was killed: from the last checkpoint, to the same end."""

    class Stops:
        def on_epoch(self, line: Mapping[str, float]) -> None:
            if line["epoch"] == 2:
                raise RuntimeError("enough")

    options: dict[str, Any] = {"out": tmp_path / "run", "checkpoint_every": 3}
    with pytest.raises(RuntimeError, match="enough"):
        fit(build(), X, callbacks=[Stops()], **options)
    assert same_run(fit(build(), X), fit(build(5), X, resume=True, **options))


def test_an_error_of_on_error_does_not_hide_the_first(caplog: pytest.LogCaptureFixture) -> None:
    class Fails:
        def on_epoch(self, line: Mapping[str, float]) -> None:
            raise KeyError("first")

        def on_error(self, error: BaseException) -> None:
            raise OSError("second")

    with pytest.raises(KeyError, match="first"):
        fit(build(), X, callbacks=[Fails()])
    assert "Fails.on_error failed" in caplog.text


def test_a_callback_that_freezes_the_model_stops_nothing() -> None:
    reference = fit(build(), X)
    vae = build()
    run = fit(vae, X, on_epoch=lambda _: vae.requires_grad_(False))
    assert same(run.last_weights, reference.last_weights)


def test_an_error_of_the_file_system_is_the_callbacks_own(tmp_path: Path) -> None:
    """Fails when the folder of the run is blamed."""
    missing = tmp_path / "nowhere" / "log"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        fit(build(), X, out=tmp_path / "run", on_epoch=lambda _: missing.open())


@pytest.mark.parametrize("hook", ["on_epoch", "on_end"])
def test_a_callback_that_writes_past_autograd_is_refused(hook: str) -> None:
    vae = build()
    callback = type("Moves", (), {})()
    parameter = next(vae.parameters())
    setattr(callback, hook, lambda _: parameter.data.add_(0.5))
    with pytest.raises(RuntimeError, match=rf"^Moves\.{hook} changed the model"):
        fit(vae, X, callbacks=[callback])


@pytest.mark.parametrize("what", ["parameter", "buffer"])
def test_a_callback_that_changes_the_model_is_refused(what: str) -> None:
    vae = build()
    tensor = next(vae.parameters()) if what == "parameter" else next(vae.buffers())

    class Clips:
        def on_step(self, step: int, losses: Tensor) -> None:
            with torch.no_grad():
                tensor.copy_(tensor)

    with pytest.raises(RuntimeError, match=r"^Clips\.on_step changed the model"):
        fit(vae, X, callbacks=[Clips()])


class _Misspelt:
    def on_epoch_end(self, line: object) -> None: ...


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (Recorder(), "expected a list of objects with on_step"),
        ([print], "expected a list of objects with on_step"),
        ([Recorder], "expected objects, not classes"),
        ([_Misspelt()], r"got 'on_epoch_end' \(did you mean 'on_epoch'\?\)"),
    ],
)
def test_what_is_no_callback_is_refused(given: Any, what: str) -> None:
    with pytest.raises(ValueError, match=rf"^`callbacks`: .*{what}"):
        fit(build(), X, callbacks=given)


def test_epochs_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pyro_vae.training")
    run = fit(build(), X, epochs=2)
    lines = [each.getMessage() for each in caplog.records if each.name == "pyro_vae.training"]
    elbos = [f"{value:.2f}" for value in run.history["elbo"]]
    assert [line.split(", ")[0] for line in lines] == [
        f"epoch {epoch}/2: ELBO {elbo}" for epoch, elbo in zip((1, 2), elbos, strict=True)
    ]


class _Terminal:
    def __init__(self, is_one: bool) -> None:
        self.isatty = lambda: is_one


@pytest.mark.parametrize(
    ("progress", "notebook", "terminal", "pytest_runs", "shown"),
    [
        (None, False, False, False, False),
        (None, False, True, False, True),
        (None, True, False, False, True),
        (None, True, True, True, False),
        (False, True, True, False, False),
    ],
)
def test_where_there_is_a_bar(
    progress: bool | None,
    notebook: bool,
    terminal: bool,
    pytest_runs: bool,
    shown: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @contextmanager
    def monitor() -> Iterator[_progress.Monitor]:
        yield _progress.Monitor()

    if not pytest_runs:
        monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.setattr(_progress.sys, "stderr", _Terminal(terminal))
    monkeypatch.setattr(_progress, "in_notebook", lambda: notebook)
    monkeypatch.setattr(_progress, "_in_output", monitor)
    monkeypatch.setattr(_progress, "live", monitor)
    with _progress.displayed(progress) as found:
        assert (found is not None) is shown


def test_a_bar_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """Where output is no terminal there is its last state, once; by default nothing."""
    fit(build(), X, epochs=3)
    assert capsys.readouterr() == ("", "")
    run = fit(build(), X, epochs=3, validation=X[:6], progress=True)
    said = capsys.readouterr()
    assert said.out == ""
    bar, figures = said.err.strip().splitlines()
    assert re.fullmatch(r"3/3 epochs +━+ 100% 0:00:\d\d [\d,.]+ steps?/s *", bar)
    shown = figures.replace("\u00a0", " ")
    assert shown.startswith(f"ELBO {run.history['elbo'][-1]:.2f}  val. ")
