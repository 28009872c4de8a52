"""Posterior draws against posteriors in closed form, where the guide is wrong."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import numpy as np
import pyro
import pytest
import torch
from linear import LinearGaussian
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.evaluation import enumerate_log_prob, posterior_draws
from pyro_vae.evaluation.pareto import k_hat_threshold

Method = Literal["guide", "importance", "nuts"]


def _wrong_guide() -> LinearGaussian:
    """Its scale is half as large again, its mean is shifted, and it knows of no correlation."""
    model = LinearGaussian(dim=6, latent=2, columns="correlated", factor=1.5, noise=2.0)
    with torch.no_grad():
        model.vae.encoder.bias[:2] += 0.4 / model.precision.diagonal().sqrt()
    return model


def _worst(model: LinearGaussian, x: Tensor, z: Tensor, effective: np.ndarray) -> float:
    """The greatest error of a first or second moment, in standard errors.

    In coordinates in which the posterior is standard normal, so that a correlation counts too.
    """
    posterior = model.posterior(x)
    root = torch.linalg.cholesky(posterior.precision_matrix)
    u = torch.einsum("bji,sbj->sbi", root, z.double() - posterior.loc)
    size = torch.as_tensor(effective, dtype=torch.float64)[:, None]
    first = u.mean(0) * size.sqrt()
    second = torch.einsum("sbi,sbj->bij", u, u) / len(u) - torch.eye(2).double()
    spread = 1 + torch.eye(2).double()  # variance of u_i u_j
    second = second * (size[..., None] / spread).sqrt()
    return float(torch.cat([first.flatten(), second.flatten()]).abs().max())


def test_importance_draws_are_of_the_posterior() -> None:
    """Within four standard errors, where the guide's own draws are ten and more away.

    Fails when the prior is left out of the weights, or draws are taken in proportion to the root of
    the weights, or to those of the observation before.
    """
    model = _wrong_guide()
    x = model.vae.sample(12)
    draws = posterior_draws(model.vae, x, method="importance", num_draws=1000, num_proposals=30_000)
    assert draws.z.shape == (1000, 12, 2)
    assert draws.ess is not None
    assert draws.k_hat is not None
    effective = 1 / (1 / 1000 + 1 / draws.ess)
    assert _worst(model, x, draws.z, effective) < 4
    assert (draws.k_hat < k_hat_threshold(30_000)).all()
    own = posterior_draws(model.vae, x, num_draws=1000)
    assert _worst(model, x, own.z, np.full(12, 1000.0)) > 10
    # With the posterior for a guide, every proposal counts the same.
    exact = LinearGaussian(dim=6, latent=2)
    draws = posterior_draws(exact.vae, exact.vae.sample(3), method="importance", num_draws=10)
    assert draws.num_proposals == 1000
    assert draws.ess is not None
    assert draws.ess.min() > 999.9


@pytest.mark.long
def test_nuts_draws_are_of_the_posterior() -> None:
    """Fails when the prior is left out of the potential."""
    model = _wrong_guide()
    x = model.vae.sample(2)
    draws = posterior_draws(
        model.vae, x, method="nuts", num_draws=160, num_warmup=40, num_chains=2, seed=1
    )
    assert draws.z.shape == (160, 2, 2)
    assert draws.ess is not None
    assert draws.r_hat is not None
    assert draws.divergences is not None
    assert _worst(model, x, draws.z, draws.ess) < 4
    assert (draws.r_hat < 1.05).all()
    assert (draws.ess > 40).all()
    assert (draws.divergences == 0).all()


class _Elsewhere(nn.Module):
    """Two modes, or a cliff, as a decoder."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, z: Tensor) -> Tensor:
        return 4 * z.square() if self.kind == "modes" else 1e3 * (z > 0.3).to(z)


def _hard(kind: str) -> pv.VAE:
    encoder = nn.Linear(1, 2)
    nn.init.zeros_(encoder.weight)
    nn.init.zeros_(encoder.bias)  # chains start on either side
    return pv.VAE(
        pv.priors.Normal(1),
        pv.guides.Normal(1),
        pv.likelihoods.Normal((1,), scale=0.2),
        encoder=encoder,
        decoder=_Elsewhere(kind),
    )


@pytest.mark.long
def test_nuts_says_where_it_fails() -> None:
    """Two modes that chains do not pass between, and a cliff at which the integrator diverges.

    Fails when R-hat is that of the chains taken as one, or divergences are read after they were
    cleared.
    """
    options: dict[str, Any] = {"method": "nuts", "num_draws": 80, "num_warmup": 20, "seed": 2}
    modes = posterior_draws(_hard("modes"), torch.full((1, 1), 4.0), **options)
    assert modes.r_hat is not None
    assert modes.r_hat[0] > 1.5
    cliff = posterior_draws(_hard("cliff"), torch.zeros(1, 1), **options)
    assert cliff.divergences is not None
    assert cliff.divergences[0] > 0
    known = json.loads(json.dumps(cliff.summary(), allow_nan=False))
    assert known["divergences"] == cliff.divergences[0]
    assert known["num_chains"] == 4


