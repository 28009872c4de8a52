"""Many fits are the same by any number of processes, and go on where they were left."""

from __future__ import annotations

import os
import shlex
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError
from torch import Tensor

import pyro_vae as pv
from pyro_vae import _jobs
from pyro_vae import selection as module
from pyro_vae._jobs import each
from pyro_vae._kept import described
from pyro_vae.checkpoint import read_json
from pyro_vae.cli import main
from pyro_vae.criticism import calibrate_globals, check
from pyro_vae.data.rows import Rows
from pyro_vae.engine.nonfinite import NonFinite
from pyro_vae.evaluation import impute
from pyro_vae.programs.imputing import UnexplainedRows

_X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
_FITS: dict[str, Any] = {"folds": 3, "num_samples": 20, "epochs": 2, "batch_size": 10}


def _two() -> Any:
    return joblib.parallel_config(backend="loky", n_jobs=2)


def _build(dim: int, lr: float = 1e-2) -> tuple[pv.VAE, dict[str, Any]]:
    normal = pv.likelihoods.Normal((3,), scale="shared")
    networks = pv.networks.MLP((4,), dropout=0.1), pv.networks.MLP((4,))
    return pv.VAE(pv.priors.Normal(dim), pv.guides.Normal(dim), normal, *networks), {"lr": lr}


@pytest.fixture(scope="module")
def selected() -> pv.selection.Selection:
    """By one job, in this process."""
    return pv.select(_build, _X, {"dim": [1, 2]}, seeds=2, **_FITS)


def _same(a: pv.selection.Selection, b: pv.selection.Selection) -> None:
    assert np.array_equal(a.log_marginal, b.log_marginal), "to the last bit"
    assert a.candidates == b.candidates
    assert a.failed == b.failed
    assert a.base_measure == b.base_measure


@pytest.mark.long
def test_a_selection_is_the_same_by_two_processes(selected: pv.selection.Selection) -> None:
    """Weights, orders, noise and draws are of the number of a fit. Fails when one is a worker's."""
    states = torch.get_rng_state(), np.random.get_state()[1]
    reported: list[tuple[int, int, str]] = []
    with _two():
        other = pv.select(
            lambda dim: _build(dim),  # found by no name in another process
            _X,
            {"dim": [1, 2]},
            seeds=2,
            on_fit=lambda *said: reported.append(said),
            **_FITS,
        )
    _same(selected, other)
    assert reported[0] == (0, 12, "dim 1: fold 1, seed 0")
    assert reported[-1] == (12, 12, "")
    assert [done for done, *_ in reported] == sorted(done for done, *_ in reported)
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])


def _nothing(line: Any) -> None:
    """Follows a fit, so that it is not one of several at once."""


@pytest.mark.long
def test_runs_come_back_from_two_processes() -> None:
    """What a run is made of, parameters that Pyro has met among it, is sent."""
    options: dict[str, Any] = {"epochs": 2, "batch_size": 10, "device": "cpu", "on_epoch": _nothing}
    here = pv.fit_many(lambda seed: _build(seed + 1), _X, [0, 1], **options)
    with _two():
        there = pv.fit_many(lambda seed: _build(seed + 1), _X, [0, 1], **options)
    for one, other in zip(here, there, strict=True):
        assert one.history["elbo"] == other.history["elbo"]
        assert torch.equal(one.vae.encode(_X).mean, other.vae.encode(_X).mean)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_a_setting_that_fails_fails_alike() -> None:
    """In the fold that is first in order, whichever ends first."""
    found = []
    for jobs in (1, 2):
        with joblib.parallel_config(n_jobs=jobs):
            found.append(pv.select(_build, _X, {"dim": [1], "lr": [1e20, 1e-2]}, **_FITS))
    _same(*found)
    assert [each.arguments["lr"] for each in found[0].failed] == [1e20]
    assert found[0].failed[0].reason.startswith("fold 1, ")


