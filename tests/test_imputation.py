"""Imputations cover, whatever the guide was fitted to, and say how many draws they rest on."""

from __future__ import annotations

import logging
import math
from functools import cache
from typing import Any, get_args

import numpy as np
import pytest
import torch
from linear import LinearGaussian
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae import guides, likelihoods, networks, priors
from pyro_vae.data import Rows
from pyro_vae.evaluation import impute
from pyro_vae.programs.adaptive import AdaptiveMixture, effective, refined
from pyro_vae.programs.imputing import Proposal


@cache
def _complete() -> tuple[LinearGaussian, Tensor, Tensor, Tensor, Tensor]:
    """A guide that is exact for complete rows; rows with half hidden, and p(x_m | x_o) of them."""
    linear = LinearGaussian(dim=8, latent=3, bias=1.0, noise=0.5)
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(300, 8, generator=rng, dtype=torch.float64)
    x = linear.marginal.loc + noise @ linear.marginal.scale_tril.T
    mask = torch.rand(300, 8, generator=rng) > 0.5
    mask[:, 0] = True
    mean, scale = torch.zeros_like(x), torch.ones_like(x)
    center, covariance = linear.marginal.loc, linear.marginal.covariance_matrix
    for i in range(300):
        seen, lost = mask[i], ~mask[i]
        gain = covariance[lost][:, seen] @ covariance[seen][:, seen].inverse()
        mean[i, lost] = center[lost] + gain @ (x[i, seen] - center[seen])
        left = covariance[lost][:, lost] - gain @ covariance[seen][:, lost]
        scale[i, lost] = left.diagonal().sqrt()
    return linear, x, mask, mean, scale


def _covered(draws: Tensor, x: Tensor, hidden: Tensor) -> float:
    ordered = draws.double().sort(0).values
    inside = (x >= ordered[4]) & (x <= ordered[-5])  # of 99 draws: 90 %
    return float(inside[hidden].double().mean())


def test_intervals_cover_though_the_guide_saw_complete_rows() -> None:
    """Within 3 standard errors of 90 %; 4 at least below it with draws of the guide alone."""
    linear, x, mask, _, _ = _complete()
    hidden = ~mask
    error = math.sqrt(0.9 * 0.1 / int(hidden.sum()))
    found = impute(linear.vae, x, mask, num_imputations=99, seed=1)
    assert _covered(found.x, x, hidden) == pytest.approx(0.9, abs=3 * error)
    torch.manual_seed(1)
    plain = linear.vae.impute(x, mask, num_samples=1000, num_imputations=99, proposal="guide")
    assert _covered(plain, x, hidden) < 0.9 - 4 * error
    assert np.nanmin(found.ess) > 200


@pytest.mark.parametrize("proposal", ["auto", "adaptive", "defensive"])
def test_means_and_draws_are_those_of_the_exact_conditional(proposal: Proposal) -> None:
    """Errors have mean square one, in their own standard errors, to 6 of its own."""
    linear, x, mask, mean, scale = _complete()
    few = slice(0, 60)
    x, mask, mean, scale = x[few], mask[few], mean[few], scale[few]
    hidden = ~mask
    found = impute(linear.vae, x, mask, num_samples=4000, proposal=proposal, seed=2)
    error = (found.x.double() - mean) / scale * torch.from_numpy(found.ess).sqrt()[:, None]
    # Of a mean only the part of the variance that z has is unknown: the ratio is at most one.
    assert float(error[hidden].square().mean()) < 1 + 6 * math.sqrt(2 / int(hidden.sum()))
    draws = impute(linear.vae, x, mask, num_samples=4000, num_imputations=400,
                   proposal=proposal, seed=3).x.double()  # fmt: skip
    spread = ((draws - mean) / scale)[:, hidden].square().mean()
    assert float(spread) == pytest.approx(1, abs=0.05)


def test_good_guides_draw_as_before_and_only_poor_rows_are_refined() -> None:
    _linear, x, mask, _, _ = _complete()
    for factor in (1.0, 3.0):
        vae = LinearGaussian(dim=8, latent=3, bias=1.0, noise=0.5, factor=factor).vae
        guided, auto = (
            impute(vae, x, mask, num_samples=1000, proposal=name, seed=4)
            for name in ("guide", "auto")
        )
        poor = torch.from_numpy(guided.ess < 200) & ~mask.all(1)
        assert poor.any()
        assert not poor.all()
        assert torch.equal(guided.x[~poor], auto.x[~poor])
        assert (auto.ess[poor] > guided.ess[poor]).all()
        assert np.nanmax(auto.k_hat[poor]) < 0.7


