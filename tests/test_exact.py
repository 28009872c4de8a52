"""Models whose log p(x) is known: linear-Gaussian in closed form, a small discrete one by sums.

The maximum of a linear-Gaussian VAE is that of probabilistic PCA (Tipping and Bishop, 1999,
https://doi.org/10.1111/1467-9868.00196), and there the ELBO is tight (Lucas et al., 2019,
https://arxiv.org/abs/1911.02469).
"""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence
from torch.nn.functional import logsigmoid

import pyro_vae as pv
from pyro_vae.data import Rows
from pyro_vae.distributions import inverse_positive, positive
from pyro_vae.evaluation import enumerate_log_prob

LATENT, FEATURES = 2, 6
fit = partial(pv.fit, device="cpu", compile=False)


def synthetic(n: int) -> Tensor:
    """Data that need two directions of unequal strength, a mean, and noise."""
    generator = torch.Generator().manual_seed(7)
    weight = torch.randn(FEATURES, LATENT, generator=generator) * torch.tensor([2.0, 1.0])
    z = torch.randn(n, LATENT, generator=generator)
    noise = 0.5 * torch.randn(n, FEATURES, generator=generator)
    return z @ weight.T + noise + torch.linspace(-3, 3, FEATURES)


def linear_vae() -> pv.VAE:
    return pv.VAE(
        pv.priors.Normal(LATENT),
        pv.guides.Normal(LATENT),
        pv.likelihoods.Normal((FEATURES,), scale="shared"),
        pv.networks.MLP(hidden=()),
        pv.networks.MLP(hidden=()),
    )


def best_log_prob(x: Tensor) -> float:
    """The greatest mean log p(x) of a linear-Gaussian model, from the eigenvalues alone."""
    values = torch.linalg.eigvalsh(x.double().T.cov(correction=0)).flip(0)
    noise = values[LATENT:].mean()
    log_det = values[:LATENT].log().sum() + (FEATURES - LATENT) * noise.log()
    return float(-(FEATURES * math.log(2 * math.pi) + log_det + FEATURES) / 2)


@torch.no_grad()
def exact_log_prob(vae: pv.VAE, x: Tensor) -> Tensor:
    """log N(x | b, W W' + s^2 I), from the weights of the decoder, in units of the data."""
    last, likelihood = vae.decoder.layers[0], vae.likelihood
    unit = likelihood.unit_scale.double()
    weight, bias = unit[:, None] * last.weight.double(), unit * last.bias.double()
    noise = (unit * positive(likelihood.raw_scale.double())).square()
    covariance = weight @ weight.T + noise.diag()
    return MultivariateNormal(likelihood.unit_loc + bias, covariance).log_prob(x.double())