def test_a_setting_that_failed_in_a_later_fold_fails_in_the_first_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several jobs the later may end first. Fails where a failed setting is never fitted."""

    def fit(vae: pv.VAE, data: Tensor, *, lr: float, **options: Any) -> pv.Run:
        if lr > 1:
            raise FloatingPointError("no")
        return pv.fit(vae, data, lr=lr, **options)

    monkeypatch.setattr(module, "fit", fit)
    options: dict[str, Any] = {"grid": {"dim": [1], "lr": [2.0, 1e-2]}, "out": tmp_path / "out"}
    whole = pv.select(_build, _X, **options, **_FITS)
    path = next((tmp_path / "out/fits").glob("fit-0-0-0-*"))
    path.rename(path.with_name(path.name.replace("fit-0-0-0-", "fit-0-0-2-")))
    again = pv.select(_build, _X, **options, **_FITS, resume=True)
    _same(whole, again)
    assert len(list((tmp_path / "out/fits").glob("fit-0-0-0-*"))) == 1


def test_an_objective_of_all_fits_counts_the_steps_of_each() -> None:
    """So that each fit has its warm-up. Fails where the second begins where the first ended."""
    objective = pv.objectives.ELBO(warmup=1000)
    shared = pv.select(_build, _X, {"dim": [1, 2]}, objective=objective, **_FITS)
    own = pv.select(
        lambda dim: (_build(dim)[0], {"lr": 1e-2, "objective": pv.objectives.ELBO(warmup=1000)}),
        _X,
        {"dim": [1, 2]},
        **_FITS,
    )
    assert np.array_equal(shared.log_marginal, own.log_marginal)
    assert objective.step == 0


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (torch.device("cpu"), torch.device("cuda")),
        (partial(torch.optim.SGD, lr=0.1), partial(torch.optim.SGD, lr=0.2)),
        (pyro.optim.Adam({"lr": 0.1}), pyro.optim.Adam({"lr": 0.2})),
        (np.array([1.0]), np.array([2.0])),
        (np.array(["a"]), np.array(["b"])),
        (torch.float32, torch.float64),
    ],
)
def test_options_that_differ_are_told_apart(before: Any, now: Any) -> None:
    """Or a selection would go on with fits of others."""
    assert described(before) == described(before)
    assert described(before) != described(now)


def _refit(rows: Rows, seed: int) -> pv.VAE:
    vae = _build(1)[0]  # whose weights are drawn from the generators as they are
    return pv.fit(vae, rows.x, mask=rows.given.get("mask"), epochs=1, seed=seed, compile=False).vae


def test_what_a_refit_builds_is_drawn_by_its_seed() -> None:
    """Whatever ran before, in whatever process. Fails where weights are those of a worker."""
    x = _correlated(40)
    vae, mask = _build(1)[0], x > x.median()
    statistics = [pv.criticism.Statistic("mean", lambda x: x.mean(-2))]
    found = []
    for state in (1, 2):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        fits: dict[str, Any] = {"refit": _refit, "num_fits": 2, "num_imputations": 2, "seed": 0}
        filled = impute(vae, x, mask, num_samples=20, **fits).x
        checks = check(vae, x, statistics=statistics, refit=_refit, refits=5, max_data=20)
        found.append((filled, checks.summary()))
        assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def _correlated(size: int) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(size, 1, generator=rng) + 0.5 * torch.randn(size, 3, generator=rng)


@pytest.mark.long
def test_refits_are_the_same_by_two_processes() -> None:
    """Those of imputations and of checks, of a run with its optimiser."""
    x = _correlated(80)
    run = pv.fit(_build(1)[0], x, epochs=2, batch_size=40, seed=0, compile=False)
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) > 0.3
    options: dict[str, Any] = {"refit": run.refit, "num_fits": 3, "num_imputations": 4}
    statistics = [pv.criticism.Statistic("mean", lambda x: x.mean(-2))]
    found = []
    for jobs in (1, 2):
        with joblib.parallel_config(n_jobs=jobs):
            filled = impute(run.vae, x, mask, num_samples=50, **options)
            checks = check(
                run.vae, x + 1, statistics=statistics, refit=run.refit, refits=5, max_data=30
            )
            found.append((filled.x, filled.ess, checks.summary()))
    (one, ess, checks), (two, other, again) = found
    assert torch.equal(one, two)
    assert np.array_equal(ess, other, equal_nan=True)
    assert checks == again
    assert any(row["refit_low"] is not None for row in checks["rows"])


@pytest.mark.long
def test_refits_of_shared_latents_are_the_same_by_two_processes() -> None:
    """Of programs, whose names are counted in each process."""

    def fitted(x: Tensor) -> pv.Program:
        loc = torch.nn.Parameter(x.sum(0) / 2 / (1 / 9 + len(x) / 2))

        def model(x: Tensor) -> None:
            w = pyro.sample("w", dist.Normal(torch.zeros(2), 3.0).to_event(1))
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(w + z, 1.0).to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            w = pyro.sample("w", dist.Normal(pyro.param("loc", loc), 0.5).to_event(1))
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal((x - w) / 2, 0.5**0.5).to_event(1))

        program = pv.Program(model, guide)
        program.initialize(x)
        return program

    program = fitted(_X[:8, :2])
    ranks = []
    for jobs in (1, 2):
        with joblib.parallel_config(n_jobs=jobs):
            found = calibrate_globals(
                program, lambda rows, _: fitted(rows.x), num_data=8, num_simulations=6
            )
            ranks.append(found.ranks)
    assert np.array_equal(*ranks)
    assert len(np.unique(ranks[0])) > 3


def _threads(_: int) -> tuple[int, torch.dtype]:
    return torch.get_num_threads(), torch.get_default_dtype()


@pytest.mark.parametrize("backend", ["sequential", "threading"])
def test_each_fit_has_as_many_threads_wherever_it_is(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And computes in the same precision. Fails where a worker decides by its number of cores."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3,1")
    before = torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    try:
        with joblib.parallel_config(backend=backend, n_jobs=2):
            found = dict(each(_threads, range(3), "task"))
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == dict.fromkeys(range(3), (3, torch.float64))
    assert torch.get_num_threads() == before
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert dict(each(_threads, range(1), "task"))[0][0] == 1


def test_what_cannot_be_sent_is_one_line() -> None:
    lock = threading.Lock()
    with _two(), pytest.raises(ValueError, match="`refit`: expected what can be sent to other"):
        list(each(lambda _: lock.locked(), range(2), "refit"))
    assert [held for _, held in each(lambda _: lock.locked(), range(2), "refit")] == [False] * 2


def _raises(task: int) -> None:
    if task == 1:
        raise UnexplainedRows(torch.tensor([3]))  # it is made of rows, and not of words


def test_an_error_comes_back_as_it_was() -> None:
    with _two(), pytest.raises(UnexplainedRows, match="first row 3, counted from 0") as raised:
        list(each(_raises, range(2), "task"))
    assert raised.value.index.tolist() == [3], "the command counts them among all rows"
    error = _jobs._that_travels(NonFinite("loss is nan", 3, (), None))
    assert (type(error), str(error)) == (FloatingPointError, "loss is nan")


def test_a_process_that_dies_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(calls: Any) -> Iterator[tuple[int, Any]]:
        raise TerminatedWorkerError("A worker was stopped by the system. The cause may be memory.")
        yield  # it is an iterator

    monkeypatch.setattr(_jobs, "_as_they_end", killed)
    line = "^a process that fits has ended unasked: A worker was stopped by the system$"
    with _two(), pytest.raises(ChildProcessError, match=line):
        list(each(_threads, range(1, 3), "task"))


@contextmanager
def _left_after(fits: int) -> Iterator[Any]:
    """What is called before each fit, and raises when so many are done."""

    def on_fit(done: int, total: int, what: str) -> None:
        if done == fits:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as left:
        yield on_fit
    assert fits == 0 or f"after {fits} fit" in str(left.value)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of the fits that were made."""
    seeds: list[int] = []

    def fit(vae: pv.VAE, data: Tensor, *, seed: int, **options: Any) -> pv.Run:
        seeds.append(seed)
        return pv.fit(vae, data, seed=seed, **options)

    monkeypatch.setattr(module, "fit", fit)
    return seeds


