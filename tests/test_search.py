"""A search by Optuna: its trials are cross-validated as those of a grid, and come out the same.

What it proposes depends on its version, so that no test names a setting that it does. The package
is an extra (``pip install 'pyro-vae[optuna]'``); what is said without it is tested without it.
"""

from __future__ import annotations

import json
import logging
import math
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae import selection as module
from pyro_vae.checkpoint import read_json
from pyro_vae.cli import main
from pyro_vae.cli.select import _Settings
from pyro_vae.selection import Selection

Fails = Callable[..., str]

_X = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
_FITS: dict[str, Any] = {"search": "optuna", "folds": 2, "num_samples": 10}


@pytest.fixture
def optuna() -> Any:
    return pytest.importorskip("optuna")


def _flat(scale: float, shift: float = 0.0) -> pv.VAE:
    """x does not depend on z: p(x) is a product of normal densities."""
    decoder = nn.Linear(1, 3)
    nn.init.zeros_(decoder.weight)
    nn.init.constant_(decoder.bias, shift)
    prior, guide = pv.priors.Normal(1), pv.guides.Normal(1)
    return pv.VAE(prior, guide, pv.likelihoods.Normal((3,), scale=scale), decoder=decoder)


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The scales of what would be fitted, and is left as it was built."""
    asked: list[float] = []

    def fit(vae: pv.VAE, data: Any, **options: Any) -> None:
        asked.append(vae.likelihood.spec()["args"]["scale"])
        if asked[-1] > 3:
            raise FloatingPointError("epoch 1, not finite")

    monkeypatch.setattr(module, "fit", fit)
    return asked


def _scales(selection: Selection) -> list[float]:
    return [each.arguments["scale"] for each in selection.candidates]


def _same(a: Selection, b: Selection) -> None:
    assert a.candidates == b.candidates
    assert np.array_equal(a.log_marginal, b.log_marginal), "to the last bit"
    assert a.failed == b.failed


def test_trials_follow_from_the_seed_and_are_scored_as_a_grid(
    optuna: Any, fitted: list[float]
) -> None:
    """Fails when folds are others than a grid's, or the worst is what the sampler looks for."""
    grid = {"scale": optuna.distributions.FloatDistribution(0.2, 2.9, log=True)}
    states = torch.get_rng_state(), np.random.get_state()[1]
    found = pv.select(_flat, _X, grid, trials=30, seeds=2, **_FITS)
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])
    assert len(fitted) == 30 * 2 * 2
    _same(found, pv.select(_flat, _X, grid, trials=30, seeds=2, **_FITS))
    assert _scales(pv.select(_flat, _X, grid, trials=3, **_FITS)) == _scales(found)[:3]
    assert _scales(pv.select(_flat, _X, grid, trials=3, seed=1, **_FITS)) != _scales(found)[:3]
    of_grid = _FITS | {"search": None}
    again = pv.select(_flat, _X, {"scale": _scales(found)}, seeds=2, **of_grid)
    _same(found, again)
    assert (found.trials, again.trials) == (30, None)
    assert found.summary() | {"seconds": 0, "trials": None} == again.summary() | {"seconds": 0}
    told = [trial.value for trial in found.study.trials]
    assert told == pytest.approx([each.log_marginal for each in found.candidates])
    assert found.study.best_params == found.best.arguments
    # Where the density of x is highest: scales are sought near it once ten were drawn at random.
    best = float((_X**2).mean().sqrt())
    near = [abs(math.log(each / best)) for each in _scales(found)]
    assert np.mean(near[20:]) < np.mean(near[:10])


def test_what_is_proposed_again_is_not_fitted_again(optuna: Any, fitted: list[float]) -> None:
    """Nor is there more to propose when all is known."""
    found = pv.select(_flat, _X, {"scale": [1, 2, 2.5], "shift": [0.0]}, trials=40, **_FITS)
    tried = [(each.arguments["scale"], each.arguments["shift"]) for each in found.candidates]
    assert len(set(tried)) == len(tried)
    assert len(fitted) == 2 * len(tried)
    assert found.trials is not None
    assert found.trials < 40 if len(tried) == 3 else found.trials == 40
    two = pv.select(_flat, _X, {"scale": [1, 2, 2.5]}, trials=2, **_FITS)
    assert len(two.study.trials) == 2


