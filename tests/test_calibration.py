"""Simulation-based calibration: exact posteriors pass, wrong guides do not, in closed form."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import matplotlib as mpl
import numpy as np
import pytest
import torch
from arviz_plots import plot_ecdf_pit
from arviz_stats.ecdf_utils import ecdf_pit
from linear import LinearGaussian
from scipy.stats import binom, chi2, kstest, norm
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.criticism import Calibration, calibrate, pit
from pyro_vae.criticism.checks import holm
from pyro_vae.criticism.uniformity import bands, ecdf, uniformity
from pyro_vae.data.rows import Rows
from pyro_vae.distributions import inverse_positive
from pyro_vae.evaluation import PosteriorDraws
from pyro_vae.programs.weigh import _CHUNK

SMALL = {"num_simulations": 100, "num_draws": 19}


def linear(factor: float = 1.0, latent: int = 3) -> pv.VAE:
    """12 features, and a guide that is the posterior but for its scale."""
    return LinearGaussian(dim=12, latent=latent, factor=factor).vae


def collapsed() -> pv.VAE:
    """The same model with the prior as its guide."""
    vae = linear()
    with torch.no_grad():
        vae.encoder.weight.zero_()
        vae.encoder.bias.copy_(torch.cat([torch.zeros(3), inverse_positive(torch.ones(3))]))
    return vae


def categorical(factor: float = 1.0) -> pv.VAE:
    """Two groups of three classes, each alone behind half of the pixels.

    The guide is linear in x and, but for the factor on its logits, the posterior.
    """
    groups, classes, pixels = 2, 3, 4
    logits = 1.5 * torch.randn(groups, classes, pixels, generator=torch.Generator().manual_seed(1))
    decoder = nn.Sequential(nn.Flatten(), nn.Linear(groups * classes, groups * pixels, bias=False))
    slope = torch.zeros(groups, classes, groups, pixels)
    for g in range(groups):
        slope[g, :, g] = logits[g]
    encoder = nn.Sequential(
        nn.Linear(groups * pixels, groups * classes), nn.Unflatten(1, (groups, classes))
    )
    with torch.no_grad():
        decoder[1].weight.copy_(slope.reshape(groups * classes, -1).T)
        encoder[0].weight.copy_(factor * slope.reshape(groups * classes, -1))
        encoder[0].bias.copy_(-factor * nn.functional.softplus(logits).sum(-1).flatten())
    return pv.VAE(
        pv.priors.Categorical(groups, classes),
        pv.guides.GumbelSoftmax(groups, classes),
        pv.likelihoods.Bernoulli((groups * pixels,)),
        encoder,
        decoder,
    )


# The test of uniformity.


def test_p_values_are_exact() -> None:
    """Every way for 5 numbers to fall into 4 bins, against the definition of the statistic.

    Fails when the last bin is left out of the sum, or a tail excludes its own count.
    """
    size, num_bins = 5, 4
    points = np.arange(1, num_bins) / num_bins

    def gamma(bins: tuple[int, ...]) -> float:
        counts = np.array([sum(b < k for b in bins) for k in range(1, num_bins)])
        below, above = binom.cdf(counts, size, points), binom.sf(counts - 1, size, points)
        return float(2 * np.minimum(below, above).min())

    outcomes = list(itertools.product(range(num_bins), repeat=size))
    statistics = np.array([gamma(bins) for bins in outcomes])
    for i in range(0, len(outcomes), 17):
        values = (np.array(outcomes[i])[:, None] + 0.5) / num_bins
        exact = (statistics <= statistics[i] * (1 + 1e-9)).mean()
        assert uniformity(values, num_bins).p_value[0] == pytest.approx(exact, abs=1e-12)


def test_bands_are_those_of_arviz() -> None:
    """ArviZ simulates what is summed here; within two numbers of 100.

    Fails when the bands are pointwise.
    """
    rng = np.random.default_rng(0)
    points, _, low, high = ecdf_pit(rng.random(100), 0.95, n_simulations=2000, rng=rng)
    ours = bands(100, 0.05, num_bins=100)
    inner = (points > 1e-9) & (points < 1 - 1e-9)  # newer releases add the ends, 0 and 1
    points, low, high = points[inner], low[inner], high[inner]
    np.testing.assert_allclose(ours.points, points)
    np.testing.assert_allclose(ours.low, low, atol=0.02)
    np.testing.assert_allclose(ours.high, high, atol=0.02)


def test_bands_are_left_at_the_level() -> None:
    """The bands and the p-value are one test; 4 standard errors.

    Fails when the bands are those of 1.5 times the level.
    """
    values = np.random.default_rng(1).random((60, 1000))
    around = bands(60, 0.1, num_bins=20)
    curves = ecdf(values, 20)
    outside = ((curves < around.low) | (curves > around.high)).any(1)
    np.testing.assert_array_equal(outside, uniformity(values, 20).p_value <= 0.1)
    assert 0.06 < outside.mean() < 0.1 + 4 * math.sqrt(0.1 * 0.9 / 1000)


def test_far_tails_stay_in_order() -> None:
    """A sum of probabilities cannot resolve 1e-20 from 1e-40; fails without the bounds."""
    values = np.full((500, 1), 0.3)
    half = np.concatenate([np.full(250, 0.3), np.linspace(0, 0.999, 250)])[:, None]
    one, other = uniformity(values).p_value[0], uniformity(half).p_value[0]
    assert 0 <= one < other < 1e-15


# The innocent.


@pytest.mark.parametrize("build", [linear, categorical])
def test_the_exact_posterior_passes(build: Callable[[], pv.VAE]) -> None:
    """Its p-values are uniform over 100 replications, and 1 in 20 is rejected at most.

    Fails when ranks are one too high, when the true z is among its own draws, and, for one-hot
    latents, when ties are not broken at random.
    """
    vae = build()
    runs = [calibrate(vae, seed=seed, **SMALL) for seed in range(100)]
    p_values = np.stack([run.p_values for run in runs])
    uniform = [kstest(column, "uniform").pvalue for column in p_values.T]
    assert min(holm(uniform)) > 0.01
    assert sum(run.num_failed > 0 for run in runs) <= 5 + 2 * math.sqrt(100 * 0.05 * 0.95)


def test_exact_draws_pass_where_the_guide_fails() -> None:
    """Columns that share a direction: no diagonal guide follows, draws of the posterior do.

    Fails when the function's draws are not used.
    """
    model = LinearGaussian(dim=12, latent=4, columns="correlated")

    def exact(x: Tensor, num_draws: int) -> Tensor:
        assert torch.is_grad_enabled()  # for samplers that follow gradients
        return model.posterior(x).sample((num_draws,))

    corrected = calibrate(model.vae, draws=exact, num_simulations=300, seed=1)
    assert corrected.num_failed == 0
    assert corrected.draws == "exact"
    assert "log_guide" not in corrected.names
    assert calibrate(model.vae, num_simulations=300).num_failed > 0


def test_corrected_draws_pass_where_the_guide_fails() -> None:
    """A guide a fifth too narrow; by importance over 10 replications, and by NUTS once."""
    vae = linear(0.8)
    assert calibrate(vae, num_simulations=300).num_failed > 0
    runs = [calibrate(vae, draws="importance", seed=seed, **SMALL) for seed in range(10)]
    assert sum(run.num_failed > 0 for run in runs) <= 2
    many = calibrate(vae, draws="importance", num_simulations=300)
    assert (many.num_failed, many.draws) == (0, "importance")
    assert many.rows()[0].conditioned_on == "z and x ~ p, draws of importance"


@pytest.mark.slow
def test_draws_by_nuts_pass_where_the_guide_fails() -> None:
    """The same narrow guide starts its chains, and the ranks are of thinned chains."""
    vae, done = linear(0.5, latent=1), list[float]()
    options: dict[str, int] = {"num_simulations": 60, "num_draws": 19}
    assert calibrate(vae, **options).num_failed > 0
    run = calibrate(vae, draws="nuts", progress=done.append, **options)
    assert (run.num_failed, run.draws, run.ranks.shape) == (0, "nuts", (60, 4))
    assert len(done) == 6


def test_draws_by_nuts_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One chain, thinned, and a seed for each batch: 4 draws in place of each that is ranked."""
    asked: list[dict[str, int]] = []

    def drawn(vae: pv.VAE, rows: Rows, **options: int) -> PosteriorDraws:
        asked.append(options)
        z = vae.encode(rows.x).sample((options["num_draws"],))
        return PosteriorDraws(z, "nuts")

    monkeypatch.setattr("pyro_vae.criticism.calibration.posterior_draws", drawn)
    run = calibrate(linear(), draws="nuts", num_simulations=20, num_draws=9)
    assert run.ranks.shape == (20, 6)
    assert [(each["num_draws"], each["num_chains"]) for each in asked] == [(36, 1)] * 2
    assert asked[0]["seed"] != asked[1]["seed"]


