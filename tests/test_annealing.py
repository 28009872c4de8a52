"""Annealing against closed forms, its transitions against what they must leave invariant."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Literal

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from linear import LinearGaussian
from torch import Tensor, nn
from torch.distributions import constraints

import pyro_vae as pv
from pyro_vae.data.rows import Rows
from pyro_vae.evaluation import _draws, _path, _transitions, ais, bdmc
from pyro_vae.evaluation._hmc import Point, leapfrog, transition

# A path of log-gamma distributions, skewed, of known moments: log f = (a + beta * b) z - exp(z).
A, B = 2.0, 3.0


def _log_gamma(z: Tensor) -> Point:
    base, ratio = (A * z - z.exp()).sum(-1), B * z.sum(-1)
    return Point(z, base, ratio, A - z.exp(), torch.full_like(z, B))


def _exact_draws(beta: float, *shape: int) -> Tensor:
    concentration = torch.full(shape, A + beta * B, dtype=torch.float64)
    return torch.distributions.Gamma(concentration, 1.0).sample().log()


def test_leapfrog_is_reversible_and_of_second_order() -> None:
    """Fails when the first or the last half step of the momentum is a whole one."""
    start = _log_gamma(_exact_draws(0.5, 400, 2, 3))
    momentum = torch.randn_like(start.z)

    def energy(point: Point, momentum: Tensor) -> Tensor:
        return momentum.square().sum(-1) / 2 - point.log_density(0.5)

    errors = []
    for num_leapfrog in (8, 16):
        stride = torch.full((2, 3), 0.8 / num_leapfrog, dtype=torch.float64)
        end, last = leapfrog(_log_gamma, start, momentum, 0.5, stride, num_leapfrog)
        back, first = leapfrog(_log_gamma, end, -last, 0.5, stride, num_leapfrog)
        torch.testing.assert_close(back.z, start.z, atol=1e-10, rtol=0)
        torch.testing.assert_close(first, -momentum, atol=1e-10, rtol=0)
        errors.append((energy(end, last) - energy(start, momentum)).abs().mean())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_transition_leaves_its_distribution_invariant(beta: float) -> None:
    """Two steps so long that a third of the proposals is rejected, from exact draws.

    Fails when every proposal is taken, when the kinetic energy is left out of the acceptance, or
    when beta is another one.
    """
    point = _log_gamma(_exact_draws(beta, 40_000, 2, 1))
    step_size = torch.tensor([0.7, 1.0], dtype=torch.float64)
    scale = torch.ones(2, 1, dtype=torch.float64) * (A + beta * B) ** -0.5
    for _ in range(8):
        point, probability = transition(_log_gamma, point, beta, step_size * 1.6, scale, 2)
    assert (probability.mean(0) < 0.9).all()
    a = torch.tensor(A + beta * B, dtype=torch.float64)
    mean, variance = torch.digamma(a), torch.polygamma(1, a)
    moments = {1: (0.0, variance), 2: (variance, torch.polygamma(3, a) + 2 * variance**2)}
    for power, (expected, spread) in moments.items():
        got = (point.z - mean).pow(power).mean((0, 2))
        error = (spread / len(point.z)) ** 0.5
        assert (abs(got - expected) < 4 * error).all(), (power, (got - expected) / error)


def test_transition_satisfies_detailed_balance() -> None:
    """As many pass from below the median to above it as back: E[f(z) g(z')] is symmetric.

    Fails when a rejected chain is moved half-way instead of staying.
    """
    point = _log_gamma(_exact_draws(0.5, 200_000, 1, 1))
    ones = torch.ones(1, 1, dtype=torch.float64)
    following, _ = transition(_log_gamma, point, 0.5, 0.8 * ones[0], ones, 1)
    before, after = point.z[:, 0, 0], following.z[:, 0, 0]
    flux = before.exp() * after - after.exp() * before  # antisymmetric, so of mean zero
    assert flux.std() > 0.1
    assert abs(flux.mean()) < 4 * flux.std() / len(flux) ** 0.5


def test_every_chain_of_the_exact_posterior_has_the_same_weight() -> None:
    """Fails when the sign of a temperature increment is wrong, or the prior is left out."""
    model = LinearGaussian(dim=16, latent=3, bias=1.0, dtype=torch.float64)
    x = model.vae.sample(7)
    for num_temperatures in (1, 9):
        annealed = ais(model.vae, x, num_chains=5, num_temperatures=num_temperatures)
        np.testing.assert_allclose(annealed.log_marginal, model.log_prob(x), atol=1e-3)
        assert annealed.mcse.max() < 1e-3
        assert annealed.ess.min() > 4.99


@pytest.mark.parametrize("initial", ["guide", "prior"])
def test_annealing_is_exact_within_its_error(initial: Literal["guide", "prior"]) -> None:
    """From a guide that is half as wide again as the posterior, and from the prior.

    Fails when proposals are never rejected, or an increment is that of the step before.
    """
    model = LinearGaussian(factor=1.5, bias=1.0)
    x = model.vae.sample(60)
    num_temperatures = {"guide": 20, "prior": 60}[initial]
    annealed = ais(model.vae, x, num_chains=32, num_temperatures=num_temperatures, initial=initial)
    error = annealed.log_marginal - model.log_prob(x).numpy()
    mcse = annealed.summary()["mcse"]
    assert 0 < mcse < 0.06
    bias = -(annealed.mcse**2).mean() / 2  # of the logarithm of a mean
    assert abs(error.mean() - bias) < 3 * mcse
    assert (np.abs(error) < 4 * annealed.mcse).mean() > 0.95
    assert annealed.acceptance.min() > 0.6


@pytest.mark.slow
def test_reported_error_is_the_actual_error() -> None:
    """A guide a fifth too wide; fails when the reported error is a factor of 1.3 off."""
    model = LinearGaussian(factor=1.2)
    x = model.vae.sample(1000)
    annealed = ais(model.vae, x, num_chains=64, num_temperatures=10)
    error = annealed.log_marginal - model.log_prob(x).numpy()
    within = (np.abs(error) < 3 * annealed.mcse).mean()
    actual, reported = (np.sqrt(np.mean(each**2)) for each in (error, annealed.mcse))
    print(f"within three errors: {within:.3f}, actual over reported: {actual / reported:.3f}")
    assert within >= 0.99
    assert 0.8 < actual / reported < 1.25


def test_annealing_helps_where_the_guide_is_poor() -> None:
    """On correlated columns, at a like number of densities; the guide's own weights are heavy.

    Fails when the transitions leave z where it was.
    """
    model = LinearGaussian(columns="correlated", factor=0.7)
    x = model.vae.sample(40)
    exact = model.log_prob(x).numpy()
    annealed = ais(model.vae, x, num_chains=32, num_temperatures=40, num_leapfrog=3)
    weighted = pv.evaluate(model.vae, x, num_samples=annealed.num_gradients)
    errors = [np.abs(each.log_marginal - exact).mean() for each in (annealed, weighted)]
    assert errors[0] < 0.5 * errors[1]


def test_step_sizes_are_frozen_before_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step sizes are those of the warm-up at each temperature, however many chains there then are.

    Fails when they go on being adapted on the chains of the estimate.
    """
    used: dict[int, list[tuple[float, Tensor]]] = {}

    def spy(density: Any, point: Point, beta: Tensor, step_size: Tensor, *rest: Any) -> Any:
        used.setdefault(len(point.z), []).append((float(beta), step_size.clone()))
        return transition(density, point, beta, step_size, *rest)

    monkeypatch.setattr(_transitions, "transition", spy)
    model = LinearGaussian(dim=16, latent=3, factor=1.5)
    x = model.vae.sample(4)
    results = [ais(model.vae, x, num_chains=n, num_temperatures=12) for n in (5, 9)]
    warmup = used[_path._WARMUP_CHAINS]
    adapted = dict(warmup)
    assert len({float(step[0]) for _, step in warmup}) > 20
    assert len(used[5]) == len(used[9]) == 11
    for (beta, few), (other, many) in zip(used[5], used[9], strict=True):
        assert beta == other
        torch.testing.assert_close(few, many, atol=0, rtol=0)
        assert beta in adapted
    mean = torch.stack([step for _, step in used[5]]).mean(0)
    np.testing.assert_allclose(results[0].step_size, mean, rtol=1e-6)
    np.testing.assert_array_equal(results[0].step_size, results[1].step_size)
    assert len({float(s) for s in mean}) == len(x)  # one for each observation


@pytest.mark.parametrize(("num_temperatures", "apart"), [(2, True), (50, False)])
def test_bounds_bracket_the_exact_mean(num_temperatures: int, apart: bool) -> None:
    """From the prior, too fast (each bound is then seen to be one) and slowly.

    Fails when the reverse chains start at the guide, or take the temperatures in forward order.
    """
    model = LinearGaussian(dim=32, latent=4, bias=1.0)
    bounds = bdmc(model.vae, 80, num_chains=8, num_temperatures=num_temperatures, initial="prior")
    exact = float(model.log_prob(bounds.x).mean())
    known = bounds.summary()
    assert known["lower"] < exact + 3 * known["lower_mcse"]
    assert known["upper"] > exact - 3 * known["upper_mcse"]
    assert known["gap"] == pytest.approx(known["upper"] - known["lower"])
    if apart:
        assert known["lower"] < exact - 5 * known["lower_mcse"]
        assert known["upper"] > exact + 5 * known["upper_mcse"]
    else:
        assert known["gap"] < 0.2
        assert abs(known["gap"]) < 4 * known["gap_standard_error"] + known["gap_mcse"]


def test_reverse_weights_are_those_of_the_exact_reversal() -> None:
    """E[1/w] over exact draws is 1/p(x): the reverse estimate is unbiased before the logarithm.

    Four temperatures from the prior in one dimension, many chains. Fails when an increment is that
    of the temperature after.
    """
    model = LinearGaussian(dim=3, latent=1, noise=1.0, dtype=torch.float64)
    x = torch.tensor([[0.3, -0.4, 0.5]], dtype=torch.float64)
    plan = _path.Plan(20_000, 4, 2, "prior")
    move = _transitions.Transitions(model.vae, "prior", 2, [Rows(x)], {})
    path = _path.Path(model.vae, Rows(x), "prior", move)
    steps = [torch.full((1,), 0.9, dtype=torch.float64)] * 5
    tick = _path.Ticks(None, 1)
    exact = float(model.log_prob(x))
    # Independent draws of the posterior, where `bdmc` has one for all chains.
    z = model.posterior(x).sample((20_000,))
    for log_weights, truth in (
        (_path.forward(path, plan, steps, tick)[0], exact),
        (_path.reverse(path, plan, steps, z, tick), -exact),
    ):
        estimate = _path.estimate(log_weights)
        assert estimate["mcse"] < 0.02
        assert abs(estimate["log_marginal"] - truth) < 4 * estimate["mcse"]


def _categorical() -> pv.VAE:
    return pv.VAE(
        pv.priors.Categorical(2, 3),
        pv.guides.GumbelSoftmax(2, 3),
        pv.likelihoods.Bernoulli((4,)),
    )


class _Positive(pv.priors.Prior):
    """A prior with an edge."""

    support = constraints.independent(constraints.positive, 1)

    def __init__(self) -> None:
        super().__init__()
        self.event_shape = torch.Size([2])

    def forward(self, cond: Tensor | None = None) -> Any:
        return dist.Exponential(torch.ones(2)).to_event(1)


class _PositiveGuide(pv.guides.Guide):
    support = _Positive.support

    def __init__(self) -> None:
        super().__init__()
        self.event_shape = self.param_shape = torch.Size([2])

    def forward(self, features: Tensor) -> Any:
        return dist.Exponential(features.exp()).to_event(1)


def _bernoulli() -> pv.VAE:
    return pv.VAE(
        pv.priors.Normal(2),
        pv.guides.Normal(2),
        pv.likelihoods.Bernoulli((4,)),
        pv.networks.MLP((8,), dropout=0.5),
        pv.networks.MLP((8,), dropout=0.5),
    )


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"num_chains": 0}, "`num_chains`: expected a positive integer, got 0"),
    ({"num_temperatures": 0}, "`num_temperatures`: expected a positive integer, got 0"),
    ({"num_leapfrog": 2.5}, "`num_leapfrog`: expected a positive integer, got 2.5"),
    ({"initial": "priro"}, "(did you mean 'prior'?)"),
    ({"seed": -1}, "`seed`: expected an integer >= 0"),
    ({"vae": nn.Linear(2, 2)}, "`vae`: expected a VAE"),
    ({"vae": _categorical()}, "`vae`: expected a continuous latent; for a discrete one"),
    (
        {"vae": pv.VAE(_Positive(), _PositiveGuide(), pv.likelihoods.Bernoulli((4,)))},
        "`vae`: expected a latent on all real vectors",
    ),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_arguments_are_reported_in_one_line(options: dict[str, Any], message: str) -> None:
    options = {"vae": _bernoulli()} | options
    vae = options.pop("vae")
    for call, given in ((ais, torch.ones(3, 4)), (bdmc, 3)):
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            call(vae, given, **options)
        assert "\n" not in str(caught.value)


