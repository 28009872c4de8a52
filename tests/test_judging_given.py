"""Every judging verb takes conditions, covariates and masks, and gives the right values with them.

The model is linear and Gaussian in one latent number and in the condition, and its guide is the
posterior of what a mask leaves, so that every figure is known in closed form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

import pyro_vae as pv
from pyro_vae.criticism import calibrate, check, default_statistics, pit
from pyro_vae.criticism._replicates import simulate
from pyro_vae.data import Rows
from pyro_vae.distributions import inverse_positive
from pyro_vae.evaluation import (
    ais,
    anomalies,
    bdmc,
    enumerate_log_prob,
    gaps,
    posterior_draws,
    probe,
    rate_distortion,
)
from pyro_vae.report import interpolations, page, side_by_side, traversals

DIM, SIZE, NOISE = 5, 3, 0.6
WEIGHT = torch.tensor([0.5, -1.0, 0.8, 1.2, -0.7])
SHIFT = torch.arange(float(SIZE * DIM)).reshape(SIZE, DIM).sin() * 2


class Decoder(nn.Module):
    """E[x|z, c] = w z + shift[c]."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))  # says in which dtype the model computes

    def forward(self, z: Tensor, cond: Tensor) -> Tensor:
        return self.one * (z * WEIGHT.to(z) + cond @ SHIFT.to(z))


class Encoder(nn.Module):
    """The posterior of z given the entries that are seen, and the condition."""

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        value, seen = x.split(DIM, -1)
        weight = seen * WEIGHT.to(x)
        precision = 1 + weight.square().sum(-1, keepdim=True) / NOISE**2
        loc = ((value - cond @ SHIFT.to(x)) * weight).sum(-1, keepdim=True) / NOISE**2 / precision
        return torch.cat([loc, inverse_positive(precision.rsqrt())], -1)


def linear() -> pv.VAE:
    likelihood = pv.likelihoods.Normal((DIM,), scale=NOISE)
    parts = (pv.priors.Normal(1), pv.guides.Normal(1), likelihood, Encoder(), Decoder())
    return pv.VAE(*parts, cond_size=SIZE, show_mask=True).double()


def given(size: int, hide: bool = True) -> dict[str, Tensor]:
    cond = torch.eye(SIZE).double()[torch.arange(size) % SIZE]
    mask = torch.rand(size, DIM) > 0.3
    mask[:, 0] = True
    return {"cond": cond, "mask": mask} if hide else {"cond": cond}


def exact(x: Tensor, cond: Tensor, mask: Tensor) -> Tensor:
    """log p(x|c) of what is seen."""
    covariance = WEIGHT[:, None] * WEIGHT + NOISE**2 * torch.eye(DIM)
    found = []
    for row, c, seen in zip(x, cond, mask, strict=True):
        both = covariance.double()[seen][:, seen]
        loc = (c @ SHIFT.double())[seen]
        found.append(MultivariateNormal(loc, both).log_prob(row[seen]))
    return torch.stack(found)


@pytest.fixture
def model() -> pv.VAE:
    return linear()


def _data(vae: pv.VAE, size: int) -> tuple[Tensor, dict[str, Any]]:
    beside = given(size)
    return vae.sample(size, cond=beside["cond"]), beside


@pytest.mark.parametrize("initial", ["guide", "prior"])
def test_annealing_finds_log_p_of_what_is_seen(model: pv.VAE, initial: Any) -> None:
    """Within four errors each; fails when the condition or the mask is left out on the way."""
    x, beside = _data(model, 30)
    found = ais(model, x, num_chains=32, num_temperatures=40, initial=initial, **beside)
    truth = exact(x, beside["cond"], beside["mask"]).numpy()
    error = np.maximum(found.mcse, 1e-6)
    assert np.abs((found.log_marginal - truth) / error).max() < (1 if initial == "guide" else 4.5)


def test_both_bounds_hold_at_conditions(model: pv.VAE) -> None:
    cond = given(20)["cond"]
    found = bdmc(model, 20, num_chains=8, num_temperatures=20, cond=cond)
    truth = exact(found.x, cond, torch.ones(20, DIM, dtype=torch.bool)).numpy()
    assert np.abs(found.lower - truth).max() < 1e-5  # from the posterior there is no way to go
    assert np.abs(found.upper - truth).max() < 1e-5