# Wrong guides.


@pytest.mark.parametrize(
    ("build", "caught", "message"),
    [
        (lambda: linear(0.5), {"z[0]", "log_likelihood", "log_guide"}, "scale of the guide is too"),
        (lambda: linear(2.0), {"z[0]", "log_likelihood", "log_guide"}, "scale of the guide is too"),
        (collapsed, {"log_likelihood", "log_joint"}, "collapsed"),
        (lambda: categorical(3.0), {"z[0]", "z[1]", "log_guide"}, "too sure of itself"),
    ],
)
def test_wrong_guides_are_caught(
    build: Callable[[], pv.VAE], caught: set[str], message: str
) -> None:
    """Each in five of five replications, and advice names the fault.

    Fails for the collapsed one when log p(x|z) is not ranked.
    """
    for seed in range(5):
        run = calibrate(build(), num_simulations=300, seed=seed)
        names = {name for name, failed in zip(run.names, run.failed, strict=True) if failed}
        assert caught <= names
        assert any(message in sentence for sentence in run.advice)


def test_a_collapsed_guide_passes_the_ranks_of_z() -> None:
    """So that they alone would pass it; over 20 replications, by their own correction."""
    vae = collapsed()
    rejected = 0
    for seed in range(20):
        run = calibrate(vae, seed=seed, **SMALL)
        ranks_of_z = [name.startswith("z[") for name in run.names]
        rejected += bool(min(holm(run.p_values[ranks_of_z])) <= 0.05)
        assert run.num_failed > 0
    assert rejected <= 3  # one is expected at most


