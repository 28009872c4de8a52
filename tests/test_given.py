"""What goes with each observation: conditions and covariates, from columns to scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.cli.runs import recorded_data

EFFORT = ["--epochs", "1", "--num-samples", "5", "--compile", "false", "--device", "cpu"]


def _table(path: Path, columns: int = 4) -> np.ndarray:
    """Counts of two kinds in two groups, with a depth, and an age as a fifth column."""
    rng = np.random.default_rng(0)
    group, depth = rng.integers(3, 5, 90), 10 * rng.uniform(0.5, 2.0, 90)
    counts = rng.poisson(depth[:, None] * np.array([0.3, 2.0]))
    rows = np.column_stack([counts[:, 0], group, depth, counts[:, 1], rng.normal(40, 9, 90)])
    names = ",".join(["a", "group", "depth", "b", "age"][:columns])
    rows = rows[:, :columns]
    np.savetxt(path, rows, delimiter=",", header=names, comments="", fmt="%.9g")
    return rows


def test_columns_lie_beside_x_in_the_same_order(tmp_path: Path) -> None:
    """Fails when a split's covariates are of other rows, or stay in x."""
    rows = _table(tmp_path / "t.csv", 5)
    data = pv.data.load(tmp_path / "t.csv", cond="group,age", size_factor="depth")
    assert data.event_shape == (2,)
    seen = 0
    for split in ("train", "validation", "test"):
        given = data.given(split)
        sizes, cond = given["covariates"]["size_factor"], given["cond"]
        depths = sizes.numpy() * data.size_unit
        ages = cond[:, 2].numpy() * data.columns[1].scale + data.columns[1].loc
        for i, x in enumerate(data.split(split)):
            (row,) = rows[np.isclose(rows[:, 2], depths[i], rtol=1e-5)]
            assert x.tolist() == [row[0], row[3]]
            assert cond[i, :2].tolist() == [float(row[1] == 3), float(row[1] == 4)]
            assert ages[i] == pytest.approx(row[4], rel=1e-4)
            seen += 1
    assert seen == len(rows)
    assert data.covariates["train"]["size_factor"].mean() == pytest.approx(1.0)
    assert data.cond["train"][:, 2].mean() == pytest.approx(0.0, abs=1e-5)
    assert data.to("cpu").given("test").keys() == {"cond", "covariates"}
    assert pv.data.load(tmp_path / "t.csv").given("test") == {}


def test_a_dataset_brings_what_its_model_needs(tmp_path: Path) -> None:
    """Fails when `fit` leaves the conditions of a data set out."""
    _table(tmp_path / "t.csv")
    data = pv.data.load(tmp_path / "t.csv", cond="group", size_factor="depth")
    vae = pv.VAE(
        pv.priors.Conditional(2),
        pv.guides.Normal(2),
        pv.likelihoods.Poisson((2,), size_factor=True),
        cond_size=2,
    )
    run = pv.fit(vae, data, epochs=1, seed=0, compile=False)
    assert np.isfinite(run.history["validation_elbo"]).all()
    assert pv.evaluate(vae, data.test, num_samples=5, **data.given("test")).elbo.shape == (9,)
    plain = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Poisson((2,)))
    pv.fit(plain, data, epochs=1, seed=0, compile=False)


@pytest.mark.parametrize(
    ("message", "options"),
    [
        (r"`cond`: expected one of a, group, depth.* 'grop' \(did you", {"cond": "grop"}),
        (r"`size_factor`: expected one of .*'dept' \(did you", {"size_factor": "dept"}),
        (r"`size_factor`: expected each column once", {"cond": "age", "size_factor": "age"}),
        (r"`size_factor`: expected positive numbers in a, got 0", {"size_factor": "a"}),
        (r"`data`: expected columns that are left", {"cond": "a,group,depth,b,age"}),
    ],
)
def test_wrong_columns_are_reported_in_one_line(
    tmp_path: Path, message: str, options: dict[str, str]
) -> None:
    _table(tmp_path / "t.csv", 5)
    with pytest.raises(ValueError, match=message) as raised:
        pv.data.load(tmp_path / "t.csv", **options)
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="data with labels or with names of columns"):
        pv.data.load(torch.ones(9, 2), cond="label")


