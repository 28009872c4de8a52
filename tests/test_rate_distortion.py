"""Rate, distortion and information against the closed forms of a linear-Gaussian model."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import pytest
import torch
from linear import LinearGaussian
from torch import nn

import pyro_vae as pv
from pyro_vae.evaluation import RateDistortion, rate_distortion


def _closed_forms(model: LinearGaussian) -> dict[str, float]:
    """Of normal q(z|x) with means linear in x, and x from the model itself."""
    W = model.weight
    slope = torch.linalg.solve(model.precision, W.T) / model.noise**2
    means = slope @ (W @ W.T + model.noise**2 * torch.eye(model.dim)) @ slope.T
    scale = model.vae.encode(torch.zeros(1, model.dim)).base_dist.stddev[0].detach().double()
    own = scale.square().diag()
    marginal = means + own
    kl = (marginal.trace() - model.latent - marginal.logdet()) / 2
    rate = (marginal.trace() - model.latent - own.logdet()) / 2
    residual = W @ slope - torch.eye(model.dim)
    covariance = W @ W.T + model.noise**2 * torch.eye(model.dim)
    square = (residual @ covariance @ residual.T).trace() + (W @ own @ W.T).trace()
    log_scale = model.dim * math.log(2 * math.pi * model.noise**2)
    return {
        "rate": float(rate),
        "distortion": float(log_scale + square / model.noise**2) / 2,
        "mutual_information": float(marginal.logdet() - own.logdet()) / 2,
        "marginal_kl": float(kl),
    }


def _errors(found: RateDistortion, name: str, exact: float) -> float:
    summary = found.summary()
    return (summary[name] - exact) / summary[f"{name}_standard_error"]


@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_the_closed_forms(factor: float) -> None:
    """The information in the distribution of the data lies between the two, both near it.

    Fails when the prior stands in the place of q(z), or log N is left out.
    """
    model = LinearGaussian(dim=5, latent=2, noise=1.0, factor=factor, columns="correlated")
    exact = _closed_forms(model)
    found = rate_distortion(model.vae, model.vae.sample(1500), num_samples=5)
    assert abs(_errors(found, "rate", exact["rate"])) < 3
    assert abs(_errors(found, "distortion", exact["distortion"])) < 3
    information = exact["mutual_information"]
    assert _errors(found, "mutual_information", information) < 3
    assert _errors(found, "mutual_information_upper", information) > -3
    summary = found.summary()
    assert summary["mutual_information"] < summary["mutual_information_upper"]
    assert summary["mutual_information"] == pytest.approx(information, abs=0.06)
    assert summary["mutual_information_upper"] == pytest.approx(information, abs=0.06)
    assert summary["marginal_kl"] == pytest.approx(exact["marginal_kl"], abs=0.02)
    assert summary["elbo"] == pytest.approx(-summary["rate"] - summary["distortion"])


def test_the_rate_is_information_and_marginal_divergence() -> None:
    """The rate is analytic and the others are sampled: equal within the error of the draws.

    Fails when the prior stands in the place of q(z).
    """
    model = LinearGaussian(dim=20, latent=4, factor=0.7, columns="correlated")
    with torch.no_grad():
        model.vae.encoder.bias[:4] += 0.5  # so that q(z) is not p(z)
    found = rate_distortion(model.vae, model.vae.sample(300), num_samples=20)
    assert found.rate_estimator == "analytic"
    off = found.rate - found.mutual_information - found.marginal_kl
    assert abs(off.mean()) < 3 * off.std() / math.sqrt(300)
    assert found.marginal_kl.mean() > 0.3


def test_the_error_is_that_of_new_data() -> None:
    """Fails when the error is 1.5 times too large."""
    model = LinearGaussian(dim=5, latent=2, noise=1.0)
    found = [rate_distortion(model.vae, model.vae.sample(100), num_samples=2) for _ in range(80)]
    for name in ("rate", "distortion", "mutual_information", "marginal_kl"):
        means = [f.summary()[name] for f in found]
        reported = np.mean([f.summary()[f"{name}_standard_error"] for f in found])
        assert 0.7 < np.std(means, ddof=1) / reported < 1.35, name


def test_the_information_is_capped_by_the_number_of_data() -> None:
    """Fails when a draw is not compared with its own q(z|x)."""
    model = LinearGaussian(dim=20, latent=4, noise=0.01)
    found = rate_distortion(model.vae, model.vae.sample(30))
    cap = found.summary()["largest_mutual_information"]
    assert cap == pytest.approx(math.log(30))
    np.testing.assert_allclose(found.mutual_information, cap, atol=1e-6)
    assert found.mutual_information_upper.min() > cap


def test_a_guide_that_ignores_x_carries_nothing() -> None:
    """Fails when an observation is left among the others."""
    model = LinearGaussian(dim=5, latent=2)
    with torch.no_grad():
        model.vae.encoder.weight.zero_()
    found = rate_distortion(model.vae, model.vae.sample(50))
    np.testing.assert_allclose(found.mutual_information, 0, atol=1e-5)
    np.testing.assert_allclose(found.mutual_information_upper, 0, atol=1e-5)
    assert found.active_units == 0


def _categorical() -> pv.VAE:
    return pv.VAE(
        pv.priors.Categorical(2, 3),
        pv.guides.GumbelSoftmax(2, 3),
        pv.likelihoods.Bernoulli((1, 2, 2)),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.Unflatten(1, (2, 3))),
        nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Unflatten(1, (1, 2, 2))),
    )


def test_one_hot_latents_by_an_exact_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """I(x; z) by the sum over states; columns in several chunks.

    Fails when the chunks after the first are dropped.
    """
    # The package has a function of the module's name.
    module = importlib.import_module("pyro_vae.evaluation.rate_distortion")
    monkeypatch.setattr(module, "_COLUMNS", 7)
    vae = _categorical()
    with torch.no_grad():
        vae.encoder[1].weight.mul_(4)
    x = vae.sample(40)
    found = rate_distortion(vae, x, num_samples=200)
    with torch.no_grad():
        states = vae.prior().enumerate_support()[:, None]
        log_q = vae.encode(x).log_prob(states).double()  # states by data
    log_all = log_q.logsumexp(1, keepdim=True) - math.log(40)
    information = (log_q.exp() * (log_q - log_all)).sum(0)
    draws_error = ((log_q.exp() * (log_q - log_all - information) ** 2).sum(0) / 200).sqrt()
    error = (found.mutual_information - information.numpy()) / draws_error.numpy()
    assert abs(error.mean()) < 3 / math.sqrt(40)
    assert 0.7 < error.std() < 1.35
    assert found.summary()["bits_per_dim"] == pytest.approx(
        -found.summary()["elbo"] / (4 * math.log(2))
    )


def test_the_model_and_the_random_state_stay() -> None:
    vae = _categorical().double()
    vae.train()
    x, reported = vae.sample(6), list[float]()
    state = torch.get_rng_state()
    first = rate_distortion(vae, x, seed=1, progress=reported.append)
    assert torch.equal(state, torch.get_rng_state())
    assert vae.training
    assert reported[-1] == 1
    again = rate_distortion(vae, x, seed=1)
    np.testing.assert_array_equal(first.marginal_kl, again.marginal_kl)
    assert not np.array_equal(first.marginal_kl, rate_distortion(vae, x, seed=2).marginal_kl)
    assert f"{first.summary()['rate']:.4g}" in repr(first)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_samples": 0}, "`num_samples`: expected a positive integer, got 0"),
        ({"seed": 0.5}, "`seed`: expected an integer >= 0"),
        ({"x": torch.ones(1, 1, 2, 2)}, "`x`: expected at least two data"),
        ({"x": torch.ones(3, 2)}, "`x`: expected a tensor of shape"),
        ({"x": torch.full((3, 1, 2, 2), 0.5)}, "`x`: expected values in the support of Bernoulli"),
        ({"base_measure": {"dta": "x"}}, "`base_measure`: expected one of data,"),
        ({"vae": None}, "`vae`: expected a VAE, or a Program, got None"),
    ],
)
def test_wrong_inputs(options: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"vae": _categorical(), "x": torch.ones(3, 1, 2, 2)} | options
    with pytest.raises(ValueError, match=words):
        rate_distortion(**given)


@pytest.mark.parametrize("size", [20, 200])
def test_the_brackets_hold_the_truth(size: int) -> None:
    """In at least 95 % less three binomial errors of 100 tries; one estimate alone in fewer.

    Fails when a bracket is one estimate with its error.
    """
    model = LinearGaussian(dim=5, latent=2, noise=1.0, factor=0.5, columns="correlated")
    exact, tries = _closed_forms(model), 100
    held = {"mutual_information": 0, "marginal_kl": 0}
    alone = dict.fromkeys(held, 0)
    for seed in range(tries):
        torch.manual_seed(seed)
        found = rate_distortion(model.vae, model.vae.sample(size), num_samples=5, seed=1000 + seed)
        summary = found.summary()
        for name in held:
            held[name] += summary[f"{name}_low"] < exact[name] < summary[f"{name}_high"]
            alone[name] += abs(_errors(found, name, exact[name])) < 1.96
    least = 0.95 - 3 * math.sqrt(0.95 * 0.05 / tries)
    assert min(held.values()) / tries > least
    assert min(alone.values()) / tries < least, "what the bracket is for"
