"""Likelihoods of several entries together: tables, bags of counts, sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from cases import LIKELIHOODS, Case
from torch.distributions import constraints

import pyro_vae as pv
from pyro_vae.criticism import check, pit
from pyro_vae.data import Rows
from pyro_vae.distributions import Columns, ColumnSupport, TotalMultinomial, sample_of
from pyro_vae.evaluation import compare
from pyro_vae.likelihoods import (
    Autoregressive,
    Bernoulli,
    Likelihood,
    Mixed,
    Multinomial,
    Normal,
    Poisson,
)
from pyro_vae.testing import some_covariates


def _vae(likelihood: Likelihood) -> pv.VAE:
    networks = pv.networks.MLP((8,)), pv.networks.MLP((8,))
    return pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, *networks)


def _is_of_columns(case: Case) -> bool:
    try:
        Mixed((1,), [case(event_shape=(1,))])
    except ValueError:
        return False
    return True


COLUMNS = [case for case in LIKELIHOODS if _is_of_columns(case)]


@pytest.mark.parametrize("case", LIKELIHOODS, ids=str)
@pytest.mark.parametrize("value", [-1.0, 0.3, 1.5, 1e9])
def test_what_is_outside_the_support_has_no_density(case: Case, value: float) -> None:
    """Fails when a distribution of several entries does not validate its data, as torch's do."""
    likelihood = case()
    named = {name: torch.ones(()) for name in likelihood.covariates}
    distribution = likelihood(torch.zeros(likelihood.param_shape), **named)
    x = torch.full(likelihood.event_shape, value)
    if likelihood.support.check(x).all():
        assert distribution.log_prob(x).isfinite()
    else:
        with pytest.raises(ValueError, match="within the support"):
            distribution.log_prob(x)


def test_a_table_is_its_columns_side_by_side() -> None:
    """Every likelihood of single entries in one table. Fails when parameters are split evenly."""
    parts = [case(event_shape=(1 + i % 2,)) for i, case in enumerate(COLUMNS)]
    assert len(parts) > 20
    sizes = [len(part.event_shape) and part.event_shape[0] for part in parts]
    table = Mixed((sum(sizes),), parts).double()
    params = torch.randn(4, 7, *table.param_shape).double()
    assert table.covariates == ("size_factor",)
    named = some_covariates(table, 7)
    distribution = table(params, **named)
    x = distribution.sample((3,))
    assert x.shape == (3, 4, 7, sum(sizes))
    entries, own = x.split(sizes, -1), params.split([p.param_shape[0] for p in parts], -1)
    distributions = [
        part(mine, **named if part.covariates else {})
        for part, mine in zip(parts, own, strict=True)
    ]
    each = [
        distribution.log_prob(value)
        for distribution, value in zip(distributions, entries, strict=True)
    ]
    torch.testing.assert_close(distribution.log_prob(x), sum(each))
    torch.testing.assert_close(
        distribution.mean, torch.cat([distribution.mean for distribution in distributions], -1)
    )
    seen = torch.cat(
        [
            x / named["size_factor"][:, None]
            if part.covariates
            else x.log()
            if part.support is constraints.positive
            else x
            for part, x in zip(parts, entries, strict=True)
        ],
        -1,
    )
    torch.testing.assert_close(table.encoder_input(x, **named), seen)
    wider = distribution.expand((2, 4, 7))
    torch.testing.assert_close(wider.log_prob(x[0]), distribution.log_prob(x[0]).expand(2, 4, 7))
    assert table.support.check(x).all()
    assert table.are_counts.sum() == sum(
        size
        for part, size in zip(parts, sizes, strict=True)
        if part.support is constraints.nonnegative_integer
    )
    named = some_covariates(table, 3)
    start = table.init_params(x[:, 0, 0], **named)
    alone = [
        part.init_params(value[:, 0, 0], **named if part.covariates else {})
        for part, value in zip(parts, entries, strict=True)
    ]
    torch.testing.assert_close(start, torch.cat(alone))


def test_columns_are_expanded_but_not_multiplied() -> None:
    distribution = Columns([torch.distributions.Normal(torch.zeros(2), 1.0)])
    torch.testing.assert_close(distribution.variance, torch.ones(2))
    assert distribution.expand((5, 2)).sample((3,)).shape == (3, 5, 2)
    with pytest.raises(ValueError, match=r"`batch_shape`: expected 2 columns, got \(5, 3\)"):
        distribution.expand((5, 3))