@pytest.mark.long
def test_a_conditional_run_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fitted, replayed, scored, drawn from at a condition, and refused in one line elsewhere."""
    monkeypatch.chdir(tmp_path)
    _table(tmp_path / "t.csv")
    counts = ["--likelihood", "Poisson", "--size-factor", "depth"]
    arguments = ["--cond", "group", "--prior", "Conditional", "--latent-dim", "2", *counts]
    assert main(["fit", "t.csv", *arguments, *EFFORT, "--json", "--out", "a"]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert {"cond", "size_factor"} <= scores["base_measure"].keys()
    assert main(["fit", "t.csv", "--config", "a/config.yaml", "--json", "--out", "b"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"] == scores
    assert main(["evaluate", "a", "--num-samples", "5", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["base_measure"] == scores["base_measure"]
    drawn = ["sample", "a", "-n", "7", "--seed", "3", "--size-factor", "20", "--out", "draws.npy"]
    assert main([*drawn, "--cond", "4"]) == 0
    data, vae = recorded_data(Path("a"), "test", None, None), pv.load("a")
    pyro.set_rng_seed(3)
    cond = torch.tensor([[0.0, 1.0]]).expand(7, 2)
    sizes = {"size_factor": torch.full((7,), 20 / data.size_unit)}
    np.testing.assert_array_equal(
        np.load("draws.npy"), vae.sample(7, cond=cond, covariates=sizes).numpy()
    )
    capsys.readouterr()
    for message, argv in (
        ("`--cond`: expected a value for group (one of 3, 4), got None", drawn[:-2]),
        ("`group`: expected one of 3, 4, got '5'", [*drawn[:-2], "--cond", "5"]),
        ("`--size-factor`: expected a positive number", ["sample", "a", "--cond", "3"]),
        ("`group`: expected one of 3, 4, got '5'", ["check", "a", "--cond", "5"]),
        ("`--cond`: expected a value for group", ["report", "a", "--cond", "3,4"]),
    ):
        assert main(argv) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert message in error[-1]
    (tmp_path / "t.csv").write_text(
        (tmp_path / "t.csv").read_text().replace(",3,", ",5,", 80)  # groups of another name
    )
    assert main(["evaluate", "a", "--num-samples", "5"]) == 2
    assert "`--data`: expected" in capsys.readouterr().err


def test_a_conditional_prior_asks_for_columns(fails: Callable[..., str]) -> None:
    """By the name of their option, also where it is a part of another prior."""
    assert "`--cond`: expected the columns that the prior Conditional" in fails(
        "fit", "digits", "--prior", "Conditional"
    )
    prior = [
        "--prior",
        "Product",
        "--prior.parts",
        "[{class: Conditional, dim: 2}, {class: Normal, dim: 1}]",
    ]
    guide = [
        "--guide",
        "Product",
        "--guide.parts",
        "[{class: Normal, dim: 2}, {class: Normal, dim: 1}]",
    ]
    assert "`--cond`: expected the columns that the prior Product" in fails(
        "fit", "digits", *prior, *guide
    )


@pytest.mark.long
def test_a_run_at_one_condition_is_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the data of that condition alone."""
    out = str(tmp_path / "a")
    arguments = ["--cond", "digit", "--latent-dim", "2"]
    assert main(["fit", "digits", *arguments, *EFFORT, "--json", "--out", out]) == 0
    capsys.readouterr()
    few = ["--num-draws", "40", "--level", "0.9", "--json"]
    assert main(["check", out, "--cond", "3", *few]) == 0
    labels = pv.data.load("digits").labels["test"]
    assert json.loads(capsys.readouterr().out)["num_data"] == int((labels == 3).sum())