def test_values_of_any_kind_are_choices(optuna: Any, fitted: list[float]) -> None:
    """Of what Optuna cannot keep, and what it takes for the same."""
    given: list[dict[str, Any]] = []

    def build(scale: float, hidden: list[int], which: Any) -> pv.VAE:
        given.append({"hidden": hidden, "which": which})
        return _flat(scale)

    kind = optuna.distributions.CategoricalDistribution([1.0, 2.0])
    grid = {"scale": kind, "hidden": [[8], [4, 4]], "which": [1, True, np.int64(3)]}
    found = pv.select(build, _X, grid, trials=4, **_FITS)
    assert [each["hidden"] for each in given[:5]] == [[8], [8], [4, 4], [8], [8]], "each once"
    assert [str(each["which"]) for each in given[:5]] == ["1", "1", "1", "True", "3"]
    assert json.loads(json.dumps(found.summary())) == found.summary()
    for each in found.candidates:
        assert each.arguments["scale"] in (1.0, 2.0)
        assert each.arguments["hidden"] in ([8], [4, 4])


def test_a_setting_that_fails_is_a_failed_trial(optuna: Any, fitted: list[float]) -> None:
    """In its fit, or as it is built: of values that are fine one by one."""

    def build(scale: float, shift: float) -> pv.VAE:
        if shift == 1.0 and scale not in (0.5, 6.0):
            raise ValueError("`shift`: expected another\nof two lines")
        return _flat(scale, shift)

    grid = {"scale": optuna.distributions.FloatDistribution(0.5, 6.0), "shift": [0.0, 1.0]}
    found = pv.select(build, _X, grid, trials=25, **_FITS)
    reasons = {each.reason for each in found.failed}
    assert reasons == {"fold 1, epoch 1, not finite", "`shift`: expected another"}
    assert all(each.arguments["shift"] == 0.0 for each in found.candidates)
    assert max(_scales(found)) <= 3
    states = [trial.state.name for trial in found.study.trials]
    assert states.count("FAIL") == len(found.failed)
    assert states.count("COMPLETE") == len(found.candidates)
    assert len(fitted) == 2 * len(found.candidates) + sum(
        each.arguments["shift"] == 0.0 for each in found.failed
    )


def test_it_goes_on_where_it_was_left(optuna: Any, fitted: list[float], tmp_path: Path) -> None:
    """And to more trials. Fails when what was kept is fitted again, or not told to the sampler."""
    grid = {"scale": optuna.distributions.FloatDistribution(0.2, 4.0)}
    whole = pv.select(_flat, _X, grid, trials=20, **_FITS)
    fits = len(fitted)
    fitted.clear()
    reported: list[tuple[int, int, str]] = []

    def left(done: int, total: int, what: str) -> None:
        reported.append((done, total, what))
        if len(fitted) == 21:
            raise KeyboardInterrupt

    kept: dict[str, Any] = {"out": tmp_path / "out", **_FITS}
    with pytest.raises(KeyboardInterrupt, match="after 21 fits; --resume goes on"):
        pv.select(_flat, _X, grid, trials=15, on_fit=left, **kept)
    assert reported[0] == (0, 30, f"scale {_scales(whole)[0]:.4g}: fold 1, seed 0")
    assert [done for done, *_ in reported] == sorted(done for done, *_ in reported)
    pv.select(_flat, _X, grid, trials=15, resume=True, **kept)
    more = pv.select(_flat, _X, grid, trials=20, resume=True, on_fit=left, **kept)
    assert reported[-1] == (40, 40, "")
    assert len(fitted) == fits
    _same(whole, more)
    assert [trial.value for trial in whole.study.trials] == [t.value for t in more.study.trials]
    assert read_json(tmp_path / "out" / "selection.json")["trials"] == 20
    fitted.clear()
    few = pv.select(_flat, _X, grid, trials=3, resume=True, **kept)
    assert (few.trials, fitted) == (3, [])


