"""New data for an old run: read as those that it was fitted to, whatever their order."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.data.likeness import in_order
from pyro_vae.data.raw import Raw

Fails = Callable[..., str]

QUICK = ["--epochs", "1", "--num-samples", "10", "--compile", "false", "--device", "cpu"]
SMALL = ["--encoder.hidden", "[4]", "--decoder.hidden", "[4]", "--latent-dim", "2", *QUICK]
LOADED = {"cond": "site", "size_factor": "size", "label": "species", "missing": True}
KINDS = {"visits": "count", "age": "count", "job": "category"}


def table(size: int, seed: int) -> pd.DataFrame:
    """Counts and words under sizes, at two sites."""
    r = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "patient_id": [f"p{seed}-{i}" for i in range(size)],
            "visits": r.poisson(3, size),
            "job": r.choice(["nurse", "teacher", "clerk"], size),
            "species": r.choice(["a", "b"], size),
            "site": r.choice(["x", "y"], size),
            "size": r.uniform(5, 20, size) * (1 + seed),
            "age": r.poisson(40, size),
        }
    )


def known(**options: object) -> pv.data.Dataset:
    first = table(60, 0)
    first.loc[3, "visits"] = None
    return pv.data.load(first, **{**LOADED, "kinds": KINDS, **options})  # type: ignore[arg-type]


def test_columns_are_taken_by_name_in_the_units_of_the_training_data() -> None:
    """Fails when the order counts, a unit is of the new data, or words are counted anew."""
    new, train = table(9, 1), known()
    other = new.loc[:, ["age", "site", "job", "size", "visits"]].iloc[::-1]
    data = pv.data.load(other[other.site == "y"], like=train)
    assert [len(data.split(s)) for s in ("train", "validation", "test")] == [0, 0, (new.site == "y").sum()]  # fmt: skip # noqa: E501
    kept = new[new.site == "y"].iloc[::-1]
    levels = ["clerk", "nurse", "teacher"]
    assert data.names == train.names == ["visits", "job", "age"]
    expected = [kept.visits, kept.job.map(levels.index), kept.age]
    np.testing.assert_array_equal(data.test, np.stack(expected, 1))
    np.testing.assert_array_equal(data.cond["test"], [[0, 1]] * len(kept))
    sizes = data.covariates["test"]["size_factor"]
    np.testing.assert_allclose(sizes, kept["size"] / train.size_unit, rtol=1e-6)
    assert data.labels["test"] is None
    labelled = pv.data.load(new, like=train)
    np.testing.assert_array_equal(labelled.labels["test"], new.species == "b")
    assert data.schema == train.schema


def test_columns_that_lack_are_unobserved_where_there_are_masks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    new, train = table(9, 1).drop(columns="job").assign(extra=1, more="u"), known()
    caplog.clear()
    with caplog.at_level(logging.WARNING, "pyro_vae"):
        data = pv.data.load(new, like=train)
    assert data.mask["test"].tolist() == [[True, False, True]] * 9
    assert [each.getMessage() for each in caplog.records] == [
        "took the columns job, which are not there, for unobserved",
        "left out the columns extra, more, which table does not have",
    ]
    complete = pv.data.load(table(60, 0), kinds=KINDS, cond="site")
    with pytest.raises(ValueError, match=r"none called job'; .*`missing` \(--missing\) takes it"):
        pv.data.load(new, like=complete)
    lacking = table(9, 1)
    lacking.loc[2, "visits"] = None
    message = r"a number in row 2, column 2 \(visits\), got nan; a model that is fitted with"
    with pytest.raises(ValueError, match=message):
        pv.data.load(lacking, like=complete)
    for column, option in (("site", "cond"), ("size", "size_factor")):
        with pytest.raises(ValueError, match=rf"a column {column}, which goes .*\(`{option}`\)"):
            pv.data.load(new.drop(columns=column), like=known())
    with pytest.raises(ValueError, match="none called visits, job, age"):
        pv.data.load(new[["site", "size"]], like=known())


def test_levels_never_seen_are_refused_or_missing(caplog: pytest.LogCaptureFixture) -> None:
    """Fails when one is counted among the others."""
    new = table(9, 1)
    new.loc[[2, 5], "job"] = ["pilot", "smith"]
    message = r"one of clerk, nurse, teacher, got 'pilot', in row 2, column 3 \(job\); `unseen` "
    with pytest.raises(ValueError, match=message):
        pv.data.load(new, like=known())
    with caplog.at_level(logging.WARNING, "pyro_vae"):
        data = pv.data.load(new, like=known(), unseen="missing")
    assert (~data.mask["test"]).nonzero().tolist() == [[2, 1], [5, 1]]
    assert "job: took 'pilot', 'smith' for missing in 2 cells" in caplog.text
    complete = pv.data.load(table(60, 0), kinds=KINDS, cond="site")
    with pytest.raises(ValueError, match=r"`unseen`: expected refuse, as only a model that is"):
        pv.data.load(new, like=complete, unseen="missing")
    with pytest.raises(ValueError, match="`site`: expected one of x, y, got 'z'"):
        pv.data.load(table(9, 1).assign(site="z"), like=known(), unseen="missing")
    numbered = known(kinds={**KINDS, "age": "ordinal"})
    levels = numbered.schema["age"].levels if numbered.schema else ()
    with pytest.raises(ValueError, match=f"expected one of {levels[0]}, .* got '999'"):
        pv.data.load(table(9, 1).assign(age=999), like=numbered)


def test_what_the_other_data_bring_is_not_asked_again() -> None:
    with pytest.raises(ValueError, match="`cond`: expected nothing with `like`"):
        pv.data.load(table(9, 1), like=known(), cond="site")
    with pytest.raises(ValueError, match="`unseen`: expected refuse without `like`"):
        pv.data.load(table(9, 1), unseen="missing")
    with pytest.raises(ValueError, match=r"observations of shape \(1, 8, 8\)"):
        pv.data.load(torch.rand(5, 3), like=pv.data.load("digits"))


def test_arrays_come_as_they_did(tmp_path: Path) -> None:
    """Fails when levels are divided otherwise, or splits of the file are thrown together."""
    r = np.random.default_rng(0)
    images = r.integers(0, 256, (40, 1, 6, 6)).astype(np.uint8)
    train = pv.data.load(images, rescale=True)
    new = pv.data.load(images[:7].copy(), like=train)
    torch.testing.assert_close(new.test, torch.from_numpy(images[:7] / 255).float())
    np.savez(tmp_path / "t.npz", train=images[:20], test=images[20:])
    split = pv.data.load(tmp_path / "t.npz", like=train)
    assert (len(split.train), len(split.validation), len(split.test)) == (20, 0, 20)


def test_names_of_entries_are_put_in_order() -> None:
    """Of arrays with names of their own, as of tables; fails when entries stay where they were."""
    x = torch.arange(12.0).reshape(4, 3)
    like = replace(pv.data.load(x, test=0.25, validation=0), names=["a", "b", "c"])
    raw = Raw({"train": x}, names=["c", "d", "a"])
    with pytest.raises(ValueError, match="got 'none called b'; a model that is fitted with"):
        in_order(raw, like)
    masked = replace(like, options={"missing": True})
    found = in_order(raw, masked).splits["train"]
    assert torch.equal(found[:, [0, 2]], x[:, [2, 0]])
    assert found[:, 1].isnan().all()


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run; do not write to it."""
    folder = tmp_path_factory.mktemp("fitted")
    table(60, 0).to_csv(folder / "t.csv", index=False)
    options = ["--missing", "--label", "species", "--cond", "site", "--size-factor", "size"]
    options += ["--kind", "visits=count,age=count", "--json", "--out", str(folder / "run")]
    options += ["--likelihood", "Poisson", "--drop", "job"]
    assert main(["fit", str(folder / "t.csv"), *options, *SMALL]) == 0
    return folder / "run"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_scores_and_encodes_rows_that_it_never_saw(
    fitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As from Python; fails when rows change places, or names of others."""
    new = table(12, 1)
    new[["age", "size", "species", "patient_id", "visits", "site"]].to_csv("n.tsv", sep="\t", index=False)  # fmt: skip # noqa: E501
    assert main(["evaluate", str(fitted), "--data", "n.tsv", "--num-samples", "9", "--json"]) == 0
    said = capsys.readouterr()
    assert "n.tsv: 12 observations, all of a file that is not the run's" in said.err
    options = {**LOADED, "kinds": KINDS, "drop": "job"}
    train = pv.data.load(table(60, 0), **options)  # type: ignore[arg-type]
    rows, vae = pv.data.load(new, like=train).rows("test"), pv.load(fitted)
    scores = pv.evaluate(vae, rows, num_samples=9).summary()
    assert json.loads(said.out)["log_marginal"] == scores["log_marginal"]

    assert main(["encode", str(fitted), "--data", "n.tsv", "--out", "z.csv"]) == 0
    assert "Wrote 12 rows to z.csv" in capsys.readouterr().out
    z, q = pd.read_csv("z.csv"), vae.encode(rows)
    assert list(z.columns) == ["patient_id", "species", "site", "size", "z[0]", "z[1]",
                               "z[0] scale", "z[1] scale"]  # fmt: skip
    pd.testing.assert_frame_equal(z.iloc[:, :3], new[["patient_id", "species", "site"]])
    np.testing.assert_allclose(z[["z[0]", "z[1]"]], q.mean.detach(), rtol=1e-4)
    np.testing.assert_allclose(z[["z[0] scale", "z[1] scale"]], q.stddev.detach(), rtol=1e-4)


def test_the_data_of_a_run_are_encoded_in_their_order(fitted: Path) -> None:
    """Fails when rows are in the order of splits."""
    assert main(["encode", str(fitted), "--out", "z.csv"]) == 0
    assert main(["encode", str(fitted), "--out", "z.npz", "--json"]) == 0
    z, own = pd.read_csv("z.csv"), table(60, 0)
    assert z.patient_id.tolist() == own.patient_id.tolist()
    assert z["split"].value_counts().to_dict() == {"train": 48, "validation": 6, "test": 6}
    options = {**LOADED, "kinds": KINDS, "drop": "job"}
    data, vae = pv.data.load(own, **options), pv.load(fitted)  # type: ignore[arg-type]
    places = data.places["test"].numpy()
    assert (z["split"][places] == "test").all()
    mean = vae.encode(data.rows("test")).mean.detach()
    np.testing.assert_allclose(z[["z[0]", "z[1]"]].to_numpy()[places], mean, rtol=1e-4)
    arrays = np.load("z.npz")
    np.testing.assert_allclose(arrays["loc"], z[["z[0]", "z[1]"]], rtol=1e-4)
    assert arrays["patient_id"].tolist() == own.patient_id.tolist()


@pytest.mark.long
def test_new_data_are_checked_and_reported(
    fitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table(25, 1).drop(columns="job").to_csv("n.csv", index=False)
    check = ["check", str(fitted), "--data", "n.csv", "--num-draws", "700", "--json"]
    assert main(check) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["num_data"], found["base_measure"]["data"]) == (25, "n.csv")
    report = ["report", str(fitted), "--data", "n.csv", "--num-samples", "5", "--num-draws", "700"]
    assert main([*report, "--out", "r.html"]) == 0
    assert "Judged by 25 observations of n.csv, which it never saw" in Path("r.html").read_text()


def test_a_wrong_file_is_one_line(fitted: Path, fails: Fails) -> None:
    table(9, 1).drop(columns=["job", "site"]).to_csv("n.csv", index=False)
    for verb in (["evaluate"], ["check"], ["encode", "--out", "z.csv"], ["report"]):
        argv = [verb[0], str(fitted), *verb[1:], "--data", "n.csv"]
        assert "expected a column site, which goes with x (`cond`)" in fails(*argv)
    assert "expected an existing file" in fails("evaluate", str(fitted), "--data", "none.csv")
    assert "ends in .csv, .parquet, .npz" in fails("encode", str(fitted), "--out", "z.txt")


@pytest.mark.parametrize(
    ("column", "mark"),
    [
        (["low", "medium", "high"], "?"),
        (["low", "medium", "high"], "."),
        (["Köln", "Bonn", "Ulm", "Kiel"], "?"),
        (["no", "yes"], "?"),
        (["2020-01-05", "2021-03-17", "2022-11-30"], "?"),
    ],
)
def test_what_was_taken_for_missing_is_again(column: list[str], mark: str, tmp_path: Path) -> None:
    """Fails when a run refuses the very file that it was fitted to."""
    cells = [mark if i % 7 == 3 else column[i % len(column)] for i in range(60)]
    lines = [f"{cell},{i % 11}.5" for i, cell in enumerate(cells)]
    (path := tmp_path / "t.csv").write_text("\n".join(["a,b", *lines]), encoding="utf-8")
    data = pv.data.load(path, missing=True, validation=0, test=0)
    again = pv.data.load(path, like=data)
    assert torch.equal(again.mask["test"], data.mask["train"])
    assert int((~data.mask["train"]).sum()) == cells.count(mark)
    seen = data.mask["train"]
    assert torch.equal(again.test[seen], data.train[seen])


@pytest.mark.long
def test_dates_are_written_as_the_file_has_them(tmp_path: Path) -> None:
    """Fails when filled or drawn dates are in another format than the others of the column."""
    days = pd.date_range("1960-01-01", periods=120, freq="97D").strftime("%m/%d/%y").tolist()
    lines = [f"{'' if i % 9 == 4 else day},{i % 11}.5" for i, day in enumerate(days)]
    (path := tmp_path / "t.csv").write_text("\n".join(["born,b", *lines]), encoding="utf-8")
    run, small = str(tmp_path / "run"), ["--epochs", "1", "--compile", "false", "--device", "cpu"]
    assert main(["fit", str(path), "--missing", *small, "--out", run]) == 0
    filled, drawn = tmp_path / "f.csv", tmp_path / "d.csv"
    assert main(["impute", run, str(path), "--out", str(filled)]) == 0
    assert main(["sample", run, "--out", str(drawn)]) == 0
    for each in (filled, drawn):
        born = pd.read_csv(each)["born"]
        assert born.str.fullmatch(r"\d\d/\d\d/\d\d").all(), each.name
