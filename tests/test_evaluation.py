"""Every estimate against a closed form, an exact sum, or ArviZ on the same weights."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any, Literal

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from arviz_stats.base import array_stats
from linear import LinearGaussian
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.data import Rows
from pyro_vae.evaluation import enumerate_log_prob
from pyro_vae.evaluation.pareto import k_hat, tail_length
from pyro_vae.programs.weigh import _CHUNK, draws_at_once, in_chunks, observations_at_once

_KEYS = {
    "log_marginal",
    "elbo",
    "reconstruction",
    "kl",
    "mcse",
    "standard_error",
    "k_hat_median",
    "k_hat_above_threshold",
    "active_units",
    "num_samples",
    "estimator",
    "bias",
    "notes",
    "base_measure",
}


def _linear_gaussian(factor: float, size: int = 1000) -> tuple[pv.VAE, Tensor, np.ndarray]:
    """A model whose guide is its posterior but for the factor, data, and their log p(x)."""
    model = LinearGaussian(factor=factor)
    x = model.vae.sample(size)
    return model.vae, x, model.log_prob(x).numpy()


def _categorical(size: int = 60) -> tuple[pv.VAE, Tensor]:
    vae = pv.VAE(
        pv.priors.Categorical(3, 4),
        pv.guides.GumbelSoftmax(3, 4),
        pv.likelihoods.Bernoulli((6,)),
        encoder=nn.Sequential(nn.Linear(6, 12), nn.Unflatten(1, (3, 4))),
        decoder=nn.Sequential(nn.Flatten(), nn.Linear(12, 6)),
    )
    vae.decoder[1].weight.data.mul_(8)
    return vae, vae.sample(size)


def _bernoulli(dim: int = 4, latent: int = 2) -> pv.VAE:
    return pv.VAE(
        pv.priors.Normal(latent),
        pv.guides.Normal(latent),
        pv.likelihoods.Bernoulli((dim,)),
        pv.networks.MLP(hidden=(8,)),
        pv.networks.MLP(hidden=(8,)),
    )


def test_exact_posterior_has_constant_weights() -> None:
    """Fails when the prior is left out of the weights, or the number of draws is off by one."""
    vae, x, exact = _linear_gaussian(1.0, size=200)
    weights = vae.draw_weighted(Rows(x), 50).log_weights
    assert weights.std(0).max() < 1e-4
    scores = pv.evaluate(vae, x, num_samples=300)
    np.testing.assert_allclose(scores.log_marginal, exact, atol=1e-4)
    assert scores.mcse.max() < 1e-5
    assert scores.ess.min() > 299.99
    assert not (scores.k_hat > 0.7).any()
    # With the exact posterior the bound is tight, up to the noise of 300 draws of log p(x|z).
    np.testing.assert_allclose(scores.elbo.mean(), exact.mean(), atol=0.05)


def test_reported_error_is_the_actual_error() -> None:
    """A guide a fifth too wide has light tails, so the delta method must hold.

    Fails when the reported error is a factor of 1.3 too large or too small, or when the number of
    draws is off by a hundredth.
    """
    vae, x, exact = _linear_gaussian(1.2)
    scores = pv.evaluate(vae, x, num_samples=1000)
    error = scores.log_marginal - exact
    assert (np.abs(error) < 3 * scores.mcse).mean() >= 0.99
    actual, reported = (np.sqrt(np.mean(each**2)) for each in (error, scores.mcse))
    assert 0.8 < actual / reported < 1.25
    bias = -(reported**2) / 2  # of the logarithm of a mean
    assert abs(error.mean() - bias) < 3 * scores.summary()["mcse"]
    # E[w]^2 / E[w^2] of normal weights, per latent dimension.
    share = (math.sqrt(2 * 1.2**2 - 1) / 1.2**2) ** 8
    np.testing.assert_allclose(scores.ess.mean() / 1000, share, rtol=0.02)


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_elbo_and_its_halves(factor: float) -> None:
    """Fails when the KL is that of the prior from the guide."""
    vae, x, exact = _linear_gaussian(factor)
    scores = pv.evaluate(vae, x, num_samples=500)
    q = vae.encode(x).base_dist
    kl = 0.5 * (q.variance + q.mean**2 - 1 - q.variance.log()).sum(-1).detach().numpy()
    np.testing.assert_allclose(scores.kl, kl, rtol=1e-5)
    assert scores.kl_estimator == "analytic"
    np.testing.assert_array_equal(scores.elbo, scores.reconstruction - scores.kl)
    # log p(x) - ELBO is the divergence of the guide from the posterior: known, and equal for all.
    gap = 8 * 0.5 * (factor**2 - 1 - math.log(factor**2))
    np.testing.assert_allclose((exact - scores.elbo).mean(), gap, atol=0.03)


class _StudentT(pv.guides.Guide):
    """A distribution whose divergence from the normal one has no closed form in PyTorch."""

    support = torch.distributions.constraints.real_vector

    def __init__(self) -> None:
        super().__init__()
        self.event_shape = self.param_shape = torch.Size([1])

    def forward(self, features: Tensor) -> Any:
        return dist.StudentT(6.0, features, 0.5).to_event(1)


def test_kl_is_sampled_where_no_closed_form_is_known() -> None:
    """Fails when the ratio of guide and prior is upside down."""
    vae = pv.VAE(
        pv.priors.Normal(1), _StudentT(), pv.likelihoods.Bernoulli((3,)), encoder=nn.Linear(3, 1)
    )
    x = torch.ones(1, 3)
    scores = pv.evaluate(vae, x, num_samples=20_000)
    assert scores.kl_estimator == "sampled"
    grid = torch.linspace(-15, 15, 20_001).unsqueeze(-1)
    log_q, log_p = vae.encode(x).log_prob(grid), vae.prior().log_prob(grid)
    with torch.no_grad():
        density, log_ratio = log_q.exp(), log_q - log_p
        kl = torch.trapezoid(density * log_ratio, grid[:, 0])
        variance = torch.trapezoid(density * (log_ratio - kl) ** 2, grid[:, 0])
    assert abs(scores.kl[0] - kl) < 4 * math.sqrt(variance / 20_000)


@pytest.mark.parametrize("num_samples", [30, 100, 225, 226, 1000, 4000])
def test_k_hat_is_that_of_arviz(num_samples: int) -> None:
    """Fails with a tail one longer, or without the prior on the shape."""
    scales = torch.tensor([0.01, 0.3, 1.0, 2.0, 5.0, 20.0], dtype=torch.float64)
    normal = torch.randn(num_samples, 6, dtype=torch.float64) * scales
    pareto = -torch.rand(num_samples, 6, dtype=torch.float64).log() * scales
    log_weights = torch.cat([normal, pareto], 1)
    got = k_hat(log_weights.topk(tail_length(num_samples) + 1, dim=0).values)
    _, expected = array_stats.psislw(-log_weights.numpy(), r_eff=1.0, axis=0)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-3)
    # A Pareto distribution of shape k has exponential log weights of mean k.
    assert abs(got[8] - 1.0) < 4 * 2 / math.sqrt(tail_length(num_samples) + 10)


def test_k_hat_per_observation_through_evaluate() -> None:
    """Fails when the largest weights of one block of draws displace those of another."""
    vae, x, _ = _linear_gaussian(0.6, size=20)
    scores = pv.evaluate(vae, x, num_samples=3000, seed=5)
    torch.manual_seed(5)
    with torch.no_grad():
        chunks = list(in_chunks(vae, Rows(x), 3000))
    log_weights = torch.cat([chunk.log_weights.double() for chunk in chunks]).numpy()
    _, expected = array_stats.psislw(-log_weights, r_eff=1.0, axis=0)
    np.testing.assert_allclose(scores.k_hat, expected, atol=1e-3)


def test_k_hat_tells_a_narrow_guide_from_a_good_one() -> None:
    """Fails when the prior is left out of the weights."""
    good, narrow = (_linear_gaussian(factor, size=100) for factor in (1.2, 0.5))
    good_scores, narrow_scores = (pv.evaluate(vae, x) for vae, x, _ in (good, narrow))
    assert good_scores.summary()["k_hat_above_threshold"] == 0.0
    assert narrow_scores.summary()["k_hat_above_threshold"] > 0.5
    assert good_scores.k_hat.max() < np.median(narrow_scores.k_hat)


def test_k_hat_at_its_limits() -> None:
    short = k_hat(torch.arange(6, 0, -1, dtype=torch.float64)[:, None])
    constant = k_hat(torch.zeros(60, 2, dtype=torch.float64))
    assert short.isnan().all()
    assert constant.isnan().all()
    # One weight beside which the others vanish, even as float64.
    alone = torch.linspace(0.0, -1.0, 60, dtype=torch.float64)[:, None] * 1e5
    assert k_hat(alone).tolist() == [math.inf]


@pytest.mark.parametrize("columns", ["orthogonal", "correlated"])
def test_the_closed_forms_agree_with_each_other(
    columns: Literal["orthogonal", "correlated"],
) -> None:
    """log p(x) is the joint less the posterior, at any z; the gaps are those of two normals."""
    model = LinearGaussian(12, 4, columns, factor=1.3, bias=1.0, dtype=torch.float64)
    vae = model.vae
    x = vae.sample(5)
    posterior = model.posterior(x)
    z = posterior.sample((3,))
    with torch.no_grad():
        log_joint = vae.prior().log_prob(z) + vae.decode(z).log_prob(x)
        base = vae.encode(x).base_dist
    expected_log_prob = (log_joint - posterior.log_prob(z)).numpy()
    np.testing.assert_allclose(expected_log_prob[0], model.log_prob(x), rtol=1e-10)
    np.testing.assert_allclose(expected_log_prob[2], model.log_prob(x), rtol=1e-10)
    guide = torch.distributions.MultivariateNormal(base.mean, torch.diag_embed(base.variance))
    kl = torch.distributions.kl_divergence(guide, posterior)
    np.testing.assert_allclose(kl, model.gap, rtol=1e-3)  # a scale has a floor of 1e-4
    assert (model.best_gap > 0.2) == (columns == "correlated")


def test_enumeration_is_brute_force_and_bounds_importance_weighting() -> None:
    """Fails when the prior of a state is left out, or that of a draw."""
    vae, x = _categorical()
    brute = torch.zeros(len(x), dtype=torch.float64)
    weight, bias = (p.detach().double() for p in vae.decoder[1].parameters())
    for classes in itertools.product(range(4), repeat=3):
        z = torch.zeros(3, 4, dtype=torch.float64)
        z[range(3), classes] = 1
        mean = torch.sigmoid(weight @ z.flatten() + bias)
        brute += torch.where(x.bool(), mean, 1 - mean).prod(-1) / 4**3
    exact = enumerate_log_prob(vae, x)
    torch.testing.assert_close(exact.double(), brute.log(), rtol=0, atol=1e-5)

    scores = pv.evaluate(vae, x, num_samples=10_000, proposal="guide")
    error = scores.log_marginal - exact.double().numpy()
    assert (np.abs(error) < 3 * scores.mcse).mean() > 0.97
    assert abs(error.mean()) < 3 * scores.summary()["mcse"]


def test_enumeration_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    vae, x = _categorical()
    whole = enumerate_log_prob(vae, x)
    monkeypatch.setitem(_CHUNK, "cpu", 12 * 30)  # few data and few states at a time
    assert (size := observations_at_once(vae, x)) < len(x)
    assert draws_at_once(vae, x[:size]) < 4**3
    torch.testing.assert_close(enumerate_log_prob(vae, x), whole)


def test_enumeration_needs_a_small_discrete_latent() -> None:
    with pytest.raises(ValueError, match=r"^`vae`: expected a discrete latent"):
        enumerate_log_prob(_bernoulli(), torch.ones(2, 4))
    large = pv.VAE(
        pv.priors.Categorical(20, 10), pv.guides.GumbelSoftmax(20, 10), pv.likelihoods.Poisson((4,))
    )
    with pytest.raises(ValueError, match=r"^`groups`: expected at most \d+ joint states"):
        enumerate_log_prob(large, torch.ones(2, 4))


@pytest.mark.long
@pytest.mark.parametrize("num_samples", [1, 7, 1000, 5000])
def test_memory_is_flat_and_no_draw_is_lost(num_samples: int) -> None:
    """Fails when all draws are decoded together, or when a remainder is dropped."""
    vae = _bernoulli(dim=700)
    x = torch.bernoulli(torch.full((150, 700), 0.5))
    rows: list[int] = []
    vae.decoder.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    pv.evaluate(vae, x, num_samples=num_samples)
    assert sum(rows) == num_samples * len(x)
    assert max(rows) * 700 <= _CHUNK["cpu"]


def test_the_model_and_the_random_state_stay_as_they_were() -> None:
    encoder = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Dropout(0.5))
    vae = pv.VAE(
        pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)), encoder=encoder
    )
    encoder[1].eval()
    x = torch.bernoulli(torch.full((30, 4), 0.5))
    modes = [module.training for module in vae.modules()]
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = pv.evaluate(vae, x, num_samples=30, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert [module.training for module in vae.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    assert all(parameter.grad is None for parameter in vae.parameters())

    torch.rand(1)
    again, other = (pv.evaluate(vae, x, num_samples=30, seed=seed) for seed in (3, 4))
    np.testing.assert_array_equal(again.log_marginal, first.log_marginal)
    assert (other.log_marginal != first.log_marginal).all()


def test_a_failure_restores_the_mode() -> None:
    vae = _bernoulli()

    def stop(fraction: float) -> None:
        raise KeyboardInterrupt

    state = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        pv.evaluate(vae, torch.ones(2, 4), num_samples=5, progress=stop)
    assert vae.training
    assert torch.equal(torch.get_rng_state(), state)


def test_progress_rises_to_one() -> None:
    done: list[float] = []
    pv.evaluate(_bernoulli(), torch.ones(2500, 4), num_samples=700, progress=done.append)
    assert done == sorted(done)
    assert len(done) >= 6
    assert done[-1] == 1.0


def test_classes_of_one_variable_are_one_active_unit_beside_others() -> None:
    """Fails when each class of a site is counted."""
    torch.manual_seed(0)
    vae = pv.VAE(
        pv.priors.Product([pv.priors.Normal(1), pv.priors.Categorical(1, 3)]),
        pv.guides.Product([pv.guides.Normal(1), pv.guides.GumbelSoftmax(1, 3)]),
        pv.likelihoods.Bernoulli((3,)),
        encoder=torch.nn.Linear(3, 5),
    )
    with torch.no_grad():
        vae.encoder.weight.copy_(torch.eye(5, 3).roll(2, 0) * 5)  # the class alone
    x = torch.eye(3).repeat(4, 1)
    assert pv.evaluate(vae, x, num_samples=2).active_units == 1


def test_active_units_vary_over_the_data() -> None:
    class _Encoder(nn.Module):
        def forward(self, x: Tensor) -> Tensor:  # means of variance 4/4, 0.0225/4 and 0
            return torch.cat([x[:, :1] * 2, x[:, 1:2] * 0.15, x[:, :4] * 0], -1)

    vae = pv.VAE(
        pv.priors.Normal(3), pv.guides.Normal(3), pv.likelihoods.Bernoulli((4,)), _Encoder()
    )
    x = torch.bernoulli(torch.full((200, 4), 0.5))
    assert pv.evaluate(vae, x, num_samples=2).active_units == 1


def test_a_one_hot_variable_is_one_unit() -> None:
    class _Encoder(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = torch.zeros(len(x), 2, 5)
            logits[:, 0, :4] = 10 * x
            return logits

    vae = pv.VAE(
        pv.priors.Categorical(2, 5),
        pv.guides.GumbelSoftmax(2, 5),
        pv.likelihoods.Bernoulli((4,)),
        _Encoder(),
    )
    x = torch.bernoulli(torch.full((200, 4), 0.5))
    assert pv.evaluate(vae, x, num_samples=2).active_units == 1


def test_summary_is_plain_json_and_counts_bits() -> None:
    data = pv.data.load("digits")
    vae = pv.VAE(
        pv.priors.Normal(2),
        pv.guides.Normal(2),
        pv.likelihoods.Bernoulli(data.event_shape),
        decoder=nn.Sequential(nn.Linear(2, 64), nn.Unflatten(1, data.event_shape)),
    )
    for parameter in vae.decoder.parameters():
        parameter.data.zero_()  # fair coins: one bit per dimension
    scores = pv.evaluate(vae, data.test, num_samples=200)
    summary = scores.summary()
    assert set(summary) == _KEYS | {"bits_per_dim"}
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert abs(summary["bits_per_dim"] - 1) < 4 * summary["mcse"] / (64 * math.log(2)) + 1e-4
    assert summary["base_measure"] == data.base_measure("test") | {"measure": "counting"}
    assert summary["log_marginal"] == scores.log_marginal.mean()
    assert summary["mcse"] == pytest.approx(np.sqrt((scores.mcse**2).sum()) / len(data.test))
    assert "log p(x)" in repr(scores)


def test_summary_of_real_data_has_no_bits_and_of_few_draws_no_tail() -> None:
    vae, x, _ = _linear_gaussian(1.2, size=1)
    summary = pv.evaluate(vae, x, num_samples=1).summary()
    assert set(summary) == _KEYS
    unknown = ("mcse", "standard_error", "k_hat_median", "k_hat_above_threshold", "bias")
    assert [name for name, value in summary.items() if value is None] == list(unknown)


def test_base_measure_of_data_from_elsewhere() -> None:
    vae, x = _bernoulli(), torch.ones(3, 4)
    unknown = pv.evaluate(vae, x, num_samples=2).base_measure
    given = {"data": "mine", "split": "test", "dim": 5, "fingerprint": "that of other data"}
    named = pv.evaluate(vae, x, num_samples=2, base_measure=given).base_measure
    other = pv.evaluate(vae, x * 0, num_samples=2).base_measure
    assert unknown["data"] is None
    assert named == unknown | {"data": "mine", "split": "test"}
    assert named["dim"] == 4
    assert other["fingerprint"] != unknown["fingerprint"]


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("`num_samples`: expected a positive integer, got 0", {"num_samples": 0}),
        ("`num_samples`: expected a positive integer, got 2.5", {"num_samples": 2.5}),
        ("`seed`: expected an integer >= 0", {"seed": -1}),
        ("`base_measure`: .*did you mean 'split'", {"base_measure": {"splt": 1}}),
        ("`x`: expected values in the support of Bernoulli", {"x": torch.full((2, 4), 0.5)}),
        (
            "`x`: expected values in the support of Bernoulli.*nan",
            {"x": torch.full((2, 4), np.nan)},
        ),
        ("`x`: expected a tensor of shape \\(N, 4\\)", {"x": torch.ones(2, 5)}),
        ("`x`: expected a tensor of shape \\(N, 4\\)", {"x": [[1.0, 0.0], [1.0]]}),
        ("`x`: expected at least one observation", {"x": torch.ones(0, 4)}),
        ("`vae`: expected a VAE", {"vae": nn.Linear(4, 4)}),
        (
            "`proposal`: expected one of auto, guide, defensive.*'defensive'",
            {"proposal": "defensve"},
        ),
        ("`smooth`: expected True or False, got 'yes'", {"smooth": "yes"}),
        ("`max_memory`: expected a positive integer, got 0", {"max_memory": 0}),
        ("`max_memory`: expected at least [0-9,]+ bytes for this, got 1000", {"max_memory": 1000}),
    ],
)
def test_wrong_input_is_reported_in_one_line(message: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as error:
        pv.evaluate(**{"vae": _bernoulli(), "x": torch.ones(2, 4)} | arguments)
    assert "\n" not in str(error.value)