def test_another_search_is_not_resumed(
    optuna: Any, fitted: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when scores are taken for those of another setting."""
    kinds = optuna.distributions
    grid = {"scale": kinds.FloatDistribution(0.2, 2.0)}
    options: dict[str, Any] = {"trials": 3, "out": tmp_path / "out", **_FITS}
    pv.select(_flat, _X, grid, **options)
    options |= {"resume": True}
    with pytest.raises(ValueError, match=r"`resume`: expected the settings .*seed was 0, is 1"):
        pv.select(_flat, _X, grid, seed=1, **options)
    with pytest.raises(ValueError, match=r"`resume`: expected the settings .*log was .*False.*"):
        pv.select(_flat, _X, {"scale": kinds.FloatDistribution(0.2, 2.0, log=True)}, **options)
    with monkeypatch.context() as patched:
        patched.setattr(optuna, "__version__", "0.1")
        with pytest.raises(ValueError, match=r"search\.optuna was .*, is '?0\.1"):
            pv.select(_flat, _X, grid, **options)
    other = optuna.samplers.RandomSampler(seed=7)
    monkeypatch.setattr(optuna.samplers, "TPESampler", lambda seed: other)
    with pytest.raises(ValueError, match=r"expected trial 1 as it was kept, .*scale was") as error:
        pv.select(_flat, _X, grid, **options)
    assert "\n" not in str(error.value)


def test_optuna_is_silent_while_it_is_called_and_only_then(
    optuna: Any,
    fitted: list[float],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who builds a model hears of it what there is to hear."""
    made, levels = optuna.create_study, list[int]()

    def create_study(**options: Any) -> Any:
        warnings.warn("theirs", stacklevel=1)
        return made(**options)

    def build(scale: float) -> pv.VAE:
        levels.append(optuna.logging.get_verbosity())
        warnings.warn("ours", stacklevel=1)
        return _flat(scale)

    monkeypatch.setattr(optuna, "create_study", create_study)
    before = optuna.logging.get_verbosity()
    logging.getLogger("optuna").addHandler(caplog.handler)
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    try:
        with pytest.warns(UserWarning, match="ours") as warned:
            pv.select(build, _X, {"scale": [1.0, 2.0]}, trials=3, **_FITS)
        levels.append(optuna.logging.get_verbosity())
    finally:
        optuna.logging.set_verbosity(before)
        logging.getLogger("optuna").removeHandler(caplog.handler)
    assert {str(each.message) for each in warned} == {"ours"}
    assert set(levels) == {optuna.logging.DEBUG}
    assert caplog.records == []


def _build(dim: int, lr: float) -> tuple[pv.VAE, dict[str, Any]]:
    normal = pv.likelihoods.Normal((3,), scale="shared")
    networks = pv.networks.MLP((4,), dropout=0.1), pv.networks.MLP((4,))
    return pv.VAE(pv.priors.Normal(dim), pv.guides.Normal(dim), normal, *networks), {"lr": lr}


@pytest.mark.long
def test_a_search_is_the_same_by_two_processes(optuna: Any) -> None:
    """Of real fits. Fails when the next trial is proposed before the last is scored."""
    kinds = optuna.distributions
    grid = {"dim": kinds.IntDistribution(1, 3), "lr": kinds.FloatDistribution(1e-3, 1e-1, log=True)}
    options: dict[str, Any] = {"trials": 12, "epochs": 2, "batch_size": 10, **_FITS}
    one = pv.select(_build, _X, grid, **options)
    with joblib.parallel_config(backend="loky", n_jobs=2):
        two = pv.select(_build, _X, grid, **options)
    _same(one, two)
    assert len({each.arguments["dim"] for each in one.candidates}) > 1


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"search": "grid"}, "`search`: expected one of optuna, got 'grid'"),
        ({"trials": None}, "`trials`: expected the number of settings that a search proposes, got"),
        ({"trials": 0}, "`trials`: expected a positive integer, got 0"),
        ({"search": None}, "`trials`: expected none without search='optuna', got 3"),
        ({"grid": [{"scale": 1.0}]}, "`grid`: expected values for each argument, which a search"),
        ({"grid": {}}, "`grid`: expected values for each argument, which a search combines, got"),
    ],
)
def test_a_mistake_is_one_line(changed: dict[str, Any], words: str, fitted: list[float]) -> None:
    given = {"grid": {"scale": [1.0, 2.0]}, "trials": 3} | _FITS | changed
    with pytest.raises(ValueError, match="expected") as mistake:
        pv.select(_flat, _X, given.pop("grid"), **given)
    assert words in str(mistake.value)
    assert "\n" not in str(mistake.value)
    assert fitted == []


