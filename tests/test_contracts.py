"""Every exported part keeps its contract, and the contracts notice those that do not."""

from __future__ import annotations

import math
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.special
import scipy.stats
import torch
from cases import GUIDES, LIKELIHOODS, NETWORKS, PRIORS, SHAPES, Case, cases_of
from one_by_one import one_by_one
from torch import Tensor, nn

from pyro_vae import guides, likelihoods, networks, priors, testing
from pyro_vae.distributions import (
    EdgedBeta,
    ExpRelaxedCategorical,
    GroupedOneHotCategorical,
    Levels,
    inverse_positive,
    positive,
)
from pyro_vae.networks.network import Standardize


@pytest.mark.parametrize("case", PRIORS, ids=str)
def test_prior(case: Case) -> None:
    testing.check_prior(case.bound())


@pytest.mark.parametrize("case", GUIDES, ids=str)
def test_guide(case: Case) -> None:
    testing.check_guide(case.bound())


@pytest.mark.parametrize("case", LIKELIHOODS, ids=str)
def test_likelihood(case: Case) -> None:
    built = []
    for event_shape in [(1,), (1, 2), (2, 1, 1)]:
        with suppress(ValueError):
            built.append(case(event_shape=event_shape))
    assert len(built) in (0, 2, 3), (
        "a likelihood is of tables, or of any shape, but for a single entry"
    )
    for each in built or [case()]:
        testing.check_likelihood(each)


@pytest.mark.parametrize("case", NETWORKS, ids=str)
def test_network(case: Case) -> None:
    built = 0
    for in_shape, out_shape in SHAPES:
        try:
            case().build(in_shape, out_shape)
        except ValueError:
            continue  # refuses in one line what is of another shape
        testing.check_network(case(), in_shape, out_shape)
        built += 1
    assert built > 0


def test_an_argument_that_the_cases_do_not_know_is_an_error() -> None:
    class Unknown(priors.Prior):
        def __init__(self, wingspan: int) -> None:
            super().__init__()

        def forward(self, cond: Tensor | None = None) -> Any:
            return None

    with pytest.raises(LookupError, match="wingspan"):
        cases_of(Unknown)


def test_closed_options_are_tried_one_by_one() -> None:
    assert {case.arguments["mode"] for case in GUIDES if "mode" in case.arguments} == {
        "concrete",
        "enumerate",
        "soft",
        "straight-through",
    }
    scales = [c.arguments["scale"] for c in LIKELIHOODS if c.part is likelihoods.Normal]
    assert scales == [0.7, "shared", "per-channel", "per-dimension", "predicted"]


# Densities by another hand: NumPy and SciPy, from the formulas of the docstrings.


def _softplus(raw: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(raw)) + 1e-4


def _split(params: np.ndarray, count: int) -> list[np.ndarray]:
    return np.split(params, count, axis=1)


