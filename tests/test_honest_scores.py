"""What scores say of themselves: bias, ties, few draws, and what they do not rank."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from linear import LinearGaussian
from scipy.special import logsumexp
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.evaluation import compare, enumerate_log_prob
from pyro_vae.evaluation.importance import _of_a_tenth, _Sums


class _Given(nn.Module):
    """An encoder or decoder that returns a table's entries whatever it is given, or ``z @ W``."""

    def __init__(self, table: Tensor, *, times_z: bool = False) -> None:
        super().__init__()
        self.table, self.times_z = nn.Parameter(table), times_z

    def forward(self, x: Tensor) -> Tensor:
        if self.times_z:
            return x.flatten(-2) @ self.table
        return self.table.expand(len(x), *self.table.shape)


def _sure_of_the_wrong_class() -> tuple[pv.VAE, Tensor]:
    """q gives 0.0014 to the class that all 200 observations are from."""
    vae = pv.VAE(
        pv.priors.Categorical(1, 4),
        pv.guides.GumbelSoftmax(1, 4),
        pv.likelihoods.Bernoulli((4,)),
        encoder=_Given(torch.tensor([[5.5, 5.5, 0.0, 5.5]])),
        decoder=_Given(torch.full((4, 4), -2.0), times_z=True),
    )
    with torch.no_grad():
        vae.decoder.table[2] = 2.0
    return vae, torch.ones(200, 4)


def test_a_small_discrete_latent_is_summed() -> None:
    """Against sums by hand; fails when it is drawn, or an expectation is not that of the guide."""
    vae, x = _sure_of_the_wrong_class()
    scores = pv.evaluate(vae, x)
    log_p = torch.nn.functional.logsigmoid(torch.tensor([-2.0, -2, 2, -2])).double() * 4
    log_q = torch.tensor([5.5, 5.5, 0.0, 5.5]).double().log_softmax(0)
    expected = {
        "log_marginal": log_p.logsumexp(0) - math.log(4),
        "reconstruction": (log_q.exp() * log_p).sum(),
        "kl": (log_q.exp() * (log_q + math.log(4))).sum(),
        "mcse": torch.zeros(()),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(scores, name), float(value), atol=2e-6, err_msg=name)
    summary = scores.summary()
    assert scores.is_exact
    assert (summary["num_samples"], summary["k_hat_above_threshold"]) == (4, 0.0)
    assert (summary["bias"], summary["notes"]) == (0.0, [])
    assert "a sum without draws" in repr(scores)
    assert "k-hat" not in repr(scores)


@pytest.mark.long
@pytest.mark.parametrize("limit", [None, 2**20])
def test_the_sum_in_pieces_under_conditions_and_masks(limit: int | None) -> None:
    vae = pv.VAE(
        pv.priors.Categorical(2, 3),
        pv.guides.GumbelSoftmax(2, 3),
        pv.likelihoods.Bernoulli((5,)),
        cond_size=2,
        show_mask=True,
        seed=0,
    )
    draw = torch.Generator().manual_seed(0)
    x = (torch.rand(40, 5, generator=draw) < 0.5).float()
    given = {
        "cond": torch.randn(40, 2, generator=draw),
        "mask": torch.rand(40, 5, generator=draw) < 0.7,
    }
    scores = pv.evaluate(vae, x, num_samples=100, max_memory=limit, **given)
    assert scores.is_exact
    exact = enumerate_log_prob(vae, x, **given)
    np.testing.assert_allclose(scores.log_marginal, exact, atol=1e-5)
    drawn = pv.evaluate(vae, x, num_samples=4000, proposal="guide", **given)
    assert not drawn.is_exact
    error = (drawn.reconstruction - scores.reconstruction).mean()
    # Of 160,000 draws whose log p(x|z) differs by less than a nat: four standard errors.
    assert abs(error) < 0.01
    np.testing.assert_allclose(drawn.kl, scores.kl, atol=1e-4)


@pytest.mark.parametrize(
    "options", [{"num_samples": 3}, {"proposal": "guide"}, {"proposal": "defensive"},
                {"smooth": True}],
)  # fmt: skip
def test_what_is_asked_for_is_drawn(options: dict[str, Any]) -> None:
    vae, x = _sure_of_the_wrong_class()
    assert not pv.evaluate(vae, x, **options).is_exact


def test_a_rare_class_of_huge_weight_is_not_trusted() -> None:
    """All other draws weigh the same, so that there is no k-hat: the effective number decides."""
    vae, x = _sure_of_the_wrong_class()
    scores = pv.evaluate(vae, x, num_samples=1000, proposal="guide", seed=1)
    seen = scores.log_marginal > float(enumerate_log_prob(vae, x[:1])) - 2
    assert seen.sum() > 100
    assert scores.unreliable[seen].all()
    share = scores.summary()["k_hat_above_threshold"]
    assert share >= seen.mean()
    assert "k-hat is too high on" in scores.notes[0]
    assert '`proposal="defensive"` (--proposal defensive)' in scores.notes[0]


def test_equal_weights_are_trusted() -> None:
    """The exact posterior as the guide leaves no tail to fit, and no error either."""
    model = LinearGaussian()
    scores = pv.evaluate(model.vae, model.vae.sample(50), num_samples=300)
    assert not scores.unreliable.any()
    assert scores.notes == []