def _categorical() -> pv.VAE:
    vae = pv.VAE(
        pv.priors.Categorical(2, 3),
        pv.guides.GumbelSoftmax(2, 3),
        pv.likelihoods.Bernoulli((6,)),
        encoder=nn.Sequential(nn.Linear(6, 6), nn.Unflatten(1, (2, 3))),
        decoder=nn.Sequential(nn.Flatten(), nn.Linear(6, 6)),
    )
    vae.decoder[1].weight.data.mul_(4)
    return vae


def test_discrete_latents_are_resampled() -> None:
    """The frequency of every state beside its posterior probability, by enumeration.

    Fails when a draw is taken in proportion to p(x|z) alone, without the guide in the weight.
    """
    vae = _categorical()
    x = vae.sample(5)
    states = vae.prior().enumerate_support()
    with torch.no_grad():
        joint = vae.decode(states[:, None]).log_prob(x) + vae.prior().log_prob(states)[:, None]
        exact = (joint - enumerate_log_prob(vae, x)).exp().double()

    def worst(method: Method) -> float:
        draws = posterior_draws(vae, x, method=method, num_draws=1000, num_proposals=20_000)
        assert draws.z.shape == (1000, 5, 2, 3)
        same = (draws.z[:, None] == states[:, None]).flatten(-2).all(-1).double()
        ess = 1e9 if draws.ess is None else torch.as_tensor(draws.ess)
        error = (exact * (1 - exact) * (1 / 1000 + 1 / ess)).sqrt()
        return float(((same.mean(0) - exact) / error.clamp_min(1e-3)).abs().max())

    assert worst("importance") < 4
    assert worst("guide") > 10
    with pytest.raises(ValueError, match="continuous latent; for a discrete one, `method"):
        posterior_draws(vae, x, method="nuts")


def _bernoulli() -> pv.VAE:
    return pv.VAE(
        pv.priors.Normal(2),
        pv.guides.Normal(2),
        pv.likelihoods.Bernoulli((4,)),
        pv.networks.MLP((8,), dropout=0.5),
        pv.networks.MLP((8,), dropout=0.5),
    )


@pytest.mark.parametrize("method", ["guide", "importance", "nuts"])
def test_draws_are_repeatable_and_the_model_stays(method: Method) -> None:
    vae, x = _bernoulli().train(), torch.ones(2, 4)
    options: dict[str, Any] = {"num_draws": 4, "num_warmup": 5, "num_chains": 2}
    if method != "guide":
        options["progress"] = (fractions := []).append
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    state = torch.get_rng_state()
    first = posterior_draws(vae, x, method=method, seed=3, **options)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(each.training for each in vae.modules())
    assert all(p.grad is None and p.requires_grad for p in vae.parameters())
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    assert len(pyro.get_param_store()) == 0
    assert not first.z.requires_grad
    assert torch.equal(posterior_draws(vae, x, method=method, seed=3, **options).z, first.z)
    assert not torch.equal(posterior_draws(vae, x, method=method, seed=4, **options).z, first.z)
    assert method == "guide" or fractions.count(1.0) == 3
    assert first.summary()["num_draws"] == 4
    assert f"{method}, 4 draws for each of 2 observations" in repr(first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "nutts"}, "(did you mean 'nuts'?)"),
        ({"num_draws": 0}, "`num_draws`: expected a positive integer, got 0"),
        ({"num_draws": 10, "num_chains": 4, "method": "nuts"}, "a multiple of num_chains = 4"),
        ({"num_proposals": -1}, "`num_proposals`: expected a positive integer, got -1"),
        ({"num_warmup": 0}, "`num_warmup`: expected a positive integer, got 0"),
        ({"seed": "a"}, "`seed`: expected an integer >= 0"),
        ({"x": torch.full((3, 4), 0.5)}, "`x`: expected values in the support of Bernoulli"),
        ({"vae": nn.Linear(2, 2)}, "`vae`: expected a VAE"),
    ],
)
def test_wrong_arguments_are_reported_in_one_line(options: dict[str, Any], message: str) -> None:
    options = {"vae": _bernoulli(), "x": torch.ones(3, 4)} | options
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        posterior_draws(options.pop("vae"), options.pop("x"), **options)
    assert "\n" not in str(caught.value)
