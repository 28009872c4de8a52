"""Columns of x that hold words: the names of the levels of an ordinal likelihood."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.likelihoods import Categorical, Mixed, Ordinal

MOODS = ("low", "middle", "high")
TABLE = "[Poisson, {class: Ordinal, levels: [low, middle, high]}]"
QUICK = ["--epochs", "1", "--num-samples", "5", "--compile", "false", "--device", "cpu"]
SMALL = ["--encoder.hidden", "[4]", "--decoder.hidden", "[4]", "--latent-dim", "2", *QUICK]


@pytest.fixture
def survey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Town, which lies beside x, visits and mood; in a second file two cells are empty."""
    monkeypatch.chdir(tmp_path)
    r = np.random.default_rng(0)
    rows = [["ab"[r.integers(2)], str(r.poisson(3)), MOODS[r.integers(3)]] for _ in range(60)]
    for name, hidden in (("t.csv", []), ("holes.csv", [4, 17])):
        table = [[*row[:2], "" if i in hidden else row[2]] for i, row in enumerate(rows)]
        with Path(name).open("w", newline="") as file:
            csv.writer(file).writerows([["town", "visits", "mood"], *table])
    return rows


def test_words_are_read_as_their_places(survey: list[list[str]]) -> None:
    """Fails when places are alphabetical, or counted with the columns beside x."""
    data = pv.data.load("t.csv", cond="town", words=[[], MOODS], validation=0, test=0)
    expected = torch.tensor([[float(visits), MOODS.index(mood)] for _, visits, mood in survey])
    assert torch.equal(data.train, expected)
    assert data.names == ["visits", "mood"]
    known = pv.data.load("t.csv", cond="town", validation=0, test=0)
    assert torch.equal(known.train, expected), "these are levels of a scale"
    with pytest.raises(ValueError, match=r"`data`: expected a number in row 6, column 3 \(mood\)"):
        pv.data.load("holes.csv", cond="town", words=[[], MOODS])
    holes = pv.data.load("holes.csv", cond="town", words=[[], MOODS], missing=True)
    assert (
        sum(int(split.isnan().sum()) for split in (holes.train, holes.validation, holes.test)) == 2
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [[], ["low", "high"]],
            r"`data`: expected one of low, high, got 'middle'.*in row .*\(mood\)",
        ),
        (
            [[], [], MOODS],
            "`words`: expected one list, or one for each of 2 columns, got '3 lists'",
        ),
    ],
)
def test_other_words_are_reported_in_one_line(
    words: list[list[str]], message: str, survey: list[list[str]]
) -> None:
    with pytest.raises(ValueError, match=message):
        pv.data.load("t.csv", cond="town", words=words)


@pytest.mark.long
def test_a_table_is_fitted_and_filled_by_names_of_levels(
    survey: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Words again in what is written. Fails when they are forgotten after the fit."""
    argv = ["--likelihood", "Mixed", "--likelihood.columns", TABLE, "--cond", "town", *SMALL]
    assert main(["fit", "holes.csv", "--missing", *argv, "--json", "--out", "run"]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    vae = pv.load("run")
    assert vae.likelihood.words == ((), MOODS)
    columns = yaml.safe_load(Path("run/config.yaml").read_text())["likelihood"]["columns"]
    assert columns == ["Poisson", {"class": "Ordinal", "levels": list(MOODS)}]
    assert main(["evaluate", "run", "--num-samples", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["log_marginal"] == scores["log_marginal"]
    for out, draws in (("filled.csv", []), ("drawn.csv", ["--num-imputations", "2"])):
        assert main(["impute", "run", "holes.csv", "--out", out, *draws]) == 0
        written = Path(out if not draws else "drawn-2.csv")
        with written.open(newline="") as file:
            filled = list(csv.reader(file))[1:]
        assert all(mood in MOODS for _, _, mood in filled)
        kept = [row for i, row in enumerate(filled) if i not in (4, 17)]
        assert kept == [row for i, row in enumerate(survey) if i not in (4, 17)]
    assert main(["fit", "--config", "run/config.yaml", "--json", "--out", "again"]) == 0


def test_one_list_is_that_of_every_column(survey: list[list[str]]) -> None:
    Path("moods.csv").write_text("a,b\n" + "".join(f"{m},{MOODS[0]}\n" for _, _, m in survey))
    likelihood = ["--likelihood", "Ordinal", "--likelihood.levels", "[low, middle, high]"]
    assert main(["fit", "moods.csv", *likelihood, *SMALL, "--out", "run"]) == 0
    assert pv.load("run").likelihood.words == (MOODS, MOODS)


def test_a_likelihood_knows_the_words_of_its_entries() -> None:
    assert Ordinal((2,), levels=4).words == ()
    job = Categorical((1,), levels=["nurse", "clerk"])
    table = Mixed((5,), ["Normal", Ordinal((2,), levels=MOODS), Ordinal((1,), levels=3), job])
    assert table.words == ((), MOODS, MOODS, (), ("nurse", "clerk"))
    assert table.param_shape == (1 + 2 + 1 + 2,)
    assert Mixed((1,), ["Normal"]).words == ()