def test_few_draws_have_an_error_that_is_unreliable() -> None:
    model = LinearGaussian(factor=1.2)
    x = model.vae.sample(20)
    (note,) = pv.evaluate(model.vae, x, num_samples=99).notes
    assert note.startswith("of 99 draws the Monte Carlo error is itself unreliable")
    assert pv.evaluate(model.vae, x, num_samples=100).notes == []


def test_a_tenth_of_the_draws_by_hand() -> None:
    """Fails when chunks that are no multiples of ten put a draw into another part."""
    draw = np.random.default_rng(0)
    log_weights = draw.normal(0, 3, (137, 5))
    guide, prior = _Sums(5, 137), _Sums(5, 137)
    for start, stop in ((0, 3), (3, 60), (60, 67), (67, 110)):
        part = torch.tensor(log_weights[start:stop])
        guide.update(part, part, part)
    part = torch.tensor(log_weights[110:])
    prior.update(part, part, part)
    estimates = []
    for first in range(10):
        own = np.r_[log_weights[:110][first::10], log_weights[110:][first::10]]
        estimates.append(logsumexp(own, 0) - math.log(len(own)))
    expected = np.mean(estimates, 0)
    np.testing.assert_allclose(_of_a_tenth(guide, prior), expected, rtol=1e-12)
    few = _Sums(5, 9)
    few.update(torch.zeros(9, 5), torch.zeros(9, 5), torch.zeros(9, 5))
    assert _of_a_tenth(few, _Sums(5, 9)).isnan().all()


@pytest.mark.long
@pytest.mark.parametrize(
    ("factor", "num_samples"), [(0.5, 100), (0.5, 1000), (0.6, 100), (0.6, 1000), (0.7, 100)]
)
def test_the_bias_is_bounded(factor: float, num_samples: int) -> None:
    """A guide too narrow by a factor loses nats that its Monte Carlo error does not cover.

    Fails when the bound is of the whole draws against half of them.
    """
    model = LinearGaussian(latent=4, factor=factor)
    x = model.vae.sample(1500)
    scores = pv.evaluate(model.vae, x, num_samples=num_samples, seed=2)
    missing = model.log_prob(x).numpy() - scores.log_marginal
    error = missing.std(ddof=1) / len(missing) ** 0.5
    (_, run) = compare({"exact": _exact(model, x, scores), "narrow": scores}).runs
    assert run.bias_bound is not None
    assert missing.mean() - 3 * error < run.bias_bound < 9 * (missing.mean() + 3 * error)


def _exact(model: LinearGaussian, x: Tensor, like: pv.evaluation.Scores) -> pv.evaluation.Scores:
    """Scores without error, of the same data."""
    log_prob, zeros = model.log_prob(x).numpy(), np.zeros(len(x))
    return replace(like, log_marginal=log_prob, log_marginal_tenth=log_prob, mcse=zeros)


@pytest.mark.long
@pytest.mark.parametrize("num_samples", [50, 200, 1000])
def test_guides_of_one_model_are_not_ranked(num_samples: int) -> None:
    """By errors over data alone the narrow ones would be 9 of them behind."""
    x = LinearGaussian(latent=4).vae.sample(400)
    scores = {}
    for factor in (1.0, 0.8, 0.7):
        torch.manual_seed(0)
        vae = LinearGaussian(latent=4, factor=factor).vae
        scores[f"times {factor}"] = pv.evaluate(vae, x, num_samples=num_samples, seed=1)
    comparison = compare(scores)
    behind = comparison.runs[-1]
    assert behind.difference_standard_error is not None
    assert [run.rank for run in comparison.runs] == [1, 1, 1]
    assert behind.difference_low is not None
    assert behind.difference_high is not None
    assert behind.difference_low < 0 < behind.difference_high
    assert "cannot be told from" in comparison.notes[-1]


def test_models_that_differ_are_ranked() -> None:
    x = torch.randn(400, 3)
    scores = {}
    for scale in (1.0, 1.3):
        likelihood = pv.likelihoods.Normal((3,), scale=scale)
        vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood,
                     decoder=_Given(torch.zeros(3)))  # fmt: skip
        scores[str(scale)] = pv.evaluate(vae, x, num_samples=200)
    runs = compare(scores).runs
    assert [(run.name, run.rank) for run in runs] == [("1.0", 1), ("1.3", 2)]
    assert runs[1].difference_high is not None
    assert runs[1].difference_high < 0


def test_intervals_hold_for_all_pairs_together() -> None:
    """Of eight models that are equally good, none is ranked behind another in 95 % of the tries.

    Fails, at some 25 %, when each pair has an interval of its own 95 %.
    """
    draw, tries, ranked = np.random.default_rng(3), 300, 0
    like = pv.evaluate(LinearGaussian().vae, torch.zeros(50, LinearGaussian().dim), num_samples=20)
    for _ in range(tries):
        columns = draw.normal(size=(8, 50))
        runs = compare({str(i): _as_scores(like, each) for i, each in enumerate(columns)}).runs
        ranked += any(run.rank > 1 for run in runs)
    assert ranked / tries < 0.05 + 3 * math.sqrt(0.05 * 0.95 / tries)


def _as_scores(like: pv.evaluation.Scores, column: np.ndarray) -> pv.evaluation.Scores:
    return replace(like, log_marginal=column, log_marginal_tenth=column)
