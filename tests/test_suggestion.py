"""Which likelihood data call for: by column, for all, on the command line and in errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.data import Rows
from pyro_vae.likelihoods import Likelihood, Mixed, suggest

N = 500
SMALL = ["--epochs", "1", "--encoder.hidden", "[4]", "--decoder.hidden", "[4]", "--json"]
QUICK = ["--num-samples", "10", "--compile", "false", "--device", "cpu", "--latent-dim", "2"]


def _columns() -> dict[str, np.ndarray]:
    r = np.random.default_rng(0)
    return {
        "Bernoulli": r.integers(0, 2, N),
        "Poisson": r.poisson(3, N),
        "NegativeBinomial": r.negative_binomial(1, 0.1, N),
        "ZeroInflatedPoisson": r.poisson(6, N) * (r.random(N) > 0.4),
        "ZeroInflatedNegativeBinomial": r.negative_binomial(5, 0.1, N) * (r.random(N) > 0.4),
        "Ordinal": r.choice(5, N, p=[0.3, 0.1, 0.1, 0.1, 0.4]),
        "Beta": r.beta(2, 5, N),
        "Gamma": r.gamma(2, 3, N),
        "LogNormal": np.exp(10 + r.normal(size=N)),
        "Normal": r.normal(size=N),
        "StudentT": 1e6 * r.standard_t(2, N),
        "Laplace": 1e-6 * r.laplace(size=N),
        "VonMises": r.uniform(-np.pi, np.pi, N),
    }


def _classes(found: Any) -> list[str]:
    return [column.likelihood["class"] for column in found.columns]


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_a_column_has_the_likelihood_that_it_was_drawn_from(missing: float) -> None:
    """Fails when supports alone decide, or missing values count as zeros."""
    x = np.stack(list(_columns().values()), 1)
    x[np.random.default_rng(1).random(x.shape) < missing] = np.nan
    found = suggest(x)
    assert _classes(found) == list(_columns())
    assert found.likelihood["class"] == "Mixed"
    mixed = found.build((13,))
    filled = torch.from_numpy(np.where(np.isnan(x), np.nanmedian(x, 0).round(), x))
    assert isinstance(mixed, Mixed)
    assert mixed.support.check(filled)[:, 1:].all()


@pytest.mark.parametrize("unit", [1e-12, 1e-3, 1.0, 1e12])
def test_what_suits_a_column_does_not_depend_on_its_unit(unit: float) -> None:
    """Fails when scales have a floor in the data's units: all are Laplace's at 1e-12."""
    known, names = _columns(), ["Gamma", "LogNormal", "Normal", "StudentT", "Laplace"]
    x = np.stack([known[name] / known[name].std() for name in names], 1)
    assert _classes(suggest(unit * x)) == names


@pytest.mark.parametrize(
    ("column", "kind", "why"),
    [
        (np.arange(1950, 2000), "Normal", "real numbers"),  # vary less than counts of that size
        (np.arange(-20, 30), "Normal", "from -20 to 29"),
        (np.full(50, 5.5), "Gamma", "positive, from 5.5 to 5.5"),
        (np.full(50, np.nan), "Normal", "nothing observed"),
        (170 + np.linspace(-10, 10, 50), "Normal", "positive, from 160 to 180"),
        (np.linspace(0, 3, 50), "Normal", "real numbers"),  # a zero is not positive
        (np.array([0.5, 2.0]), "Gamma", "positive"),
        (np.array([0.0, 4.0]), "Poisson", "counts"),
        (np.array([True, False]), "Bernoulli", "0 and 1 alone"),
    ],
    ids=lambda value: "",
)
def test_a_support_counts_for_more_than_a_dispersion(
    column: np.ndarray, kind: str, why: str
) -> None:
    (found,) = suggest(column[:, None]).columns
    assert found.likelihood["class"] == kind
    assert why in found.why


def test_all_columns_of_a_kind_have_one_likelihood() -> None:
    """Real ones with a scale each. Fails when every table is mixed."""
    known = _columns()
    of_all = {
        ("Poisson", "ZeroInflatedNegativeBinomial"): {"class": "ZeroInflatedNegativeBinomial"},
        ("Gamma", "LogNormal"): None,
        ("StudentT", "Normal"): {"class": "StudentT", "scale": "per-dimension"},
    }
    for names, expected in of_all.items():
        x = torch.from_numpy(np.stack([known[name] for name in names], 1))
        found = suggest(x)
        assert _classes(found) == list(names)
        assert expected is None or found.likelihood == expected
        assert found.build((2,)).support.check(x).all()
    r = np.random.default_rng(0)
    wide = r.poisson(np.exp(r.normal(-3, 1.5, 40)), size=(300, 40))
    assert ((wide <= 1).all(0)).any(), "some genes are never counted twice"
    assert suggest(wide).likelihood["class"] in ("Poisson", "NegativeBinomial")


def test_images_and_compositions_are_taken_as_a_whole() -> None:
    r = np.random.default_rng(0)
    images = {
        "ContinuousBernoulli": r.random((50, 1, 4, 4)),
        "DiscretizedLogistic": r.integers(0, 256, (50, 1, 4, 4)),
        "Bernoulli": r.integers(0, 2, (50, 1, 4, 4)),
        "Normal": r.normal(size=(50, 1, 4, 4)),
    }
    for name, x in images.items():
        found = suggest(x)
        assert found.likelihood["class"] == name
        assert found.build((1, 4, 4)).support.check(torch.from_numpy(x)).all()
    shares = r.dirichlet([1.0, 2.0, 3.0], 60)
    assert suggest(shares).likelihood == {"class": "Dirichlet"}
    assert suggest(np.eye(3)[r.integers(0, 3, 60)]).likelihood == {"class": "Bernoulli"}
    assert suggest(1.01 * shares).likelihood["class"] != "Dirichlet"


def test_a_data_set_is_looked_at_in_all_its_splits() -> None:
    """Its names are those of columns. Fails when a test set is outside what training data show."""
    r = np.random.default_rng(0)
    x = r.choice(4, (200, 2)).astype(np.float32)
    data = pv.data.load(torch.from_numpy(x))
    data.test[0, 1] = 6
    assert [each.likelihood["levels"] for each in suggest(data).columns] == [4, 7]
    assert suggest(pv.data.load("digits")).likelihood == {"class": "Bernoulli"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("table.csv", "`data`: expected an array, a tensor or a data set, as `pv.data.load`"),
        (torch.zeros(3), "`data`: expected at least one observation with at least one entry"),
        (torch.zeros(0, 3), "`data`: expected at least one observation"),
        (torch.full((3, 2), torch.inf), "`data`: expected finite numbers, got '6 that are not'"),
    ],
)
def test_what_nothing_suits_is_reported_in_one_line(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        suggest(data)


@pytest.mark.parametrize(
    ("likelihood", "x", "message"),
    [
        (pv.likelihoods.Poisson((2,)), [[1.0, 2], [-1, 0]], "; Mixed would fit: .*Normal"),
        (pv.likelihoods.Poisson((2,)), [[1.0, 2], [-1, -2.5]], "; Normal would fit: real numbers"),
        (pv.likelihoods.LogNormal((2,)), [[1.5, 2], [-1, -2]], "; Normal would fit: real numbers"),
        (pv.likelihoods.Beta((2,)), [[1.5, 2], [1, 0.1]], "; Gamma would fit: positive, from 0.1"),
        (pv.likelihoods.Bernoulli((2,)), [[0.5, 1], [0, 0.1]], "; Beta would fit: numbers from 0"),
        (Mixed((2,), ["Gamma", "Poisson"]), [[1.5, 2], [2, 0.5]], "; Gamma would fit: positive"),
        (pv.likelihoods.Dirichlet((2,)), [[1.5, 2], [2, 0.5]], "; amounts become shares .*; Gamma"),
        (pv.likelihoods.VonMises((2,)), [[1.5, 5], [2, 0.5]], "; radians are wrapped .*; Gamma"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_violated_support_names_what_would_fit(
    likelihood: Likelihood, x: Any, message: str
) -> None:
    networks = pv.networks.MLP((4,)), pv.networks.MLP((4,))
    vae = pv.VAE(pv.priors.Normal(1), pv.guides.Normal(1), likelihood, *networks)
    with pytest.raises(ValueError, match=rf"`x`: expected .* bad in all{message}") as raised:
        vae.accepts(Rows(torch.tensor(x)))
    assert "\n" not in str(raised.value)


def test_an_ordinal_likelihood_of_too_few_levels_names_their_number() -> None:
    x = torch.from_numpy(_columns()["Ordinal"]).float()[:, None]
    networks = pv.networks.MLP((4,)), pv.networks.MLP((4,))
    ordinal = pv.likelihoods.Ordinal((1,), levels=3)
    vae = pv.VAE(pv.priors.Normal(1), pv.guides.Normal(1), ordinal, *networks)
    with pytest.raises(ValueError, match="; levels=5 would fit$"):
        vae.accepts(Rows(x))
    with pytest.raises(ValueError, match="bad in all; `mask` says which"):
        vae.accepts(Rows(x / 0))


# The command line.


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    known, names = _columns(), ("Gamma", "Poisson", "Ordinal")
    x = np.stack([known[name][:400] for name in names], 1)
    path = tmp_path / "t.csv"
    np.savetxt(path, x, delimiter=",", header="income,visits,mood", comments="", fmt="%.6g")
    return path


def test_a_file_is_fitted_by_what_suits_it(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on standard error, and a record that a replay goes by."""
    assert main(["fit", "t.csv", *SMALL, *QUICK, "--out", "a"]) == 0
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if line.startswith("--likelihood")]
    why = "income Gamma, visits Poisson, mood Ordinal"
    assert lines == [f"--likelihood Mixed ({why}): it suits the data, and none was asked for"]
    config = yaml.safe_load(Path("a/config.yaml").read_text())
    columns = ["Gamma", "Poisson", {"class": "Ordinal", "levels": 5}]
    assert config["likelihood"] == {"class": "Mixed", "columns": columns}
    recorded = json.loads(Path("a/fit.json").read_text())["likelihood"]
    assert recorded == pv.load("a").likelihood.spec()
    assert [each["class"].split(".")[1] for each in recorded["args"]["columns"]] == [
        "Gamma",
        "Poisson",
        "Ordinal",
    ]
    assert main(["fit", "--config", "a/config.yaml", "--json", "--out", "b"]) == 0
    again = capsys.readouterr()
    assert "--likelihood" not in again.err
    assert json.loads(again.out)["scores"] == json.loads(shown.out)["scores"]
    for verb in (["evaluate", "a", "--num-samples", "10"], ["sample", "a", "-n", "3"]):
        assert main(verb) == 0


