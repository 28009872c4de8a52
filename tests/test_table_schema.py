"""Tables as numbers and back: kinds by names and values, words, dates, units, dtypes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.data import Schema
from pyro_vae.likelihoods import suggest

N = 60
R = np.random.default_rng(0)
QUICK = ["--epochs", "1", "--num-samples", "5", "--compile", "false", "--device", "cpu"]
SMALL = ["--encoder.hidden", "[4]", "--decoder.hidden", "[4]", "--latent-dim", "2", *QUICK]


def _table() -> pd.DataFrame:
    """A column of each kind, as people call them."""
    r = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "passenger_id": 7 * np.arange(N) + 3,
        "temperature": r.normal(20, 3, N),
        "income": np.exp(10 + r.normal(size=N)),
        "visits": r.poisson(3, N),
        "share": r.beta(2, 2, N),
        "smoker": r.choice(["yes", "no"], N),
        "member": r.random(N) < 0.3,
        "job": r.choice(["nurse", "teacher", "clerk"], N),
        "satisfaction": r.choice(["low", "mid", "high"], N),
        "quality": r.integers(3, 9, N),
        "wind_direction": r.integers(0, 360, N),
        "since": pd.Timestamp("2020-01-01") + pd.to_timedelta(r.integers(0, 900, N), "D"),
        "birth_year": r.integers(1940, 2003, N),
        "version": "v2",
        "size": pd.Categorical(r.choice(["b", "a", "c"], N), ["c", "b", "a"], ordered=True),
    }
    return pd.DataFrame(columns)


KINDS = {
    "passenger_id": "id", "temperature": "real", "income": "positive", "visits": "count",
    "share": "proportion", "smoker": "binary", "member": "binary", "job": "category",
    "satisfaction": "ordinal", "quality": "ordinal", "wind_direction": "angle", "since": "time",
    "birth_year": "time", "version": "ignore", "size": "ordinal",
}  # fmt: skip


def test_each_column_is_of_its_kind_for_a_reason() -> None:
    schema = Schema.infer(_table())
    assert {field.name: field.kind for field in schema} == KINDS
    assert all(field.reason for field in schema)
    assert [field.name for field in schema.left_out] == ["passenger_id", "version"]
    assert schema["smoker"].levels == ("no", "yes")
    assert schema["satisfaction"].levels == ("low", "mid", "high")
    assert schema["size"].levels == ("c", "b", "a"), "the order that pandas has"


def test_a_table_is_decoded_to_itself() -> None:
    """Names, words, dates and dtypes; fails when places are taken for numbers."""
    table = _table()
    schema = Schema.infer(table)
    x = schema.encode(table)
    assert x.dtype == torch.float32
    assert x.shape == (N, 13)
    back = schema.decode(x)
    kept = table[[field.name for field in schema.x]]
    for name in kept:
        if kept[name].dtype.kind == "f" or name == "wind_direction":
            np.testing.assert_allclose(back[name], kept[name], rtol=1e-5, atol=1e-3)
        elif name == "since":
            assert (back[name] == kept[name]).all()
            assert back[name].dtype.kind == "M"
        else:
            pd.testing.assert_series_equal(back[name], kept[name])
    shuffled = table[list(reversed(table.columns))]
    assert torch.equal(schema.encode(shuffled), x), "columns go by name"


def test_what_is_missing_stays_missing_in_nullable_dtypes() -> None:
    table = _table()[["visits", "member", "job", "since", "quality"]].astype(
        {"visits": "float64", "member": "object"}
    )
    table.loc[[3, 5], :] = [None] * 5
    schema = Schema.infer(table)
    back = schema.decode(schema.encode(table))
    assert back.isna().to_numpy().tolist() == table.isna().to_numpy().tolist()
    dtypes = {name: str(dtype) for name, dtype in back.dtypes.items()}
    assert dtypes["visits"] == dtypes["quality"] == "float64", "as they were"
    assert dtypes["member"] == "boolean"
    assert dtypes["since"].startswith("datetime64")
    kept = ~table.isna().any(axis=1)
    assert back["visits"][kept].tolist() == table["visits"][kept].tolist()


def test_draws_between_two_levels_are_one_of_them_and_means_are_not_rounded() -> None:
    schema = Schema.infer(_table()[["visits", "satisfaction", "smoker", "quality"]])
    drawn = torch.tensor([[2.4, 1.6, 0.9, 0.2], [0.0, -0.3, 0.1, 7.9]])
    back = schema.decode(drawn)
    assert back["visits"].tolist() == [2, 0]
    assert back["satisfaction"].tolist() == ["high", "low"]
    assert back["smoker"].tolist() == ["yes", "no"]
    assert back["quality"].tolist() == [3, 8]
    assert schema.decode(drawn, means=True)["visits"].tolist() == pytest.approx([2.4, 0.0])
    with pytest.raises(ValueError, match=r"`x`: expected shape \(N, 4\)"):
        schema.decode(drawn[:, :2])


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_a_file_holds_all_of_it(suffix: str, tmp_path: Path) -> None:
    table = _table()
    schema = Schema.infer(table, label="job", drop="income")
    assert schema["job"].role == "label"
    assert not schema["income"].in_x
    schema.save(path := tmp_path / f"schema{suffix}")
    again = Schema.read(path)
    assert again == schema
    assert torch.equal(again.encode(table), schema.encode(table))
    data = pv.data.load(table, schema=path, kinds={"visits": "ordinal"})
    assert data.schema is not None
    assert data.schema["visits"].kind == "ordinal"
    assert data.labels["train"] is not None
    assert int(data.labels["train"].max()) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": "incme=positive"}, "`kinds`: .*did you mean 'income'"),
        ({"kinds": "income=postive"}, "`kinds: income`: .*did you mean 'positive'"),
        ({"kinds": "temperature"}, "`kinds`: expected NAME=KIND"),
        ({"drop": "nothing"}, "`drop`: expected one of"),
        ({"label": "nothing"}, "`label`: expected one of"),
        ({"schema": {"income": 3}}, "`schema: income`: expected a kind"),
        ({"schema": {"income": {"sort": "real"}}}, "`schema: income`: .*got 'sort'"),
        ({"schema": {"job": {"levels": ["nurse", "clerk"]}}}, "expected one of nurse, clerk, got"),
        ({"schema": "nowhere.yaml"}, "`schema`: expected an existing YAML or JSON file"),
        ({"kinds": "job=positive"}, "`schema: job`: expected numbers, as it is positive"),
        ({"kinds": "income=count"}, "whole numbers from 0 in income"),
        ({"kinds": "income=proportion"}, r"shares in \[0, 1\] in income"),
    ],
)
def test_a_mistake_is_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        pv.data.load(_table(), **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("role", "says", "used"),
    [
        ("weight", "expected another role, as no objective takes weights, got 'weight'", {}),
        ("condition", "expected `cond` to name the column, too", {"cond": "w"}),
        ("size factor", "expected `size_factor` to name the column", {"size_factor": "w"}),
        ("covariate", "expected `covariates` to name the column", {"covariates": {"noise": "w"}}),
    ],
)
def test_a_role_that_nothing_uses_is_refused(role: str, says: str, used: dict[str, Any]) -> None:
    """Fails when the column is put aside in silence: the model would know nothing of it."""
    x = np.random.default_rng(0).gamma(2.0, size=(40, 3))
    frame = pd.DataFrame(x, columns=["a", "b", "w"])
    schema = {"w": {"kind": "positive", "role": role}}
    with pytest.raises(ValueError, match=f"`schema: w`: {says}"):
        pv.data.load(frame, schema=schema)
    assert pv.data.load(frame, schema=schema, drop="w").names == ["a", "b"]
    if used:
        data = pv.data.load(frame, schema=schema, **used)
        assert data.names == ["a", "b"]
        assert data.given("train")


def test_numbers_that_float32_merges_are_centred_or_refused() -> None:
    """Epoch seconds, whole numbers above 2**24, small noise on a large number."""
    table = pd.DataFrame(
        {
            "t": 1_700_000_000 + np.arange(N),
            "a": 2**24 + 1 + 2 * R.permutation(N),
            "b": 1e9 + R.normal(size=N),
        }
    )
    schema = Schema.infer(table)
    assert {field.name: field.kind for field in schema} == {"t": "time", "a": "real", "b": "real"}
    x = schema.encode(table)
    assert all(len(column.unique()) == N for column in x.unbind(1))
    back = schema.decode(x)
    assert back["t"].equals(table["t"])
    assert back["a"].equals(table["a"])
    np.testing.assert_allclose(back["b"], table["b"], rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"`data`: expected values at \(1,\) that float32 can"):
        pv.data.load(table[["a", "b"]].to_numpy()[:, [1, 1]] * [0, 1] + [[0, 0]])
    with pytest.raises(ValueError, match=r"numbers that float32 can tell apart.*--kind b=real"):
        pv.data.load(table, kinds="b=positive")


def test_plain_numbers_are_what_they_were() -> None:
    """The same x as an array has, to the bit, and without names no schema."""
    values = R.normal(size=(N, 4))
    frame = pd.DataFrame(values, columns=list("abcd"))
    data, array = pv.data.load(frame), pv.data.load(values)
    assert torch.equal(data.train, array.train)
    assert torch.equal(data.test, array.test)
    assert list(data.names) == list("abcd")
    assert pv.data.load(pd.DataFrame(values)).schema is None


def test_the_likelihood_goes_by_kinds() -> None:
    data = pv.data.load(_table())
    found = {each.name: each.likelihood["class"] for each in suggest(data).columns}
    assert found["job"] == "Categorical"
    assert found["satisfaction"] == found["quality"] == found["size"] == "Ordinal"
    assert found["wind_direction"] == "VonMises"
    assert found["smoker"] == found["member"] == "Bernoulli"
    assert found["share"] == "Beta"
    mixed = suggest(data).build(data.event_shape)
    assert mixed.support.check(data.train).all()


@pytest.mark.long
def test_a_survey_is_fitted_sampled_and_filled_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Words, truth values, dates and empty cells, with no option but --missing."""
    monkeypatch.chdir(tmp_path)
    names = ["income", "visits", "job", "satisfaction", "member", "since"]
    table = _table()[names]
    table.mask(R.random(table.shape) < 0.1).to_csv("survey.csv", index=False)
    assert main(["fit", "survey.csv", "--missing", *SMALL, "--json", "--out", "run"]) == 0
    shown = capsys.readouterr()
    scores = json.loads(shown.out)["scores"]
    assert shown.err.count("--likelihood Mixed (income") == 1
    assert main(["evaluate", "run", "--num-samples", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["log_marginal"] == scores["log_marginal"]
    schema = Schema.from_spec(json.loads(Path("run/schema.json").read_text()))
    assert [field.name for field in schema.x] == names
    assert main(["sample", "run", "-n", "30", "--out", "new.csv"]) == 0
    drawn = pd.read_csv("new.csv", parse_dates=["since"])
    assert list(drawn) == names
    assert set(drawn["job"]) <= {"nurse", "teacher", "clerk"}
    assert drawn["visits"].dtype == "int64"
    assert drawn["member"].dtype == bool
    assert (drawn["since"] == drawn["since"].dt.normalize()).all()
    assert main(["impute", "run", "--out", "filled.csv"]) == 0
    before, after = (pd.read_csv(name, dtype=str) for name in ("survey.csv", "filled.csv"))
    assert after.notna().all(axis=None)
    assert after.where(before.notna()).equals(before), "nothing else is touched"
    assert set(after["job"]) <= {"nurse", "teacher", "clerk"}
    assert set(after["member"]) <= {"True", "False"}
    assert after["since"].str.fullmatch(r"\d{4}-\d\d-\d\d").all()
    assert main(["fit", "--config", "run/config.yaml", "--json", "--out", "again"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["scores"] == scores


def test_a_table_is_inspected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within 80 columns; what is written is taken by a fit."""
    monkeypatch.chdir(tmp_path)
    _table().to_csv("t.csv")
    argv = ["inspect", "t.csv", "--out", "s.yaml", "--kind", "visits=ordinal", "--drop", "job"]
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    kinds = {line.split()[0]: line.split()[1] for line in lines[1:17] if line[:1].strip()}
    assert kinds["visits"] == "ordinal"
    assert kinds["income"] == "positive"
    assert Schema.read("s.yaml")["job"].kind == "ignore"
    assert any(line.startswith("warning: column 1 has no name") for line in lines)
    data = pv.data.load("t.csv", schema="s.yaml")
    assert "job" not in data.names
    assert "Unnamed: 0" not in data.names


def test_weights_are_refused_wherever_they_may_be_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line; fails when they are dropped in silence, or pass for a mistake."""
    says = "no objective takes weights of observations"
    with pytest.raises(ValueError, match=f"`kinds: income`: .*{says}.*--drop income"):
        pv.data.load(_table(), kinds="income=weight")
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
    x, weights = torch.ones(5, 4), torch.ones(5)
    for verb in (pv.evaluate, pv.criticism.check, pv.evaluation.rate_distortion):
        with pytest.raises(ValueError, match=f"`weights`: .*{says}"):
            verb(vae, x, weights=weights)  # type: ignore[operator]
    with pytest.raises(TypeError, match="unexpected keyword argument 'weights'"):
        pv.fit(vae, x, weights=weights)  # type: ignore[call-arg]
    assert main(["fit", "digits", "--weight", "income"]) == 2
    assert says in capsys.readouterr().err
