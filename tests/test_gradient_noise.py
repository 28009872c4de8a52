"""Gradients of importance weights as the theory has them, and penalties on the aggregate."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

import pyro_vae as pv
from pyro_vae.distributions import inverse_positive
from pyro_vae.evaluation import enumerate_log_prob
from pyro_vae.objectives import ELBO, IWAE, MMD, Enumerated, Objective, Renyi, TotalCorrelation

X = 1.3  # one observation


class Features(nn.Module):
    """Gives every row features of its own, so that one backward pass is many gradients."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows)

    def forward(self, x: Tensor) -> Tensor:
        return self.rows


def one_real(rows: Tensor, weight: float = 0.8) -> pv.VAE:
    """p(z) = N(0, 1), p(x|z) = N(weight z, 0.5^2), q(z|x) by the features of each row."""
    dim = rows.shape[1] // 2
    decoder = nn.Linear(dim, dim)
    parts = pv.priors.Normal(dim), pv.guides.Normal(dim), pv.likelihoods.Normal((dim,), scale=0.5)
    vae = pv.VAE(*parts, Features(rows), decoder).double()
    with torch.no_grad():
        decoder.weight.copy_(weight * torch.eye(dim))
        decoder.bias.zero_()
    return vae


def guide_gradients(objective: Objective, repeats: int, loc: float, scale: float) -> Tensor:
    """Independent gradients of one observation's loss by its features, shape ``(repeats, 2)``."""
    raw = float(inverse_positive(torch.tensor(scale)))
    vae = one_real(torch.tensor([loc, raw]).double().repeat(repeats, 1))
    x = torch.full((repeats, 1), X).double()
    loss = objective.differentiable_loss(vae.model, vae.guide, x)
    (gradient,) = torch.autograd.grad(loss, vae.encoder.rows)
    return gradient


def signal_to_noise(objective: Objective) -> float:
    gradients = guide_gradients(objective, 20_000, loc=0.6, scale=0.7)
    return float((gradients.mean(0).abs() / gradients.std(0))[0])


def test_more_draws_drown_the_standard_gradient_and_clear_dreg() -> None:
    """The ratio of signal to noise goes as 1/sqrt(K) by default, as sqrt(K) with DReG.

    From K = 4 to 64 that is a quarter and four times as much; each may be off by a third. Theorem 1
    of Rainforth et al. (2018), https://arxiv.org/abs/1802.04537; section 6 of Tucker et al. (2019),
    https://arxiv.org/abs/1810.04152.
    """
    few, many = 4, 64
    standard = signal_to_noise(IWAE(many)) / signal_to_noise(IWAE(few))
    dreg = signal_to_noise(IWAE(many, "dreg")) / signal_to_noise(IWAE(few, "dreg"))
    assert 0.25 / 1.33 < standard < 0.25 * 1.33
    assert 4 / 1.33 < dreg < 4 * 1.33


def exact_gradient(num_samples: int, loc: float, scale: float) -> Tensor:
    """Of the bound of one observation and two draws, by Gauss-Hermite rules in both."""
    assert num_samples == 2
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    nodes, shares = torch.tensor(points), torch.tensor(weights / math.sqrt(2 * math.pi))
    features = torch.tensor([loc, float(inverse_positive(torch.tensor(scale)))]).double()
    features.requires_grad_()
    q = Normal(features[0], nn.functional.softplus(features[1]) + 1e-4)
    z = q.loc + q.scale * nodes
    log_weights = Normal(0.8 * z, 0.5).log_prob(torch.tensor(X)) + Normal(0.0, 1.0).log_prob(z)
    log_weights = log_weights - q.log_prob(z)
    bound = torch.logaddexp(log_weights[:, None], log_weights) - math.log(2)
    (gradient,) = torch.autograd.grad(-(shares[:, None] * shares * bound).sum(), features)
    return gradient


@pytest.mark.parametrize("gradient", ["standard", "dreg"])
def test_gradients_have_the_mean_that_quadrature_gives(gradient: Any) -> None:
    """To within 4 standard errors of 50,000. Fails when DReG's weights are not squared."""
    found = guide_gradients(IWAE(2, gradient), 50_000, loc=0.6, scale=0.7)
    error = found.std(0) / math.sqrt(len(found))
    assert ((found.mean(0) - exact_gradient(2, 0.6, 0.7)).abs() < 4 * error).all()


def test_sticking_the_landing_is_biased() -> None:
    found = guide_gradients(IWAE(2, "stl"), 50_000, loc=0.6, scale=0.7)
    error = found.std(0) / math.sqrt(len(found))
    assert ((found.mean(0) - exact_gradient(2, 0.6, 0.7)).abs() > 6 * error).all()
    assert not IWAE(2, "stl").unbiased_gradient
    assert IWAE(1, "stl").unbiased_gradient