def test_gaps_of_the_posterior_itself_are_nothing(model: pv.VAE) -> None:
    x, beside = _data(model, 20)
    found = gaps(model, x, num_steps=20, num_samples=200, **beside)
    truth = exact(x, beside["cond"], beside["mask"]).numpy()
    assert np.abs(found.log_marginal - truth).max() < 1e-6
    assert np.abs(found.approximation).max() < 1e-6
    assert np.abs(found.amortisation).max() < 1e-6


@pytest.mark.long
@pytest.mark.parametrize("method", ["guide", "importance", "nuts"])
def test_posterior_draws_are_given_what_is_seen(model: pv.VAE, method: Any) -> None:
    """Of each observation within five standard errors of its posterior mean."""
    x, beside = _data(model, 2)
    options = {"num_draws": 200, "num_warmup": 50, "num_chains": 2}
    draws = posterior_draws(model, x, method=method, **options, **beside)
    q = model.encode(x, **beside)
    ess = 200 if draws.ess is None else np.minimum(200, draws.ess)
    error = q.stddev[:, 0].detach() / torch.as_tensor(ess).sqrt()
    assert ((draws.z.mean(0) - q.mean.detach())[:, 0].abs() / error).max() < 5


def test_the_rate_is_that_of_the_posterior(model: pv.VAE) -> None:
    x, beside = _data(model, 60)
    found = rate_distortion(model, x, **beside)
    q = model.encode(x, **beside)
    kl = 0.5 * (q.mean.square() + q.variance - 1 - q.variance.log())[:, 0]
    np.testing.assert_allclose(found.rate, kl.detach().numpy(), rtol=1e-6)


def test_states_are_summed_for_what_is_seen() -> None:
    parts = (pv.priors.Categorical(1, 3), pv.guides.GumbelSoftmax(1, 3))
    vae = pv.VAE(*parts, pv.likelihoods.Bernoulli((4,)), cond_size=SIZE).double()
    cond, x = given(7)["cond"], torch.ones(7, 4).double()
    mask = torch.rand(7, 4) > 0.5
    mask[:, 0] = True
    log_probs = []
    for z in torch.eye(3).double():
        each = vae.decode(z.expand(7, 1, 3), cond=cond).base_dist.log_prob(x)
        log_probs.append((each * mask).sum(-1) - np.log(3))
    found = enumerate_log_prob(vae, x, cond=cond, mask=mask)
    torch.testing.assert_close(found, torch.stack(log_probs).logsumexp(0))
    known = gaps(vae, x, num_steps=5, cond=cond, mask=mask)
    np.testing.assert_allclose(known.log_marginal, found.detach().numpy(), rtol=1e-9)


# Checks.


@pytest.mark.long
def test_a_true_model_passes_given_what_is_seen(model: pv.VAE) -> None:
    """At its conditions, with the same entries hidden; the planted faults below do not pass."""
    x, beside = _data(model, 200)
    assert check(model, x, **beside).num_failed == 0
    assert pit(model, x, **beside).num_failed == 0
    assert pit(model, x, condition_on="rest", **beside).num_failed == 0
    assert calibrate(model, num_simulations=300, **beside).num_failed == 0


def test_a_model_at_wrong_conditions_fails(model: pv.VAE) -> None:
    """The margins of all data together are right: only what is known of each shows it."""
    x, beside = _data(model, 200)
    wrong = beside | {"cond": beside["cond"].roll(1, 0)}
    failed = {row.statistic for row in check(model, x, **wrong).rows if row.failed}
    assert "classifier" in failed


def test_a_guide_that_ignores_the_mask_is_found(model: pv.VAE) -> None:
    """What is hidden is filled by zeros; a guide that takes those for data is not the posterior."""
    beside = given(200)
    encoder = model.guide.encoder

    class Blind(nn.Module):
        def forward(self, x: Tensor, cond: Tensor) -> Tensor:
            value, _ = x.split(DIM, -1)
            return encoder(torch.cat([value, torch.ones_like(value)], -1), cond)

    model.guide.encoder = Blind()
    assert calibrate(model, num_simulations=300, **beside).num_failed > 0


