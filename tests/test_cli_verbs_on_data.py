"""Verbs that look at rows one by one: impute files of any kind, anomalies, probe, the rate."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.cli.anomalies import _ranked as ranked
from pyro_vae.cli.anomalies import _table as table_of
from pyro_vae.evaluation import outliers, probe, probe_features, rate_distortion
from pyro_vae.programs import VAE

Fails = Callable[..., str]

QUICK = ["--epochs", "1", "--num-samples", "10", "--compile", "false", "--device", "cpu"]
SMALL = ["--encoder.hidden", "[4]", "--decoder.hidden", "[4]", "--latent-dim", "2", *QUICK]


def table(size: int = 80) -> pd.DataFrame:
    """Words that go with numbers, and a kind that nobody tells the model."""
    r = np.random.default_rng(0)
    group = r.integers(0, 2, size)
    frame = pd.DataFrame(
        {
            "patient_id": [f"p{i}" for i in range(size)],
            "height": r.normal(3.0 * group, 1.0),
            "job": np.where(r.random(size) < 0.9, group, 1 - group),
            "visits": r.poisson(3, size),
            "kind": np.where(group == 1, "b", "a"),
        }
    )
    frame["job"] = frame["job"].map({0: "clerk", 1: "nurse"}).astype(object)
    frame.loc[::7, "job"], frame.loc[::5, "height"] = None, None
    return frame


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run; do not write to it."""
    folder = tmp_path_factory.mktemp("fitted")
    table().to_csv(folder / "t.csv", index=False)
    options = ["--missing", "--label", "kind", "--kind", "job=category", "--json"]
    assert main(["fit", str(folder / "t.csv"), *options, *SMALL, "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _filled(fitted: Path, name: str, out: str) -> None:
    argv = ["impute", str(fitted), "--data", name, "--num-samples", "20", "--out", out]
    assert main(argv) == 0


def _read(name: str) -> pd.DataFrame:
    suffix = Path(name).suffix
    if suffix == ".parquet":
        return pd.read_parquet(name)
    return pd.read_excel(name) if suffix == ".xlsx" else pd.read_csv(name)


@pytest.mark.parametrize("suffix", [".csv.gz", ".parquet", ".xlsx"])
def test_files_of_each_kind_are_filled_alike(fitted: Path, suffix: str) -> None:
    """Fails when a cell of another row is filled, or one that was there is changed."""
    own = table()[["kind", "visits", "job", "height", "patient_id"]]
    own.to_csv("t.csv", index=False)
    name = f"t{suffix}"
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
        own.to_parquet(name)
    elif suffix == ".xlsx":
        pytest.importorskip("openpyxl")
        own.to_excel(name, index=False)
    else:
        own.to_csv(name, index=False)
    _filled(fitted, "t.csv", "f.csv")
    expected = pd.read_csv("f.csv")
    assert not expected.isna().any(axis=None)
    there = own.notna()
    for column in own:
        assert (expected[column][there[column]] == own[column][there[column]]).all() or (
            column == "height"
        )
    _filled(fitted, name, f"f{suffix}")
    found = _read(f"f{suffix}")
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=1e-5)
    other = "f2.csv" if suffix != ".csv.gz" else "f2.parquet"
    if other == "f2.csv":
        _filled(fitted, name, other)
        pd.testing.assert_frame_equal(_read(other), expected, check_dtype=False, rtol=1e-5)
    else:
        lines = gzip.decompress(Path("f.csv.gz").read_bytes()).decode().splitlines()
        assert lines == Path("f.csv").read_text().splitlines()


def test_words_have_their_most_probable_level_and_its_probability(
    fitted: Path, fails: Fails
) -> None:
    """Fails when shares are of other rows: the words go with height."""
    table().to_csv("t.csv", index=False)
    argv = ["impute", str(fitted), "t.csv", "--num-samples", "50", "--out", "f.csv"]
    assert main([*argv, "--probabilities", "p.csv"]) == 0
    found, filled = pd.read_csv("p.csv"), pd.read_csv("f.csv")
    lacking = table().job.isna()
    assert list(found.columns) == ["patient_id", "kind", "row", "column", "level", "probability"]
    assert sorted(set(found.row - 1)) == lacking.to_numpy().nonzero()[0].tolist()
    wide = found.pivot(index="row", columns="level", values="probability")
    np.testing.assert_allclose(wide.sum(axis=1), 1.0)
    assert wide.idxmax(1).tolist() == filled.job[lacking].tolist()
    assert (found.patient_id == [f"p{row - 1}" for row in found.row]).all()
    assert "ends in .csv or .parquet" in fails(*argv[:-1], "g.csv", "--probabilities", "p.txt")
    assert "nothing beside DATA" in fails(*argv, "--data", "t.csv")


def test_words_that_the_run_does_not_know_stay_as_they_are(fitted: Path, fails: Fails) -> None:
    """They are no evidence, and no gap either: fails when one is filled."""
    own = table()
    own.loc[[1, 5], "job"] = "pilot"  # the second lacks its height
    own.to_csv("t.csv", index=False)
    argv = ["impute", str(fitted), "t.csv", "--num-samples", "20", "--out", "f.csv"]
    assert "got 'pilot', in row 3, column 3 (job); `unseen` (--unseen missing)" in fails(*argv)
    assert main([*argv, "--unseen", "missing"]) == 0
    filled = pd.read_csv("f.csv")
    assert filled.job[[1, 5]].tolist() == ["pilot", "pilot"]
    assert not filled.isna().any(axis=None)


def _model(shift: float = 0.0) -> VAE:
    networks = {"encoder": pv.networks.MLP((4,)), "decoder": pv.networks.MLP((4,))}
    parts = pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Normal((3,), scale=1.0)
    return pv.VAE(*parts, **networks, seed=1).eval()


def test_p_values_are_uniform_for_data_like_the_reference() -> None:
    """The rank among 99 others, below a level as often as it says, to 4 standard errors."""
    vae = _model()
    x = torch.randn(800, 3, generator=torch.Generator().manual_seed(0))
    found = outliers(vae, x[:700], reference=x[700:799], num_samples=20)
    assert found.p_value.min() >= 0.01
    log_p = found.log_marginal
    expected = [(1 + (found.reference <= each).sum()) / 100 for each in log_p]
    np.testing.assert_allclose(found.p_value, expected)
    # The reference is one draw: its quantile at 0.2 has an error of sqrt(.2 * .8 / 99).
    assert abs((found.p_value <= 0.2).mean() - 0.2) < 4 * (0.16 / 99 + 0.16 / 700) ** 0.5
    assert (np.diff(log_p[found.order]) >= 0).all()
    alone = outliers(vae, x[:50], num_samples=20)
    np.testing.assert_allclose(np.sort(alone.p_value), np.arange(1, 51) / 50)
    far = outliers(vae, x[:50] + 30, reference=x[700:], num_samples=20)
    assert (far.p_value == 1 / 101).all()
    assert far.discoveries() == 50
    assert alone.discoveries() == 0
    with pytest.raises(ValueError, match="at least two observations, or a `reference`"):
        outliers(vae, x[:1])


def test_ids_of_anomalies_are_whole_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    """Fails, as 1007.0, when a row of numbers is taken together."""
    found = outliers(_model(), torch.randn(8, 3), num_samples=20)
    top = ranked(found, {"customer": np.arange(1000, 1008), "row": np.arange(1, 9)})
    Console(width=80).print(table_of(found, top, "people.csv"))
    out = capsys.readouterr().out
    assert f"{top.customer[0]} " in out
    assert f"{top.customer[0]}.0" not in out


def test_anomalies_are_ranked_with_their_names(
    fitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails when names are of other rows."""
    new = table(20).dropna().reset_index(drop=True)
    new.loc[4, "height"] = 500.0
    new.to_csv("n.csv", index=False)
    argv = ["anomalies", str(fitted), "--data", "n.csv", "--num-samples", "20"]
    assert main([*argv, "--out", "a.csv", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    ranked = pd.read_csv("a.csv")
    assert (ranked.patient_id[0], ranked.row[0]) == (new.patient_id[4], 5)
    assert said["rows"][0]["row"] == 5
    assert len(ranked) == said["num_data"] == len(new)
    assert said["num_reference"] == 8
    assert ranked.p_value[0] == pytest.approx(1 / 9)
    assert ranked.surprise.is_monotonic_decreasing
    assert sorted(ranked.row) == list(range(1, len(new) + 1))
    assert main(["anomalies", str(fitted), "--num-samples", "20", "--top", "3"]) == 0
    out = capsys.readouterr().out
    assert "8 rows of t.csv" in out
    assert max(map(len, out.splitlines())) <= 80


def test_text_that_a_spreadsheet_computes_is_quoted_where_it_goes_along(fitted: Path) -> None:
    new = table().assign(patient_id="=1+1")
    new.to_csv("n.csv", index=False)
    run, few = str(fitted), ["--num-samples", "5", "--data", "n.csv"]
    written = {
        "z.csv": ["encode", run, "--data", "n.csv", "--out", "z.csv"],
        "a.csv": ["anomalies", run, *few, "--out", "a.csv"],
        "p.csv": ["impute", run, *few, "--out", "f.csv", "--probabilities", "p.csv"],
    }
    for name, argv in written.items():
        for safe, cell in (([], "=1+1"), (["--safe"], "'=1+1")):
            assert main([*argv, *safe]) == 0
            assert set(pd.read_csv(name).patient_id) == {cell}
            Path(name).unlink()
            Path("f.csv").unlink(missing_ok=True)


@pytest.mark.long
def test_labels_are_predicted_beside_the_data_and_their_pca(
    fitted: Path, capsys: pytest.CaptureFixture[str], fails: Fails
) -> None:
    argv = ["probe", str(fitted), "--label", "kind", "--split", "train", "--neighbours", "5"]
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["features"]
    assert list(found) == ["latent means", "data", "PCA of data"]
    data = pv.data.load(table(), missing=True, label="kind", kinds="job=category")
    rows, labels = data.rows("train"), data.labels["train"]
    expected = probe(pv.load(fitted), rows, labels, neighbours=5)
    assert found["latent means"]["accuracy"] == expected.accuracy
    assert found["data"]["accuracy"]["linear"] > found["data"]["accuracy"]["majority"]
    assert main(argv) == 0
    assert "accuracy of kind, 2 classes, 64 observations" in capsys.readouterr().out
    assert "`--label`: expected one of patient_id, kind, got 'kid' (did you mean 'kind'?)" in fails(
        "probe", str(fitted), "--label", "kid"
    )


def test_features_are_scaled_and_reduced_on_the_training_folds() -> None:
    """One entry of huge units hides the others, unless they are standardised."""
    r = np.random.default_rng(0)
    labels = np.arange(200) % 2
    x = np.stack([1e6 * r.normal(size=200), r.normal(4.0 * labels), r.normal(size=200)], 1)
    found = probe_features({"x": x}, labels, components=3)
    assert set(found) == {"x", "PCA of x"}
    assert found["x"].accuracy["neighbours"] > 0.9
    assert found["PCA of x"].accuracy["linear"] > 0.9


def test_the_bound_is_taken_apart(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As from Python; fails when the mask or the split is another."""
    argv = ["rate-distortion", str(fitted), "--num-samples", "5"]
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    data = pv.data.load(table(), missing=True, label="kind", kinds="job=category")
    rows = data.rows("test")
    expected = rate_distortion(pv.load(fitted), rows.x, num_samples=5, **rows.given).summary()
    assert found["rate"] == expected["rate"]
    assert found["mutual_information"] == expected["mutual_information"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "8 test observations of t.csv" in out
    assert max(map(len, out.splitlines())) <= 80
