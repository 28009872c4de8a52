"""Distributions of z against independent formulas, and the objectives that use them."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import scipy.integrate
import scipy.stats
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import kl_divergence
from torch.nn.functional import logsigmoid

import pyro_vae as pv
from pyro_vae.criticism._entries import entries_of
from pyro_vae.criticism.split import Halves, Inference, halve
from pyro_vae.data.rows import Rows
from pyro_vae.distributions import LogitRelaxedBernoulli, PowerSpherical, SphericalUniform
from pyro_vae.evaluation import ais, enumerate_log_prob, gaps, posterior_draws
from pyro_vae.objectives import ELBO
from pyro_vae.report import interpolations, traversals

MODES = ["concrete", "enumerate", "soft", "straight-through"]


def in_standard_errors(estimates: Tensor, truth: Tensor | float) -> float:
    """How many standard errors the mean of independent estimates, one a row, is from the truth."""
    error = estimates.std(0) / math.sqrt(len(estimates))
    return float(((estimates.mean(0) - truth).abs() / error.clamp_min(1e-12)).max())


# A normal prior that is learned.


def test_a_learned_normal_prior_is_the_distribution_it_names() -> None:
    """Fails when the raw scale is used for the scale."""
    prior, z = pv.priors.Normal(2, learned=True).double(), torch.randn(7, 2).double()
    torch.testing.assert_close(prior().log_prob(z), pv.priors.Normal(2).double()().log_prob(z))
    with torch.no_grad():
        prior.loc.copy_(torch.tensor([0.5, -1.0]))
        prior.raw_scale.copy_(torch.tensor([1.0, -0.7]))
        scale = np.log1p(np.exp([1.0, -0.7])) + 1e-4
        reference = scipy.stats.norm.logpdf(z.numpy(), [0.5, -1.0], scale).sum(1)
        np.testing.assert_allclose(prior().log_prob(z).numpy(), reference)


def test_a_learned_normal_prior_keeps_the_closed_divergence() -> None:
    prior, guide = pv.priors.Normal(2, learned=True), pv.guides.Normal(2)
    vae = pv.VAE(prior, guide, pv.likelihoods.Bernoulli((4,)))
    terms = ELBO().terms(vae.model, vae.guide, torch.ones(3, 4))
    assert terms.kl_estimator == {"z": "analytic"}


# Binary latents.


def bernoulli_vae(dim: int = 3, **options: Any) -> pv.VAE:
    learned = pv.priors.Bernoulli(dim, learned=True)
    vae = pv.VAE(
        learned,
        pv.guides.RelaxedBernoulli(dim, **options),
        pv.likelihoods.Bernoulli((4,)),
        encoder=pv.networks.MLP((8,)),
        decoder=pv.networks.MLP((8,)),
    ).double()
    with torch.no_grad():
        learned.logits.copy_(torch.linspace(-0.8, 0.5, dim))
        for parameter in (*vae.encoder.parameters(), *vae.decoder.parameters()):
            parameter.mul_(3)  # sharp enough for values and biases to show
    return vae


def binary(n: int) -> Tensor:
    return torch.bernoulli(torch.full((n, 4), 0.4)).double()


def test_binary_guide_and_prior_are_the_distributions_they_name() -> None:
    logits = torch.randn(7, 3).double()
    z = torch.rand(7, 3).bernoulli().double()
    log_pmf = scipy.stats.bernoulli.logpmf(z.numpy(), scipy.special.expit(logits.numpy()))
    q = pv.guides.RelaxedBernoulli(3)(logits)
    np.testing.assert_allclose(q.log_prob(z).numpy(), log_pmf.sum(1))
    p = pv.priors.Bernoulli(3).double()()
    np.testing.assert_allclose(p.log_prob(z).numpy(), -3 * math.log(2))


def test_learned_categorical_prior_becomes_the_shares_of_the_classes() -> None:
    """By maximum likelihood in closed form; a uniform one has nothing to learn."""
    prior = pv.priors.Categorical(2, 3, learned=True).double()
    shares = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.1, 0.3]]).double()
    classes = torch.stack(
        [torch.arange(3).repeat_interleave((10 * s).round().long()) for s in shares]
    )
    z = torch.nn.functional.one_hot(classes.T, 3).double()
    optimiser = torch.optim.LBFGS(prior.parameters(), line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss: Tensor = -prior().log_prob(z).mean()
        loss.backward()
        return loss

    for _ in range(5):
        optimiser.step(closure)
    torch.testing.assert_close(prior.logits.softmax(-1).detach(), shares, atol=1e-5, rtol=0)
    assert not list(pv.priors.Categorical(2, 3).parameters())


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_relaxed_log_odds_have_a_density_however_far_out(temperature: float) -> None:
    """In single precision as by hand in double. Fails when an exponential of the odds is taken."""
    far = torch.tensor([-1e4, -100.0, -1.0, 0.0, 1.0, 100.0, 1e4])
    logits, value = (each.requires_grad_() for each in torch.meshgrid(far, far, indexing="ij"))
    single = LogitRelaxedBernoulli(torch.tensor(temperature), logits=logits).log_prob(value)
    single.sum().backward()
    odds = logits.detach().double() - temperature * value.detach().double()
    # log(e^d / (1 + e^d)^2) is even in d, and so safe for -|d|.
    away = odds.abs()
    by_hand = math.log(temperature) - away - 2 * torch.log1p((-away).exp())
    torch.testing.assert_close(single.detach().double(), by_hand, rtol=1e-5, atol=1e-5)
    slope = -torch.tanh(odds / 2).float()
    assert logits.grad is not None
    assert value.grad is not None
    torch.testing.assert_close(logits.grad, slope, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(value.grad, -temperature * slope, rtol=1e-4, atol=1e-5)


def test_joint_binary_states_are_all_different() -> None:
    q = pv.guides.RelaxedBernoulli(3)(torch.randn(5, 3).double())
    states = q.enumerate_support()
    assert states.shape == (8, 5, 3)
    assert len({tuple(state.tolist()) for state in states[:, 0]}) == 8
    torch.testing.assert_close(q.log_prob(states).logsumexp(0), torch.zeros(5).double())
    assert q.enumerate_support(expand=False).shape == (8, 1, 3)
    with pytest.raises(ValueError, match=r"`dim`.*65536.*2\*\*17"):
        pv.guides.RelaxedBernoulli(17)(torch.zeros(17)).enumerate_support()


def _log_joints(vae: pv.VAE, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x, z), log q(z|x) and log p(z), a row for each state, by loops over textbook terms."""
    logits, prior = vae.encoder(vae.guide.standardize(x)), vae.prior.logits  # type: ignore[union-attr]
    rows = []
    for state in itertools.product((0.0, 1.0), repeat=len(prior)):
        z = torch.tensor(state).double()
        out = vae.decoder(z[None])
        log_likelihood = (x * logsigmoid(out) + (1 - x) * logsigmoid(-out)).sum(-1)
        log_p = (z * logsigmoid(prior) + (1 - z) * logsigmoid(-prior)).sum()
        log_q = (z * logsigmoid(logits) + (1 - z) * logsigmoid(-logits)).sum(-1)
        rows.append((log_likelihood + log_p, log_q, log_p.expand(len(x))))
    joint, log_q, log_p = (torch.stack(each) for each in zip(*rows, strict=True))
    return joint, log_q, log_p


