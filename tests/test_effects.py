"""Effect sizes say how far off a model is, whatever the number of data."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch
from scipy.stats import mannwhitneyu
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.criticism import Statistic, check
from pyro_vae.criticism.effects import effects_of, from_auc, severity, spreads_of
from pyro_vae.criticism.two_sample import _interval

EPS = 1e-6
MEAN = Statistic("mean", lambda x: x.mean(-2))


def _model(features: int = 4) -> pv.VAE:
    """Columns of variance 2 and of correlation one half."""
    decoder, encoder = nn.Linear(1, features), nn.Linear(features, 2)
    decoder.weight.data.fill_(1.0)
    decoder.bias.data.zero_()
    likelihood = pv.likelihoods.Normal((features,), scale=1.0)
    return pv.VAE(pv.priors.Normal(1), pv.guides.Normal(1), likelihood, encoder, decoder)


def _within(rate: float, nominal: float, tries: int) -> bool:
    return abs(rate - nominal) < 3 * math.sqrt(nominal * (1 - nominal) / tries)


@pytest.mark.parametrize("size", [100, 1000])
def test_that_of_a_mean_is_cohens_d(size: int) -> None:
    """Half a standard deviation, in few data and in many: within four standard errors."""
    torch.manual_seed(0)
    x, draws = 3 * torch.randn(1, size, 2) + 1.5, 3 * torch.randn(400, size, 2)
    (spread,) = spreads_of([MEAN], x, seed=0)
    found = effects_of(MEAN(x)[0], MEAN(draws), spread, EPS)
    assert (found.size - 0.5).abs().max() < 4 * math.sqrt(1 / size)
    width = (found.high - found.low) / 2
    torch.testing.assert_close(
        width, torch.full_like(width, 1.96 / math.sqrt(size)), rtol=0.25, atol=0.0
    )


def test_halves_vary_as_much_as_data_do() -> None:
    """As the sampling distribution is; fails without the factor of draws without replacement."""
    torch.manual_seed(0)

    def spread(x: Tensor) -> Tensor:
        return x.std(-2)

    few = [
        Statistic("first", lambda x: x[..., :20, :].mean(-2), rows=20),
        Statistic("spread", spread),
    ]
    sets = torch.randn(400, 100, 3)
    for statistic in (MEAN, *few):
        spreads = [spreads_of([statistic], x[None], seed=0)[0].scale for x in sets[:40]]
        found = torch.stack([each for each in spreads if each is not None])
        truth = statistic(sets).double().std(0)
        assert (found.square().mean(0).sqrt() / truth - 1).abs().max() < 0.15, statistic.name


def test_intervals_cover_the_effect() -> None:
    """Of 400 data sets of 50, shifted by 0.8 standard deviations; within three binomial errors."""
    torch.manual_seed(0)
    tries, truth = 400, 0.8
    draws = MEAN(torch.randn(400, 50, 1)).double()
    covered = 0
    for seed in range(tries):
        x = torch.randn(1, 50, 1) + truth
        (spread,) = spreads_of([MEAN], x, seed)
        found = effects_of(MEAN(x)[0].double(), draws, spread, EPS)
        covered += bool(found.low <= truth <= found.high)
    assert _within(covered / tries, 0.95, tries)


@pytest.mark.parametrize("truth", [0.0, 2.0])
def test_intervals_of_an_area_cover_it(truth: float) -> None:
    """Of two normal distributions; fails with the variance at the area found, zero at one."""
    torch.manual_seed(0)
    area, tries, covered = NormalDist().cdf(truth / math.sqrt(2)), 400, 0
    for _ in range(tries):
        x, y = torch.randn(25) + truth, torch.randn(50)
        found = mannwhitneyu(x.numpy(), y.numpy()).statistic / (25 * 50)
        low, high = _interval(float(found), 25, 50)
        covered += low <= area <= high
    assert _within(covered / tries, 0.95, tries)
    assert from_auc(area) == pytest.approx(truth)
    assert 0.8 < _interval(1.0, 10, 20)[0] < _interval(1.0, 10, 20)[1] < 1


def test_what_never_varies_differs_without_end_or_not_at_all() -> None:
    x = torch.tensor([0.0, 1.0, 0.1]).expand(1, 40, 3)
    draws = torch.tensor([0.0, 0.0, 0.1]).expand(30, 3).double()
    (spread,) = spreads_of([MEAN], x, seed=0)
    found = effects_of(MEAN(x)[0].double(), draws, spread, EPS)
    assert found.size.tolist() == [0.0, math.inf, 0.0]
    assert found.worst == 1


def test_rare_events_that_no_replicate_has_are_small() -> None:
    """One observation of fifty, and none in replicates; fails in their own standard deviations."""
    x = torch.zeros(1, 200, 1)
    x[:, :4] = 1.0
    (spread,) = spreads_of([MEAN], x, seed=0)
    found = effects_of(MEAN(x)[0].double(), torch.zeros(500, 1).double(), spread, EPS)
    assert 0.1 < found.size.item() < 0.3


@pytest.mark.long
def test_a_trifle_and_a_fatal_misfit_do_not_tie() -> None:
    """Their p-values are both the smallest that so many replicates allow."""
    vae = _model()
    torch.manual_seed(1)
    trifle, fatal = vae.sample(300) / 1.2, vae.sample(300)
    fatal[:, 0] += 5 * math.sqrt(2)
    first, second = (check(vae, x) for x in (trifle, fatal))
    assert {r.severity for r in first.rows if r.failed} <= {"negligible", "small"}
    (mean,) = (r for r in second.rows if r.statistic == "mean" and r.calibrated)
    assert mean.effect_low < 5 < mean.effect_high
    assert (mean.where, mean.severity, mean.effect_unit) == ("x[0]", "large", "sd of the data")
    assert mean.columns == 4
    for checks in (first, second):
        judged = [r for r in checks.rows if r.calibrated]
        assert list(checks.rows[: len(judged)]) == judged
        sizes = [abs(r.effect) for r in judged]
        assert sizes == sorted(sizes, reverse=True)
    assert second.classifier.auc > 0.9
    assert "a classifier tells draws from data: AUC " in repr(second)
    assert second.summary()["rows"][0]["severity"] == "large"


def test_a_true_model_has_no_headline() -> None:
    vae = _model()
    torch.manual_seed(3)
    checks = check(vae, vae.sample(200))
    assert checks.headline.startswith("a classifier cannot tell draws from data: AUC 0.")
    assert all(row.severity in ("negligible", "small") for row in checks.rows)


def test_words_begin_where_cohen_has_them() -> None:
    words = [severity(each) for each in (0.19, -0.2, 0.5, -0.8, math.inf)]
    assert words == ["negligible", "small", "moderate", "large", "large"]