def test_wrong_data_are_reported_in_one_line() -> None:
    with pytest.raises(ValueError, match="`x`: expected values in the support of Bernoulli"):
        ais(_bernoulli(), torch.full((3, 4), 0.5))
    with pytest.raises(ValueError, match="`base_measure`: expected one of data"):
        ais(_bernoulli(), torch.ones(3, 4), base_measure={"dta": "digits"})
    with pytest.raises(ValueError, match="`size`: expected a positive integer, got 0"):
        bdmc(_bernoulli(), 0)


def test_the_model_and_the_random_state_stay_as_they_were() -> None:
    """Fails when a gradient is accumulated in a parameter."""
    vae, x = _bernoulli().train(), torch.ones(5, 4)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    state = torch.get_rng_state()
    options = {"num_chains": 3, "num_temperatures": 4, "seed": 3}
    fractions: list[float] = []
    first = ais(vae, x, **options, progress=fractions.append)
    bounds = bdmc(vae, 2, **options, progress=fractions.append)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(each.training for each in vae.modules())
    assert all(p.grad is None and p.requires_grad for p in vae.parameters())
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    again, other = ais(vae, x, **options), ais(vae, x, **(options | {"seed": 4}))
    np.testing.assert_array_equal(first.log_marginal, again.log_marginal)
    assert (first.log_marginal != other.log_marginal).all()
    np.testing.assert_array_equal(bdmc(vae, 2, **options).gap, bounds.gap)
    assert fractions.count(1.0) == 2


