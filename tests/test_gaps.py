"""Both gaps against closed forms: a linear-Gaussian model, and a latent of few states."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from linear import LinearGaussian
from torch import Tensor, nn
from torch.distributions import Categorical, kl_divergence

import pyro_vae as pv
from pyro_vae.evaluation import Gaps, enumerate_log_prob, gaps


def _within(found: Gaps, name: str, exact: float, errors: float = 3) -> bool:
    summary = found.summary()
    return abs(summary[name] - exact) < errors * summary[f"{name}_mcse"]


@pytest.mark.long
@pytest.mark.parametrize("factor", [1.0, 0.8, 1.2])
def test_the_gaps_of_a_linear_gaussian_model(factor: float) -> None:
    """Fails with an eighth of the steps, without the prior, or with errors 1.5 times too large."""
    model = LinearGaussian(columns="correlated", factor=factor)
    x = model.vae.sample(40)
    exact = model.log_prob(x).numpy()
    found = gaps(model.vae, x, num_steps=400, num_samples=4000, log_marginal=exact)
    assert found.approximation.mean() == pytest.approx(model.best_gap, abs=1e-2)
    assert _within(found, "approximation", model.best_gap)
    assert _within(found, "amortisation", model.gap - model.best_gap)
    assert _within(found, "elbo", exact.mean() - model.gap)
    for name, value in (
        ("elbo_optimal", exact - model.best_gap),
        ("elbo", exact - model.gap),
        ("amortisation", model.gap - model.best_gap),
    ):
        reported = found.mcse[name]
        if not (name == "amortisation" and factor == 1):  # there it is often zero, error and all
            actual = getattr(found, name) - value
            ratio = np.sqrt((actual**2).mean() / (reported**2).mean())
            assert 0.7 < ratio < 1.35, name  # three standard errors of 40 data
    assert abs(found.residual.mean()) < 2e-3


@pytest.mark.long
def test_importance_weighting_with_the_best_guide() -> None:
    """log p(x) has light-tailed weights here, and a gap of them has a smaller error than either.

    Fails when a weight is left unnormalised, or the error of the gap is that of log p(x).
    """
    model = LinearGaussian(latent=4, columns="correlated", noise=1.5, factor=0.6)
    x = model.vae.sample(100)
    found = gaps(model.vae, x, num_steps=300, num_samples=2000)
    assert found.estimator == "importance weighting, draws of q*"
    assert np.nanmax(found.k_hat) < 0.7
    assert _within(found, "log_marginal", float(model.log_prob(x).mean()))
    assert _within(found, "approximation", model.best_gap)
    errors = (found.approximation - model.best_gap) / found.mcse["approximation"]
    assert 0.8 < np.sqrt((errors**2).mean()) < 1.25
    np.testing.assert_allclose(
        found.approximation + found.amortisation, found.log_marginal - found.elbo, atol=1e-9
    )
    scores = pv.evaluate(model.vae, x, num_samples=2000)  # with the narrow guide
    assert np.mean(found.mcse["log_marginal"]) < 0.5 * np.mean(scores.mcse)


def test_the_exact_posterior_has_no_gaps() -> None:
    """Fails when the gradient is that of the sampled KL, which is noisy at the optimum."""
    model = LinearGaussian(dtype=torch.float64)
    found = gaps(model.vae, model.vae.sample(20), num_steps=300, num_samples=50)
    for name in ("approximation", "amortisation", "residual"):
        np.testing.assert_allclose(getattr(found, name), 0, atol=2e-4)
        assert found.mcse[name].max() < 1e-2


def test_the_features_are_those_of_the_best_guide() -> None:
    """Fails when the features of the start are handed back."""
    model = LinearGaussian(columns="correlated", factor=1.5)
    x = model.vae.sample(10)
    found = gaps(model.vae, x, num_steps=300, num_particles=64, num_samples=100)
    best = model.vae.guide_family(found.features).base_dist
    exact = model.posterior(x)
    scale = model.precision.diagonal().rsqrt()
    np.testing.assert_allclose((best.mean - exact.mean) / scale, 0, atol=0.1)
    np.testing.assert_allclose(best.stddev / scale, 1, atol=0.1)


def test_few_steps_leave_a_residual() -> None:
    """Fails when the second round starts where the encoder is."""
    model = LinearGaussian(factor=4.0)
    x = model.vae.sample(20)
    few = gaps(model.vae, x, num_steps=40, num_samples=200)
    assert few.residual.mean() > 0.5
    assert few.amortisation.mean() < model.gap - 0.5
    assert abs(gaps(model.vae, x, num_steps=600, num_samples=200).residual.mean()) < 1e-2


def test_the_best_guide_is_never_worse_than_the_guide() -> None:
    """Fails when the last round is taken as it is."""
    model = LinearGaussian()
    found = gaps(model.vae, model.vae.sample(50), num_steps=2, lr=3.0, num_samples=100)
    np.testing.assert_array_equal(found.amortisation, 0)
    assert np.abs(found.residual).min() > 1  # it did go astray


def _categorical(groups: int, classes: int) -> pv.VAE:
    vae = pv.VAE(
        pv.priors.Categorical(groups, classes),
        pv.guides.GumbelSoftmax(groups, classes),
        pv.likelihoods.Bernoulli((6,)),
        nn.Sequential(nn.Linear(6, groups * classes), nn.Unflatten(1, (groups, classes))),
        nn.Sequential(nn.Flatten(), nn.Linear(groups * classes, 6)),
    )
    vae.decoder[1].weight.data.mul_(4)
    return vae


def test_one_categorical_variable_has_no_approximation_gap() -> None:
    """The amortisation gap is then the divergence of the guide from the posterior by Bayes' rule.

    Fails when the prior is left out of the joint density.
    """
    vae = _categorical(1, 5)
    x = vae.sample(30)
    found = gaps(vae, x, num_steps=400)
    states = torch.eye(5)[:, None, None]
    with torch.no_grad():
        log_joint = vae.decode(states).log_prob(x) + math.log(1 / 5)
        guide = Categorical(logits=vae.encode(x).base_dist.logits[:, 0])
        divergence = kl_divergence(guide, Categorical(logits=log_joint.T))
    np.testing.assert_allclose(found.amortisation, divergence, atol=2e-3)
    np.testing.assert_allclose(found.approximation, 0, atol=2e-3)
    np.testing.assert_allclose(found.log_marginal, enumerate_log_prob(vae, x), atol=1e-5)
    assert found.estimator == "enumeration"
    assert all(error.max() == 0 for error in found.mcse.values())


def test_several_categorical_variables() -> None:
    """L[q] by hand, and L[q*] against coordinate ascent, an algorithm of its own.

    Fails when the entropy is left out.
    """
    vae = _categorical(2, 3)
    x = vae.sample(30)
    found = gaps(vae, x, num_steps=600, lr=0.2)
    with torch.no_grad():
        q = vae.encode(x).base_dist.logits.softmax(-1).double()
        states = vae.prior().enumerate_support()
        log_joint = vae.decode(states[:, None]).log_prob(x) + vae.prior().log_prob(states)[:, None]
        table = log_joint.T.reshape(-1, 3, 3).double()

    def bound(q: Tensor) -> Tensor:
        entropy = -(q * q.log()).sum((-1, -2))
        return torch.einsum("ni,nj,nij->n", q[:, 0], q[:, 1], table) + entropy

    np.testing.assert_allclose(found.elbo, bound(q), atol=1e-5)
    for _ in range(200):
        q = torch.stack([torch.einsum("nj,nij->ni", q[:, 1], table).softmax(-1), q[:, 1]], 1)
        q = torch.stack([q[:, 0], torch.einsum("ni,nij->nj", q[:, 0], table).softmax(-1)], 1)
    # Now and then the two climb to different maxima.
    assert np.median(np.abs(found.elbo_optimal - bound(q).numpy())) < 1e-3
    assert abs(found.elbo_optimal.mean() - float(bound(q).mean())) < 0.02
    assert (found.elbo_optimal < found.log_marginal + 1e-6).all()
    assert found.amortisation.min() >= 0


def test_the_model_stays_as_it_was() -> None:
    """Fails when the gradient is taken by `backward`."""
    vae = pv.VAE(
        pv.priors.Normal(2),
        pv.guides.Normal(2),
        pv.likelihoods.Bernoulli((1, 3, 3)),
        pv.networks.MLP((8,), dropout=0.5),
        nn.Sequential(nn.Linear(2, 9), nn.BatchNorm1d(9), nn.Unflatten(1, (1, 3, 3))),
    ).double()
    x = torch.bernoulli(torch.full((7, 1, 3, 3), 0.5))
    for parameter in vae.parameters():
        parameter.grad = torch.ones_like(parameter)
    vae.train()
    before, random = copy.deepcopy(vae.state_dict()), torch.get_rng_state()
    with torch.no_grad():
        first = gaps(vae, x, num_steps=10, num_samples=20, seed=3)
    assert torch.equal(random, torch.get_rng_state())
    second = gaps(vae, x, num_steps=10, num_samples=20, seed=3)
    np.testing.assert_array_equal(first.amortisation, second.amortisation)
    assert not np.array_equal(first.elbo, gaps(vae, x, num_steps=10, num_samples=20, seed=4).elbo)
    for name, value in vae.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in vae.parameters())
    assert all(module.training for module in vae.modules())
    assert not first.features.requires_grad
    assert first.features.dtype == torch.float64


def test_a_given_log_marginal_brings_its_error() -> None:
    """Fails when the errors are added instead of their squares."""
    model = LinearGaussian(dim=6, latent=2)
    x = model.vae.sample(5)
    options: dict[str, Any] = {"num_steps": 4, "num_samples": 100}
    free = gaps(model.vae, x, **options)
    found = gaps(model.vae, x, log_marginal=np.arange(5), mcse=np.full(5, 0.25), **options)
    np.testing.assert_array_equal(found.log_marginal, np.arange(5))
    np.testing.assert_allclose(found.approximation, np.arange(5) - free.elbo_optimal)
    squares = found.mcse["approximation"] ** 2 - found.mcse["elbo_optimal"] ** 2
    np.testing.assert_allclose(squares, 0.25**2)
    assert found.estimator == "given"


def test_the_summary_is_of_the_means() -> None:
    """Fails when the standard error over data is that of Monte Carlo."""
    model = LinearGaussian(dim=6, latent=2, factor=1.5)
    reported: list[float] = []
    found = gaps(model.vae, model.vae.sample(9), num_steps=4, progress=reported.append)
    summary = found.summary()
    for name in ("log_marginal", "elbo", "amortisation"):
        values, errors = getattr(found, name), found.mcse[name]
        assert summary[name] == pytest.approx(values.mean())
        assert summary[f"{name}_mcse"] == pytest.approx(np.sqrt((errors**2).sum()) / 9)
        assert summary[f"{name}_standard_error"] == pytest.approx(values.std(ddof=1) / 3)
    assert summary["base_measure"]["dim"] == 6
    assert reported[-1] == 1
    assert f"{summary['amortisation']:.4g}" in repr(found)
    one = gaps(model.vae, model.vae.sample(1), num_steps=2, num_samples=2).summary()
    assert one["elbo_standard_error"] is None
    assert one["k_hat_median"] is None


class _Stepwise(pv.guides.Guide):
    """A distribution on the real numbers whose draws have no gradient."""

    support = torch.distributions.constraints.real_vector

    def __init__(self) -> None:
        super().__init__()
        self.event_shape = self.param_shape = torch.Size([1])

    def forward(self, features: Tensor) -> Any:
        return dist.Poisson(features.exp()).to_event(1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_steps": 1}, "`num_steps`: expected at least 2, got 1"),
        ({"num_steps": 2.5}, "`num_steps`: expected a positive integer, got 2.5"),
        ({"num_samples": 0}, "`num_samples`: expected a positive integer, got 0"),
        ({"num_samples": 1}, "`num_samples`: expected at least 2, got 1"),
        ({"num_particles": -1}, "`num_particles`: expected a positive integer, got -1"),
        ({"lr": 0}, "`lr`: expected a positive number, got 0"),
        ({"lr": math.nan}, "`lr`: expected a positive number, got nan"),
        ({"lr": 1e30}, "`lr`: expected a rate at which the bound stays finite, got 1e[+]30"),
        ({"seed": -1}, "`seed`: expected an integer >= 0"),
        ({"mcse": np.ones(3)}, "`mcse`: expected None where no `log_marginal` is given"),
        ({"log_marginal": np.ones(2)}, "`log_marginal`: expected 3 finite numbers"),
        ({"log_marginal": [1, math.inf, 2]}, "`log_marginal`: expected 3 finite numbers"),
        ({"log_marginal": np.ones(3), "mcse": 0.1}, "`mcse`: expected 3 finite numbers"),
        ({"base_measure": {"dta": "x"}}, "`base_measure`: expected one of data,"),
        ({"x": torch.ones(3, 2)}, "`x`: expected a tensor of shape"),
        ({"x": torch.full((3, 3), 0.5)}, "`x`: expected values in the support of Bernoulli"),
        ({"vae": nn.Linear(2, 2)}, "`vae`: expected a VAE"),
        ({"vae": "stepwise"}, "`vae`: expected a guide with reparameterised draws"),
        ({"vae": "many states"}, "`vae`: expected a latent of at most 65,536 joint states"),
    ],
)
def test_wrong_inputs(options: dict[str, Any], words: str) -> None:
    likelihood = pv.likelihoods.Bernoulli((3,))
    given: dict[str, Any] = {
        "vae": pv.VAE(pv.priors.Normal(1), pv.guides.Normal(1), likelihood),
        "x": torch.ones(3, 3),
        "num_steps": 2,
    } | options
    if given["vae"] == "stepwise":
        given["vae"] = pv.VAE(pv.priors.Normal(1), _Stepwise(), likelihood)
    elif given["vae"] == "many states":
        parts = pv.priors.Categorical(20, 10), pv.guides.GumbelSoftmax(20, 10)
        given["vae"] = pv.VAE(*parts, likelihood)
    with pytest.raises(ValueError, match=words):
        gaps(**given)
