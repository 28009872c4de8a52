"""Ordinal data by cumulative logits, and counts with additional zeros."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.optimize
import scipy.stats
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae.criticism import check
from pyro_vae.data import Rows
from pyro_vae.distributions import inverse_positive
from pyro_vae.likelihoods import (
    Categorical,
    Likelihood,
    Mixed,
    Ordinal,
    Poisson,
    ZeroInflatedPoisson,
)


def _vae(likelihood: Likelihood) -> pv.VAE:
    torch.manual_seed(0)
    networks = pv.networks.MLP((8,)), pv.networks.MLP((8,))
    return pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, *networks)


def _answers(size: int = 400) -> Tensor:
    """Three questions of 5 levels, which one trait moves alike; the last level is rare."""
    z = np.random.default_rng(0).normal(size=(size, 1))
    noise = np.random.default_rng(1).logistic(size=(size, 3))
    return torch.from_numpy(np.digitize(2 * z + noise, [-2.0, -0.5, 1.0, 4.0])).float()


def _started(x: Tensor) -> Ordinal:
    likelihood = Ordinal(x.shape[1:], levels=5).double()
    likelihood.init_params(x.double())
    return likelihood


def test_levels_start_at_their_frequencies() -> None:
    """Those that were never seen, too. Fails when steps are thresholds."""
    x = _answers()
    x[:, 2] = x[:, 2].clamp_max(2)
    x[:, 1] = 4.0
    likelihood = _started(x)
    states = torch.arange(5.0).double()[:, None].expand(5, 3)
    probs = likelihood(torch.zeros(3).double()).base_dist.log_prob(states).exp()
    counts = torch.stack([(x == level).double().sum(0) for level in range(5)])
    torch.testing.assert_close(probs, (counts + 0.5) / (len(x) + 2.5), rtol=1e-4, atol=1e-4)
    assert (likelihood.thresholds().diff(dim=-1) > 0).all()


def test_probabilities_are_those_of_pyro_where_it_has_digits() -> None:
    """An independent formula. Fails when a level more or less is counted."""
    likelihood = _started(_answers())
    moved = torch.linspace(-4, 4, 9).double()[:, None].expand(9, 3)
    theirs = dist.OrderedLogistic(moved, likelihood.thresholds())
    x = likelihood(moved).sample((20,))
    ours = likelihood(moved).base_dist.log_prob(x)
    torch.testing.assert_close(ours, theirs.log_prob(x.long()))


@pytest.mark.parametrize("moved", [-1000.0, -60.0, 60.0, 1000.0])
def test_what_is_as_good_as_impossible_has_a_density_and_a_gradient(moved: float) -> None:
    """In single precision, with levels close to each other. Fails with differences of numbers."""
    likelihood = Ordinal((1,), levels=6)
    with torch.no_grad():
        likelihood.raw_steps.copy_(inverse_positive(torch.tensor([[2e-4, 1.0, 3e-3, 5.0]])))
    params = torch.full((6, 1), moved, requires_grad=True)
    log_prob = likelihood(params).log_prob(torch.arange(6.0)[:, None])
    assert log_prob.isfinite().all()
    for gradient in torch.autograd.grad(log_prob.sum(), [params, *likelihood.parameters()]):
        assert gradient.isfinite().all()
    exact = likelihood.double()(params.detach().double()).log_prob(torch.arange(6.0)[:, None])
    torch.testing.assert_close(log_prob.double(), exact, rtol=1e-5, atol=1e-3)


def test_what_moves_levels_moves_them_in_order() -> None:
    """The higher, the more probable are high levels (stochastic order)."""
    likelihood = _started(_answers())
    means = likelihood(torch.linspace(-5, 5, 11).double()[:, None].expand(11, 3)).mean
    assert (means.diff(dim=0) > 0).all()


@pytest.mark.long
def test_a_trait_behind_answers_is_found() -> None:
    """Better than the margins by most of what the true model gains, 0.36 nats by quadrature."""
    x = _answers()
    margins = _started(x)(torch.zeros(3).double()).log_prob(x.double()).mean().detach()
    vae = _vae(Ordinal((3,), levels=5))
    options: dict[str, Any] = {"seed": 0, "compile": False, "device": "cpu"}
    pv.fit(vae, x, epochs=60, lr=1e-2, batch_size=100, **options)
    found = pv.evaluate(vae, x, num_samples=100).log_marginal.mean()
    assert found > float(margins) + 0.25
    trait = vae.encode(x).mean.detach()
    best = max(abs(scipy.stats.spearmanr(unit, x.sum(1)).statistic) for unit in trait.T)
    assert best > 0.9


def test_levels_by_name_are_kept(tmp_path: Path) -> None:
    names = ["low", "middle", "high"]
    columns = ["Normal", {"class": "Ordinal", "levels": names}, {"class": "Ordinal", "levels": 4}]
    vae = _vae(Mixed((3,), columns))
    again = pv.load(pv.save(vae, tmp_path / "model"))
    ordinal = again.likelihood.entry((1,))
    assert isinstance(ordinal, Ordinal)
    assert (ordinal.names, ordinal.levels) == (tuple(names), 3)
    x, z = vae.sample(40), torch.randn(40, 2)
    torch.testing.assert_close(again.decode(z).log_prob(x), vae.decode(z).log_prob(x))
    bad = x.clone()
    bad[7, 1] = 3
    with pytest.raises(ValueError, match=r"support of Ordinal, .*upper_bound=2.* got 3 at index"):
        vae.accepts(Rows(bad))


def test_ordinal_data_are_criticised_and_imputed() -> None:
    vae, x = _vae(Ordinal((3,), levels=5)), _answers(60)
    assert {"marginals", "zeros"} <= {row.statistic for row in check(vae, x, level=0.5).rows}
    mask = torch.rand(60, 3) > 0.3
    hidden = torch.where(mask, x, torch.nan)
    drawn = vae.impute(hidden, mask, num_samples=20, num_imputations=4)
    assert vae.likelihood.support.check(drawn).all()
    tree = pv.posterior_predictive(vae, x[:5], num_draws=3)
    assert tree["posterior_predictive"]["x"].dtype == np.int64


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (1, "`levels`: expected an integer >= 2, got 1"),
        (["one"], "`levels`: expected an integer >= 2, or two names or more"),
        (["a", "b", "a"], "`levels`: expected a number of levels, or their names, all different"),
        ([1, 2], "`levels`: expected a number of levels, or their names"),
        ("abc", "`levels`: expected an integer >= 2, got 'abc'"),
    ],
)
def test_what_is_no_scale_is_reported_in_one_line(levels: Any, message: str) -> None:
    for kind in (Categorical, Ordinal):
        with pytest.raises(ValueError, match=message):
            kind((2,), levels=levels)


# Additional zeros.


@pytest.mark.parametrize("sized", [False, True])
def test_additional_zeros_start_at_the_largest_likelihood(sized: bool) -> None:
    """Of SciPy's optimiser. Fails with the share of all zeros for that of the additional ones."""
    r = np.random.default_rng(0)
    size = r.uniform(0.5, 1.5, 800) if sized else np.ones(800)
    x = r.poisson(2.5 * size) * (r.random(800) > 0.3)

    def loss(raw: np.ndarray) -> float:
        gate, rate = scipy.special.expit(raw[0]), np.exp(raw[1])
        density = (1 - gate) * scipy.stats.poisson.pmf(x, size * rate) + gate * (x == 0)
        return -float(np.log(density).mean())

    best = scipy.optimize.minimize(loss, [0.0, 0.0], method="Nelder-Mead")
    likelihood = ZeroInflatedPoisson((1,), size_factor=sized).double()
    named = {"size_factor": torch.from_numpy(size)} if sized else {}
    data = torch.from_numpy(x).double()[:, None]
    params = likelihood.init_params(data, **named)
    found = likelihood(params.expand(800, -1), **named).log_prob(data).mean()
    assert float(found) == pytest.approx(-best.fun, abs=1e-6)
    assert float(params[1].sigmoid()) == pytest.approx(scipy.special.expit(best.x[0]), abs=1e-3)
    assert 0.2 < float(params[1].sigmoid()) < 0.35


def test_draws_have_as_many_zeros_as_the_data() -> None:
    """Unlike those of a Poisson model. Fails when draws leave additional zeros out."""
    r = np.random.default_rng(0)
    x = torch.from_numpy(r.poisson(4.0, (2000, 3)) * (r.random((2000, 3)) > 0.3)).double()
    share = (x == 0).double().mean(0)
    off = {}
    for kind in (Poisson, ZeroInflatedPoisson):
        likelihood = kind((3,)).double()
        drawn = likelihood(likelihood.init_params(x)).sample((2000,))
        error = (2 * share * (1 - share) / 2000).sqrt()
        off[kind] = ((drawn == 0).double().mean(0) - share) / error
    assert off[ZeroInflatedPoisson].abs().max() < 4
    assert off[Poisson].max() < -10