def test_the_likelihood_of_a_bad_column_is_named() -> None:
    """Fails when the table is asked for its support as a whole."""
    vae = _vae(Mixed((4,), ["Normal", Bernoulli((2,)), "Poisson"]))
    x = vae.sample(5)
    assert torch.equal(vae.accepts(Rows(x)).x, x)
    x[3, 2] = 0.5
    message = r"`x`: .* support of Bernoulli, Boolean\(\), got 0.5 at index \[3, 2\], 1 bad in all"
    with pytest.raises(ValueError, match=message):
        vae.accepts(Rows(x))
    x[3, 2], x[1, 3] = 1.0, -1.0
    with pytest.raises(ValueError, match=r"support of Poisson, .* got -1 at index \[1, 3\]"):
        vae.accepts(Rows(x))
    assert "Boolean(), Boolean(), Integer" in repr(vae.likelihood.support)


def test_a_table_comes_back_with_its_options(tmp_path: Path) -> None:
    columns = [{"class": "StudentT", "df": 3.0}, "Poisson", Normal((2,), scale=0.5)]
    vae = _vae(Mixed((4,), columns))
    again = pv.load(pv.save(vae, tmp_path / "table"))
    assert again.likelihood.spec() == vae.likelihood.spec()
    x = vae.sample(3)
    z = torch.randn(3, 2)
    torch.testing.assert_close(again.decode(z).log_prob(x), vae.decode(z).log_prob(x))


def test_what_a_table_is_measured_by() -> None:
    """Fails when all mixed tables have one measure."""
    assert Mixed((2,), ["Normal", "Laplace"]).measure == "lebesgue"
    assert Mixed((2,), ["Poisson", "Bernoulli"]).base_measure == "counting"
    mixed = [Mixed((2,), ["Normal", "Poisson"]), Mixed((2,), ["Poisson", "Normal"])]
    assert [table.measure for table in mixed] == ["mixed", "mixed"]
    x = torch.ones(9, 2)
    scores = {str(i): pv.evaluate(_vae(table), x, num_samples=2) for i, table in enumerate(mixed)}
    assert "bits_per_dim" not in scores["0"].summary()
    with pytest.raises(ValueError, match=r"measure mixed, counting in columns 1 and '1' with mea"):
        compare(scores)
    assert not ColumnSupport([constraints.boolean, constraints.real], [1, 1]).is_discrete


def test_an_encoder_sees_logarithms_of_counts_alone() -> None:
    """Fails when the other columns go through the logarithm too."""
    vae = _vae(Mixed((3,), ["Normal", "Poisson", "Bernoulli"]))
    x = torch.tensor([[-5.0, 7.0, 1.0]])
    expected = torch.tensor([[-5.0, 8.0, 1.0]])
    expected[0, 1] = expected[0, 1].log()
    torch.testing.assert_close(vae.guide.standardize(x), expected)


