"""What `auto` chooses by: counted work and what was measured once, never a clock of the moment."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from stopping import X, build, fit, same_run, stopped

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.data.rows import Rows
from pyro_vae.engine import compiled, costs
from pyro_vae.engine.costs import Costs, Work, costs_of

pytestmark = pytest.mark.usefixtures("interpreted", "interruptible")

CPU = torch.device("cpu")
SLOW = Costs(element=0.5)  # a machine where a few steps that are not compiled take minutes
AUTO: dict[str, Any] = {"compile": "auto", "batch_size": 15}


def _clock(*ticks: float) -> SimpleNamespace:
    """A clock that moves on by so much at each look: the last one ever after the first twenty."""
    seconds = itertools.accumulate(itertools.chain([ticks[0]] * 20, itertools.repeat(ticks[-1])))
    return SimpleNamespace(perf_counter=lambda: next(seconds))


def test_the_clock_of_a_fit_does_not_choose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when a second fit measures again: where nothing is kept its clock chooses otherwise."""
    engines = []
    for home, clock in (("a", (1e-3, 1e-3)), ("a", (1e-3, 1e4)), ("b", (1e-3, 1e4))):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / home))
        monkeypatch.setattr(costs, "time", _clock(*clock))
        engines.append(fit(build(), X, **AUTO).compiled)
    assert engines == [False, False, True]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"operation": 1, "element": "x", "product": 0}', "[" * 10**5]
)
def test_what_is_damaged_is_not_used(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured = costs_of(CPU)
    assert measured != Costs()
    assert costs_of(CPU) == measured
    (kept,) = (tmp_path / "pyro_vae" / "costs").iterdir()
    kept.write_text(content)
    assert costs_of(CPU) == Costs()
    assert kept.read_text() == content


@pytest.mark.parametrize("values", [(0.0, 1e-9, 1e-9), (-1e-9, 1e-9, 1e-9), (1e-9, 1e-9, 1e9)])
def test_costs_are_seconds(
    values: tuple[float, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(costs, "_measured", lambda device: Costs(*values))
    assert costs_of(CPU) == Costs()


def test_what_cannot_be_kept_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full" / "pyro_vae" / "costs").mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert costs_of(CPU) == Costs()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "full"))

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert costs_of(CPU) == Costs()


def test_work_is_counted_with_the_backward_pass() -> None:
    """A product of 3 by 4 and 4 by 5, and the two of its gradients: 2 x 60 operations each."""
    a, b = torch.ones(3, 4, requires_grad=True), torch.ones(4, 5, requires_grad=True)
    with Work() as work:
        (a @ b).sum().backward()
    assert work.products == 3 * 2 * 60
    assert work.operations >= 4
    assert 20 < work.elements < 100


def test_compiling_pays_by_steps_work_and_costs() -> None:
    work = Work()
    work.operations, work.elements, work.products = 100, 10**6, 10**9
    cost = Costs(operation=7e-6, element=1e-9, product=1e-10)  # 0.1017 s a step, of which half
    assert not cost.pay(work, 983)
    assert cost.pay(work, 984)
    twice = Costs(*(2 * each for each in cost))  # as is the host's part of compiling
    assert not twice.pay(work, 983)
    assert twice.pay(work, 984)


@pytest.mark.long
def test_another_machine_goes_on_with_the_engine_that_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when resuming decides anew, either way; and when its choice may not be asked for."""
    for name, before, after in (("slow", SLOW, Costs()), ("fast", Costs(), SLOW)):
        monkeypatch.setattr(compiled, "costs_of", lambda device, before=before: before)
        whole = fit(build(), X, **AUTO)
        assert whole.compiled == (name == "slow")
        stopped(tmp_path / name, 3, **AUTO)
        monkeypatch.setattr(compiled, "costs_of", lambda device, after=after: after)
        again = {**AUTO, "out": tmp_path / name, "resume": True}
        with pytest.raises(ValueError, match="compile was"):
            fit(build(5), X, **{**again, "compile": not whole.compiled})
        resumed = fit(build(5), X, **again)
        assert resumed.engine_steps == whole.engine_steps
        assert same_run(resumed, whole)
        assert same_run(fit(build(5), X, **{**again, "compile": whole.compiled}), whole)


def test_a_refit_keeps_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when copies of a run that was not compiled choose for themselves."""
    run, asked = fit(build(), X, **AUTO), []
    monkeypatch.setattr(compiled, "costs_of", lambda device: asked.append(device) or SLOW)
    run.refit(Rows(X), seed=0)
    assert asked == []


@pytest.mark.long
def test_a_replay_takes_the_recorded_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when the config that a run leaves asks for a choice again; and the run can be read."""
    np.save(tmp_path / "x.npy", X.numpy())
    data = str(tmp_path / "x.npy")
    few = "--epochs 1 --num-samples 5 --device cpu --encoder.hidden [4] --decoder.hidden [4]"
    monkeypatch.setattr(compiled, "costs_of", lambda device: SLOW)
    assert main(["fit", data, *few.split(), "--out", str(tmp_path / "run")]) == 0
    config = tmp_path / "run" / "config.yaml"
    assert yaml.safe_load(config.read_text())["compile"] is True
    monkeypatch.setattr(compiled, "costs_of", lambda device: Costs())
    for name, more in (("again", []), ("run", ["--resume"])):
        out = ["--config", str(config), "--out", str(tmp_path / name), *more]
        assert main(["fit", data, *out]) == 0
        assert pv.Run.load(tmp_path / name).compiled