def test_a_collapsed_unit_needs_no_richer_guide() -> None:
    """Its scale is a trifle too small; fails when the family of the guide is blamed."""
    vae = collapsed()
    with torch.no_grad():
        vae.encoder.bias[3:] = inverse_positive(torch.full((3,), 0.93))
    run = calibrate(vae, num_simulations=2000, seed=0)
    assert run.collapsed == ("z[0]", "z[1]", "z[2]")
    of_z = [row.advice for row in run.rows() if row.failed and row.statistic.endswith("]")]
    assert of_z
    assert all("have collapsed onto the prior" in each for each in of_z)
    assert not any("swap guides.Normal" in each for each in of_z)
    assert calibrate(linear(0.5), **SMALL).collapsed == ()


def test_which_way_a_guide_is_wrong() -> None:
    """A guide too narrow, too wide, and shifted; fails when too small and too large are swapped."""
    assert "too small" in calibrate(linear(0.5)).advice[0]
    assert "too large" in calibrate(linear(2.0)).advice[0]
    shifted = linear()
    with torch.no_grad():
        shifted.encoder.bias[0] += 1.0
    assert calibrate(shifted).advice[0].startswith("draws of z[0] are too high")


def test_a_guide_that_misses_is_not_called_too_wide() -> None:
    """Too narrow and in the wrong place: z shows too narrow, log p(x|z) alone too wide.

    Fails when each quantity is explained by itself.
    """
    vae = linear(0.5)
    with torch.no_grad():
        vae.encoder.weight.mul_(0.3)
    run = calibrate(vae)
    assert {"log_likelihood", "log_guide"} <= set(np.array(run.names)[run.failed])
    message = " ".join(run.advice)
    assert "misses the posterior" in message
    assert "too wide" not in message


# Coverage.


def test_coverage_of_a_guide_too_narrow() -> None:
    """Halving the scale, central intervals and regions of highest density in closed form.

    Four standard errors of 2000 simulations, and one part in 200 for the number of draws. Fails
    when density is ranked the other way around.
    """
    run = calibrate(linear(0.5), num_simulations=2000, num_draws=199)
    nominal = run.coverage.nominal
    central = 2 * norm.cdf(norm.ppf((1 + nominal) / 2) / 2) - 1
    regions = chi2.cdf(chi2.ppf(nominal, 3) / 4, 3)
    for expected, actual in zip([regions, *[central] * 3], run.coverage.actual, strict=True):
        error = np.sqrt(expected * (1 - expected) / 2000)
        assert (np.abs(actual - expected) < 4 * error + 0.005).all()
    assert run.coverage.names == ("highest density", "z[0]", "z[1]", "z[2]")
    assert (run.coverage.actual[0] < run.coverage.low).mean() > 0.9


def test_coverage_of_the_exact_posterior() -> None:
    """Inside its bands, for latents of either kind."""
    for vae, names in ((linear(), 4), (categorical(), 1)):
        coverage = calibrate(vae, seed=3).coverage
        assert len(coverage.names) == names
        inside = (coverage.actual >= coverage.low) & (coverage.actual <= coverage.high)
        assert inside.all()


