"""Covariates of any name on the command line, of a likelihood that the package has never seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

import pyro_vae as pv
from pyro_vae import likelihoods
from pyro_vae.cli import main
from pyro_vae.cli.runs import recorded_data

EFFORT = ["--epochs", "1", "--num-samples", "5", "--compile", "false", "--device", "cpu"]
ARGV = ["t.csv", "--likelihood", "Noisy", "--covariate", "noise=sd, days=d", "--latent-dim", "2"]


class Noisy(likelihoods.Likelihood):
    """A normal distribution whose error of measurement is known, of a sum over known days."""

    support = constraints.real
    measure = "lebesgue"
    covariates = ("noise", "days")

    def init_params(self, x_train: Tensor, noise: Tensor, days: Tensor) -> Tensor:
        return (x_train / days[:, None]).mean(0)

    def forward(self, params: Tensor, noise: Tensor, days: Tensor) -> Any:
        return dist.Normal(params * days[..., None], noise[..., None]).to_event(1)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """A folder with ``t.csv``: x in columns a and b, then ``sd`` and ``d``; Noisy is known."""
    monkeypatch.setattr(likelihoods, "Noisy", Noisy, raising=False)
    monkeypatch.setattr(likelihoods, "__all__", [*likelihoods.__all__, "Noisy"])
    monkeypatch.setattr(Noisy, "__module__", "pyro_vae.likelihoods.noisy")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    sd, days = rng.uniform(0.5, 2, 60), rng.integers(1, 9, 60)
    x = days[:, None] * np.array([1.0, -2.0]) + sd[:, None] * rng.normal(size=(60, 2))
    rows = np.column_stack([x[:, 0], sd, x[:, 1], days])
    np.savetxt("t.csv", rows, delimiter=",", header="a,sd,b,d", comments="", fmt="%.9g")
    return rows


def test_columns_become_covariates_by_name(table: np.ndarray) -> None:
    """As they are, in the order of x; fails when one stays in x or becomes a condition."""
    data = pv.data.load("t.csv", covariates={"noise": "sd", "days": "d"})
    assert list(data.names) == ["a", "b"]
    assert data.cond == {}
    for split in ("train", "validation", "test"):
        named = data.covariates[split]
        for x, sd, days in zip(data.split(split), named["noise"], named["days"], strict=True):
            (row,) = np.flatnonzero(np.isclose(table[:, 0], x[0]))
            wanted = torch.tensor(table[row, [1, 2, 3]]).float()
            torch.testing.assert_close(torch.stack([sd, x[1], days]), wanted)
    sized = pv.data.load("t.csv", covariates="noise=sd", size_factor="d")
    assert sized.covariates["test"].keys() == {"noise", "size_factor"}


@pytest.mark.long
def test_a_run_with_covariates(table: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    """Fitted, replayed, scored and drawn from, with no more than one option."""
    assert main(["fit", *ARGV, *EFFORT, "--json", "--out", "a"]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert {"noise", "days"} <= scores["base_measure"].keys()
    assert main(["fit", "t.csv", "--config", "a/config.yaml", "--json", "--out", "b"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"] == scores
    assert main(["evaluate", "a", "--num-samples", "5", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["base_measure"] == scores["base_measure"]
    data, vae = recorded_data(Path("a"), "test", None, None), pv.load("a")
    assert data.covariates["test"].keys() == {"noise", "days"}
    drawn = ["sample", "a", "-n", "4", "--seed", "3", "--out", "d.npy"]
    assert main([*drawn, "--covariate", "noise=0.5,days=3"]) == 0
    pyro.set_rng_seed(3)
    given = {"noise": torch.full((4,), 0.5), "days": torch.full((4,), 3.0)}
    np.testing.assert_array_equal(np.load("d.npy"), vae.sample(4, covariates=given).numpy())


@pytest.mark.parametrize(
    ("says", "argv"),
    [
        ("`--covariate`: expected columns for days, noise", ["fit", *ARGV[:3]]),
        ("`--covariate`: expected columns for days, noise", ["fit", *ARGV[:4], "noise=sd"]),
        ("`--covariate`: expected NAME=COLUMN, with commas", ["fit", *ARGV[:4], "sd"]),
        ("`--covariate`: expected NAME=COLUMN, with commas", ["fit", *ARGV[:4], "a=sd,a=d"]),
        ("`covariates`: expected one of a, sd, b, d, got 'sb'", ["fit", *ARGV[:4], "noise=sb"]),
        (
            "`--covariate`: expected none with Normal",
            ["fit", "t.csv", "--likelihood", "Normal", *ARGV[3:5]],
        ),
        (
            "`--size-factor`: expected none with Noisy",
            ["fit", *ARGV[:4], "noise=sd", "--size-factor", "d"],
        ),
    ],
)
def test_wrong_covariates_are_refused_in_one_line(
    table: np.ndarray, says: str, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*argv, *EFFORT]) == 2
    error = capsys.readouterr().err
    assert says in error.replace("\n", " "), error
    assert not Path("runs").exists()