def test_replicates_hide_what_is_hidden(model: pv.VAE) -> None:
    x, beside = _data(model, 6)
    rows = model.accepts(Rows(x, beside))
    replicates = simulate(model, 3, 6, rows.given)
    assert (replicates[:, ~beside["mask"]] == rows.x[~beside["mask"]]).all()
    assert (replicates[:, beside["mask"]] != rows.x[beside["mask"]]).all()
    placed = pit(model, x, num_draws=9, **beside)
    np.testing.assert_array_equal(np.isnan(placed.values), ~beside["mask"].numpy())
    assert placed.ecdf.shape[0] == DIM
    tree = pv.to_datatree(model, x, num_draws=3, **beside)
    for group in ("observed_data", "posterior_predictive", "prior_predictive"):
        hidden = np.isnan(tree[group]["x"].values.reshape(-1, 6, DIM))
        np.testing.assert_array_equal(hidden, np.broadcast_to(~beside["mask"], hidden.shape))
    np.testing.assert_array_equal(tree["constant_data"]["cond"], beside["cond"])


def test_data_sets_are_simulated_at_conditions(model: pv.VAE) -> None:
    """Means of 400 draws lie within five standard errors of those of their condition."""
    cond = given(30)["cond"]
    tree = pv.prior_predictive(model, size=30, num_draws=400, cond=cond)
    means = tree["prior_predictive"]["x"].values[0].mean(0)
    error = (WEIGHT.square() + NOISE**2).sqrt().numpy() / 20
    assert np.abs((means - (cond @ SHIFT.double()).numpy()) / error).max() < 5


@pytest.mark.long
def test_what_size_factors_explain_is_no_fault() -> None:
    """Counts in proportion to a size of 1 to 20; fails when replicates have others."""
    vae = pv.VAE(
        pv.priors.Normal(1), pv.guides.Normal(1), pv.likelihoods.Poisson((4,), size_factor=True)
    )
    sizes = torch.linspace(1, 20, 60)
    x = vae.sample(60, covariates={"size_factor": sizes})
    rows = Rows(x, {"covariates": {"size_factor": sizes}})
    assert check(vae, rows).num_failed == 0
    wrong = Rows(x, {"covariates": {"size_factor": sizes.flip(0)}})
    assert check(vae, wrong).num_failed > 0
    assert pit(vae, rows).num_failed == 0
    assert calibrate(vae, num_simulations=50, **rows.given).num_draws == 99


def test_statistics_and_pictures_are_of_what_is_given(model: pv.VAE, tmp_path: Any) -> None:
    x, beside = _data(model, 40)
    assert len(default_statistics(model, **model.accepts(Rows(x, beside)).given)) > 5
    rows = Rows(x, beside)
    assert traversals(model, rows[:1], torch.tensor([0]), steps=3).shape == (1, 3, DIM)
    path = interpolations(model, rows[:2], rows[2:4], steps=4)
    ends = model.reconstruct(x[:2], **rows[:2].given)
    torch.testing.assert_close(path[:, 0], ends)
    assert side_by_side({"a": (model, rows)}, tmp_path / "a.png").exists()


@pytest.mark.long
def test_a_page_is_of_all_conditions(tmp_path: Any) -> None:
    lines = [f"{i % 2},{i * 0.1},{'' if i % 5 == 0 else i * 0.2}" for i in range(200)]
    (tmp_path / "t.csv").write_text("\n".join(["group,a,b", *lines]), encoding="utf-8")
    data = pv.data.load(tmp_path / "t.csv", cond="group", missing=True)
    likelihood = pv.likelihoods.Normal(data.event_shape)
    vae = pv.VAE(pv.priors.Normal(1), pv.guides.Normal(1), likelihood, cond_size=2)
    text = page(vae, data, num_samples=5)
    for words in ("conditioned on", "log p(x | group)", "missing", f"Fitted to {len(data.train)}"):
        assert words in text


# Of what kind the data are.


def _same(call: Callable[..., Any], *values: Any) -> None:
    expected = call(*values)
    for convert in (
        lambda value: value.numpy(),
        lambda value: value.numpy().astype(value.numpy().dtype, order="F"),
        lambda value: value.tolist(),
        lambda value: value.repeat_interleave(2, 0)[::2],
    ):
        np.testing.assert_allclose(call(*map(convert, values)), expected, rtol=1e-9)