def test_more_draws_until_enough_are_effective() -> None:
    """With draws of the guide alone, up to the limit that is stated."""
    linear, x, mask, _, _ = _complete()
    few = impute(linear.vae, x[:40], mask[:40], num_samples=1000, proposal="guide", seed=0)
    more = impute(linear.vae, x[:40], mask[:40], num_samples="auto", proposal="guide", seed=0)
    known = ~np.isnan(few.ess)
    assert set(more.num_samples[known]) <= {1000, 4000, 16_000}
    short = few.ess[known] < 100
    assert (more.num_samples[known][short] > 1000).any()
    assert (more.num_samples[known][~short] == 1000).all()
    assert (more.ess[known] >= few.ess[known]).all()
    assert "num_samples='auto'" in few.advice
    assert "num_samples='auto'" not in more.advice


def test_what_is_returned_is_what_the_method_returns() -> None:
    linear, x, mask, _, _ = _complete()
    for count in (None, 3):
        before = torch.get_rng_state()
        found = impute(linear.vae, x[:20], mask[:20], num_imputations=count, seed=7)
        assert torch.equal(before, torch.get_rng_state())
        torch.manual_seed(7)
        same = linear.vae.impute(x[:20], mask[:20], num_imputations=count)
        assert torch.equal(found.x, same)
        kept = found.x if count is None else found.x[0]
        assert torch.equal(kept[mask[:20]], x[:20].float()[mask[:20]])
    whole = mask.clone()
    whole[0] = True
    found = impute(linear.vae, x[:20], whole[:20])
    assert np.isnan(found.ess[0])
    assert torch.equal(found.x[0], x[0].float())


def test_a_discrete_latent_is_summed() -> None:
    torch.manual_seed(0)
    parts = priors.Categorical(1, 3), guides.GumbelSoftmax(1, 3), likelihoods.Bernoulli((4,))
    vae = pv.VAE(*parts, networks.MLP((4,)), networks.MLP((4,)), seed=0)
    with torch.no_grad():
        for parameter in vae.decoder.parameters():
            parameter.normal_(0, 2)
    x = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    mask = torch.tensor([[True, True, False, False]])
    found = impute(vae, x, mask, num_samples=10)
    z = torch.eye(3)[:, None, None]  # the three states
    probs = vae.decode(z).mean[:, 0].detach()
    seen = torch.where(x == 1, probs, 1 - probs)[:, :2].prod(1)
    exact = (seen[:, None] * probs).sum(0) / seen.sum()
    torch.testing.assert_close(found.x[0, 2:], exact[2:], rtol=1e-4, atol=1e-5)
    assert np.isnan(found.ess).all()
    assert found.num_samples.tolist() == [3]
    assert found.summary()["ess_median"] is None


@pytest.mark.long
def test_a_guide_that_never_saw_a_mask_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(60, 3, generator=torch.Generator().manual_seed(1)) > 0.3
    for masks, said in (({}, 1), ({"mask": mask}, 0)):
        vae = pv.VAE(priors.Normal(1), guides.Normal(1), likelihoods.Normal((3,)), seed=0)
        pv.fit(vae, x, epochs=1, seed=0, compile=False, **masks)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "pyro_vae"):
            for _ in range(2):
                vae.impute(x, mask, num_samples=20)
            vae.impute(x, torch.ones_like(mask), num_samples=20)
        assert vae.saw_masks is bool(masks)  # what is known of the fit is not changed by a warning
        lines = [record.message for record in caplog.records]
        assert sum("never saw a mask" in line for line in lines) == said
        assert not any("\n" in line for line in lines)


def test_proposals_that_cannot_be_are_one_line() -> None:
    linear, x, mask, _, _ = _complete()
    sphere = pv.VAE(
        priors.Hyperspherical(3), guides.Hyperspherical(3), likelihoods.Normal((8,)), seed=0
    )
    cases: list[tuple[str, dict[str, Any]]] = [
        (r"`proposal`: expected one of", {"proposal": "prior"}),
        (r"`num_samples`: expected a positive integer", {"num_samples": 0}),
        (r"`num_imputations`: expected at least num_fits = 3", {"num_fits": 3}),
        (r"`refit`: expected from rows", {"num_fits": 2, "num_imputations": 2}),
        (r"`refit`: expected None without", {"refit": lambda rows, seed: linear.vae}),
    ]
    for message, options in cases:
        with pytest.raises(ValueError, match=message) as error:
            impute(linear.vae, x, mask, **options)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="`proposal`: expected `defensive`"):
        impute(sphere, x, mask, proposal="adaptive")
    assert impute(sphere, x[:5], mask[:5], num_samples=200).x.isfinite().all()
    assert get_args(Proposal) == ("auto", "guide", "defensive", "adaptive")