@torch.no_grad()
def set_to_the_optimum(vae: pv.VAE, x: Tensor) -> None:
    """Writes probabilistic PCA into the decoder and its posterior into the encoder."""
    values, vectors = torch.linalg.eigh(x.T.cov(correction=0))
    values, vectors = values.flip(0), vectors.flip(1)
    noise = values[LATENT:].mean()
    weight = vectors[:, :LATENT] * (values[:LATENT] - noise).sqrt()
    vae.decoder.layers[0].weight.copy_(weight)
    vae.decoder.layers[0].bias.copy_(x.mean(0))
    vae.likelihood.raw_scale.copy_(inverse_positive(noise.sqrt()))
    # The columns of the weight are orthogonal, so that the posterior is diagonal.
    variance = noise / values[:LATENT]
    slope = (weight * variance / noise).T
    raw = inverse_positive(variance.sqrt())
    vae.encoder.layers[0].weight.copy_(torch.cat([slope, torch.zeros_like(slope)]))
    vae.encoder.layers[0].bias.copy_(torch.cat([-slope @ x.mean(0), raw]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_are_constant_under_the_exact_posterior(dtype: torch.dtype) -> None:
    """Fails when the prior is left out of a weight, or the guide's scale is squared."""
    x = synthetic(200).to(dtype)
    vae = linear_vae().to(dtype)
    set_to_the_optimum(vae, x)
    log_weights = vae.draw_weighted(Rows(x), 50).log_weights
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    assert (log_weights - exact_log_prob(vae, x)).abs().max() < tolerance
    scores = pv.evaluate(vae, x, num_samples=50)
    assert scores.mcse.max() < 10 * tolerance  # the root of a rounding error
    elbo, log_marginal = torch.tensor(scores.elbo), torch.tensor(scores.log_marginal)
    assert (log_marginal - exact_log_prob(vae, x)).abs().max() < tolerance
    assert elbo.mean() == pytest.approx(best_log_prob(x), abs=0.1)  # the KL is analytic
    assert float(exact_log_prob(vae, x).mean()) == pytest.approx(best_log_prob(x), abs=1e-5)


def test_the_bounds_are_ordered() -> None:
    """ELBO <= IW(10) <= IW(1000) <= exact in the mean, each gap also seen.

    Fails when log p(z) is left out of a weight, or log K is not taken off.
    """
    x = synthetic(400)
    vae = linear_vae()
    set_to_the_optimum(vae, x)
    with torch.no_grad():  # a guide that is off, so that the bounds are apart
        vae.encoder.layers[0].bias[:LATENT] += 0.2
        vae.encoder.layers[0].bias[LATENT:] += 0.4
    exact = exact_log_prob(vae, x)

    def mean_and_error(num_samples: int, repeats: int) -> tuple[float, float]:
        runs = [vae.log_prob(x, num_samples).double().mean() for _ in range(repeats)]
        return float(torch.stack(runs).mean()), float(torch.stack(runs).std() / repeats**0.5)

    bounds = [mean_and_error(1, 200), mean_and_error(10, 100), mean_and_error(1000, 5)]
    bounds.append((float(exact.mean()), 0.0))
    for (lower, error), (upper, other) in itertools.pairwise(bounds):
        assert lower <= upper + 3 * math.hypot(error, other)
    assert bounds[0][0] < bounds[1][0] - 0.05 < bounds[3][0] - 0.05
    assert bounds[2][0] == pytest.approx(bounds[3][0], abs=0.01)

    # One draw for each observation is the ELBO, which is known: log p(x) less the divergence of
    # two normal distributions.
    terms = pv.objectives.ELBO(num_particles=200).terms(vae.model, vae.guide, x)
    twin = linear_vae()
    set_to_the_optimum(twin, x)
    with torch.no_grad():
        gap = kl_divergence(vae.encode(x), twin.encode(x)).mean()
    assert float(terms.elbo.mean()) == pytest.approx(float(exact.mean() - gap), abs=0.02)
    assert bounds[0][0] == pytest.approx(float(exact.mean() - gap), abs=4 * bounds[0][1])


@pytest.mark.long
def test_fit_reaches_the_closed_form() -> None:
    """Fails when the KL has the weight 2, or training stops after a quarter of the epochs."""
    x, vae = synthetic(2000), linear_vae()
    run = fit(vae, x, epochs=200, batch_size=128, lr=3e-3, seed=0)
    # The scale is one in units of the data: the model is PPCA of standardised data.
    scale = x.std(0, correction=0)
    best = best_log_prob(x / scale) - float(scale.log().sum())
    reached = float(exact_log_prob(vae, x).mean())
    assert best - 0.05 < reached <= best + 1e-4
    scores = pv.evaluate(vae, x, num_samples=10)
    assert best - 0.05 < scores.elbo.mean() < best + 0.02
    assert best - 0.05 < run.history["elbo"][-1] < best + 0.05
    values = torch.linalg.eigvalsh((x / scale).T.cov(correction=0))
    noise = float(values[: FEATURES - LATENT].mean().sqrt())
    assert positive(vae.likelihood.raw_scale).item() == pytest.approx(noise, rel=0.04)


# A discrete latent of few states.


GROUPS, CLASSES, FLIPPED = 2, 2, 0.1


def halves(n: int) -> Tensor:
    """Two halves of four pixels, each on or off by the toss of a coin, with a tenth flipped."""
    generator = torch.Generator().manual_seed(7)
    on = torch.randint(2, (n, 2), generator=generator).repeat_interleave(4, 1).float()
    flips = torch.bernoulli(torch.full((n, 8), FLIPPED), generator=generator)
    return (on - flips).abs()


def true_log_prob(x: Tensor) -> Tensor:
    """log p(x) under the distribution of :func:`halves`."""
    number = x.reshape(-1, 2, 4).sum(-1)
    on = number * math.log(1 - FLIPPED) + (4 - number) * math.log(FLIPPED)
    off = number * math.log(FLIPPED) + (4 - number) * math.log(1 - FLIPPED)
    return (torch.logaddexp(on, off) - math.log(2)).sum(-1)


def categorical_vae(mode: Literal["concrete", "enumerate", "soft", "straight-through"]) -> pv.VAE:
    return pv.VAE(
        pv.priors.Categorical(GROUPS, CLASSES),
        pv.guides.GumbelSoftmax(
            GROUPS, CLASSES, mode=mode, temperature=1.0, min_temperature=0.3, anneal_rate=3e-3
        ),
        pv.likelihoods.Bernoulli((8,)),
        pv.networks.MLP((16,), activation="tanh"),
        pv.networks.MLP(()),
    )


@torch.no_grad()
def summed_log_prob(vae: pv.VAE, x: Tensor) -> Tensor:
    """log p(x), one state after the other."""
    joints = []
    for first, second in itertools.product(range(CLASSES), repeat=GROUPS):
        z = torch.zeros(1, GROUPS, CLASSES, dtype=x.dtype)
        z[0, 0, first] = z[0, 1, second] = 1.0
        logits = vae.decoder(z)
        log_likelihood = x * logsigmoid(logits) + (1 - x) * logsigmoid(-logits)
        joints.append(log_likelihood.sum(-1) - GROUPS * math.log(CLASSES))
    return torch.stack(joints).logsumexp(0)


def test_enumerated_log_prob_is_the_sum_over_states() -> None:
    """Fails when the prior is left out: the two are then 2.2 nats apart."""
    vae, x = categorical_vae("enumerate"), halves(50)
    with torch.no_grad():
        vae.decoder.layers[0].weight.mul_(3)
    exact = summed_log_prob(vae, x)
    torch.testing.assert_close(enumerate_log_prob(vae, x), exact, atol=1e-5, rtol=0)
    estimate = vae.log_prob(x, num_samples=2000)
    torch.testing.assert_close(estimate, exact, atol=0.25, rtol=0)
    assert abs(float((estimate - exact).mean())) < 0.02


# Nats between the exact log p(x) of the fitted model and that of the true distribution. About 0.02
# are due to the 1,000 observations; a model of relaxed latents is left with more once they are
# discrete.
WITHIN = {"enumerate": 0.05, "straight-through": 0.1, "soft": 0.2, "concrete": 0.3}


@pytest.mark.long
@pytest.mark.parametrize("mode", WITHIN)
def test_every_mode_learns_the_halves(mode: str) -> None:
    """Each is scored by the exact log p(x) and the true categorical ELBO, never the relaxation."""
    data = halves(3000)
    x, held_out = data[:1000], data[1000:]
    vae = categorical_vae(mode)  # type: ignore[arg-type]
    fit(vae, x, epochs=50, batch_size=100, lr=3e-2, schedule="cosine", seed=0)
    exact = float(summed_log_prob(vae, held_out).mean())
    scores = pv.evaluate(vae, held_out, num_samples=100)
    assert exact > float(true_log_prob(held_out).mean()) - WITHIN[mode]
    assert scores.elbo.mean() < exact
    assert scores.log_marginal.mean() == pytest.approx(exact, abs=0.01)
