"""Simulation-based calibration of what all observations share, against a known posterior."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae.criticism import calibrate, calibrate_globals, check
from pyro_vae.criticism._replicates import simulate

_N = 8


class _Means:
    """x_i = w + z_i + noise in two columns: sufficient are the means of both, of variance 2 / N."""

    def __init__(self, spread: float = 1.0) -> None:
        self.loc = torch.nn.Parameter(torch.zeros(2))
        self.scale = spread * (1 / 9 + _N / 2) ** -0.5

    def model(self, x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 3.0).to_event(1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(w + z, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        loc = pyro.param("loc", self.loc)
        w = pyro.sample("w", dist.Normal(loc, self.scale).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x - w) / 2, 0.5**0.5).to_event(1))


def _fitted(x: Tensor, spread: float = 1.0) -> pv.Program:
    """The guide is the posterior, where ``spread`` is 1."""
    pair = _Means(spread)
    program = pv.Program(pair.model, pair.guide)
    program.initialize(x)
    with torch.no_grad():
        pair.loc.copy_(x.sum(0) / 2 / (1 / 9 + _N / 2))
    return program


@pytest.fixture(scope="module")
def program() -> pv.Program:
    torch.manual_seed(0)
    return _fitted(2 + 1.5 * torch.randn(_N, 2))


@pytest.mark.long
def test_the_posterior_passes_and_a_narrow_guide_fails(program: pv.Program) -> None:
    options: dict[str, Any] = {"num_data": _N, "num_simulations": 60, "num_draws": 19}
    right = calibrate_globals(program, refit=lambda rows, seed: _fitted(rows.x), **options)
    assert right.names == ("w[0]", "w[1]")
    assert right.ranks.shape == (60, 2)
    assert right.num_failed == 0
    assert right.summary()["coverage"]["actual"].keys() == {"w[0]", "w[1]"}
    narrow = calibrate_globals(program, refit=lambda rows, seed: _fitted(rows.x, 0.3), **options)
    assert narrow.num_failed == 2
    assert "the truth lies outside its intervals too often; fit longer" in narrow.advice[0]
    few = options | {"num_simulations": 10}
    one, same = (
        calibrate_globals(program, refit=lambda rows, seed: _fitted(rows.x), **few)
        for _ in range(2)
    )
    assert np.array_equal(one.ranks, same.ranks)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"refit": 3, "num_data": 4}, r"`refit`: expected a function \(rows, seed\) -> fitted"),
        ({"refit": lambda *_: None, "num_data": 4}, "fitted Program, got None"),
        ({"refit": lambda *_: None}, "`num_data`: expected how many observations"),
        ({"refit": lambda *_: None, "num_data": 4, "level": 5}, "`level`: expected a number betw"),
        ({"refit": lambda *_: None, "num_data": 4, "num_draws": 0}, "`num_draws`: expected a pos"),
    ],
)
def test_what_is_no_refit_is_one_line(
    program: pv.Program, options: dict[str, Any], line: str
) -> None:
    with pytest.raises(ValueError, match=line):
        calibrate_globals(program, num_simulations=2, **options)
    with pytest.raises(ValueError, match="`vae`: expected `program.fixed"):
        calibrate(program)


def test_a_refit_in_place_is_refused(program: pv.Program) -> None:
    with pytest.raises(ValueError, match="`refit`: expected a program with parameters of its own"):
        calibrate_globals(program, refit=lambda *_: program, num_data=4, num_simulations=2)
    vae = pv.VAE(pv.priors.Normal(1), pv.guides.Normal(1), pv.likelihoods.Normal((2,)))
    with pytest.raises(ValueError, match="`program`: expected a Program with latents that all"):
        calibrate_globals(vae, refit=lambda *_: vae, num_data=4)


def test_replicates_draw_what_is_shared_once_for_each_data_set(program: pv.Program) -> None:
    """Means of data sets vary by w and by rows: drawn for each row, w would hardly count."""
    torch.manual_seed(1)
    x = simulate(program, 400, 50, {})
    assert x.shape == (400, 50, 2)
    among = (x.mean(1).var(0) - 2 / 50).mean().item()
    assert among == pytest.approx((1 / 9 + _N / 2) ** -1, rel=0.25)
    means = torch.stack([program.simulate(50).x.mean(0) for _ in range(100)])
    assert means.var(0).mean() > 0.15


@pytest.mark.long
def test_a_check_of_shared_latents_passes_under_the_truth(program: pv.Program) -> None:
    """The mean of new data is uncertain by w: at one draw of w it would be rejected."""
    torch.manual_seed(3)
    one = program.fixed(1, seed=5)[0]
    x = one.simulate(300).x
    found = check(program, x, seed=1)
    mean = next(row for row in found.rows if row.statistic == "mean" and row.calibrated)
    assert mean.p_value > 0.05
    assert "z ~ p(z|half of x)" in found.skipped
    at_one = check(program.fixed(1, seed=6)[0], x, seed=1)
    other = next(row for row in at_one.rows if row.statistic == "mean" and row.calibrated)
    assert other.p_value < 0.01


def _with_cond(x: Tensor, cond: Tensor) -> pv.Program:
    def model(x: Tensor, cond: Tensor) -> None:
        _Means().model(x)

    def guide(x: Tensor, cond: Tensor) -> None:
        pair.guide(x)

    pair = _Means()
    program = pv.Program(model, guide)
    program.initialize(x, cond=cond)
    return program


def test_the_size_of_what_is_given_is_not_overruled() -> None:
    x, cond = torch.zeros(_N, 2), torch.zeros(_N, 1)
    program, sizes = _with_cond(x, cond), []

    def refit(rows: Any, seed: int) -> pv.Program:
        sizes.append(len(rows))
        return _with_cond(rows.x, rows.given["cond"])

    options: dict[str, Any] = {"num_simulations": 1, "num_draws": 9, "cond": cond}
    with pytest.raises(ValueError, match="`num_data`: expected 8, as what goes with .*, got 7"):
        calibrate_globals(program, refit, num_data=7, **options)
    calibrate_globals(program, refit, num_data=_N, **options)
    calibrate_globals(program, refit, **options)
    assert sizes == [_N, _N]


@pytest.mark.long
def test_refits_leave_no_parameters_behind(program: pv.Program) -> None:
    """Each has parameters of names of its own, which a long session would collect."""
    store = pyro.get_param_store()
    program.fixed(1)
    kept = torch.tensor(2.0)
    with store.scope():
        pyro.param("kept", kept)
        program.fixed(1)
        names = set(store.keys())
        options: dict[str, Any] = {"num_data": 4, "num_simulations": 2, "num_draws": 3}
        calibrate_globals(program, refit=lambda rows, seed: _fitted(rows.x), **options)
        assert set(store.keys()) == names
        check(program, torch.randn(40, 2), refit=lambda rows, seed: _fitted(rows.x), refits=5,
              statistics=[lambda x: x.mean((-2, -1))])  # fmt: skip
        assert set(store.keys()) == names
        assert pyro.param("kept").item() == 2.0
