"""Runs of an old release are loaded, scored and resumed, to the last bit where it is the same CPU.

``fixtures/old-runs-0.1.0`` holds them, and ``old_runs.py`` says how they were made. Elsewhere, with
another torch or another CPU, rounding differs: numbers are then compared within a tolerance.
"""

from __future__ import annotations

import functools
import io
import json
import lzma
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import old_runs
import pytest
import torch
from old_runs import COMMANDS, RECIPES
from torch import Tensor

import pyro_vae as pv
from pyro_vae.cli import main

# Of numbers near one. With other vector instructions nearly all agree within 1e-6, and the
# densities of counts, which are differences of log-gamma functions, within 1e-4.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
EAGER = [name for name, recipe in RECIPES.items() if not recipe["fit"]["compile"]]
COMPILED = [name for name in RECIPES if name not in EAGER]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked archive; do not write to it."""
    folder = tmp_path_factory.mktemp("old-runs")
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(old_runs.ARCHIVE.read_bytes()))) as file:
        file.extractall(folder, filter="data")
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums are split over threads, and this changes their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def copy(archive: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copies a folder of the archive, such as ``NAME/finished``, to be written to."""

    def copied(name: str) -> Path:
        target = tmp_path / name.replace("/", "-")
        for path in (archive / name).rglob("*"):
            if path.is_file():
                new = target / path.relative_to(archive / name)
                new.parent.mkdir(parents=True, exist_ok=True)
                new.write_bytes(path.read_bytes())
        return target

    return copied


