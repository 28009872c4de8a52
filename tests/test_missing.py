"""Data that lack entries: the likelihood of what is there, and what to put in place of the rest."""

from __future__ import annotations

import math

import pytest
import torch
from cases import LIKELIHOODS, Case
from linear import LinearGaussian
from torch import Tensor

import pyro_vae as pv
from pyro_vae import guides, likelihoods, networks, priors
from pyro_vae.data import Rows
from pyro_vae.data.hot_deck import hot_deck
from pyro_vae.distributions import by_entry
from pyro_vae.testing import some_covariates


def _linear() -> LinearGaussian:
    # A wide guide: it is as sure of z whatever is hidden.
    return LinearGaussian(dim=5, latent=2, bias=1.0, factor=3.0, dtype=torch.float64)


def _hidden(x: Tensor, share: float = 0.4) -> tuple[Tensor, Tensor]:
    """Data with NaN where a mask, drawn at random, hides them; one observation lacks everything."""
    mask = torch.rand(x.shape) > share
    mask[0] = False
    return torch.where(mask, x, torch.nan), mask


@pytest.mark.parametrize("case", LIKELIHOODS, ids=str)
def test_what_is_hidden_does_not_matter(case: Case) -> None:
    """Fails when hidden entries reach the encoder, or the density as NaN."""
    torch.manual_seed(0)
    likelihood = case()
    vae = pv.VAE(
        priors.Normal(2),
        guides.Normal(2),
        likelihood,
        encoder=networks.MLP((8,)),
        decoder=networks.MLP((8,)),
    ).double()
    params = torch.randn(1, *likelihood.param_shape).double().expand(30, -1)
    named = some_covariates(likelihood, 30)
    distribution = likelihood(params, **named)
    x = distribution.sample()
    nan, mask = _hidden(x)
    given = {"mask": mask, "covariates": named}
    if by_entry(distribution, len(likelihood.event_shape)) is None:
        with pytest.raises(ValueError, match=r"^`mask`: .*independent given z"):
            vae.accepts(Rows(nan, given))
        return
    vae.initialize(nan, **given)
    losses, gradients = [], []
    for data in (nan, torch.where(mask, x, x.roll(1, 0))):
        torch.manual_seed(1)
        loss = pv.objectives.ELBO().differentiable_loss(vae.model, vae.guide, data, **given)
        losses.append(loss)
        gradients.append(torch.autograd.grad(loss, list(vae.parameters())))
    assert losses[0].isfinite()
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=0)
    for one, other in zip(*gradients, strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    filled = vae.impute(nan, **given, num_samples=10)
    assert filled.isfinite().all()
    assert torch.equal(filled[mask], x[mask])
    draws = vae.impute(nan, **given, num_samples=10, num_imputations=2)
    assert likelihood.support.check(draws).all()


def test_nothing_hidden_is_no_mask() -> None:
    vae = _linear().vae
    x = torch.randn(6, 5).double()
    everything = torch.ones_like(x, dtype=torch.bool)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        masked = vae.log_prob(x, 50, mask=everything)
        torch.manual_seed(0)
        torch.testing.assert_close(masked, vae.log_prob(x, 50))
    scores = [pv.evaluate(vae, x, mask=m, num_samples=50) for m in (everything, None)]
    assert (scores[0].log_marginal == scores[1].log_marginal).all()
    assert "mask" in scores[0].base_measure
    assert "mask" not in scores[1].base_measure


def test_bits_are_per_entry_that_is_seen() -> None:
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
    x = torch.ones(2, 4)
    mask = torch.tensor([[True, True, False, False], [True, False, False, False]])
    scores = pv.evaluate(vae, x, mask=mask, num_samples=20).summary()
    nats = -scores["log_marginal"]
    assert scores["bits_per_dim"] == pytest.approx(nats / (1.5 * math.log(2)))


def test_scores_are_of_what_is_observed() -> None:
    """Within 4 standard errors of the exact marginal; fails when hidden entries count too."""
    torch.manual_seed(0)
    linear = _linear()
    vae, marginal = linear.vae, linear.marginal
    x, mask = _hidden(marginal.sample((30,)))
    scores = pv.evaluate(vae, x, mask=mask, num_samples=20_000, proposal="defensive")
    exact = torch.stack(
        [
            torch.distributions.MultivariateNormal(
                marginal.loc[m], marginal.covariance_matrix[m][:, m]
            ).log_prob(observation[m])
            if m.any()
            else torch.zeros(()).double()
            for observation, m in zip(x, mask, strict=True)
        ]
    )
    error = torch.from_numpy(scores.mcse) + 1e-4
    z = (torch.from_numpy(scores.log_marginal) - exact) / error
    assert z.abs().max() < 4
    plain = vae.log_prob(x, 20_000, mask=mask)
    assert (plain - exact).abs().max() < 0.1


def test_imputations_are_the_conditional_distribution() -> None:
    """Means within 4 standard errors, of the exact one; fails when z is drawn from the guide."""
    torch.manual_seed(0)
    linear = _linear()
    vae, marginal = linear.vae, linear.marginal
    x, mask = _hidden(marginal.sample((1,)).expand(2, -1).clone(), 0.5)
    mask[1] = torch.tensor([True, True, False, True, False])
    x = torch.where(mask, marginal.loc + 1.0, torch.nan)
    seen, lost = mask[1], ~mask[1]
    covariance = marginal.covariance_matrix
    gain = covariance[lost][:, seen] @ covariance[seen][:, seen].inverse()
    mean = marginal.loc[lost] + gain @ (x[1, seen] - marginal.loc[seen])
    left = covariance[lost][:, lost] - gain @ covariance[seen][:, lost]
    many = 4000
    draws = vae.impute(x, mask, num_samples=20_000, num_imputations=many)[:, 1, lost]
    error = (left.diagonal() / many).sqrt()
    assert ((draws.mean(0) - mean) / error).abs().max() < 4
    torch.testing.assert_close(draws.T.cov(), left, rtol=0.15, atol=0.05)
    single = vae.impute(x, mask, num_samples=20_000)
    assert ((single[1, lost] - mean) / error).abs().max() < 4
    assert ((single[0] - marginal.loc) / (covariance.diagonal() / many).sqrt()).abs().max() < 6


def test_the_encoder_can_see_the_mask() -> None:
    """A constant observation at its mean: only the mask separates the hidden from the observed."""
    for shape, encoder in (((4,), networks.MLP((8,))), ((2, 5, 5), networks.ConvEncoder((2,)))):
        for shown in (True, False):
            likelihood = likelihoods.Normal(shape)
            vae = pv.VAE(priors.Normal(2), guides.Normal(2), likelihood, encoder, show_mask=shown)
            x = torch.zeros(2, *shape)
            mask = torch.ones_like(x, dtype=torch.bool)
            mask[0, 0] = False
            means = vae.encode(x, mask=mask).mean
            assert torch.allclose(means[0], means[1]) != shown
            assert torch.equal(vae.encode(x).mean[1], means[1])


def test_hot_deck_gives_values_of_the_same_entry() -> None:
    x = torch.arange(12.0).reshape(6, 2)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[2:, 0] = False
    mask[:, 1] = False
    filled = hot_deck(torch.where(mask, x, torch.nan), mask, torch.tensor([7.0, 9.0]))
    assert set(filled[:, 0].tolist()) <= {0.0, 2.0}
    assert torch.equal(filled[:2, 0], x[:2, 0])
    assert (filled[:, 1] == 9.0).all()


def test_wrong_masks_are_reported_in_one_line() -> None:
    vae = _linear().vae
    x = torch.zeros(3, 5).double()
    hidden = torch.where(torch.eye(5)[:3] > 0, torch.nan, x)
    for message, call in (
        (r"`mask`: expected a boolean tensor of shape \(3, 5\)", lambda: vae.impute(x, x)),
        (r"`mask`: expected a boolean tensor", lambda: vae.log_prob(x, 1, mask=x[:2] == 0)),
        (r"`mask`: expected which entries are observed", lambda: vae.impute(x, None)),
        (r"`x`: expected values in the support .* got nan", lambda: vae.impute(hidden, x == 0)),
        (r"`num_imputations`", lambda: vae.impute(x, x == 0, num_imputations=0)),
        (r"`x`: expected values in the support", lambda: pv.evaluate(vae, hidden)),
    ):
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