def test_a_mistake_in_a_space_is_one_line(optuna: Any, fitted: list[float]) -> None:
    """Whatever value there is was built before anything is fitted."""
    wide = optuna.distributions.FloatDistribution(-1.0, 1.0)
    for scale, words in (
        ([1.0], "`grid`: expected at least two settings to choose from"),
        (1.0, "`grid['scale']`: expected a list of values, or a distribution of optuna.distrib"),
        ([], "`grid['scale']`: expected a list of values, or a distribution of optuna.distrib"),
        ([1.0, 2.0, -1.0], "got -1.0"),
        (wide, "got -1.0"),
    ):
        with pytest.raises(ValueError, match="expected") as mistake:
            pv.select(_flat, _X, {"scale": scale}, trials=3, **_FITS)
        assert words in str(mistake.value)
    with pytest.raises(ValueError, match="a list of values; with search='optuna' a distribution"):
        pv.select(_flat, _X, {"scale": wide})
    assert fitted == []


def test_only_a_search_needs_the_package(
    fitted: list[float], monkeypatch: pytest.MonkeyPatch, fails: Fails
) -> None:
    """And says how to get it, before anything is fitted."""
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert len(pv.select(_flat, _X, {"scale": [1.0, 2.0]}, folds=2).candidates) == 2
    fitted.clear()
    words = "`search`: expected optuna, by pip install 'pyro-vae[optuna]', got 'optuna'"
    with pytest.raises(ValueError, match="expected") as missing:
        pv.select(_flat, _X, {"scale": [1.0, 2.0]}, trials=3, **_FITS)
    assert str(missing.value) == words
    argv = ["select", "digits", "--search", "optuna", "--trials", "3", "--latent-dim"]
    assert words in fails(*argv, "2,3")
    assert words.replace("search", "--search", 1) in fails(*argv, "2..3")
    assert fitted == []


@pytest.fixture
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    np.save("values.npy", values)


