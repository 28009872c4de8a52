"""Programs in the manner of Pyro's examples take the steps that stock SVI takes.

The programs and what compares them are those of ``experiments/pyro_programs.py``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
sys.path.append(str(EXPERIMENTS))  # scripts, which import each other by name

import pyro_programs  # noqa: E402
from programs import PROGRAMS  # noqa: E402

# Pyro warns of some of these programs, of stock SVI as of ours.
pytestmark = pytest.mark.filterwarnings("ignore")

_QUICK = {  # one of each kind, a second or two each
    "VAE as a class, analytic KL",
    "conditional VAE, Boolean index",
    "AutoNormal",
    "AutoIAFNormal",
    "AutoGuideList",
    "AutoDiscreteParallel",
    "EasyGuide as a decorator",
    "variational sparse GP, mini-batches by set_data",
    "panel of series, mini-batches, decentred",
    "Gaussian mixture, MAP",
    "LDA by hand, Dirichlet guide",
    "ProdLDA",
    "batting averages, partially pooled",
    "eight schools, decentred by reparam",
    "Bayesian network, PyroSample",
    "attend, infer, repeat; decaying average",
    "coin flips until heads",
    "VAE, RenyiELBO",
    "HMM as one distribution",
    "capture-recapture, constant",
}
_EAGER = {
    "conditional VAE, Boolean index",
    "coin flips until heads",
    "VAE, EnergyDistance",
    "deep Markov model, packed sequences",
    "deep Markov model, flow",
    "forecast, stable noise, LinearHMMReparam",
}
# Compiled code rounds otherwise, and the factor of its kernel matrix multiplies that: stock differs
# from itself as much when each entry of the matrix is rounded once more.
_ROUNDED = {"deep kernel learning, three classes"}
_NAMES = [
    name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PROGRAMS
]


@pytest.mark.long
@pytest.mark.usefixtures("interpreted", "double")
@pytest.mark.parametrize("name", _NAMES)
def test_three_steps_are_those_of_stock(name: str) -> None:
    """To 1e-9 of losses and parameters, by a graph, or there is a line that says why not."""
    _, ours, row = pyro_programs.compare(PROGRAMS[name], 3)
    assert row["equal"], (row["losses_differ"], row["parameters_differ"])
    assert all(svi.steps == 3 for svi in ours.engines)
    assert row["captured"] == (name not in _EAGER), row["reasons"]
    assert row["captured"] or row["reasons"]


def test_a_difference_is_found() -> None:
    """Of a single element, in size, in shape and where only one of both is finite."""
    stock = torch.tensor([1e6, 1.0, 0.0, torch.inf], dtype=torch.float64)
    wrong = (stock * (1 + 2e-9), stock + torch.tensor([0.0, 0.0, 2e-12, 0.0]), stock[:3])
    nan = stock.clone()
    nan[1] = torch.nan
    for each in (*wrong, nan):
        assert pyro_programs.difference(each, stock) > pyro_programs.TOLERANCE
    assert pyro_programs.difference(stock * (1 + 1e-10), stock) <= pyro_programs.TOLERANCE


def test_the_results_are_those_of_these_programs() -> None:
    """Four in five are captured, and none is wrong; the table is made from the results."""
    found = json.loads((EXPERIMENTS / "results" / "pyro_programs.json").read_text())["programs"]
    assert found.keys() == PROGRAMS.keys()
    differ = {name for name, row in found.items() if not row.get("equal")}
    assert differ <= _ROUNDED
    for name in differ:
        assert found[name]["losses_differ"] < pyro_programs.TOLERANCE
        assert found[name]["parameters_differ"] < 1e-6
    assert sum(row["captured"] for row in found.values()) >= 0.8 * len(found)
    assert all(row["captured"] or row["reasons"] for row in found.values())
    written = (EXPERIMENTS / "results" / "pyro_programs.md").read_text(encoding="utf-8")
    assert written == pyro_programs.table()