def test_summaries_are_ready_for_json() -> None:
    vae, x = _bernoulli(), torch.ones(5, 4)
    annealed = ais(vae, x, num_chains=1, num_temperatures=3, base_measure={"data": "ones"})
    known = json.loads(json.dumps(annealed.summary(), allow_nan=False))
    assert known["mcse"] is None  # there is no spread of one chain
    assert known["base_measure"]["data"] == "ones"
    bits = -annealed.log_marginal.mean() / (4 * math.log(2))
    assert known["bits_per_dim"] == pytest.approx(bits)
    assert "5 observations, 1 chain from the guide" in repr(annealed)
    bounds = bdmc(vae, 1, num_chains=2, num_temperatures=3)
    assert json.loads(json.dumps(bounds.summary(), allow_nan=False))["gap_standard_error"] is None
    assert "1 simulated observation," in repr(bounds)


def test_a_trajectory_that_diverges_is_rejected() -> None:
    """Fails when a density that is not a number is accepted."""

    def density(z: Tensor) -> Point:
        broken = torch.where(z > 0.5, math.nan, -z.square() / 2)
        return Point(z, broken.sum(-1), torch.zeros_like(z[..., 0]), -z, torch.zeros_like(z))

    point = density(torch.zeros(500, 1, 1))
    moved, probability = transition(density, point, 1.0, torch.ones(1), torch.ones(1, 1), 1)
    assert (moved.z <= 0.5).all()
    assert 0 < (probability == 0).float().mean() < 1