def _flowers(path: Path) -> list[list[str]]:
    """Of three species, in a file where no order is theirs, one of which has a comma."""
    rng = np.random.default_rng(0)
    kinds = rng.permutation(["setosa"] * 20 + ["alba, minor"] * 20 + ["Virginica"] * 20)
    rows = [[f"{i}", str(kind), f"{rng.normal():.6f}"] for i, kind in enumerate(kinds)]
    lines = ["id, species ,width", *(f'{i},"{kind}" ,{width}' for i, kind, width in rows)]
    path.write_text("\n".join(lines))
    return rows


WORDS = ("Virginica", "alba, minor", "setosa")  # as Python sorts them


def test_words_are_one_hot_in_alphabetical_order(tmp_path: Path) -> None:
    """Fails when a split has the words of other rows."""
    rows = _flowers(tmp_path / "t.csv")
    data = pv.data.load(tmp_path / "t.csv", cond="species", kinds="id=count")
    assert data.event_shape == (2,)
    seen = 0
    for split in ("train", "validation", "test"):
        for x, cond in zip(data.split(split), data.cond[split], strict=True):
            i, kind, width = rows[int(x[0])]
            assert cond.tolist() == [float(kind == word) for word in WORDS]
            assert x.tolist() == pytest.approx([float(i), float(width)], abs=1e-6)
            seen += 1
    assert seen == len(rows)
    (column,) = data.columns
    assert column.words == WORDS
    assert type(column).from_spec(column.spec()) == column


@pytest.mark.parametrize(
    ("message", "table", "cond"),
    [
        (r"a number in row 2, column 2 \(b\), got 'x'; .*`cond` \(--cond b\)", "x,3,4", ""),
        (r"`cond`: expected words alone or numbers alone in b, got 'x'", "x,3,4", "b"),
        (r"`cond`: expected a value for each observation in b, got '2 missing'", "x,,NA", "b"),
        (r"columns that are left for x .*, got \"a: constant, always 'u'; b: condition", "x", "b"),
    ],
)
def test_wrong_words_are_reported_in_one_line(
    tmp_path: Path, message: str, table: str, cond: str
) -> None:
    first = "u" if table == "x" else "1"
    lines = ["a,b", *(f"{first},{cell}" for cell in table.split(","))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message) as raised:
        pv.data.load(tmp_path / "t.csv", cond=cond)
    assert "\n" not in str(raised.value)


@pytest.mark.long
def test_a_run_draws_at_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At the very condition of that word; fails when the order of the words is not recorded."""
    _flowers(tmp_path / "t.csv")
    out, drawn = str(tmp_path / "run"), str(tmp_path / "draws.npy")
    arguments = ["--cond", "species", "--latent-dim", "2", "--likelihood", "Normal", *EFFORT]
    assert main(["fit", str(tmp_path / "t.csv"), *arguments, "--json", "--out", out]) == 0
    draw = ["sample", out, "-n", "4", "--seed", "3", "--out", drawn, "--cond"]
    assert main([*draw, '"alba, minor"']) == 0
    vae, cond = pv.load(out), torch.tensor([[0.0, 1.0, 0.0]]).expand(4, 3)
    pyro.set_rng_seed(3)
    np.testing.assert_array_equal(np.load(drawn), vae.sample(4, cond=cond).numpy())
    assert main(["evaluate", out, "--num-samples", "5", "--json"]) == 0
    capsys.readouterr()
    others = (tmp_path / "t.csv").read_text().replace("setosa", "xetosa")  # in the same place
    (tmp_path / "others.csv").write_text(others)
    known = "one of Virginica, alba, minor, setosa"
    for message, argv in (
        (f"`species`: expected {known}, got 'setos' (did you mean 'setosa'?)", [*draw, "setos"]),
        (f"`--cond`: expected a value for species ({known}), got None", draw[:-1]),
        (
            f"`species`: expected {known}, got 'xetosa' (did you mean 'setosa'?)",
            ["evaluate", out, "--data", str(tmp_path / "others.csv")],
        ),
    ):
        argv = [a if a != drawn else str(tmp_path / "new.npy") for a in argv]
        assert main(argv) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