def test_refined_draws_have_the_moments_of_the_posterior() -> None:
    """Means within 5 standard errors of those of the exact p(z|x), scales to 10 %."""
    linear = LinearGaussian(dim=12, latent=4, columns="correlated", factor=0.3)
    x = linear.marginal.loc.float() + torch.randn(
        10, 12, generator=torch.Generator().manual_seed(0)
    )
    exact = linear.posterior(x)
    torch.manual_seed(0)
    with torch.no_grad():
        z, log_weights = refined(linear.vae, linear.vae.accepts(Rows(x)), 4000)
    weights, ess = log_weights.double().softmax(0), effective(log_weights)
    assert float(ess.min()) > 1600
    mean = torch.einsum("sb,sbd->bd", weights, z.double())
    variance = torch.einsum("sb,sbd->bd", weights, (z.double() - mean).square())
    assert ((mean - exact.loc) / (exact.variance / ess[:, None]).sqrt()).abs().max() < 5
    torch.testing.assert_close(variance.sqrt(), exact.stddev, rtol=0.1, atol=0)


class _Shifted:
    """A refit whose model has another offset for each seed, and which keeps what it was given."""

    def __init__(self, linear: LinearGaussian) -> None:
        self.linear = linear
        self.rows: list[Rows] = []
        self.seeds: list[int] = []

    def __call__(self, rows: Rows, seed: int) -> pv.VAE:
        self.rows.append(rows)
        self.seeds.append(seed)
        return LinearGaussian(dim=8, latent=3, bias=1.0 + len(self.seeds), noise=0.5).vae


def test_each_fit_is_of_resampled_rows_and_draws_its_share() -> None:
    linear, x, mask, _, _ = _complete()
    refit = _Shifted(linear)
    some, seen = x[:30].float(), mask[:30]
    found = impute(
        linear.vae, some, seen, num_imputations=7, num_fits=3, refit=refit, num_samples=200, seed=5
    )
    assert found.x.shape == (7, 30, 8)
    assert found.num_fits == 3
    assert len(set(refit.seeds)) == 3
    for rows in refit.rows:
        assert len(rows) == 30
        assert rows.mask is not None
        drawn = {tuple(each) for each in rows.mask.int().tolist()}
        assert drawn <= {tuple(each) for each in seen.int().tolist()}
        assert 12 < len(torch.unique(rows.x, dim=0)) < 27  # 19 of 30 are expected
    # 3, 2 and 2 imputations, by the offsets of three models.
    hidden = ~seen
    means = torch.stack([each[hidden] for each in found.x]).double()
    apart = torch.cdist(means, means) / math.sqrt(int(hidden.sum()))
    assert float(apart[0, 2]) < 1.2
    assert float(apart[0, 3]) > float(apart[0, 2])
    again = impute(
        linear.vae, some, seen, num_imputations=7, num_fits=3, refit=_Shifted(linear),
        num_samples=200, seed=5, fitted_to=Rows(some, {"mask": seen}),
    )  # fmt: skip
    assert torch.equal(found.x, again.x)


@pytest.mark.long
def test_refits_widen_what_is_imputed() -> None:
    """Of few rows the parameters are not known: means of imputations vary more with refits."""
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(40, 1, generator=rng)
    x = z + 0.5 * torch.randn(40, 3, generator=rng)
    mask = torch.rand(40, 3, generator=rng) > 0.4
    mask[:, 0] = True
    network = {"encoder": networks.MLP(()), "decoder": networks.MLP(())}
    vae = pv.VAE(
        priors.Normal(1), guides.Normal(1), likelihoods.Normal((3,), scale="shared"), **network,
        show_mask=True, seed=0,
    )  # fmt: skip
    run = pv.fit(vae, x, mask=mask, epochs=60, batch_size=40, lr=2e-2, seed=0, compile=False)
    given = impute(vae, x, mask, num_imputations=20, seed=0)
    proper = impute(vae, x, mask, num_imputations=20, num_fits=5, refit=run.refit, seed=0)
    between = [float(each.x.mean(1).var(0).sum()) for each in (given, proper)]
    assert between[1] > 1.3 * between[0]


