"""Likelihoods of positive data, over many magnitudes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae.criticism import check
from pyro_vae.criticism.statistics import default_statistics
from pyro_vae.distributions import MeanGamma
from pyro_vae.likelihoods import Gamma, Likelihood, LogNormal, Mixed, Normal

KINDS = [LogNormal, Gamma]


def _vae(likelihood: Likelihood) -> pv.VAE:
    torch.manual_seed(0)
    networks = pv.networks.MLP((8,)), pv.networks.MLP((8,))
    return pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, *networks)


def _magnitudes(size: int = 300) -> Tensor:
    """Three columns of which one extends over ten magnitudes, and the others are far from 1."""
    r = np.random.default_rng(0)
    z = r.normal(size=size)
    logs = np.stack([4 * z, 0.3 * z + math.log(1e9), 0.5 * r.normal(size=size) + math.log(1e-9)], 1)
    return torch.from_numpy(np.exp(logs + 0.2 * r.normal(size=(size, 3)))).float()


@pytest.mark.parametrize("log_mean", [-60.0, 0.0, 3.0, 60.0])
@pytest.mark.parametrize("variation", [1e-4, 1e-2, 0.1414, 0.5, 3.0, 30.0])
def test_a_gamma_density_has_its_digits(log_mean: float, variation: float) -> None:
    """In single precision, slopes too. Fails with the textbook's formula, whose terms cancel."""
    arguments = torch.tensor(log_mean), torch.tensor(variation)
    exact = [each.double().requires_grad_() for each in arguments]
    shape = float(arguments[1].double()) ** -2
    ratio = scipy.stats.gamma.ppf([0.05, 0.5, 0.95], shape, scale=1 / shape).clip(1e-10)
    x = torch.tensor(np.exp(log_mean) * ratio).float()
    double = MeanGamma(*exact).log_prob(x.double())
    found = scipy.stats.gamma.logpdf(x.double().numpy(), shape, scale=math.exp(log_mean) / shape)
    # SciPy's own formula cancels where the shape is large.
    np.testing.assert_allclose(double.detach().numpy(), found, rtol=1e-9, atol=1e-14 * shape + 1e-9)
    # A logarithm of 60 has six digits after the point, of which a small variation leaves fewer.
    unit = 1e-6 * (1 + abs(log_mean)) / min(variation, 1.0)
    ours = [each.requires_grad_() for each in arguments]
    single = MeanGamma(*ours).log_prob(x)
    np.testing.assert_allclose(single.detach(), double.detach(), rtol=1e-5, atol=1e-5 + 3 * unit)
    slopes = [torch.autograd.grad(each.sum(), of) for each, of in ((single, ours), (double, exact))]
    for slope, wanted in zip(*slopes, strict=True):
        assert float(slope) == pytest.approx(float(wanted), rel=1e-4, abs=3 * unit / variation)


def test_draws_of_a_gamma_variable_are_positive_and_of_its_distribution() -> None:
    """Kolmogorov and Smirnov's test, and moments. Fails with the variation for the dispersion."""
    d = MeanGamma(torch.tensor([2.0, -50.0]).double(), torch.tensor([0.5, 2.0]).double())
    draws = d.sample((4000,))
    for i, (log_mean, variation) in enumerate([(2.0, 0.5), (-50.0, 2.0)]):
        shape = variation**-2
        exact = scipy.stats.gamma(shape, scale=math.exp(log_mean) / shape)
        assert scipy.stats.kstest(draws[:, i].numpy(), exact.cdf).pvalue > 1e-3
        assert float(d.variance[i]) == pytest.approx(exact.var(), rel=1e-12)
    tiny = MeanGamma(torch.tensor(-80.0), torch.tensor(300.0)).sample((1000,))
    assert MeanGamma.support.check(tiny).all()


def test_far_above_its_mean_a_density_falls_and_stays_finite() -> None:
    log_mean = torch.tensor([-1e3, -40.0, -20.0], requires_grad=True)
    d = MeanGamma(log_mean, torch.tensor(1e-4))
    log_prob = d.log_prob(torch.tensor(1e6))
    assert log_prob.isfinite().all()
    assert (log_prob.diff() > 0).all()
    (gradient,) = torch.autograd.grad(log_prob.sum(), log_mean)
    assert (gradient > 0).all(), "what is too low is moved up"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spread", ["shared", "per-dimension", "predicted"])