# What it returns, and what it leaves as it was.


def test_arviz_draws_the_ranks(tmp_path: Path) -> None:
    """One panel a quantity; fails when latents have no dimension of their own."""
    tree = calibrate(linear(), **SMALL).to_datatree()
    with mpl.rc_context({"backend": "agg"}):
        drawn = plot_ecdf_pit(tree, backend="matplotlib")
        drawn.savefig(tmp_path / "ecdf.png")
    titles = [axis.get_title() for axis in drawn.get_viz("figure").axes]
    assert len([title for title in titles if title]) == 7
    assert (tmp_path / "ecdf.png").stat().st_size > 10_000


def test_the_summary_is_ready_for_json() -> None:
    run = calibrate(linear(0.5), **SMALL)
    summary = json.loads(json.dumps(run.summary(), allow_nan=False))
    assert summary["num_failed"] == run.num_failed > 0
    assert [row["name"] for row in summary["quantities"]] == list(run.names)
    assert summary["coverage"]["nominal"] == [0.5, 0.8, 0.9, 0.95]
    assert summary["advice"] == list(run.advice)
    for row, name in zip(run.rows(), run.names, strict=True):
        assert row.statistic == f"rank of {name}"
        assert row.calibrated
        assert bool(row.advice) == row.failed == (row.adjusted <= 0.05)
        assert not row.failed or not row.low <= row.observed <= row.high
    assert repr(run).startswith("Calibration(100 simulations, 19 draws of guide)")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_seed_decides_and_nothing_is_disturbed(dtype: torch.dtype) -> None:
    """Fails when the generator is left where the simulations end, or the mode at evaluation."""
    vae = linear().to(dtype).train()
    before = torch.get_rng_state()
    one, two = (calibrate(vae, seed=4, **SMALL) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert vae.training
    np.testing.assert_array_equal(one.ranks, two.ranks)
    assert not np.array_equal(one.ranks, calibrate(vae, seed=5, **SMALL).ranks)
    assert one.ranks.shape == (100, 7)
    assert one.ranks.min() == 0
    assert one.ranks.max() == 19


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images in pieces: the decoder never returns more than a chunk; fails when all z are decoded.

    Progress reaches one in several steps.
    """
    monkeypatch.setitem(_CHUNK, "cpu", 2**10)
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((1, 4, 4)))
    sizes: list[int] = []
    vae.decoder.register_forward_hook(lambda _module, _input, out: sizes.append(out.numel()))
    done: list[float] = []
    run = calibrate(vae, num_simulations=40, num_draws=30, progress=done.append)
    assert max(sizes) <= 2**10
    assert done == sorted(done)
    assert len(done) > 1
    assert done[-1] == 1.0
    assert run.ranks.shape == (40, 6)


def test_a_uniform_prior_is_not_ranked() -> None:
    """All of its ranks would be ties, and one more p-value to correct for."""
    run = calibrate(categorical(), **SMALL)
    assert run.names == ("z[0]", "z[1]", "log_likelihood", "log_joint", "log_guide")
    assert isinstance(run, Calibration)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_simulations": 0}, "`num_simulations`: expected a positive integer, got 0"),
        ({"num_draws": 1.5}, "`num_draws`: expected a positive integer, got 1.5"),
        ({"level": 1.5}, "`level`: expected a number between 0 and 1, got 1.5"),
        ({"seed": -1}, "`seed`: expected an integer >= 0"),
        ({"draws": "gide"}, "`draws`: expected one of guide, importance, nuts, a function"),
        (
            {"draws": lambda x, n: x, "num_simulations": 10},
            r"`draws`: expected a function that returns latents of shape \(99, 10, 3\), got Tensor",
        ),
    ],
)
def test_wrong_options_of_calibrate(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibrate(linear(), **options)


def test_what_is_no_number_is_refused() -> None:
    vae = linear()
    with torch.no_grad():
        vae.encoder.bias.fill_(math.nan)
    with pytest.raises(ValueError, match="`vae`|parameter loc"):
        calibrate(vae, **SMALL)


# Held-out data.


def test_values_are_those_of_the_closed_form() -> None:
    """Each entry alone, and given the rest, in a linear-Gaussian model with a guide too wide.

    Four standard errors of the effective draws. Fails when x_d is left in the weights, and when z
    given nothing comes from the guide.
    """
    model = LinearGaussian(dim=6, latent=2, columns="correlated", factor=1.5, seed=3)
    x = model.vae.sample(40)
    covariance = model.weight @ model.weight.T + model.noise**2 * torch.eye(6).double()
    precision = covariance.inverse()
    alone = norm.cdf(x / covariance.diagonal().sqrt())
    rest = norm.cdf((x.double() @ precision) / precision.diagonal().sqrt())
    for condition_on, exact in (("nothing", alone), ("rest", rest)):
        run = pit(model.vae, x, condition_on=condition_on, num_draws=1000)
        error = np.sqrt(exact * (1 - exact) / run.ess) + 2 / run.ess
        assert (np.abs(run.values - exact) < 4 * error).all()
    assert run.ess.max() < 1000


@pytest.mark.parametrize("condition_on", ["nothing", "rest"])
@pytest.mark.parametrize("build", [linear, categorical])
def test_data_of_the_model_are_uniform(
    build: Callable[[], pv.VAE], condition_on: Literal["nothing", "rest"]
) -> None:
    """No false alarm in 1 of 20, and uniform p-values; discrete data too.

    Fails when the ties of discrete data are not broken at random.
    """
    vae = build()
    options = {"num_draws": 19} if condition_on == "nothing" else {"num_draws": 200}
    runs = [
        pit(vae, vae.sample(100), condition_on=condition_on, seed=seed, **options)
        for seed in range(15)
    ]
    p_values = np.concatenate([run.p_values for run in runs])
    assert kstest(p_values, "uniform").pvalue > 0.01
    assert sum(run.num_failed > 0 for run in runs) <= 3


def test_what_the_values_reject() -> None:
    """Outliers by the marginals; a missing correlation only by what is predicted from the rest.

    Fails when both are predicted from nothing.
    """
    vae = linear()
    x = vae.sample(500)
    tails = x + 1.5 * torch.randn(500, 12)
    run = pit(vae, tails)
    assert run.num_failed > 6
    assert "more spread out" in run.advice[0]
    shuffled = torch.stack([column[torch.randperm(500)] for column in x.unbind(1)], 1)
    assert pit(vae, shuffled).num_failed == 0
    assert pit(vae, shuffled, condition_on="rest", num_draws=300).num_failed > 3
    assert pit(vae, x).note == pit(vae, x, condition_on="rest").note == ""
    assert pit(vae, x + 0.5).advice[0].startswith("x is higher than predicted in x[")


def test_few_effective_draws_do_not_reject() -> None:
    """A true model with a guide that is far too narrow."""
    vae = linear(0.05)
    x = vae.sample(300)
    run = pit(vae, x, condition_on="rest", num_draws=300)
    assert min(holm(run.p_values.tolist())) < 0.05, "as if nothing were left out"
    assert run.num_failed == 0
    assert not run.trusted.any()
    assert np.isnan(run.adjusted).all()
    assert run.note.startswith("12 of 12 entries are not in the verdict: fewer than 20 effective")
    summary = json.loads(json.dumps(run.summary(), allow_nan=False))
    assert (summary["num_trusted"], summary["worst"]["adjusted"]) == (0, None)
    assert repr(run).splitlines()[0].endswith("0 of 0 entries failed at 0.05")
    # Nothing is weighted when nothing is given.
    assert pit(vae, x, num_draws=9).trusted.all()


def test_values_in_arviz_and_json(tmp_path: Path) -> None:
    """Images keep their dimensions; fails when they are flattened."""
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Poisson((1, 2, 3)))
    run = pit(vae, vae.sample(60), num_draws=9)
    assert run.ecdf.shape == (1, 2, 3, 99)
    assert run.conditioned_on == "z ~ p(z)"
    summary = json.loads(json.dumps(run.summary(), allow_nan=False))
    assert summary["num_entries"] == 6
    assert summary["ess_min"] == pytest.approx(9)
    tree = run.to_datatree()
    assert tree["pit"]["x"].dims == ("chain", "draw", "channel", "row", "column")
    with mpl.rc_context({"backend": "agg"}):
        drawn = plot_ecdf_pit(tree, group="pit", backend="matplotlib")
        drawn.savefig(tmp_path / "pit.png")
    titles = [axis.get_title() for axis in drawn.get_viz("figure").axes]
    assert len([title for title in titles if title]) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"condition_on": "other"}, "`condition_on`: expected one of nothing, rest, got 'other'"),
        ({"num_draws": 0}, "`num_draws`: expected a positive integer, got 0"),
        ({"level": 0.0}, "`level`: expected a number between 0 and 1, got 0.0"),
    ],
)
def test_wrong_options_of_pit(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pit(linear(), torch.zeros(3, 12), **options)
    with pytest.raises(ValueError, match="`x`: expected a tensor of shape"):
        pit(linear(), torch.zeros(3, 11))