@pytest.mark.parametrize("gradient", ["stl", "dreg"])
@pytest.mark.parametrize("num_samples", [1, 8])
def test_at_the_posterior_there_is_no_noise(gradient: Any, num_samples: int) -> None:
    """The weights are then constant, and so is the gradient along each draw: 0.

    Fails when the score of the guide is kept, as it is by default.
    """
    precision = 1 + (0.8 / 0.5) ** 2
    posterior = {"loc": X * 0.8 / 0.25 / precision, "scale": precision**-0.5}
    found = guide_gradients(IWAE(num_samples, gradient), 100, **posterior)
    assert found.abs().max() < 1e-5
    assert guide_gradients(IWAE(num_samples), 100, **posterior).abs().max() > 1e-2


def value(objective: Objective, vae: pv.VAE, x: Tensor, seed: int = 1) -> Tensor:
    pyro.set_rng_seed(seed)
    return objective.differentiable_loss(vae.model, vae.guide, x).detach()


def test_renyi_between_its_neighbours() -> None:
    """Order 0 is the importance-weighted bound, 1 the ELBO, and it falls with the order."""
    vae, x = one_real(torch.tensor([[0.6, 0.0]] * 5).double()), torch.full((5, 1), X).double()
    values = {order: value(Renyi(order, 7), vae, x) for order in (-1.0, 0.0, 0.5, 1.0, 3.0)}
    torch.testing.assert_close(values[0.0], value(IWAE(7), vae, x), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        values[1.0], value(ELBO("sampled", num_particles=7), vae, x), rtol=1e-12, atol=0
    )
    torch.testing.assert_close(value(Renyi(1 + 1e-6, 7), vae, x), values[1.0], rtol=1e-4, atol=0)
    assert sorted(values.values()) == list(values.values())


# Two distributions of the latents of a whole data set, known in closed form.


@pytest.mark.long
def test_total_correlation_of_a_gaussian() -> None:
    """Data whose latents are together normal with correlation r: the truth is -log(1 - r^2) / 2.

    With all data in the batch, averaged over draws; the finite data and the logarithms of sums are
    good to 0.03 nats. Fails when a marginal is left out.
    """
    generator = torch.Generator().manual_seed(0)
    size, noise, r = 3000, 0.4, 0.8
    covariance = torch.tensor([[1.0, r], [r, 1.0]]).double() - noise**2 * torch.eye(2).double()
    root = torch.linalg.cholesky(covariance)
    means = torch.randn(size, 2, generator=generator, dtype=torch.float64) @ root.T
    raw = inverse_positive(torch.tensor(noise).double()).expand(size, 2)
    vae = one_real(torch.cat([means, raw], 1))
    x = torch.zeros(size, 2).double()
    weights = [
        value(TotalCorrelation(beta, size), vae, x, seed)
        for seed in range(3)
        for beta in (2.0, 1.0)
    ]
    found = (torch.stack(weights[::2]) - torch.stack(weights[1::2])).mean() / size
    assert float(found) == pytest.approx(-math.log(1 - r**2) / 2, abs=0.03)


def test_stratified_weights_are_unbiased() -> None:
    """The estimate of q(z), averaged over all minibatches with one observation, is q(z).

    Fails when the observation's own weight is 1 / M, as in a plain minibatch.
    """
    rows, z = torch.randn(5, 2, dtype=torch.float64), torch.tensor([[0.3]]).double()
    exact = pv.guides.Normal(1)(rows).log_prob(z).exp().mean()
    objective = TotalCorrelation(num_data=5)
    for size in (1, 2, 3, 4):
        estimates = []
        for others in itertools.combinations(range(1, 5), size):
            distribution = pv.guides.Normal(1)(rows[[0, *others]])
            site = {"fn": distribution, "value": z.expand(size + 1, 1), "name": "z"}
            joint, marginals = objective._log_aggregate(site)
            torch.testing.assert_close(joint, marginals[:, 0])  # of one dimension they are the same
            estimates.append(joint[0].exp())
        torch.testing.assert_close(torch.stack(estimates).mean(), exact, rtol=1e-10, atol=0)


def test_discrepancy_is_nothing_where_the_distributions_agree() -> None:
    """In the mean over 300 batches, to within 4 standard errors, and more than 10 where not.

    Fails when a draw is compared with itself.
    """

    def distances(shift: float) -> Tensor:
        found = []
        prior = {"fn": pv.priors.Normal(2)().expand((12,))}
        for _ in range(300):
            # Means of variance 0.64 and draws of variance 0.36 around them.
            q = Normal(shift + 0.8 * torch.randn(12, 2), 0.6)
            ours = {"fn": torch.distributions.Independent(q, 1), "value": q.sample()}
            found.append(MMD()._squared_distance(ours, prior))
        return torch.stack(found)

    for shift, low, high in ((0.0, -4, 4), (0.7, 10, math.inf)):
        found = distances(shift)
        assert low < float(found.mean() / (found.std() / math.sqrt(len(found)))) < high