@functools.cache
def expectations(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def expected(archive: Path) -> dict[str, Any]:
    return expectations(archive / "expected.json")


def changed(archive: Path, *, compiled: bool = False) -> str:
    """What is not as it was when the archive was written, of what the last bits depend on."""
    then, now = expected(archive), old_runs.environment()
    before = then["environment"]
    if compiled:
        before, now = (
            before | {"compiler": then["compiler"]},
            now | {"compiler": old_runs.compiler()},
        )
    return "; ".join(f"{k} was {before[k]}, is {now[k]}" for k in before if before[k] != now[k])


def assert_same_numbers(
    found: Mapping[str, list[str]], then: Mapping[str, Any], exact: bool
) -> None:
    for name, values in found.items():
        if exact:
            assert values == then[name], name
        else:
            pair = old_runs.numbers(values), old_runs.numbers(then[name])
            np.testing.assert_allclose(*pair, **TOLERANCE, err_msg=name)


def assert_same_weights(
    found: Mapping[str, Tensor], then: Mapping[str, Tensor], digest: str, exact: bool
) -> None:
    """The digest is of what the old release had in memory, ``then`` of what its files say now."""
    assert old_runs.digest(then) == digest
    if exact:
        assert old_runs.digest(found) == digest
    torch.testing.assert_close(
        dict(found), dict(then), **({"rtol": 0, "atol": 0} if exact else TOLERANCE)
    )


def test_the_last_bits_are_compared(archive: Path) -> None:
    """Is skipped where they are not, and the summary then says why."""
    if differs := changed(archive):
        pytest.skip(f"old runs are compared within {TOLERANCE['rtol']}: {differs}")
    assert len(expected(archive)["runs"]) == len(RECIPES)


def test_every_component_of_the_release_has_a_run(archive: Path) -> None:
    """Fails when a recipe is taken off the table, or the archive is another."""
    then = expected(archive)
    assert set(then["exported"]) <= old_runs.covered()
    assert then["runs"].keys() == RECIPES.keys()
    assert then["commands"].keys() == COMMANDS.keys()


@pytest.mark.parametrize("name", RECIPES)
def test_a_finished_run_is_loaded_and_scores_the_same(name: str, archive: Path) -> None:
    """Fails when a name in its files, the order of the draws or a density is another."""
    recipe, then = RECIPES[name], expected(archive)["runs"][name]
    exact = not changed(archive)
    vae = pv.load(archive / name / "finished", classes=old_runs.CLASSES)
    assert old_runs.digest(vae.state_dict()) == then["weights"]
    assert_same_numbers(old_runs.scores(recipe, vae), then, exact)


@pytest.mark.parametrize("name", RECIPES)
def test_a_finished_run_is_read_where_it_is_fitted_again(
    name: str, copy: Callable[[str], Path], archive: Path
) -> None:
    """Fails when a setting or a fingerprint is recorded in another way, or it is trained anew."""
    then = expected(archive)["runs"][name]
    out = copy(f"{name}/finished")
    run = old_runs.fit(RECIPES[name], old_runs.build(RECIPES[name], 5), out=out, resume=True)
    assert old_runs.digest(run.vae.state_dict()) == then["weights"]
    assert old_runs.digest(run.last_weights) == then["last_weights"]
    assert old_runs.history(run) == then["history"]
    assert (run.best_epoch, dict(run.engine_steps)) == (then["best_epoch"], then["engine_steps"])


def check_resumed(name: str, copy: Callable[[str], Path], archive: Path, exact: bool) -> None:
    recipe, then = RECIPES[name], expected(archive)["runs"][name]
    let_be, out = copy(f"{name}/finished"), copy(f"{name}/interrupted")
    whole = old_runs.fit(recipe, old_runs.build(recipe, 5), out=let_be, resume=True)
    run = old_runs.fit(recipe, old_runs.build(recipe, 5), out=out, resume=True)
    pairs = {
        "weights": (run.vae.state_dict(), whole.vae.state_dict()),
        "last_weights": (run.last_weights, whole.last_weights),
    }
    for key, (found, before) in pairs.items():
        assert_same_weights(found, before, then[key], exact)
    history = old_runs.history(run)
    if name == "combined.double":
        # The loss of an eager step was rounded to single precision then.
        assert_same_numbers({"loss": history.pop("loss")}, then["history"], exact=False)
    assert_same_numbers(history, then["history"], exact)
    assert (run.best_epoch, dict(run.engine_steps)) == (then["best_epoch"], then["engine_steps"])
    # The first epoch was not trained again: its clock says what it said.
    assert run.history["seconds"][0] == whole.history["seconds"][0]


@pytest.mark.parametrize("name", EAGER)
def test_an_interrupted_run_ends_at_the_weights_of_before(
    name: str, copy: Callable[[str], Path], archive: Path
) -> None:
    check_resumed(name, copy, archive, exact=not changed(archive))


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_so_does_a_compiled_one(name: str, copy: Callable[[str], Path], archive: Path) -> None:
    check_resumed(name, copy, archive, exact=not changed(archive, compiled=True))


@pytest.fixture
def command(
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Any]:
    """Runs a command beside the table and returns what it prints."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.csv").write_bytes((archive / "table.csv").read_bytes())

    def run(*argv: str) -> Any:
        capsys.readouterr()
        assert main([*argv, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def check_command(weights: Path, then: Path, digest: str, exact: bool) -> None:
    found, before = (pv.load(path).state_dict() for path in (weights, then))
    assert_same_weights(found, before, digest, exact)


def assert_same_summary(found: Mapping[str, Any], then: Mapping[str, Any], exact: bool) -> None:
    """What a summary of today has besides is new since."""
    for name, value in then.items():
        if isinstance(value, float) and not exact:
            value = pytest.approx(value, rel=TOLERANCE["rtol"], abs=TOLERANCE["atol"])
        assert found[name] == value, name


@pytest.mark.parametrize("name", COMMANDS)
def test_a_run_of_the_command_line_is_evaluated(
    name: str, copy: Callable[[str], Path], archive: Path, command: Callable[..., Any]
) -> None:
    """Its data have moved since, if they are a file's."""
    run, source = copy(f"{name}/finished"), COMMANDS[name][0]
    then = expected(archive)["commands"][name]["evaluate"]
    found = command("evaluate", str(run), "--data", source, "--num-samples", "7")
    assert_same_summary(found, then, exact=not changed(archive))


@pytest.mark.long
@pytest.mark.parametrize("name", COMMANDS)
def test_a_run_of_the_command_line_is_replayed_and_resumed(
    name: str, copy: Callable[[str], Path], archive: Path, command: Callable[..., Any]
) -> None:
    """From its own configuration: anew, from its checkpoint, and as it is, being finished."""
    exact, then = not changed(archive), expected(archive)["commands"][name]
    finished, interrupted = copy(f"{name}/finished"), copy(f"{name}/interrupted")
    scores = json.loads((finished / "scores.json").read_text())
    scores.pop("schema")
    source = COMMANDS[name][0]
    for out, resume in (
        (finished, True),
        (interrupted, True),
        (finished.with_name("again"), False),
    ):
        config = str((interrupted if resume else finished) / "config.yaml")
        argv = ["fit", source, "--config", config, "--out", str(out)]
        found = command(*argv, *(["--resume"] if resume else []))["scores"]
        assert_same_summary(found, scores, exact or out == finished)
        check_command(out, archive / name / "finished", then["weights"], exact)