@pytest.mark.usefixtures("_elsewhere")
def test_a_search_is_written_and_printed(optuna: Any, capsys: pytest.CaptureFixture[str]) -> None:
    argv = shlex.split(
        "select values.npy --likelihood Normal --lr 1e-3..1e-2 --encoder.hidden [4],[8,8] "
        "--folds 2 --epochs 1 --num-samples 10 --device cpu --trials 4 --search=optuna"
    )
    assert main([*argv, "--json", "--out", "one"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["trials"] == 4
    for each in result["candidates"]:
        assert 1e-3 <= each["arguments"]["lr"] <= 1e-2
        assert each["arguments"]["encoder.hidden"] in ([4], [8, 8])
    assert main([*argv, "--trials", "5", "--out", "one", "--resume"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "settings in 5 trials. Best: lr 0.00" in printed
    assert Path("one/selection.png").read_bytes().startswith(b"\x89PNG")
    again = shlex.split(printed[printed.index("pyro-vae fit") :])
    chosen = read_json(Path("one/selection.json"))["chosen"]
    assert float(again[again.index("--lr") + 1]) == chosen["lr"], "with all its digits"
    assert json.loads(again[again.index("--encoder.hidden") + 1]) == chosen["encoder.hidden"]
    assert not any("search" in word or "trials" in word for word in again)


@pytest.mark.usefixtures("_elsewhere")
def test_ranges_are_of_the_kind_of_their_option(optuna: Any) -> None:
    """Integers where it takes these alone; by logarithms where all are positive."""
    kinds = optuna.distributions
    words = "values.npy --likelihood Normal --search optuna --latent-dim 2..32 --lr=1e-4..1 "
    words += "--decoder.dropout 0...5 --weight-decay .001..0.01 --likelihood.scale 1..4 "
    words += "--encoder.hidden [4],[4],[8,8]"
    assert _Settings(shlex.split(words)).space() == {
        "latent-dim": kinds.IntDistribution(2, 32, log=True),
        "lr": kinds.FloatDistribution(1e-4, 1.0, log=True),
        "decoder.dropout": kinds.FloatDistribution(0.0, 0.5),
        "weight-decay": kinds.FloatDistribution(0.001, 0.01, log=True),
        "likelihood.scale": kinds.FloatDistribution(1.0, 4.0, log=True),
        "encoder.hidden": [[4], [8, 8]],
    }


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--lr 1e-4..1e-2", "`--lr`: expected values with commas between them, or --search optuna"),
        ("--lr 1,2 --trials 3", "`trials`: expected none without search='optuna', got 3"),
        ("--lr 1,2 --search optuna", "`trials`: expected the number of settings that a search"),
        ("--lr 1,2 --search optna", "`--search`: expected"),
        ("--lr 1..2,3 --search optuna", "`--lr`: expected either values with commas between them"),
        ("--lr 1,1 --search optuna", "or a range, as in 2..32"),
        ("--search optuna", "or a range, as in 2..32"),
        ("--lr 2..1 --search optuna", "`--lr`: expected a range from a lower to a higher number"),
        ("--lr 1..1e999 --search optuna", "`--lr`: expected values, as it has no ranges of numb"),
        ("--latent-dim 1.5..2 --search optuna", "`--latent-dim`: expected an integer, got '1.5'"),
        ("--latent-dim 0..2 --search optuna", "expected a positive integer, got 0"),
        ("--weight-decay -1..1 --search optuna", "`weight_decay`: expected a finite number >= 0"),
        ("--patience 1...5 --search optuna", "`--patience`: expected an integer, got '0.5'"),
        ("--prior 1..2 --search optuna", "`--prior`: "),
    ],
)
def test_a_mistake_of_a_command_is_one_line(words: str, said: str, fails: Fails) -> None:
    if ".." in words and "--search" in words:
        pytest.importorskip("optuna")
    trials = "" if "--trials" in words or "--lr 1,2" in words else "--trials 3"
    argv = f"select values.npy --likelihood Normal {words} {trials}".split()
    assert said in fails(*argv)


def test_many_settings_lie_beside_each_other_in_a_picture() -> None:
    """Fails when a search of one number writes all of its values, one on the other."""
    numbers = np.geomspace(1e-4, 1e-2, 40).tolist()

    def summary(of: list[dict[str, Any]]) -> dict[str, Any]:
        common = {"log_marginal": -1.0, "difference": 0.0, "seed_means": [0.0]}
        errors = {"difference_fold_error": 0.1, "difference_standard_error": 0.1}
        made = [{"arguments": each, **common, **errors} for each in of]
        return {"candidates": made, "chosen": of[0], "base_measure": {"data": "x"}, "folds": 2}

    axes = pv.plots.choice(summary([{"lr": each} for each in numbers]))
    assert axes.figure.get_figwidth() <= 10
    low, high = axes.get_xlim()
    assert 5 <= sum(low <= at <= high for at in axes.get_xticks()) < 10
    axes = pv.plots.choice(summary([{"lr": each, "dim": 2} for each in numbers]))
    assert axes.figure.get_figwidth() <= 10
    assert axes.get_xticklabels()[0].get_text() == "0.0001, 2"