# The ELBO's options at their limits, and sums over states.


def many_rows() -> tuple[pv.VAE, Tensor]:
    rows = torch.randn(6, 4, dtype=torch.float64)
    return one_real(rows), torch.randn(6, 2, dtype=torch.float64)


def test_free_bits_clamp_each_dimension_of_the_batch() -> None:
    """Fails when the sum of the dimensions is clamped."""
    vae, x = many_rows()
    q = vae.encode(x).base_dist
    kl = torch.distributions.kl_divergence(q, Normal(0.0, 1.0)).detach()
    reconstruction = value(ELBO(beta=0.0), vae, x)
    for free in (1e-9, 0.4, float(kl.mean(0).mean()), 100.0):
        by_hand = 6 * kl.mean(0).clamp_min(free).sum()
        found = value(ELBO(free_bits=free), vae, x) - reconstruction
        torch.testing.assert_close(found, by_hand, rtol=1e-10, atol=1e-10)
    pyro.set_rng_seed(1)
    loss = ELBO(free_bits=100.0).differentiable_loss(vae.model, vae.guide, x)
    (clamped,) = torch.autograd.grad(loss, vae.encoder.rows)
    pyro.set_rng_seed(1)
    loss = ELBO(beta=0.0).differentiable_loss(vae.model, vae.guide, x)
    (unweighted,) = torch.autograd.grad(loss, vae.encoder.rows)
    torch.testing.assert_close(clamped, unweighted)


def test_capacity_draws_the_mean_kl_towards_it() -> None:
    vae, x = many_rows()
    kl = ELBO().terms(vae.model, vae.guide, x).kl
    reconstruction = value(ELBO(beta=0.0), vae, x)
    for capacity in (0.0, float(kl.mean()), 50.0):
        found = value(ELBO(beta=3.0, capacity=capacity), vae, x) - reconstruction
        torch.testing.assert_close(found, 18 * (kl.mean() - capacity).abs(), atol=1e-8, rtol=1e-10)
    objective = ELBO(beta=3.0, capacity=8.0, warmup=4)
    found = value(objective, vae, x) - reconstruction
    torch.testing.assert_close(found, 18 * (kl.mean() - 2.0).abs())


def test_schedules_over_the_steps() -> None:
    def weights(**options: Any) -> list[float]:
        objective, found = ELBO(beta=2.0, warmup=4, **options), []
        for _ in range(20):
            found.append(float(objective.weight()))
            objective.advance()
        return found

    rise = [0.5, 1.0, 1.5, 2.0]
    cycle = rise + [2.0] * 4
    assert weights() == rise + [2.0] * 16
    assert weights(schedule="cyclical", cycles=2) == cycle + cycle + [2.0] * 4
    sigmoid = weights(schedule="sigmoid")
    assert sigmoid[1] == pytest.approx(1.0)
    assert sigmoid[3] == pytest.approx(2 / (1 + math.exp(-5)))
    assert sorted(sigmoid) == sigmoid


def test_enumeration_is_exact() -> None:
    vae = pv.VAE(
        pv.priors.Categorical(2, 3),
        pv.guides.GumbelSoftmax(2, 3),
        pv.likelihoods.Bernoulli((4,)),
        pv.networks.MLP((5,)),
        pv.networks.MLP((5,)),
    ).double()
    x = torch.bernoulli(torch.full((7, 4), 0.4)).double()
    exact = enumerate_log_prob(vae, x)
    torch.testing.assert_close(-value(Enumerated("prior"), vae, x), exact.sum())
    terms = Enumerated("prior").terms(vae.model, vae.guide, x)
    torch.testing.assert_close(terms.elbo, exact)
    bound = -value(Enumerated("guide"), vae, x)
    assert bound < exact.sum()
    vae.guide_family.mode = "enumerate"
    torch.testing.assert_close(bound, -value(ELBO(), vae, x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ELBO(schedule="sigmoid"), "`warmup`: expected a positive number of steps"),
        (lambda: ELBO(schedule="linea"), "did you mean 'linear'"),
        (lambda: ELBO(capacity=1.0, free_bits=0.1), "`free_bits`: expected 0 beside a capacity"),
        (lambda: IWAE(0), "`num_samples`: expected a positive integer, got 0"),
        (lambda: IWAE(2, "drag"), "did you mean 'dreg'"),
        (lambda: Renyi(math.inf), "`alpha`: expected a finite number, got inf"),
        (lambda: TotalCorrelation(num_data=0), "`num_data`: expected a positive integer"),
        (lambda: MMD(kernel="rfb"), "did you mean 'rbf'"),
        (lambda: Enumerated("priors"), "did you mean 'prior'"),
    ],
)
def test_bad_arguments(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