def _location_scale(logpdf: Any, case: Case, params: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A learned scale starts at 1."""
    scale: Any = case.arguments["scale"] if isinstance(case.arguments["scale"], float) else 1.0
    if case.arguments["scale"] == "predicted":
        params, raw = _split(params, 2)
        scale = _softplus(raw)
    return logpdf(x, loc=params, scale=scale)


def _gamma(case: Case, params: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A learned coefficient of variation starts at 1."""
    dispersion: Any = case.arguments["dispersion"]
    if dispersion == "predicted":
        params, raw = _split(params, 2)
        dispersion = _softplus(raw) ** 2
    shape = 1 / (dispersion if not isinstance(dispersion, str) else 1.0)
    return scipy.stats.gamma.logpdf(x, shape, scale=np.exp(params) / shape)


def _negative_binomial(
    case: Case, params: list[np.ndarray], x: np.ndarray, size: np.ndarray | float
) -> np.ndarray:
    """A learned inverse dispersion starts at 1."""
    predicted = case.arguments.get("dispersion") == "predicted"
    theta = _softplus(params[-1]) if predicted else np.ones_like(x)
    return scipy.stats.nbinom.logpmf(x, theta, theta / (theta + size * _softplus(params[0])))


def _discretized_logistic(params: np.ndarray, x: np.ndarray, components: int) -> np.ndarray:
    """Levels 0 to 6, whose middle and half range are both 3."""
    count = 3 if components > 1 else 2
    loc, raw, *logits = (np.stack(_split(p, components)) for p in _split(params, count))
    distribution = scipy.stats.logistic(3 + 3 * loc, 3 * _softplus(raw))
    below = np.where(x == 0, 0.0, distribution.cdf(x - 0.5))
    above = np.where(x == 6, 1.0, distribution.cdf(x + 0.5))
    weights = scipy.special.softmax(logits[0], axis=0) if logits else np.ones_like(loc)
    return np.log((weights * (above - below)).sum(0))


def _reference(
    case: Case, params: np.ndarray, x: np.ndarray, size: np.ndarray | float = 1.0
) -> np.ndarray:
    """Log-densities, of counts at the mean times the size factor."""
    match case.part:
        case likelihoods.Bernoulli:
            terms = scipy.stats.bernoulli.logpmf(x, scipy.special.expit(params))
        case likelihoods.Poisson:
            terms = scipy.stats.poisson.logpmf(x, size * _softplus(params))
        case likelihoods.Normal:
            terms = _location_scale(scipy.stats.norm.logpdf, case, params, x)
        case likelihoods.Laplace:
            terms = _location_scale(scipy.stats.laplace.logpdf, case, params, x)
        case likelihoods.StudentT:
            terms = _location_scale(partial(scipy.stats.t.logpdf, df=4), case, params, x)
        case likelihoods.LogNormal:
            terms = _location_scale(scipy.stats.norm.logpdf, case, params, np.log(x)) - np.log(x)
        case likelihoods.Gamma:
            terms = _gamma(case, params, x)
        case likelihoods.Beta:
            alpha, beta = map(_softplus, _split(params, 2))
            terms = scipy.stats.beta.logpdf(x.clip(1e-6, 1 - 1e-6), alpha, beta)
            terms -= np.log(np.where(x < 1e-6, alpha, np.where(x > 1 - 1e-6, beta, 1.0)))
        case likelihoods.ContinuousBernoulli:
            pi = scipy.special.expit(params)
            constant = 2 * np.arctanh(1 - 2 * pi) / (1 - 2 * pi)
            terms = np.log(constant) + x * np.log(pi) + (1 - x) * np.log1p(-pi)
        case likelihoods.Categorical:
            log_pi = scipy.special.log_softmax(np.stack(_split(params, 7)), axis=0)
            terms = np.take_along_axis(log_pi, x[None].astype(int), 0)[0]
        case likelihoods.BetaBinomial:
            terms = scipy.stats.betabinom.logpmf(x, 6, *map(_softplus, _split(params, 2)))
        case likelihoods.DiscretizedLogistic:
            terms = _discretized_logistic(params, x, case.arguments["components"])
        case likelihoods.NegativeBinomial:
            count = 2 if case.arguments.get("dispersion") == "predicted" else 1
            terms = _negative_binomial(case, _split(params, count), x, size)
        case likelihoods.ZeroInflatedNegativeBinomial:
            mean, gate, *rest = _split(
                params, 3 if case.arguments.get("dispersion") == "predicted" else 2
            )
            pi = scipy.special.expit(gate)
            inner = np.exp(_negative_binomial(case, [mean, *rest], x, size))
            terms = np.log(pi * (x == 0) + (1 - pi) * inner)
        case likelihoods.ZeroInflatedPoisson:
            rate, gate = _split(params, 2)
            pi = scipy.special.expit(gate)
            inner = scipy.stats.poisson.pmf(x, size * _softplus(rate))
            terms = np.log(pi * (x == 0) + (1 - pi) * inner)
        case likelihoods.VonMises:
            cosine, sine = _split(params, 2)
            kappa, loc = np.hypot(cosine, sine), np.arctan2(sine, cosine)
            terms = scipy.stats.vonmises.logpdf(x, kappa, loc=loc)
        case likelihoods.Ordinal:  # thresholds start at 0, 1, 2, ...
            at_most = scipy.stats.logistic.cdf(x[..., None] + [-1.0, 0.0], loc=params[..., None])
            lower = np.where(x == 0, 0.0, at_most[..., 0])
            terms = np.log(np.where(x == 6, 1.0, at_most[..., 1]) - lower)
        case likelihoods.Mixed:
            raw = params[:, 0], params[:, 1]
            terms = scipy.stats.norm.logpdf(x[:, 0], raw[0], 1.0)
            terms += scipy.stats.poisson.logpmf(x[:, 1], _softplus(raw[1]))
        case likelihoods.Multinomial:
            distribution = scipy.stats.multinomial(x.sum(1), scipy.special.softmax(params, axis=1))
            terms = distribution.logpmf(x)
            if case.arguments["total"] == "learned":  # it starts with mean and dispersion 1
                terms += scipy.stats.nbinom.logpmf(x.sum(1), 1, 0.5)
        case unknown:
            pytest.fail(f"write an independent density for {unknown}")
    return terms.reshape(len(x), -1).sum(1)


@pytest.mark.parametrize("case", LIKELIHOODS, ids=str)
def test_likelihood_is_the_distribution_it_names(case: Case) -> None:
    """Fails when the floor of ``positive`` is left out, or a variance taken for a scale."""
    try:
        likelihood = case(event_shape=(2, 3)).double()
    except ValueError:  # it is of tables
        likelihood = case().double()
    params = torch.randn(50, *likelihood.param_shape).double()
    named = testing.some_covariates(likelihood, 50)
    x = likelihood(params, **named).sample()
    if case.part is likelihoods.Autoregressive:
        reference = one_by_one(likelihood.network, params.numpy(), x.numpy().reshape(50, 6))
    elif case.part is likelihoods.Dirichlet:
        alpha = _softplus(params.numpy())
        pairs = zip(x.numpy(), alpha, strict=True)
        reference = np.array([scipy.stats.dirichlet.logpdf(each, a) for each, a in pairs])
    elif case.part is likelihoods.Multinomial:
        reference = _reference(case, params.reshape(50, 6).numpy(), x.reshape(50, 6).numpy())
    else:
        size = named["size_factor"].reshape(50, 1, 1).numpy() if named else 1.0
        reference = _reference(case, params.numpy(), x.numpy(), size)
    # A learned spread starts at 1 in single precision.
    np.testing.assert_allclose(
        likelihood(params, **named).log_prob(x).detach().numpy(), reference, rtol=1e-8, atol=2e-7
    )


# The mean of a sequence is the greedy one, and that of angles a direction.
@pytest.mark.parametrize(
    "case",
    [
        each
        for each in LIKELIHOODS
        if each.part not in (likelihoods.Autoregressive, likelihoods.VonMises)
    ],
    ids=str,
)
def test_mean_of_a_likelihood_is_that_of_its_draws(case: Case) -> None:
    likelihood = case(event_shape=(2,)).double()
    params = torch.linspace(-1, 1, likelihood.param_shape[0]).double()
    distribution = likelihood(params, **testing.some_covariates(likelihood))
    draws = distribution.sample((20_000,))
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - distribution.mean) / error).abs().max() < 4