def test_a_fit_to_the_margin_is_that_of_scipy(kind: type[Likelihood], spread: Any) -> None:
    """Fails when a shared dispersion is the mean of those of each entry."""
    r = np.random.default_rng(1)
    x = torch.from_numpy(r.gamma([0.7, 3.0], [1e5, 1e-5], size=(500, 2)))
    likelihood = kind((2,), spread).double()  # type: ignore[arg-type, call-arg]
    params = likelihood.init_params(x).requires_grad_()
    learned = [params, *likelihood.parameters()]
    log_prob = likelihood(params).log_prob(x).mean()
    for gradient in torch.autograd.grad(log_prob, learned):
        assert gradient.abs().max() < 1e-6
    if spread != "shared":
        fits = [(kind, x[:, i].numpy()) for i in range(2)]
        best = sum(_scipy_fit(of, column) for of, column in fits)
        assert float(log_prob.detach()) == pytest.approx(best, abs=1e-5)


def _scipy_fit(kind: type[Likelihood], x: np.ndarray) -> float:
    family = scipy.stats.lognorm if kind is LogNormal else scipy.stats.gamma
    scale = x.mean()  # near 1 its optimiser finds the maximum
    found = family.fit(x / scale, floc=0)
    return float(family.logpdf(x / scale, *found).mean() - math.log(scale))


def test_a_log_normal_model_is_a_normal_one_of_logarithms() -> None:
    """Same weights, same density but for the Jacobian. Fails if the encoder sees x itself."""
    x = _magnitudes(50).double()
    ours, theirs = (
        _vae(kind((3,), scale="per-dimension")).double() for kind in (LogNormal, Normal)
    )
    theirs.load_state_dict(
        {
            name.replace("raw_spread", "raw_scale"): value
            for name, value in ours.state_dict().items()
        }
    )
    z = torch.randn(50, 2).double()
    expected = theirs.decode(z).log_prob(x.log()) - x.log().sum(1)
    torch.testing.assert_close(ours.decode(z).log_prob(x), expected)
    torch.testing.assert_close(ours.encode(x).mean, theirs.encode(x.log()).mean)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_data_over_many_magnitudes_are_learned(kind: type[Likelihood]) -> None:
    """Better than the margins by most of the 0.6 nats that two columns have in common."""
    x = _magnitudes()
    vae = _vae(kind((3,)))
    margins = kind((3,))
    start = margins(margins.init_params(x)).log_prob(x).mean().detach()
    options: dict[str, Any] = {"seed": 0, "compile": False, "device": "cpu", "batch_size": 50}
    pv.fit(vae, x, epochs=40, lr=1e-2, **options)
    found = torch.from_numpy(pv.evaluate(vae, x, num_samples=100).log_marginal).mean()
    assert found > start + 0.45, "the noise of both is 0.2, on slopes of 4 and 0.3"
    drawn = vae.sample(500)
    assert drawn.isfinite().all()
    assert (drawn > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_positive_data_are_criticised_imputed_and_kept(
    kind: type[Likelihood], tmp_path: Path
) -> None:
    vae = _vae(Mixed((3,), [kind((2,), 0.5), "Normal"]))  # type: ignore[call-arg]
    again = pv.load(pv.save(vae, tmp_path / "model"))
    x = vae.sample(60)
    z = torch.randn(60, 2)
    torch.testing.assert_close(again.decode(z).log_prob(x), vae.decode(z).log_prob(x))
    asked = [row.statistic for row in check(vae, x, level=0.5).rows]
    assert {"spread", "marginals"} <= set(asked)
    mask = torch.rand(60, 3) > 0.3
    hidden = torch.where(mask, x, torch.nan)
    for count in (None, 3):
        filled = vae.impute(hidden, mask, num_samples=20, num_imputations=count)
        assert (filled[..., :2] > 0).all()
    pv.fit(vae, hidden, mask=mask, epochs=1, seed=0, compile=False, device="cpu")
    assert pv.posterior_predictive(vae, x[:5], num_draws=3)["posterior_predictive"]["x"].min() != 0


def test_positive_data_are_looked_at_on_a_log_scale() -> None:
    """Of those alone: a spread of 1 is that of logarithms. Fails if it is that of x."""
    vae = _vae(LogNormal((3,)))
    asked = {each.name: each for each in default_statistics(vae)}
    x = (torch.randn(1, 4000, 3) + torch.tensor([0.0, 9.0, -9.0])).exp()
    torch.testing.assert_close(asked["spread"](x), torch.ones(1, 3), atol=0.06, rtol=0)
    assert asked["skewness"](x).abs().max() < 0.2
    assert float(asked["correlation"](x).abs().max()) < 0.08
    assert "zeros" not in asked
    real = {each.name: each for each in default_statistics(_vae(Normal((3,))))}
    torch.testing.assert_close(real["spread"](x), x.std(1))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LogNormal((2,), scale=0), "`scale`: expected a positive number or one of shared"),
        (lambda: Gamma((2,), dispersion="all"), "`dispersion`: expected a positive number or one"),
        (lambda: Gamma((2,), dispersion=True), "`dispersion`: expected a positive number or one"),
    ],
)
def test_what_is_no_spread_is_reported_in_one_line(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