def _gradients(loss: Tensor, vae: pv.VAE) -> Tensor:
    found = torch.autograd.grad(loss, list(vae.parameters()))
    return torch.cat([gradient.flatten() for gradient in found])


@pytest.mark.parametrize("kl", ["analytic", "sampled"])
def test_enumerated_binary_latents_equal_brute_force(kl: Any) -> None:
    vae, x = bernoulli_vae(mode="enumerate"), binary(7)
    loss = ELBO(kl).differentiable_loss(vae.model, vae.guide, x)
    joint, log_q, _ = _log_joints(vae, x)
    exact = (log_q.exp() * (log_q - joint)).sum()
    torch.testing.assert_close(loss, exact)
    torch.testing.assert_close(_gradients(loss, vae), _gradients(exact, vae))
    torch.testing.assert_close(enumerate_log_prob(vae, x), joint.detach().logsumexp(0))


def test_binary_divergence_is_the_sum_over_states() -> None:
    vae, x = bernoulli_vae(), binary(7)
    _, log_q, log_p = _log_joints(vae, x)
    exact = (log_q.exp() * (log_q - log_p)).sum(0)
    torch.testing.assert_close(kl_divergence(vae.encode(x), vae.prior()), exact)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_binary_concrete_density_is_finite_and_logistic(temperature: float) -> None:
    """Fails when draws depend on a rounded probability, as those of torch do."""
    logits = torch.tensor([-1e3, -40.0, -1.0, 0.0, 2.0, 40.0, 1e3]).requires_grad_()
    q = LogitRelaxedBernoulli(torch.tensor(temperature), logits=logits)
    y = q.rsample((50,))
    log_prob = q.log_prob(y)
    reference = scipy.stats.logistic.logpdf(
        y.detach().double(), logits.detach().double() / temperature, 1 / temperature
    )
    np.testing.assert_allclose(log_prob.detach(), reference, rtol=1e-3, atol=1e-3)
    (gradient,) = torch.autograd.grad(y.mean(0).sum(), logits)
    torch.testing.assert_close(gradient, torch.full_like(logits, 1 / temperature))


