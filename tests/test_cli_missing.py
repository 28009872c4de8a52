"""Tables that lack entries, on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.data import Dataset

Fails = Callable[..., str]

QUICK = ["--epochs", "1", "--num-samples", "20", "--compile", "false", "--device", "cpu"]
SMALL = ["--encoder.hidden", "[8]", "--decoder.hidden", "[8]", "--latent-dim", "2", *QUICK]
NORMAL = ["--likelihood", "Normal", *SMALL]
BLANKS = ("", "NA", "nan", " NaN ", "na")  # in turn, where there is no number


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a folder of its own, with a table."""
    monkeypatch.chdir(tmp_path)
    write("t.csv", table())


def table(size: int = 60) -> np.ndarray:
    """Rows that are known again by their first entry; of the others a third is missing."""
    rng = np.random.default_rng(0)
    rows = np.column_stack([np.arange(size), rng.normal(size=(size, 3))]).astype(np.float32)
    rows[:, 1:][rng.uniform(size=(size, 3)) < 1 / 3] = np.nan
    return rows


def write(path: str, rows: np.ndarray) -> None:
    lines = ["id,a,b,c"]
    for row in rows:
        cells = [BLANKS[len(lines) % len(BLANKS)] if np.isnan(v) else f"{v:.9g}" for v in row]
        lines.append(",".join(cells))
    Path(path).write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("name", ["t.csv", "t.npy", "t.npz"])
def test_what_is_missing_is_masked(name: str) -> None:
    """Row by row; fails when a split has the mask of other rows."""
    rows = table()
    np.save("t.npy", rows)
    np.savez("t.npz", x=rows)
    kinds = {"kinds": "id=count"} if name == "t.csv" else {}
    data = pv.data.load(name, missing=True, **kinds)
    seen = 0
    for split in ("train", "validation", "test"):
        x, mask = data.split(split), data.given(split)["mask"]
        for values, observed in zip(x, mask, strict=True):
            row = rows[int(values[0])]
            np.testing.assert_array_equal(values.numpy(), row)
            np.testing.assert_array_equal(observed.numpy(), ~np.isnan(row))
            seen += 1
    assert seen == len(rows)
    with pytest.raises(ValueError, match=r"got '?(nan|NA)'?; `missing` \(--missing\) takes it"):
        pv.data.load(name)


def test_nothing_missing_is_no_mask() -> None:
    whole = np.nan_to_num(table())
    assert pv.data.load(whole, missing=True).given("train") == {}
    with pytest.raises(ValueError, match=r"a finite float32 value at index \(0, 1\), got inf$"):
        pv.data.load(whole + np.array([0, np.inf, 0, 0], dtype=np.float32), missing=True)


def test_the_support_is_that_of_what_is_there() -> None:
    """Fails when NaN counts as a value."""
    binary = np.where(np.isnan(rows := table()), np.nan, rows > 0.5)
    data = pv.data.load(binary, missing=True)
    assert data.support is torch.distributions.constraints.boolean
    grey = torch.linspace(0, 1, 50).reshape(10, 5).clone()
    grey[3, 2] = torch.nan
    for how in ("threshold", "stochastic"):
        made = pv.data.load(grey, missing=True, binarize=how, validation=0.5)  # type: ignore[arg-type]
        every = torch.cat([made.train, made.validation, made.test])
        assert int(every.isnan().sum()) == 1
    report = pv.data.inspect(data)
    assert sum(report.missing[s] * len(data.split(s)) * 4 for s in report.missing) == (
        pytest.approx(np.isnan(rows).sum())
    )
    assert report.ranges["train"][::2] == (0.0, 1.0)
    assert "% missing" in str(report)