def test_levels_have_moments() -> None:
    distribution = Levels(logits=torch.randn(3, 5).double())
    k = torch.arange(5)
    probs = distribution.probs.numpy()
    torch.testing.assert_close(distribution.mean, torch.from_numpy(probs @ k.double().numpy()))
    second = torch.from_numpy(probs @ k.double().square().numpy())
    torch.testing.assert_close(distribution.variance, second - distribution.mean.square())


def test_mass_at_the_ends_of_a_beta_distribution_is_kept() -> None:
    """Fails when the density at the ends is that of the last inner point."""
    distribution = EdgedBeta(torch.tensor(0.05).double(), torch.tensor(0.3).double())
    edge = distribution.EDGE * distribution.log_prob(torch.tensor([0.0, 1.0]).double()).exp()
    exact = scipy.stats.beta(0.05, 0.3)
    assert float(edge[0]) == pytest.approx(exact.cdf(distribution.EDGE), rel=1e-4)
    assert float(edge[1]) == pytest.approx(exact.sf(1 - distribution.EDGE), rel=1e-4)


@pytest.mark.parametrize(
    ("message", "build"),
    [
        (
            r"`df`: expected a number greater than 1, got 1",
            lambda: likelihoods.StudentT((2,), df=1),
        ),
        (r"`df`: expected a number greater than 2, got 2", lambda: priors.StudentT(2, df=2)),
        (r"`components`: expected a positive integer", lambda: priors.Mixture(2, 0)),
        (r"`rank`: expected a positive integer", lambda: guides.LowRankNormal(2, rank=0)),
        (r"`levels`: expected an integer >= 2, got 1", lambda: likelihoods.Categorical((2,), 1)),
        (r"`levels`: expected an integer >= 2", lambda: likelihoods.BetaBinomial((2,), 2.5)),
        (
            r"`components`: expected a positive integer",
            lambda: likelihoods.DiscretizedLogistic((2,), components=0),
        ),
        (
            r"`dispersion`: expected one of shared.*did you mean 'shared'",
            lambda: likelihoods.NegativeBinomial((2,), "share"),
        ),
        (
            r"`dispersion`: expected one of shared",
            lambda: likelihoods.ZeroInflatedNegativeBinomial((2,), "none"),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_options_are_reported_in_one_line(message: str, build: Any) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_normal_guide_and_prior_are_the_distributions_they_name() -> None:
    features = torch.randn(7, 4).double()
    z = torch.randn(7, 2).double()
    loc, raw = np.split(features.numpy(), 2, axis=1)
    q = scipy.stats.norm.logpdf(z.numpy(), loc, _softplus(raw)).sum(1)
    p = scipy.stats.norm.logpdf(z.numpy()).sum(1)
    np.testing.assert_allclose(guides.Normal(2)(features).log_prob(z).numpy(), q, rtol=1e-10)
    np.testing.assert_allclose(priors.Normal(2).double()().log_prob(z).numpy(), p, rtol=1e-10)


def test_other_priors_are_the_distributions_they_name() -> None:
    z = torch.randn(7, 2).double()
    draws = z.numpy()
    laplace = scipy.stats.laplace.logpdf(draws).sum(1)
    student = scipy.stats.t.logpdf(draws, df=3.0).sum(1)
    np.testing.assert_allclose(priors.Laplace(2).double()().log_prob(z).numpy(), laplace)
    np.testing.assert_allclose(priors.StudentT(2, df=3.0).double()().log_prob(z).numpy(), student)
    mixture = priors.Mixture(2, components=3).double()
    with torch.no_grad():
        mixture.logits.copy_(torch.tensor([0.3, -1.0, 0.5]))
        mixture.raw_scale.copy_(torch.randn(3, 2))
        loc, raw = mixture.loc.numpy(), mixture.raw_scale.numpy()
        each = scipy.stats.norm.logpdf(draws[:, None], loc, _softplus(raw)).sum(-1)
        log_pi = scipy.special.log_softmax(mixture.logits.numpy())
        reference = scipy.special.logsumexp(each + log_pi, axis=1)
        np.testing.assert_allclose(mixture().log_prob(z).numpy(), reference)


def test_correlated_normal_guides_are_the_distributions_they_name() -> None:
    """Fails when the raw diagonal and what is below it change places."""
    z = torch.randn(2).double()
    features = torch.tensor([0.3, -0.2, 0.5, -1.0, 0.8]).double()
    loc, (a, b), below = features[:2].numpy(), _softplus(features[2:4].numpy()), 0.8
    covariance = np.array([[a * a, a * below], [a * below, below**2 + b * b]])
    full = guides.FullNormal(2)(features)
    reference = scipy.stats.multivariate_normal(loc, covariance).logpdf(z.numpy())
    assert float(full.log_prob(z)) == pytest.approx(reference)
    features = torch.tensor([0.3, -0.2, 0.5, -1.0, 0.8, -0.4]).double()
    factor, scale = np.array([[0.8], [-0.4]]), _softplus(features[2:4].numpy())
    low_rank = guides.LowRankNormal(2, rank=1)(features)
    covariance = factor @ factor.T + np.diag(scale**2)
    reference = scipy.stats.multivariate_normal(loc, covariance).logpdf(z.numpy())
    assert float(low_rank.log_prob(z)) == pytest.approx(reference)


@pytest.mark.parametrize("guide", [guides.FullNormal(3), guides.LowRankNormal(3, rank=2)], ids=str)
def test_divergence_of_correlated_normals_is_that_of_full_covariances(guide: Any) -> None:
    """Fails when the determinant is taken once instead of half."""
    q = guide(torch.randn(5, *guide.param_shape).double())
    base = dist.Normal(torch.tensor([0.5, 0.0, -1.0]).double(), torch.tensor([1.0, 2.0, 0.5]))
    p = torch.distributions.MultivariateNormal(base.loc, torch.diag_embed(base.scale.double() ** 2))
    full = torch.distributions.MultivariateNormal(q.mean, q.covariance_matrix)
    ours = torch.distributions.kl_divergence(q, base.to_event(1))
    torch.testing.assert_close(ours, torch.distributions.kl_divergence(full, p))
    with pytest.raises(NotImplementedError):
        torch.distributions.kl_divergence(q, dist.Laplace(base.loc, base.scale).to_event(1))


def test_categorical_guide_and_prior_are_the_distributions_they_name() -> None:
    features = torch.randn(7, 4, 3).double()
    q = guides.GumbelSoftmax(4, 3)(features)
    z = q.sample()
    log_pi = scipy.special.log_softmax(features.numpy(), axis=-1)
    np.testing.assert_allclose(q.log_prob(z).numpy(), (log_pi * z.numpy()).sum((1, 2)), rtol=1e-10)
    p = priors.Categorical(4, 3).double()().log_prob(z)
    np.testing.assert_allclose(p.numpy(), -4 * math.log(3), rtol=1e-10)


def test_draws_have_the_frequencies_of_the_guide() -> None:
    """Fails when draws ignore the logits of the second group."""
    features = torch.randn(2, 3)
    draws = guides.GumbelSoftmax(2, 3)(features).sample((20_000,))
    probs = features.softmax(-1)
    error = (probs * (1 - probs) / len(draws)).sqrt()
    assert ((draws.mean(0) - probs) / error).abs().max() < 4


# The distributions that the package adds.


def test_joint_states_are_all_different_and_sum_to_one() -> None:
    q = GroupedOneHotCategorical(dist.OneHotCategorical(logits=torch.randn(5, 2, 3).double()), 1)
    states = q.enumerate_support()
    assert states.shape == (9, 5, 2, 3)
    assert len({tuple(state.flatten().tolist()) for state in states[:, 0]}) == 9
    torch.testing.assert_close(q.log_prob(states).logsumexp(0), torch.zeros(5).double())
    assert q.enumerate_support(expand=False).shape == (9, 1, 2, 3)
    assert type(q.expand((4, 5))) is GroupedOneHotCategorical


def test_too_many_joint_states_are_refused() -> None:
    q = guides.GumbelSoftmax(20, 10)(torch.zeros(20, 10))
    with pytest.raises(ValueError, match=r"`groups`.*65536.*10\*\*20"):
        q.enumerate_support()


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_concrete_density_is_finite(classes: int, temperature: float) -> None:
    logits = (3 * torch.randn(64, classes)).requires_grad_()
    q = ExpRelaxedCategorical(torch.tensor(temperature), logits=logits)
    log_prob = q.log_prob(q.rsample())
    assert log_prob.isfinite().all()
    (gradient,) = torch.autograd.grad(log_prob.sum(), logits)
    assert gradient.isfinite().all()


def test_concrete_density_is_the_published_one() -> None:
    """Against equation (21) of Maddison et al. (2017), and its integral over two classes."""
    temperature, logits = 0.6, torch.tensor([0.3, -0.8]).double()
    q = ExpRelaxedCategorical(torch.tensor(temperature).double(), logits=logits)
    t = torch.linspace(-80, 80, 20_001).double()
    y = torch.stack([nn.functional.logsigmoid(t), nn.functional.logsigmoid(-t)], -1)
    shifted = logits - temperature * y
    published = (
        math.lgamma(2) + math.log(temperature) + shifted.sum(-1) - 2 * torch.logsumexp(shifted, -1)
    )
    torch.testing.assert_close(q.log_prob(y), published)
    # The density is against dy_1 / x_2 on the curve x_1 + x_2 = 1, which is dt.
    mass = torch.trapezoid(q.log_prob(y).exp(), t)
    assert abs(float(mass) - 1) < 1e-6


def test_positive_inverts() -> None:
    raw = torch.linspace(-5, 40, 100).double()
    torch.testing.assert_close(inverse_positive(positive(raw)), raw)
    assert inverse_positive(torch.tensor([0.0, 1e-9])).isfinite().all()


def test_standardize_gives_mean_zero_and_variance_one() -> None:
    x = torch.poisson(torch.tensor([3.0, 50.0, 0.0]).expand(500, 3))
    standardize = Standardize((3,), counts=True)
    standardize.fit(x)
    seen = standardize(x)
    torch.testing.assert_close(seen.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]))


def test_init_params_is_the_marginal_fit() -> None:
    x = torch.tensor([[0.0, 2.0], [1.0, 6.0], [0.0, 1.0], [1.0, 3.0]]).double()
    binary = (x > 0.5).double()
    poisson = likelihoods.Poisson((2,))
    torch.testing.assert_close(poisson(poisson.init_params(x)).mean, x.mean(0))
    bernoulli = likelihoods.Bernoulli((2,))
    start = bernoulli(bernoulli.init_params(binary)).mean
    torch.testing.assert_close(start, torch.tensor([0.5, 0.999]).double())
    variance = x.var(0, correction=0)
    for scale, wanted in {
        0.7: torch.tensor([0.49, 0.49]).double(),
        "shared": variance.mean().expand(2),
        "per-channel": variance,  # of vectors each entry is one
        "per-dimension": variance,
        "predicted": variance,
    }.items():
        normal = likelihoods.Normal((2,), scale=scale).double()
        fitted = normal(normal.init_params(x))
        torch.testing.assert_close(fitted.mean, x.mean(0))
        torch.testing.assert_close(fitted.variance.detach(), wanted)


# Planted faults: each contract fails on a part that breaks it.


class _WrongMass(guides.Normal):
    def forward(self, features: Tensor) -> Any:
        return _Unnormalised(*_loc_scale(features)).to_event(1)


class _Unnormalised(dist.Normal):
    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) + 0.1