def _draws(vae: pv.VAE, x: Tensor, chunks: int = 60, size: int = 500) -> tuple[Tensor, Tensor]:
    """Losses and gradients of one observation, each the mean over a chunk of independent draws."""
    losses, gradients = [], []
    for _ in range(chunks):
        loss = ELBO().differentiable_loss(vae.model, vae.guide, x.expand(size, -1)) / size
        losses.append(loss.detach())
        gradients.append(_gradients(loss, vae))
    return torch.stack(losses), torch.stack(gradients)


def test_relaxed_binary_losses_are_the_integrals_they_claim() -> None:
    """One variable, whose relaxation is integrated over its log-odds. Tolerance: standard errors.

    Fails when the prior keeps temperature 1, and when the decoder is given the log-odds.
    """
    x, temperature = binary(1), 0.6
    vae = bernoulli_vae(1, mode="concrete", temperature=temperature)
    t = torch.linspace(-60, 60, 40_001).double()
    z = t.sigmoid()[:, None, None]

    def log_logistic(log_odds: Tensor) -> Tensor:
        shifted = log_odds - temperature * t
        return math.log(temperature) + shifted - 2 * torch.nn.functional.softplus(shifted)

    def integral(values: Tensor) -> Tensor:
        return torch.trapezoid(values, t)

    log_likelihood = vae.decode(z).log_prob(x)[:, 0]
    logits = vae.encoder(x)[0]
    log_q, log_p = log_logistic(logits), log_logistic(vae.prior.logits)  # type: ignore[arg-type]
    torch.testing.assert_close(integral(log_q.exp()), torch.tensor(1.0).double())
    elbo = integral(log_q.exp() * (log_likelihood + log_p - log_q))
    losses, gradients = _draws(vae, x)
    assert in_standard_errors(losses, -elbo.detach()) < 4
    assert in_standard_errors(gradients, _gradients(-elbo, vae)) < 5
    assert losses.mean() > -integral((log_likelihood + log_p).exp()).log()

    soft = copy.deepcopy(vae)
    soft.guide_family.mode = "soft"  # type: ignore[assignment]
    joint, log_q_hard, log_p_hard = _log_joints(vae, x)
    kl = (log_q_hard.exp() * (log_q_hard - log_p_hard)).sum()
    losses, _ = _draws(soft, x)
    assert in_standard_errors(losses, (kl - integral(log_q.exp() * log_likelihood)).detach()) < 4

    soft.guide_family.mode = "straight-through"  # type: ignore[assignment]
    losses, gradients = _draws(soft, x)
    exact = (log_q_hard.exp() * (log_q_hard - joint)).sum()
    assert in_standard_errors(losses, exact.detach()) < 4
    decoder = sum(p.numel() for p in vae.decoder.parameters())
    start = 1  # the log-odds of the prior come first
    truth = _gradients(exact, vae)[start : start + decoder]
    assert in_standard_errors(gradients[:, start : start + decoder], truth) < 5


