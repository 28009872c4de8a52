"""Observations that equal training ones: every verb that judges by them says how many there are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae._hub import Address
from pyro_vae.cli import main
from pyro_vae.data.inspection import copies_of
from pyro_vae.report import page
from pyro_vae.report.card import card

Fails = Callable[..., str]

SMALL = ["--encoder.hidden", "[4]", "--decoder.hidden", "[4]", "--latent-dim", "2", "--json"]
QUICK = ["--epochs", "1", "--num-samples", "10", "--compile", "false", "--device", "cpu"]
SAME = "equal training observations: if they are the same, they score too well"
TWICE = f"15 of 15 test observations {SAME}"
NEW = f"3 of 5 observations {SAME}"
JUDGES = {
    "evaluate": ["--num-samples", "5"],
    "check": ["--max-data", "20"],
    "report": ["--num-samples", "5", "--out", "page.html"],
    "anomalies": ["--num-samples", "5"],
    "rate-distortion": ["--num-samples", "5"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: each row of the data of one is there five times, of the other once."""
    folder = tmp_path_factory.mktemp("copies")
    values = np.random.default_rng(0).normal(size=(150, 3)).astype(np.float32)
    np.save(folder / "once.npy", values)
    np.save(folder / "twice.npy", np.tile(values[:10], (15, 1)))
    for name in ("once", "twice"):
        path = str(folder / f"{name}.npy")
        argv = ["fit", path, "--likelihood", "Normal", "--out", str(folder / name)]
        assert main([*argv, *SMALL, *QUICK]) == 0
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _some(folder: Path, copies: int, more: int) -> str:
    """A file of rows that the run has seen, and of others."""
    known = pv.data.load(folder / "once.npy").train[:copies]
    np.save("some.npy", np.concatenate([known, torch.randn(more, 3).numpy()]))
    return "some.npy"


@pytest.mark.long
@pytest.mark.parametrize("verb", JUDGES)
def test_rows_of_new_data_that_the_run_was_fitted_to_are_counted(
    verb: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    several = 4 if verb == "check" else 1
    data = _some(folder, 3 * several, 2 * several)
    argv = [verb, str(folder / "once"), "--data", data, *JUDGES[verb]]
    assert main(argv) == 0
    said = capsys.readouterr()
    words = " ".join((said.err + said.out).split())
    assert NEW.replace("3 of 5", f"{3 * several} of {5 * several}") in words
    if verb == "report":
        text = Path("page.html").read_text()
        assert "of which 3 equal training observations" in text
        assert "never saw" not in text
    Path("some.npy").unlink()
    Path("page.html").unlink(missing_ok=True)
    assert main([*argv[:3], _some(folder, 0, 20), *argv[4:]]) == 0
    said = capsys.readouterr()
    assert "equal" not in (said.err + said.out).split("observations", 1)[1]
    assert verb != "report" or "which it never saw" in Path("page.html").read_text()


@pytest.mark.long
def test_rows_of_the_test_set_that_are_training_rows_are_counted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the scores of the fit and of evaluate, on the page and on the card."""
    capsys.readouterr()
    run = str(folder / "twice")
    assert TWICE in json.loads((folder / "twice" / "scores.json").read_text())["notes"]
    assert main(["evaluate", run, "--num-samples", "5", "--json"]) == 0
    assert TWICE in json.loads(capsys.readouterr().out)["notes"]
    once = str(folder / "once")
    new = ["--data", _some(folder, 3, 2), "--num-samples", "5", "--json"]
    assert main(["compare", once, run, *new]) == 0
    assert f"{once}: {NEW}" in capsys.readouterr().err
    data = pv.data.load(folder / "twice.npy")
    text = page(pv.load(run), data, num_samples=5)
    assert "of which 15 equal training observations" in text
    scores = json.loads((folder / "twice" / "scores.json").read_text())
    assert TWICE in card(folder / "twice", Address("ann/twice"), scores=scores)


@pytest.mark.long
def test_what_cannot_be_compared_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file of the run has gone: the number is not known, and is not taken for none."""
    values = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)
    np.save("gone.npy", values)
    argv = ["fit", "gone.npy", "--likelihood", "Normal", "--out", "run", *SMALL, *QUICK]
    assert main(argv) == 0
    Path("gone.npy").unlink()
    np.save("new.npy", values[:4])
    capsys.readouterr()
    assert main(["evaluate", "run", "--data", "new.npy", "--num-samples", "5", "--json"]) == 0
    (note,) = [n for n in json.loads(capsys.readouterr().out)["notes"] if "equal" in n]
    assert note.startswith("whether observations equal training observations is not known")
    assert (
        main(["report", "run", "--data", "new.npy", "--num-samples", "5", "--out", "p.html"]) == 0
    )
    assert "which were not compared with what it was fitted to" in Path("p.html").read_text()


def test_images_are_not_told_to_group_by_a_column(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    argv = ["fit", str(folder / "twice.npy"), "--likelihood", "Normal", "--out", "run"]
    assert main([*argv, *SMALL, *QUICK]) == 0
    said = capsys.readouterr().err
    (line,) = (line for line in said.splitlines() if "equal" in line)
    assert line == f"15 of 15 validation and {TWICE}; take them out of the data"
    assert "--group" not in said


def test_an_observation_under_another_condition_is_no_copy() -> None:
    """Of few discrete entries many are alike by chance."""
    x = torch.zeros(6, 2)
    site = torch.arange(6.0)[:, None]
    train = pv.data.Rows(x, {"cond": site})
    assert copies_of(train[:2], train) == 2
    assert copies_of(pv.data.Rows(x, {"cond": site + 10}), train) == 0
