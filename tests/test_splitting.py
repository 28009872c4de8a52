"""Which rows are held out: at random, the last ones, or whole groups."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.data import inspect, load


def series(size: int = 200) -> torch.Tensor:
    """An autoregression whose neighbours are near-copies, numbered in its first column."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.randn(size, 3, generator=generator)
    x = [steps[0]]
    for step in steps[1:]:
        x.append(0.98 * x[-1] + 0.2 * step)
    return torch.cat([torch.arange(size)[:, None], torch.stack(x)], 1)


def test_blocks_are_the_last_rows_in_order() -> None:
    data = load(series(), split="blocks", test=0.1, validation=0.2)
    rows = torch.arange(200.0)
    assert torch.equal(data.train[:, 0].sort().values, rows[:140])
    assert torch.equal(data.validation[:, 0].sort().values, rows[140:180])
    assert torch.equal(data.test[:, 0].sort().values, rows[180:])


def test_random_rows_are_those_of_before() -> None:
    """Fingerprints of runs last: fails when the order of the draws is another."""
    order = np.random.RandomState(3).permutation(200)
    data = load(series(), seed=3)
    assert data.test[:, 0].tolist() == order[:20].tolist()
    assert data.validation[:, 0].tolist() == order[20:40].tolist()


def _table(path: Path, words: bool) -> Path:
    lines = ["a,subject,b"]
    for i in range(120):
        subject = f"s{i % 12}" if words else str(i % 12)
        lines.append(f"{i % 12}.5,{subject},{(i * 7) % 120}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("words", [True, False])
def test_a_group_is_in_one_split(words: bool, tmp_path: Path) -> None:
    """Its column, of words or of numbers, is no part of x; its number is in a, plus a half."""
    path = _table(tmp_path / "t.csv", words)
    data = load(path, split="column subject", test=0.25, validation=0.25)
    assert list(data.names) == ["a", "b"]
    groups = [set(data.split(split)[:, 0].tolist()) for split in ("train", "validation", "test")]
    assert [len(each) for each in groups] == [6, 3, 3]
    assert len(set.union(*groups)) == 12
    assert sum(map(len, (data.train, data.validation, data.test))) == 120
    other = load(path, split="column subject", test=0.25, validation=0.25, seed=1)
    assert set(other.test[:, 0].tolist()) != groups[2]


def test_groups_of_any_size_come_near_the_share(tmp_path: Path) -> None:
    lines = ["a,g"] + [f"{i},{min(i // 7, 9)}" for i in range(100)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(lines) + "\n")
    for seed in range(5):
        data = load(path, split="column g", test=0.2, validation=0, seed=seed)
        groups = (data.train[:, 0] // 7).clamp_max(9), (data.test[:, 0] // 7).clamp_max(9)
        assert not set(groups[0].tolist()) & set(groups[1].tolist())
        assert 0 < len(data.test) <= 37


@pytest.mark.parametrize(
    ("split", "says"),
    [
        ("last", r"`split`: expected random, blocks, `column NAME` or `time NAME`, got 'last'"),
        ("column ", r"`split`: expected random, blocks, `column NAME` or `time NAME`"),
        ("column nobody", r"`split`: .*nobody"),
        ("column b", r"`split`: expected more groups than splits, got '4 rows of one'"),
    ],
)
def test_what_is_no_way_to_split_is_refused(split: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,7\n2,7\n3,7\n4,7\n")
    with pytest.raises(ValueError, match=says):
        load(path, split=split)


def test_a_source_with_splits_keeps_them(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(9, 2))
    np.savez(tmp_path / "x.npz", train=x, test=x + 1)
    with pytest.raises(ValueError, match="`split`: expected random, as the data bring their own"):
        load(tmp_path / "x.npz", split="blocks")


def test_a_report_says_when_neighbours_are_near_copies() -> None:
    ordered = series()[:, 1:]
    close, far = inspect(load(ordered)), inspect(load(ordered[torch.randperm(200)]))
    assert close.step < 0.5
    assert "--split blocks keeps near-copies out of the test set" in str(close)
    # 600 differences, of which the neighbours' and the random ones both have a relative spread.
    assert far.step == pytest.approx(1, abs=0.2)
    assert "--split" not in str(far)
    assert inspect(load(torch.ones(3, 2), validation=0, test=0)).summary()["step"] is None


def test_a_run_finds_its_groups_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = _table(tmp_path / "t.csv", True), tmp_path / "run"
    options = ["--latent-dim", "1", "--epochs", "1", "--num-samples", "5", "--json"]
    given = ["--likelihood", "Normal", "--split", "column subject", "--out", str(out)]
    main(["fit", str(path), *given, *options])
    assert json.loads((out / "data.json").read_text())["options"]["split"] == "column subject"
    main(["evaluate", str(out), "--num-samples", "5", "--json"])
    assert "scores" in capsys.readouterr().out
    assert pv.load(out).event_shape == (2,)


@pytest.mark.parametrize("form", ["dates", "numbers"])
def test_later_rows_are_held_out(form: str, tmp_path: Path) -> None:
    """Dates as people write them, not as letters sort; rows of one time are in one split."""
    days = np.random.default_rng(0).permutation(np.repeat(np.arange(60), 2))
    dates = pd.Timestamp("2020-01-25") + pd.to_timedelta(days, "D")
    when = dates.strftime("%d.%m.%Y") if form == "dates" else days / 2
    path = tmp_path / "t.csv"
    pd.DataFrame({"a": days + 0.25, "when": when, "b": days[::-1]}).to_csv(path, index=False)
    data = load(path, split="time when", test=0.2, validation=0.1)
    assert list(data.names) == ["a", "b"]
    found = [data.split(split)[:, 0] for split in ("train", "validation", "test")]
    assert [len(each) for each in found] == [84, 12, 24]
    assert float(found[0].max()) < float(found[1].min())
    assert float(found[1].max()) < float(found[2].min())
    words = _table(tmp_path / "words.csv", words=True)
    with pytest.raises(ValueError, match="`split`: expected numbers or dates in subject, by which"):
        load(words, split="time subject")


def test_groups_and_times_have_short_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are the long ones, and so are recorded; copies across splits are reported."""
    monkeypatch.chdir(tmp_path)
    path = _table(tmp_path / "t.csv", words=True)
    small = ["--latent-dim", "2", "--encoder.hidden", "[4]", "--decoder.hidden", "[4]"]
    small += ["--epochs", "1", "--num-samples", "5", "--compile", "false", "--device", "cpu"]
    argv = ["fit", str(path), *small, "--json"]
    ways = {"--group": "column subject", "--time": "time b", "--split": "random"}
    for option, split in ways.items():
        value = split.split()[-1]
        argv = [*argv, "--drop", "b"] if option == "--split" else argv
        run = option.strip("-")
        assert main([*argv, option, value, "--out", run]) == 0
        said = capsys.readouterr()
        record = json.loads(Path(run, "data.json").read_text())
        assert record["options"].get("split", "random") == split
        copies = "observations equal training observations" in said.err
        assert copies == (option != "--group"), said.err
        assert main(["evaluate", run, "--num-samples", "5", "--json"]) == 0
        scores = json.loads(said.out)["scores"]
        assert json.loads(capsys.readouterr().out)["log_marginal"] == scores["log_marginal"]
    assert main([*argv, "--group", "subject", "--split", "blocks", "--out", "c"]) == 2
    assert "`--group`: expected nothing beside --split 'blocks'" in capsys.readouterr().err