@pytest.mark.long
@pytest.mark.parametrize("count", [None, 3])
@pytest.mark.parametrize("num_samples", ["auto", 50])
def test_rows_that_no_draw_explains_are_refused_by_number(
    count: int | None, num_samples: int
) -> None:
    """A value whose log-density overflows leaves nothing to impute from, and no memory is read."""
    torch.manual_seed(0)
    vae = pv.VAE(priors.Normal(2), guides.Normal(2), likelihoods.Normal((4,)), seed=0)
    x, mask = torch.randn(6, 4), torch.ones(6, 4, dtype=torch.bool)
    x[2, 0] = 1e25
    mask[:, 3] = False
    options: dict[str, Any] = {"num_samples": num_samples, "num_imputations": count}
    words = r"`x`: expected rows .*1 that do not, first row 2,"
    for door in (impute, pv.VAE.impute):
        with pytest.raises(ValueError, match=words) as error:
            door(vae, x, mask, **options)
        assert "\n" not in str(error.value)
    mask[2] = True  # it lacks nothing: it stays as it is
    found = impute(vae, x, mask, **options)
    each = found.x if count is not None else found.x[None]
    assert (each[:, mask] == x[mask]).all()
    assert each.isfinite().all()
    assert found.num_samples[2] == 0


def test_states_of_which_none_explains_a_row_are_refused() -> None:
    vae = pv.VAE(
        priors.Categorical(1, 3), guides.GumbelSoftmax(1, 3), likelihoods.Normal((2,)), seed=0
    )
    x = torch.tensor([[0.0, 0.0], [1e25, 0.0]])
    with pytest.raises(ValueError, match="first row 1,"):
        impute(vae, x, torch.tensor([[True, False], [True, False]]))


class _Steep(nn.Module):
    """A decoder whose one seen entry pins one direction of three down, far below the prior."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        nn.init.normal_(self.linear.weight, std=3)

    def forward(self, z: Tensor) -> Tensor:
        return self.linear(z)


@pytest.mark.parametrize("scale", [1e-3, 3e-4])
def test_directions_that_float32_cannot_tell_apart_are_imputed(scale: float) -> None:
    """Means are those of p(x_m | x_o) to 0.3 of its standard deviations, on average."""
    torch.manual_seed(0)
    vae = pv.VAE(
        priors.Normal(3), guides.Normal(3), likelihoods.Normal((4,), scale=scale),
        decoder=_Steep(), standardize=False,
    )  # fmt: skip
    x, mask = torch.randn(30, 4), torch.zeros(30, 4, dtype=torch.bool)
    mask[:, 0] = True
    found = impute(vae, x, mask, num_samples=1000)
    weight, bias = (each.detach() for each in vae.decoder.parameters())
    covariance = weight @ weight.T + scale**2 * torch.eye(4)
    mean = bias[1:] + covariance[1:, 0] / covariance[0, 0] * (x[:, :1] - bias[0])
    left = covariance.diagonal()[1:] - covariance[1:, 0].square() / covariance[0, 0]
    assert np.median(found.ess) > 100
    assert ((found.x[:, 1:] - mean) / left.sqrt()).square().mean().sqrt() < 0.3


@pytest.mark.parametrize("count", [1, 4, 9])
def test_few_adapted_draws_have_the_density_they_are_drawn_from(count: int) -> None:
    """E[p/q] is one, to 5 standard errors, though what is not of the prior is far off."""
    torch.manual_seed(0)
    prior = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(1), 1.0), 1)
    mean, covariance = torch.full((50_000, 1), 4.0), torch.full((50_000, 1, 1), 0.05)
    mixture = AdaptiveMixture(prior, mean, covariance, torch.Size([1]))
    z, log_prior, log_proposal = mixture.draw(count)
    assert z.shape == (count, 50_000, 1)
    weights = (log_prior - log_proposal).exp().mean(0)
    error = float(weights.std()) / math.sqrt(50_000)
    assert float(weights.mean()) == pytest.approx(1, abs=5 * error + 1e-5)


def test_what_only_the_function_takes_is_named() -> None:
    """Fails with the message of Python, which knows nothing of where it is taken."""
    linear, x, mask, _, _ = _complete()
    with pytest.raises(ValueError, match=r"`num_fits`: expected none here: `pv.evaluation.impute"):
        linear.vae.impute(x, mask, num_imputations=4, num_fits=2)  # type: ignore[call-arg]