@pytest.mark.parametrize("mode", MODES)
def test_outside_the_objective_all_is_binary(mode: Any) -> None:
    vae, x = bernoulli_vae(mode=mode), binary(20)
    for _ in range(2):
        for trace in (
            poutine.trace(vae.guide).get_trace(x),
            poutine.trace(vae.model).get_trace(size=20),
        ):
            z = trace.nodes["z"]["value"]
            assert z.shape == (20, 3)
            assert ((z == 0) | (z == 1)).all()
        terms = ELBO().terms(vae.model, vae.guide, x)
        assert terms.kl_estimator == {"z": "analytic"}
        ELBO().differentiable_loss(vae.model, vae.guide, x)  # leaves nothing behind


@pytest.mark.parametrize("mode", ["concrete", "soft", "straight-through"])
def test_what_the_decoder_sees_of_binary_latents(mode: Any) -> None:
    vae, x, seen = bernoulli_vae(mode=mode), binary(50), []
    vae.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    ELBO().differentiable_loss(vae.model, vae.guide, x)
    (z,) = seen
    assert ((z >= 0) & (z <= 1)).all()
    assert ((z == 0) | (z == 1)).all() == (mode == "straight-through")
    assert z.requires_grad


def test_importance_weighted_binary_latents_reach_the_sum_over_states() -> None:
    """Evaluation draws zeros and ones, whatever trains the guide."""
    vae, x = bernoulli_vae(mode="soft"), binary(20)
    scores = pv.evaluate(vae, x, num_samples=4000, proposal="guide")
    exact = enumerate_log_prob(vae, x).numpy()
    assert np.abs((scores.log_marginal - exact) / scores.mcse).max() < 5


# Flows: zuko comes along only when one is built, and leaves other distributions alone.


_ALONE = """
import pickle, sys, torch, pyro_vae as pv

def validates():
    try:
        torch.distributions.Normal(torch.zeros(1), -torch.ones(1))
    except ValueError:
        return True
    return False

def forget():
    for name in [name for name in sys.modules if name.partition(".")[0] == "zuko"]:
        del sys.modules[name]

pv.priors.Normal(2)
print("zuko" in sys.modules)
pickle.load(open(sys.argv[1], "rb"))
print("zuko" in sys.modules, validates())
forget()
pv.guides.Flow(2)
print("zuko" in sys.modules, validates())
forget()
torch.distributions.Distribution.set_default_validate_args(False)
pv.guides.Flow(2)
print(validates())
"""