@pytest.mark.long
def test_scores_are_of_what_is_observed(capsys: pytest.CaptureFixture[str]) -> None:
    """Fitted, scored, and replayed alike. Fails when `evaluate` leaves the mask out."""
    argv = ["fit", "t.csv", "--missing", "--show-mask", *NORMAL, "--json", "--out", "run"]
    assert main(argv) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    vae, data = pv.load("run"), pv.data.load("t.csv", missing=True)
    assert vae.guide.show_mask
    mask = data.mask["test"]
    assert not mask.all()
    assert pv.evaluate(vae, data.test, mask=mask, num_samples=20).summary() == scores
    hidden = torch.where(mask, data.test, 5.0)
    same = pv.evaluate(vae, hidden, mask=mask, num_samples=20).summary()
    assert same["log_marginal"] == scores["log_marginal"], "whatever is under the mask"
    prints = [each["base_measure"]["fingerprint"] for each in (same, scores)]
    assert prints[0] == prints[1] == data.base_measure("test")["fingerprint"]

    assert main(["evaluate", "run", "--num-samples", "20", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == scores
    assert main(["fit", "--config", "run/config.yaml", "--json", "--out", "again"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"] == scores
    assert main(["compare", "run", "again", "--num-samples", "20", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["base_measure"] == scores["base_measure"]
    assert main(["evaluate", "run", "--num-samples", "20", "--max-data", "3", "--json"]) == 0
    capsys.readouterr()
    # What is missing is part of what a run is known by.
    rows = table()
    rows[~np.isnan(rows[:, 1]), 1] = np.nan
    write("t.csv", rows)
    assert main(["evaluate", "run"]) == 2
    assert "`--data`: expected the test data of the run" in capsys.readouterr().err
    assert main([*argv, "--resume"]) == 2
    assert "expected the settings and data of run" in capsys.readouterr().err


@pytest.mark.long
def test_a_run_says_nothing_of_what_it_does_not_have() -> None:
    """As those of before had it, so that they are replayed to the same bytes."""
    write("whole.csv", np.nan_to_num(table()))
    assert main(["fit", "whole.csv", *NORMAL, "--json", "--out", "run"]) == 0
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert not {"missing", "show_mask"} & config.keys()


@pytest.mark.long
def test_pictures_leave_out_what_is_missing() -> None:
    """Of images, and of a column of which nothing is there; fails on NaN in a histogram."""
    images = np.random.default_rng(0).uniform(size=(30, 1, 4, 4)).astype(np.float32)
    images[:, 0, 1:3, 1] = np.nan
    np.save("images.npy", images)
    rows = table()
    rows[:, 2] = np.nan
    np.save("rows.npy", rows)
    for name in ("images", "rows"):
        assert main(["fit", f"{name}.npy", "--missing", *NORMAL, "--json", "--out", name]) == 0
        for picture in ("samples", "reconstructions", "latent"):
            assert Path(name, f"{picture}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("fit t.csv --likelihood Normal", "`data`: expected a number in row"),
        ("fit t.csv --likelihood Normal", "; `missing` (--missing) takes it for an entry"),
        (
            "fit t.csv --likelihood Normal --missing --size-factor a",
            "a value for each observation in a",
        ),
        ("fit t.csv --likelihood Normal --missing --cond b", "`cond`: expected a value for each"),
        ("fit whole.csv --likelihood Normal --show-mask", "`--show-mask`: expected --missing"),
        ("fit whole.csv --likelihood Multinomial --missing", "expected values in the support"),
        ("fit counts.csv --likelihood Multinomial --missing", "independent given z"),
        ("check run", "`x`: expected at least 20 observations, got 6"),
    ],
)
def test_what_cannot_be_done_is_reported_in_one_line(
    argv: str, words: str, fitted: Path, fails: Fails
) -> None:
    write("whole.csv", np.nan_to_num(table()))
    write("counts.csv", np.where(np.isnan(rows := table()), rows, np.abs(rows).round()))
    arguments = argv.replace("run2", str(fitted.parent / "run2")).replace(" run", f" {fitted}")
    assert words in fails(*arguments.split())


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and another one beside it; do not write to them."""
    folder = tmp_path_factory.mktemp("fitted")
    write(path := str(folder / "t.csv"), table())
    for name in ("run", "run2"):
        arguments = ["--missing", *NORMAL, "--json", "--out", str(folder / name)]
        assert main(["fit", path, *arguments]) == 0
    return folder / "run"


def test_a_data_set_moves_with_its_mask() -> None:
    data = pv.data.load("t.csv", missing=True)
    moved = data.to("cpu")
    assert isinstance(moved, Dataset)
    assert moved.given("test").keys() == {"mask"}