@pytest.mark.long
def test_compiled_transitions_have_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a mask, and a last batch that is shorter; float64, so that no acceptance is close.

    Fails when a graph keeps the step size, the temperature or the data of its first call.
    """
    vae = _bernoulli().double()
    x = vae.sample(5)
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) > 0.2
    monkeypatch.setattr(_path, "draws_at_once", lambda *_: 2 * 3)  # two observations of three
    options: dict[str, Any] = {"num_chains": 3, "num_temperatures": 6, "mask": mask}
    eager = ais(vae, x, **options)
    calls = _path.Plan(3, 6, 3, "guide").warmup_transitions
    operations = 2 * 3 * _draws.decoder_operations(vae) * calls * _path._WARMUP_CHAINS
    # Enough for the warm-up of the two full batches, and for nothing else: one graph, not four.
    monkeypatch.setitem(_draws._WORTH, "cpu", 3 * operations)
    replayed = []

    class _Counted(_transitions.Graph):
        def __call__(self, *args: Tensor) -> list[Tensor]:
            replayed.append(len(args[0]))
            return super().__call__(*args)

    monkeypatch.setattr(_transitions, "Graph", _Counted)
    compiled = ais(vae, x, **options)
    assert replayed == [_path._WARMUP_CHAINS] * 2 * calls
    for name in ("log_marginal", "mcse", "acceptance", "step_size"):
        np.testing.assert_allclose(getattr(compiled, name), getattr(eager, name), rtol=1e-8)