@pytest.mark.long
def test_zuko_is_imported_for_flows_alone_and_validation_stays(tmp_path: Path) -> None:
    """Fails when the import, or that of an unpickled flow, is left to do what it does."""
    path = tmp_path / "flow.pickle"
    path.write_bytes(pickle.dumps(pv.priors.Flow(2)))
    command = [sys.executable, "-c", _ALONE, str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == ["False", "True True", "True True", "False"]


def _jacobian(transform: Any, value: Tensor) -> Tensor:
    return torch.func.vmap(torch.func.jacrev(transform))(value)


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("kind", ["spline", "maf"])
def test_a_flow_prior_is_the_change_of_variables(kind: Any, dim: int) -> None:
    """Against determinants of Jacobians by automatic differentiation."""
    prior = pv.priors.Flow(dim, kind=kind, transforms=3, hidden=(8,)).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.mul_(4)
    z = 2 * torch.randn(20, dim).double()
    distribution = prior()
    back = distribution.transform.inv
    determinants = _jacobian(lambda each: back(each), z).det().abs().log()
    reference = scipy.stats.norm.logpdf(back(z).detach()).sum(1) + determinants.detach().numpy()
    np.testing.assert_allclose(distribution.log_prob(z).detach(), reference, rtol=1e-6)
    drawn = distribution.sample((5,))
    torch.testing.assert_close(distribution.log_prob(drawn), distribution.log_prob(drawn.clone()))
    torch.testing.assert_close(distribution.transform(back(z)), z)


@pytest.mark.parametrize("dim", [1, 3])
def test_a_flow_guide_is_the_change_of_variables(dim: int) -> None:
    """Fails when the kept density lacks the sign of the determinant."""
    guide = pv.guides.Flow(dim, transforms=3, hidden=(8,), context=4).double()
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.mul_(4)
    features = torch.randn(2 * dim + 4).double()
    distribution = guide(features)
    base = torch.randn(20, dim).double()
    determinants = _jacobian(lambda each: distribution.transform(each), base).det().abs().log()
    loc, scale = features[:dim], torch.nn.functional.softplus(features[dim : 2 * dim]) + 1e-4
    reference = scipy.stats.norm.logpdf(base, loc, scale).sum(1) - determinants.detach().numpy()
    z = distribution.transform(base)
    np.testing.assert_allclose(distribution.log_prob(z).detach(), reference, rtol=1e-6)
    drawn = distribution.rsample((50,))
    torch.testing.assert_close(distribution.log_prob(drawn), distribution.log_prob(drawn.clone()))


def test_the_kept_density_of_a_draw_has_the_gradients_of_that_draw() -> None:
    """Fails when a draw that was taken without gradients gets the kept density."""
    guide = pv.guides.Flow(2, hidden=(8,), context=3).double()
    features = torch.randn(4, 7).double().requires_grad_()

    def gradient(draw: Any) -> Tensor:
        pyro.set_rng_seed(3)
        distribution = guide(features)
        z = draw(distribution)
        return torch.autograd.grad(distribution.log_prob(z).sum(), features)[0]

    cut = gradient(lambda distribution: distribution.rsample().detach())
    torch.testing.assert_close(gradient(lambda distribution: distribution.sample()), cut)
    along = gradient(lambda distribution: distribution.rsample())
    torch.testing.assert_close(gradient(lambda distribution: distribution.rsample() + 0), along)
    assert not torch.allclose(along, cut)


def test_the_mean_of_a_flow_is_that_of_its_draws() -> None:
    """To 4 standard errors of the draws and 0.03 standard deviations, for the 128 points."""
    guide = pv.guides.Flow(3, hidden=(8,), context=3).double()
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.mul_(3)
        distribution = guide(torch.randn(5, 9).double())
        assert torch.equal(distribution.mean, distribution.mean)
        draws = distribution.sample((20_000,))
        away = (draws.mean(0) - distribution.mean).abs() / draws.std(0)
        assert away.max() < 4 / 20_000**0.5 + 0.03
        torch.testing.assert_close(distribution.stddev, draws.std(0), rtol=0.1, atol=0)


def test_flows_are_said_to_have_a_sampled_divergence() -> None:
    for prior, guide in (
        (pv.priors.Flow(2), pv.guides.Normal(2)),
        (pv.priors.Normal(2), pv.guides.Flow(2)),
    ):
        vae = pv.VAE(prior, guide, pv.likelihoods.Bernoulli((4,)))
        terms = ELBO().terms(vae.model, vae.guide, torch.ones(3, 4))
        assert terms.kl_estimator == {"z": "sampled"}


# Directions.


def _sphere_integral(dim: int, mu: Tensor, f: Any) -> float:
    """Integrates over the sphere a function of the cosine with ``mu``, by one-dimensional rules."""
    area = 2 * math.pi ** ((dim - 1) / 2) / math.gamma((dim - 1) / 2)
    found, _ = scipy.integrate.quad(
        lambda t: f(t) * (1 - t * t) ** ((dim - 3) / 2), -1, 1, epsabs=1e-12
    )
    return area * found


@pytest.mark.parametrize("dim", [3, 4, 5])
@pytest.mark.parametrize("concentration", [0.3, 4.0, 50.0])
def test_a_power_spherical_distribution_integrates(dim: int, concentration: float) -> None:
    """Mass, mean, variance and entropy against integrals over the angle.

    Fails when the normaliser has one factor of 2 less, and when the mean is that of a beta
    distribution.
    """
    mu = torch.zeros(dim).double()
    mu[1] = 1.0
    distribution = PowerSpherical(mu, torch.tensor(concentration).double())

    def density(t: float) -> float:
        x = torch.zeros(dim).double()
        x[1], x[0] = t, math.sqrt(1 - t * t)
        return float(distribution.log_prob(x).exp())

    def integral(f: Any) -> float:
        return _sphere_integral(dim, mu, f)

    assert integral(density) == pytest.approx(1, abs=1e-8)
    mean = integral(lambda t: t * density(t))
    assert float(distribution.mean[1]) == pytest.approx(mean, abs=1e-8)
    square = integral(lambda t: t * t * density(t))
    assert float(distribution.variance[1]) == pytest.approx(square - mean**2, abs=1e-8)
    assert float(distribution.variance[0]) == pytest.approx((1 - square) / (dim - 1), abs=1e-8)
    entropy = -integral(lambda t: density(t) * math.log(max(density(t), 1e-300)))
    assert float(distribution.entropy()) == pytest.approx(entropy, abs=1e-6)


@pytest.mark.parametrize("dim", [2, 3, 16])
def test_draws_on_the_sphere_follow_the_distribution(dim: int) -> None:
    """Moments, divergence and cosines by 40,000 draws, to 4.5 standard errors.

    Fails when the axis is reflected onto the opposite direction, and when the share is drawn with
    the parameters of the beta distribution exchanged.
    """
    for direction in (torch.randn(dim).double(), torch.eye(dim).double()[0]):
        loc = direction / direction.norm()
        distribution = PowerSpherical(loc, torch.tensor(3.0).double())
        z = distribution.rsample((40_000,))
        assert in_standard_errors(z, distribution.mean) < 4.5
        assert in_standard_errors((z - distribution.mean).square(), distribution.variance) < 4.5
        uniform = SphericalUniform(loc)
        sampled = distribution.log_prob(z) - uniform.log_prob(z)
        assert in_standard_errors(sampled[:, None], kl_divergence(distribution, uniform)) < 4.5
        share = (1 + z @ loc) / 2
        beta = scipy.stats.beta((dim - 1) / 2 + 3, (dim - 1) / 2)
        assert scipy.stats.kstest(share.numpy(), beta.cdf).pvalue > 1e-3


def test_a_uniform_distribution_on_the_sphere_is_uniform() -> None:
    for dim in (2, 3, 5):
        distribution = SphericalUniform(torch.zeros(dim).double())
        z = distribution.sample((40_000,))
        assert in_standard_errors(z, distribution.mean) < 4.5
        assert in_standard_errors(z.square(), distribution.variance) < 4.5
        area = _sphere_integral(dim, z, lambda t: 1.0) if dim > 2 else 2 * math.pi
        assert float(distribution.entropy()) == pytest.approx(math.log(area))


@pytest.mark.parametrize("dim", [2, 3, 40])
@pytest.mark.parametrize("raw", [-1e3, -30.0, 0.0, 30.0, 1e3, 1e6])
def test_directions_stay_finite_in_single_precision(dim: int, raw: float) -> None:
    """Draws on the sphere, densities and gradients, at every axis and at no direction at all."""
    axes = torch.cat([torch.eye(dim), -torch.eye(dim), torch.zeros(1, dim), 1e-25 * torch.eye(dim)])
    features = torch.cat([axes, torch.full((len(axes), 1), raw)], -1).requires_grad_()
    distribution = pv.guides.Hyperspherical(dim)(features)
    z = distribution.rsample((200,))
    assert distribution.support.check(z).all()
    log_prob = distribution.log_prob(z)
    kl = kl_divergence(distribution, pv.priors.Hyperspherical(dim)())
    assert log_prob.isfinite().all()
    assert (kl > -1e-3).all()
    total = log_prob.mean() + z.mean(0).sum() + kl.sum()
    (gradient,) = torch.autograd.grad(total, features)
    assert gradient.isfinite().all()


def test_a_concentrated_direction_is_a_normal_distribution_in_its_tangent() -> None:
    """The variance across is 2 / concentration, twice that of a von Mises-Fisher distribution."""
    distribution = PowerSpherical(torch.eye(3).double()[2], torch.tensor(1e4).double())
    across = distribution.sample((20_000,))[:, :2] / math.sqrt(2 / 1e4)
    assert scipy.stats.kstest(across.flatten().numpy(), "norm").pvalue > 1e-3


def test_directions_start_as_near_in_any_dimension() -> None:
    for dim in (2, 5, 40):
        mean = pv.guides.Hyperspherical(dim)(
            torch.ones(dim + 1) * (torch.arange(dim + 1) < dim)
        ).mean
        assert float(mean.norm()) == pytest.approx(0.735, abs=1e-3)


def test_a_sphere_needs_two_coordinates() -> None:
    for room in (pv.priors, pv.guides):
        with pytest.raises(ValueError, match=r"`dim`: expected at least 2.*got 1"):
            room.Hyperspherical(1)


# What is done with a fitted model, on each of these spaces.

SPACES: dict[str, tuple[Any, Any]] = {
    "sphere": (pv.priors.Hyperspherical(3), pv.guides.Hyperspherical(3)),
    "binary": (pv.priors.Bernoulli(3), pv.guides.RelaxedBernoulli(3)),
    "flow": (pv.priors.Flow(3, hidden=(8,)), pv.guides.Flow(3, hidden=(8,), context=3)),
}


def vae_on(space: str) -> pv.VAE:
    return pv.VAE(
        *copy.deepcopy(SPACES[space]),
        pv.likelihoods.Bernoulli((4,)),
        encoder=pv.networks.MLP((8,)),
        decoder=pv.networks.MLP((8,)),
    )


@pytest.mark.parametrize("space", SPACES)
def test_traversals_stay_where_z_can_be(space: str) -> None:
    """Fails when the other coordinates of a direction stay as they are."""
    vae, x, seen = vae_on(space), binary(6).float(), []
    vae.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    along = traversals(vae, x[0], torch.tensor([0, 2]), steps=5)
    assert along.shape[::2] == (2, 4)
    assert interpolations(vae, x[:2], x[2:4], steps=5).shape == (2, 5, 4)
    for z in seen:
        inside = vae.prior.support.check(z)
        if space == "sphere":  # less exactly than draws are
            inside = (z.norm(dim=-1) - 1).abs() < 1e-5
        assert inside.all()
    units = seen[0].reshape(2, along.shape[1], 3)
    assert (units[0, 1:, 0] > units[0, :-1, 0]).all()
    assert (units[1, 1:, 2] > units[1, :-1, 2]).all()


@pytest.mark.long
@pytest.mark.parametrize("space", SPACES)
def test_evaluation_and_criticism_take_them(space: str) -> None:
    vae, x = vae_on(space), binary(30).float()
    scores = pv.evaluate(vae, x, num_samples=50)
    assert np.isfinite(scores.log_marginal).all()
    tree = pv.to_datatree(vae, x, num_draws=5)
    assert tree["posterior"]["z"].dims == ("chain", "draw", "data", "latent")
    checks = pv.criticism.check(vae, x, level=0.5)
    assert len(checks.rows) > 3
    halves = halve(vae, entries_of(vae, list("abcd")), {})
    assert isinstance(halves, Halves)
    with torch.no_grad():
        z, _ = Inference(vae, Rows(x), halves).draws(20)
    assert z.shape == (120, 30, 3)


def test_what_needs_gradients_in_z_refuses_other_spaces_in_one_line() -> None:
    x = binary(4).float()
    for space in ("sphere", "binary"):
        vae = vae_on(space)
        message = r"^`vae`: expected a (latent on all|continuous)"
        with pytest.raises(ValueError, match=message) as error:
            ais(vae, x, num_chains=2, num_temperatures=2, seed=0)
        assert "\n" not in str(error.value)
        with pytest.raises(ValueError, match=r"^`vae`: expected a "):
            posterior_draws(vae, x, method="nuts", num_draws=2, seed=0)


def test_gaps_of_binary_latents_are_summed() -> None:
    vae, x = vae_on("binary"), binary(4).float()
    found = gaps(vae, x, num_steps=4, num_samples=10)
    exact = enumerate_log_prob(vae, x).numpy()
    np.testing.assert_allclose(found.log_marginal, exact, rtol=1e-5)
    assert (found.approximation >= -1e-5).all()