def test_what_is_settled_is_not_suggested(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A likelihood that was asked for, and that of named sets."""
    argv = ["fit", "t.csv", "--likelihood", "Poisson", *SMALL, *QUICK]
    assert main(argv) == 2
    shown = capsys.readouterr().err
    assert "support of Poisson" in shown
    assert "; Mixed would fit: x[0] Gamma, x[1] Poisson, x[2] Ordinal" in shown
    assert main(["fit", "digits", *SMALL, *QUICK, "--out", "digits"]) == 0
    assert "--likelihood" not in capsys.readouterr().err
    config = yaml.safe_load(Path("digits/config.yaml").read_text())
    assert config["likelihood"] == {"class": "Bernoulli"}
    np.save("grey.npy", np.random.default_rng(0).random((50, 4)).astype(np.float32))
    assert main(["fit", "grey.npy", "--binarize", "threshold", *SMALL, *QUICK]) == 0
    assert "--likelihood" not in capsys.readouterr().err


def test_settings_are_selected_with_what_suits_the_data(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = [each for each in QUICK if each not in ("--latent-dim", "2")]
    argv = ["select", "t.csv", *SMALL, *quick, "--latent-dim", "1,2", "--folds", "2", "--out", "s"]
    assert main(argv) == 0
    shown = capsys.readouterr()
    assert shown.err.count("--likelihood Mixed (income Gamma") == 1
    assert json.loads(shown.out)["base_measure"]["measure"].startswith("mixed, counting in col")