@pytest.mark.long
def test_a_selection_goes_on_where_it_was_left(
    tmp_path: Path, asked: list[int], selected: pv.selection.Selection
) -> None:
    """With the fits that are missing: those that are damaged, too."""
    out = tmp_path / "new" / "selection"
    options: dict[str, Any] = {"seeds": 2, "out": out, **_FITS}
    with _left_after(0) as on_fit:
        pv.select(_build, _X, {"dim": [1, 2]}, on_fit=on_fit, **options)
    assert list(tmp_path.iterdir()) == [], "nothing is left of nothing"
    with _left_after(5) as on_fit:
        pv.select(_build, _X, {"dim": [1, 2]}, on_fit=on_fit, **options)
    assert asked == [0, 0, 0, 1, 1]
    with pytest.raises(ValueError, match="`out`: expected a path that does.*; --resume goes on"):
        pv.select(_build, _X, {"dim": [1, 2]}, **options)
    for changed, line in (
        ({"epochs": 3}, "options.epochs was 2, is 3"),
        ({"seed": 1}, "seed was 0, is 1"),
        ({"folds": 2}, "folds was 3, is 2"),
    ):
        with pytest.raises(ValueError, match=f"`resume`: expected the settings and data.*{line}"):
            pv.select(_build, _X, {"dim": [1, 2]}, **(options | changed), resume=True)
    with pytest.raises(ValueError, match=r"`resume`: expected the settings.*data\.x was"):
        pv.select(_build, _X + 1, {"dim": [1, 2]}, **options, resume=True)
    with pytest.raises(ValueError, match=r"`resume`: .*, got grid\.1\.dim was 2, is 3"):
        pv.select(_build, _X, {"dim": [1, 3]}, **options, resume=True)
    damaged = sorted((out / "fits").glob("fit-0-0-1-*"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    asked.clear()
    _same(pv.select(_build, _X, {"dim": [1, 2]}, **options, resume=True), selected)
    assert len(asked) == 12 - 4
    assert read_json(out / "selection.json")["chosen"] == selected.chosen.arguments
    asked.clear()
    _same(pv.select(_build, _X, {"dim": [1, 2]}, **options, resume=True), selected)
    assert asked == [], "a finished one is read"


def test_a_mistaken_folder_is_one_line(tmp_path: Path) -> None:
    options: dict[str, Any] = {"grid": {"dim": [1, 2]}, **_FITS}
    with pytest.raises(ValueError, match="`out`: expected the folder of a selection to resume"):
        pv.select(_build, _X, resume=True, out=tmp_path, **options)
    with pytest.raises(ValueError, match="`out`: expected the folder of the selection to resume"):
        pv.select(_build, _X, resume=True, **options)
    with pytest.raises(ValueError, match="`resume`: expected True or False"):
        pv.select(_build, _X, resume="previous", **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_fit_of_another_thread_waits(selected: pv.selection.Selection) -> None:
    """Pyro has one parameter store a process, where a worker of Dask may have several threads."""
    with joblib.parallel_config(backend="threading", n_jobs=2):
        _same(pv.select(_build, _X, {"dim": [1, 2]}, seeds=2, **_FITS), selected)


def _slowly(task: int) -> int:
    time.sleep(0.2)
    return task


@pytest.mark.long
def test_who_stops_early_is_not_warned() -> None:
    """As where an interrupt comes between two results: a warning is an error here."""
    with _two():
        results = each(_slowly, range(8), "function")
        _, first = next(results)
        results.close()
    assert first in range(8)


@pytest.mark.long
@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_the_processes_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What two processes have left is done by one, as if nothing had been."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", _X.numpy())
    words = "x.npy --likelihood Normal --latent-dim 1,2 --folds 12 --epochs 3 --num-samples 20"
    argv = ["select", *words.split(), "--encoder.hidden", "[4]", "--decoder.hidden", "[4]"]

    def interrupt() -> None:
        until = time.monotonic() + 100
        while not list(Path("left").glob("fits/fit-*")) and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    waiting = threading.Thread(target=interrupt)
    waiting.start()
    assert main([*argv, "--jobs", "2", "--out", "left"]) == 130
    waiting.join()
    said = capsys.readouterr().err.strip().splitlines()[-1]
    line, _, command = said.partition("; this goes on with it: pyro-vae ")
    assert line.startswith("interrupted after ")
    assert shlex.split(command) == [*argv, "--jobs", "2", "--out", "left", "--resume"]
    assert len(list(Path("left").glob("fits/fit-*"))) < 24
    assert main([*argv, "--out", "left", "--resume"]) == 0
    assert main([*argv, "--out", "whole"]) == 0
    written = [read_json(Path(each) / "selection.json") for each in ("left", "whole")]
    assert written[0] | {"seconds": 0} == written[1] | {"seconds": 0}