class _Detached(guides.Normal):
    def forward(self, features: Tensor) -> Any:
        loc, scale = _loc_scale(features)
        return _HalfDetached(loc, scale).to_event(1)


class _HalfDetached(dist.Normal):
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        noise = super().rsample(sample_shape).detach() - self.loc.detach()
        return self.loc + noise


class _Leaking(guides.Normal):
    def forward(self, features: Tensor) -> Any:
        if features.ndim > 1:
            features = features - features.mean(-2, keepdim=True)
        loc, scale = _loc_scale(features)
        return dist.Normal(loc, scale).to_event(1)


class _UnusedParameter(priors.Normal):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.shift = nn.Parameter(torch.zeros(dim))


class _Overflowing(likelihoods.Poisson):
    def forward(self, params: Tensor) -> Any:
        return dist.Poisson(params.exp()).to_event(len(self.event_shape))

    def init_params(self, x_train: Tensor) -> Tensor:
        return x_train.mean(0).clamp_min(1e-3).log()


class _StartsFarOff(likelihoods.Poisson):
    def init_params(self, x_train: Tensor) -> Tensor:
        return x_train.new_zeros(self.param_shape) + 5


class _InfiniteAtItsEnds(likelihoods.Beta):
    def forward(self, params: Tensor) -> Any:
        alpha, beta = map(positive, self.split(params))
        return dist.Beta(alpha, beta).to_event(len(self.event_shape))