def test_tables_are_criticised_like_anything_else() -> None:
    vae = _vae(Mixed((4,), ["Normal", "Poisson", "Bernoulli", "Beta"]))
    x = vae.sample(60)
    checks = check(vae, x, level=0.5)
    assert {"residual mean", "marginals"} <= {row.statistic for row in checks.rows}
    assert pit(vae, x[:20], condition_on="rest", num_draws=50).values.shape == (20, 4)
    tree = pv.posterior_predictive(vae, x[:5], num_draws=3)
    assert tree["posterior_predictive"]["x"].dtype.kind == "f"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("Normal", "`columns`: expected a list of likelihoods, got 'Normal'"),
        ([], "`columns`: expected a list of likelihoods"),
        (["Normal", "Poison"], "did you mean 'Poisson'.*expected one of .*Bernoulli"),
        (["Normal"], "`columns`: expected likelihoods of 2 columns in all, got 1"),
        ([{"class": "Normal", "scales": 1}, "Normal"], "expected options of Normal.*'scales'"),
        ([{"scale": 1}, "Normal"], "`columns`: expected one of .*Bernoulli.* got None"),
        ([Poisson((1, 1)), "Normal"], "names, mappings or likelihoods of columns, got Poisson"),
        ([3, "Normal"], "names, mappings or likelihoods of columns, got 3"),
    ],
    ids=lambda value: "",
)
def test_what_is_no_table_is_reported_in_one_line(columns: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixed((2,), columns)


# Bags of counts.


def test_draws_of_a_bag_are_as_frequent_as_their_probabilities() -> None:
    """Fails when the halves of the entries share by their odds instead of their share."""
    distribution = TotalMultinomial(3, torch.tensor([[1.0, -0.5, 0.3, -2.0, 0.0]]).double(), 1)
    draws = distribution.sample((40_000,))[:, 0]
    found, counts = draws.unique(dim=0, return_counts=True)
    assert len(found) <= 35  # ways to put 3 in 5 boxes
    probs = distribution.log_prob(found[:, None]).exp()[:, 0]
    assert float(probs.sum()) > 0.999
    error = (probs * (1 - probs) / len(draws)).sqrt()
    likely = probs > 1e-3
    assert (((counts / len(draws) - probs) / error)[likely]).abs().max() < 4.5


def test_totals_follow_their_own_distribution() -> None:
    """Moments of what is drawn, started at those of the data. Fails with variance for excess."""
    likelihood = Multinomial((4,)).double()
    x = torch.distributions.NegativeBinomial(5.0, torch.tensor(0.8)).sample((4000, 4)).double()
    params = likelihood.init_params(x)
    totals = likelihood(params).sample((20_000,)).sum(-1)
    mean, variance = x.sum(1).mean(), x.sum(1).var(correction=0)
    assert abs(totals.mean() - mean) < 4 * (variance / len(totals)).sqrt()
    spread = (totals - mean).square()
    assert abs(spread.mean() - variance) < 4 * spread.std() / len(totals) ** 0.5
    assert float(likelihood.total_distribution().variance.detach()) == pytest.approx(
        float(variance), rel=1e-3
    )


def test_the_decoder_learns_by_the_distribution_given_the_total() -> None:
    """The gradient is that of torch's multinomial, conditioned on the total."""
    x = torch.tensor([3.0, 0.0, 2.0, 1.0])
    params = torch.randn(4, requires_grad=True)
    (ours,) = torch.autograd.grad(Multinomial((4,))(params).log_prob(x), params)
    given = torch.distributions.Multinomial(6, logits=params)
    (theirs,) = torch.autograd.grad(given.log_prob(x), params)
    torch.testing.assert_close(ours, theirs)


def test_a_bag_of_another_size_is_refused() -> None:
    """Fails when only single entries are looked at."""
    vae = _vae(Multinomial((3,), total=4))
    assert vae.accepts(Rows(vae.sample(6))).x.sum(1).eq(4).all()
    with pytest.raises(ValueError, match=r"of Multinomial, TotalSupport\(4\), got 1 at index \[1,"):
        vae.accepts(Rows(torch.tensor([[4.0, 0.0, 0.0], [1.0, 1.0, 1.0]])))
    unchecked = TotalMultinomial(4, torch.zeros(2), 1, validate_args=False)
    assert unchecked.log_prob(torch.tensor([1.0, 1.0])) == -torch.inf
    for total in (0, "many", 2.5, True):
        with pytest.raises(ValueError, match=r"`total`: expected a positive integer or learned"):
            Multinomial((3,), total)  # type: ignore[arg-type]


# Sequences.


def _sequences(length: int = 4, levels: int = 3) -> Autoregressive:
    """A distribution whose entries depend strongly on those before."""
    likelihood = Autoregressive((length,), levels=levels, hidden=6).double()
    with torch.no_grad():
        likelihood.network.last.weight.mul_(60)
    return likelihood


def test_probabilities_of_all_sequences_sum_to_one() -> None:
    """All 3^4 of them. Fails when an entry sees itself, or those after it."""
    likelihood = _sequences()
    states = torch.cartesian_prod(*[torch.arange(3.0).double()] * 4)
    distribution = likelihood(torch.randn(5, 6).double())
    log_probs = distribution.log_prob(states[:, None])
    assert log_probs.shape == (81, 5)
    torch.testing.assert_close(log_probs.logsumexp(0), torch.zeros(5).double())
    draws = distribution.sample((4000,))[:, 0]
    codes = (draws * torch.tensor([27, 9, 3, 1])).sum(-1).long()
    observed = torch.bincount(codes, minlength=81) / len(codes)
    probs = log_probs[:, 0].exp()
    error = (probs * (1 - probs) / len(codes)).sqrt().clamp_min(1 / len(codes))
    assert ((observed - probs) / error).abs().max() < 5


def test_what_is_unrolled_is_what_is_taught() -> None:
    """Each step's logits are those of the one pass. Fails when a step forgets its reach."""
    likelihood = _sequences(length=7)
    context = torch.randn(5, 6).double()
    seen = []

    def choose(logits: torch.Tensor) -> torch.Tensor:
        seen.append(logits)
        return torch.distributions.Categorical(logits=logits).sample()

    x = likelihood.network.unroll(context, choose)
    torch.testing.assert_close(torch.stack(seen, 1), likelihood.network(x, context))
    first, last = x.clone(), x.clone()
    first[:, 0], last[:, -1] = (x[:, 0] + 1) % 3, (x[:, -1] + 1) % 3
    logits = likelihood.network(x, context)
    assert torch.equal(likelihood.network(last, context), logits)
    moved = (likelihood.network(first, context) - logits).abs().amax((0, 2))
    assert moved[0] == 0
    assert (moved[1:] > 0).all()  # the last entry sees the first


def test_the_mean_of_sequences_is_the_greedy_one() -> None:
    likelihood = _sequences(length=5)
    distribution = likelihood(torch.randn(3, 6).double())
    greedy = distribution.mean
    assert torch.equal(greedy, distribution.mean)
    logits = likelihood.network(greedy.long(), distribution.context)
    assert torch.equal(logits.argmax(-1).double(), greedy)


def test_what_does_not_factorise_is_criticised_as_a_whole() -> None:
    for likelihood in (Multinomial((4,)), Autoregressive((4,), levels=3, hidden=6)):
        vae = _vae(likelihood)
        x = vae.sample(40)
        checks = check(vae, x, level=0.5)
        assert not any(row.statistic.startswith("residual") for row in checks.rows)
        assert "does not factorise over the entries" in str(checks.summary())
        with pytest.raises(ValueError, match=r"`condition_on`: .* does not factorise"):
            pit(vae, x, condition_on="rest", num_draws=50)
        assert pv.evaluate(vae, x, num_samples=5).log_marginal.shape == (40,)


# The scale of a normal distribution.


@pytest.mark.parametrize("scale", ["shared", "per-dimension"])
def test_a_fitted_scale_is_the_likeliest(scale: Any) -> None:
    """No gradient is left. Fails when the mean residual is taken for its root mean square."""
    likelihood = Normal((3,), scale=scale).double()
    params, x = torch.randn(6, 40, 3).double(), 2 * torch.randn(40, 3).double()
    likelihood.fit_scale(x, params)
    log_prob = likelihood(params).log_prob(x).mean()
    (gradient,) = torch.autograd.grad(log_prob, likelihood.raw_scale)
    assert gradient.abs().max() < 1e-10
    with torch.no_grad():
        for shift in (-0.01, 0.01):
            likelihood.raw_scale += shift
            assert likelihood(params).log_prob(x).mean() < log_prob
            likelihood.raw_scale -= shift


@pytest.mark.parametrize("scale", [0.5, "predicted"])
def test_a_scale_that_is_not_learned_cannot_be_fitted(scale: Any) -> None:
    with pytest.raises(ValueError, match="`scale`: expected shared, per-channel or per-dimension"):
        Normal((2,), scale=scale).fit_scale(torch.zeros(3, 2), torch.zeros(3, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_binary_entries_are_drawn_as_their_distribution_has_them(dtype: torch.dtype) -> None:
    """Within 4.5 standard errors; fails when entries are flipped or their order is another."""
    chance = torch.tensor([0.0, 1.0, 0.03, 0.5, 0.97, 0.2]).reshape(2, 3).to(dtype)
    many = dist.Bernoulli(chance.expand(40_000, 2, 3)).to_event(2)
    drawn = sample_of(many)
    assert drawn.dtype == dtype
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    exact = chance.double()
    error = (exact * (1 - exact) / 40_000).sqrt()
    assert ((drawn.double().mean(0) - exact).abs() <= 4.5 * error).all()
    pairs = drawn.double().flatten(1).T.cov()
    of_pairs = (error.flatten() * error.flatten()[:, None]) * 200  # root of 40,000 draws
    assert (pairs - pairs.diagonal().diag()).abs().le(4.5 * of_pairs).all()


def test_what_is_no_vector_of_binary_entries_is_drawn_by_itself() -> None:
    """Fails when a scalar, a dependent or a subclassed distribution is taken for one."""

    class Ones(dist.Bernoulli):  # type: ignore[misc]
        def sample(self, sample_shape: Any = ()) -> torch.Tensor:
            return torch.ones(self.shape(sample_shape))

    assert sample_of(Ones(torch.zeros(50, 2)).to_event(1)).eq(1).all()
    assert sample_of(dist.Normal(torch.zeros(5, 2), 1.0).to_event(1)).frac().ne(0).any()
    assert sample_of(dist.Bernoulli(torch.ones(5))).tolist() == [1.0] * 5