@pytest.mark.long
def test_arrays_and_lists_are_taken_alike(model: pv.VAE) -> None:
    """The same values but for rounding, whatever they come in."""
    x, beside = _data(model, 20)
    few: dict[str, Any] = {"num_samples": 5, "seed": np.int64(3)}

    def scores(x: Any, cond: Any, mask: Any) -> Any:
        return pv.evaluate(model, x, cond=cond, mask=mask, **few).log_marginal

    def draws(x: Any, cond: Any, mask: Any) -> Any:
        return posterior_draws(model, x, num_draws=3, cond=cond, mask=mask).z.numpy()

    def placed(x: Any, cond: Any, mask: Any) -> Any:
        return pit(model, x, num_draws=5, cond=cond, mask=mask).values

    def tested(x: Any, cond: Any, mask: Any) -> Any:
        return [row.p_value for row in check(model, x, cond=cond, mask=mask).rows]

    def simulated(cond: Any, mask: Any) -> Any:
        return calibrate(model, num_simulations=20, num_draws=9, cond=cond, mask=mask).ranks

    for call in (scores, draws, placed, tested):
        _same(call, x, beside["cond"], beside["mask"])
    _same(simulated, beside["cond"], beside["mask"])


def test_rows_bring_what_goes_with_them(model: pv.VAE) -> None:
    x, beside = _data(model, 20)
    rows = Rows(x, beside | {"labels": torch.arange(20) % 2})
    one = pv.evaluate(model, x, num_samples=5, **beside).log_marginal
    np.testing.assert_array_equal(pv.evaluate(model, rows, num_samples=5).log_marginal, one)
    found = anomalies(model, rows, Rows(3 * x, beside), reference=rows, num_samples=5)
    np.testing.assert_array_equal(found.inliers, one)
    assert probe(model, rows, np.arange(20) % 2, neighbours=2, folds=2).num_data == 20
    with pytest.raises(ValueError, match="`cond`: expected None, as `x` brings"):
        pv.evaluate(model, rows, cond=beside["cond"])


def test_models_take_arrays_and_a_seed(model: pv.VAE) -> None:
    """One seed draws the same, and leaves torch's generator where it was."""
    x, beside = _data(model, 6)
    arrays = {name: value.numpy() for name, value in beside.items()}
    q, same = model.encode(x, **beside), model.encode(x.numpy(), **arrays)
    torch.testing.assert_close(same.mean, q.mean)
    z = q.mean.detach()
    decoded = model.decode(z.numpy().astype("float32"), cond=arrays["cond"]).mean
    torch.testing.assert_close(
        decoded, model.decode(z, cond=beside["cond"]).mean, atol=1e-6, rtol=0
    )
    np.testing.assert_array_equal(
        model.reconstruct(x.tolist(), **arrays), model.reconstruct(x, **beside)
    )
    state = torch.get_rng_state()
    first = model.sample(6, cond=arrays["cond"], seed=np.int64(4))
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(model.sample(6, cond=beside["cond"], seed=4), first)
    with pytest.raises(ValueError, match="`seed`: expected an integer >= 0"):
        model.sample(6, cond=beside["cond"], seed=-1)


@pytest.mark.long
@pytest.mark.parametrize("initial", ["guide", "prior"])
def test_a_conditional_prior_is_that_of_each_condition(initial: Any) -> None:
    """Annealing agrees with many importance samples, within four errors; so does what it bounds."""
    parts = (pv.priors.Conditional(1), pv.guides.Normal(1), pv.likelihoods.Normal((DIM,)))
    vae = pv.VAE(*parts, cond_size=SIZE)
    assert vae.prior.law is not None
    for parameter in vae.prior.law.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))  # it starts at the standard normal
    cond = given(12)["cond"].float()
    x = vae.sample(12, cond=cond)
    scores = pv.evaluate(vae, x, num_samples=20_000, proposal="defensive", cond=cond)
    found = ais(vae, x, num_chains=32, num_temperatures=30, initial=initial, cond=cond)
    error = np.hypot(scores.mcse, found.mcse) + 1e-3
    assert (np.abs(found.log_marginal - scores.log_marginal) / error).max() < 4
    assert bdmc(vae, 12, num_chains=4, num_temperatures=10, cond=cond).x.shape == (12, DIM)
    draws = posterior_draws(vae, x, method="importance", num_draws=50, cond=cond)
    assert np.isfinite(draws.z.numpy()).all()
    assert calibrate(vae, num_simulations=20, num_draws=9, cond=cond).ranks.shape[0] == 20
    assert gaps(vae, x, num_steps=4, num_samples=50, cond=cond).log_marginal.shape == (12,)