class _ForgetsWhenExpanded(likelihoods.Poisson):
    def forward(self, params: Tensor) -> Any:
        return _Forgetful(positive(params)).to_event(len(self.event_shape))


class _Forgetful(dist.Poisson):
    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        return dist.Poisson(torch.ones(batch_shape).to(self.rate))


class _NotToEvent(likelihoods.Bernoulli):
    def forward(self, params: Tensor) -> Any:
        return dist.Bernoulli(logits=params)


class _SinglePrecision(priors.Normal):
    def forward(self, cond: Tensor | None = None) -> Any:
        return dist.Normal(torch.zeros(self.event_shape), 1.0).to_event(1)


class _StartsElsewhere(networks.MLP):
    def start_at(self, output: Tensor) -> None:
        super().start_at(output + 1)


def _loc_scale(features: Tensor) -> tuple[Tensor, Tensor]:
    loc, raw = features.chunk(2, -1)
    return loc, positive(raw)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda: testing.check_guide(_WrongMass(1)), "sums to 1.105"),
        (lambda: testing.check_guide(_Detached(1)), "finite differences"),
        (lambda: testing.check_guide(_Leaking(1)), "rest of its batch"),
        (lambda: testing.check_prior(_UnusedParameter(1)), "no gradient reaches shift"),
        (lambda: testing.check_prior(_SinglePrecision(1)), "float64"),
        (lambda: testing.check_likelihood(_Overflowing((1,))), "not finite where"),
        (lambda: testing.check_likelihood(_StartsFarOff((1,))), "init_params explains"),
        (lambda: testing.check_likelihood(_InfiniteAtItsEnds((1,))), "not finite where .* -80"),
        (lambda: testing.check_likelihood(_ForgetsWhenExpanded((1,))), "expanded differs"),
        (lambda: testing.check_likelihood(_NotToEvent((2,))), "batch shape"),
        (lambda: testing.check_network(_StartsElsewhere((4,)), (2,), (2,)), "start_at"),
        (lambda: testing.total_mass(priors.Normal(3)()), "at most two entries"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_part_is_noticed(broken: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        broken()
