"""What a likelihood needs to know of each observation: size factors, from data to scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae import evaluation, guides, likelihoods, networks, priors
from pyro_vae.distributions import inverse_positive
from pyro_vae.likelihoods import (
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
)

COUNTS = [Poisson, NegativeBinomial, ZeroInflatedNegativeBinomial, ZeroInflatedPoisson]


class _Constant(nn.Module):
    """A network that looks at nothing."""

    def __init__(self, *output: float) -> None:
        super().__init__()
        self.output = nn.Parameter(torch.tensor(output))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.output.expand(len(inputs), -1)


def _vae(likelihood: Any = None, **options: Any) -> pv.VAE:
    likelihood = Poisson((3,), size_factor=True) if likelihood is None else likelihood
    small = {"encoder": networks.MLP((8,)), "decoder": networks.MLP((8,))}
    return pv.VAE(priors.Normal(2), guides.Normal(2), likelihood, **small | options)


def _data(size: int = 60) -> tuple[Tensor, Tensor]:
    """Counts of three rates, under sizes that differ by a factor of thirty."""
    sizes = torch.logspace(-1, 0.5, size)[torch.randperm(size)]
    rates = torch.tensor([0.5, 4.0, 30.0])
    return torch.poisson(sizes[:, None] * rates), sizes


def test_the_likeliest_rate_is_all_counts_over_all_sizes() -> None:
    """Its score is zero there. Fails when the mean of x / s is taken for it."""
    x, s = (each.double() for each in _data())
    distribution = Poisson((3,), size_factor=True)
    raw = distribution.init_params(x, s).requires_grad_()
    rate = distribution(raw, size_factor=torch.tensor(1.0).double()).mean
    torch.testing.assert_close(rate, x.sum(0) / s.sum())
    log_prob = distribution(raw.expand(len(x), 3), size_factor=s).log_prob(x).sum()
    (score,) = torch.autograd.grad(log_prob, raw)
    assert score.abs().max() < 1e-8
    naive = inverse_positive((x / s[:, None]).mean(0)).requires_grad_()
    log_prob = distribution(naive.expand(len(x), 3), size_factor=s).log_prob(x).sum()
    assert torch.autograd.grad(log_prob, naive)[0].abs().max() > 0.1


@pytest.mark.parametrize("part", COUNTS)
def test_twice_the_size_and_half_the_rate_are_the_same_law(part: type) -> None:
    """Fails when the dispersion grows with the size, too."""
    distribution = part((3,), size_factor=True).double()
    rate = torch.rand(5, 3).double() + 0.5
    rest = [torch.zeros(5, 3).double()] * (distribution.num_params - 1)
    s = torch.rand(5).double() + 0.5
    x = torch.arange(15.0).reshape(5, 3).double()
    one, other = (
        distribution(torch.cat([inverse_positive(r), *rest], -1), size_factor=size).log_prob(x)
        for r, size in ((rate, s), (rate / 2, 2 * s))
    )
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("part", COUNTS)
def test_a_size_of_one_is_none(part: type) -> None:
    plain, sized = part((3,)), part((3,), size_factor=True)
    x, _ = _data()
    ones = torch.ones(len(x))
    params = plain.init_params(x)
    torch.testing.assert_close(sized.init_params(x, size_factor=ones), params, rtol=1e-4, atol=1e-4)
    many = params.expand(len(x), -1)
    torch.testing.assert_close(
        sized(many, size_factor=ones).log_prob(x), plain(many).log_prob(x), rtol=1e-3, atol=1e-3
    )


def _without_z(rate: float, theta: float | None = None) -> pv.VAE:
    """A model whose decoder and guide look at nothing: log p(x) is that of its likelihood."""
    distribution = Poisson((1,), size_factor=True)
    if theta is not None:
        distribution = NegativeBinomial((1,), dispersion="shared", size_factor=True)
        distribution.raw_dispersion.data = inverse_positive(torch.tensor(theta))
    encoder = _Constant(0.0, 0.0, *inverse_positive(torch.ones(2)).tolist())
    decoder = _Constant(float(inverse_positive(torch.tensor(rate))))
    return _vae(distribution, encoder=encoder, decoder=decoder)


@pytest.mark.parametrize("theta", [None, 2.5])
def test_scores_are_of_counts_given_their_sizes(theta: float | None) -> None:
    """As scipy has them at s times the mean. Fails when one size serves for all data."""
    vae, s = _without_z(3.0, theta), torch.tensor([0.1, 1.0, 8.0, 2.0])
    x = torch.tensor([[1.0], [2.0], [30.0], [0.0]])
    distribution = (
        scipy.stats.poisson(3.0 * s)
        if theta is None
        else scipy.stats.nbinom(theta, theta / (theta + 3.0 * s.numpy()))
    )
    exact = distribution.logpmf(x[:, 0].numpy())
    given = {"covariates": {"size_factor": s}}
    scores = pv.evaluate(vae, x, num_samples=50, **given)
    np.testing.assert_allclose(scores.log_marginal, exact, rtol=1e-5)
    np.testing.assert_allclose(vae.log_prob(x, 50, **given).numpy(), exact, rtol=1e-5)
    defended = pv.evaluate(vae, x, num_samples=50, max_memory=10**6, **given)
    np.testing.assert_allclose(defended.log_marginal, exact, rtol=1e-5)


def test_draws_are_of_the_size_that_is_asked_for() -> None:
    """Means within 4 standard errors; fails when sizes are left out, or shuffled."""
    vae = _without_z(3.0)
    s = torch.tensor([0.5, 5.0]).repeat(20_000)
    drawn = vae.sample(len(s), covariates={"size_factor": s})
    again = vae.model(covariates={"size_factor": s}).detach()
    for x in (drawn, again):
        for first, size in ((0, 0.5), (1, 5.0)):
            error = (3.0 * size / 20_000) ** 0.5
            assert abs(float(x[first::2].mean()) - 3.0 * size) < 4 * error
    torch.testing.assert_close(
        vae.reconstruct(drawn[:2], covariates={"size_factor": s[:2]}), torch.tensor([[1.5], [15.0]])
    )
    hidden = torch.zeros(2, 1, dtype=torch.bool)
    filled = vae.impute(drawn[:2], hidden, covariates={"size_factor": s[:2]}, num_samples=10)
    torch.testing.assert_close(filled, torch.tensor([[1.5], [15.0]]))


def test_an_encoder_sees_counts_over_their_sizes() -> None:
    """Fails when it sees the counts themselves, or standardises by those."""
    x, s = _data()
    vae = _vae()
    vae.initialize(x, covariates={"size_factor": s})
    seen = (x / s[:, None]).log1p()
    torch.testing.assert_close(vae.guide.standardize.shift, seen.mean(0))
    one, other = (
        vae.encode(scale * x, covariates={"size_factor": scale * s}).mean for scale in (1, 3)
    )
    torch.testing.assert_close(one, other)
    assert not torch.allclose(one, vae.encode(x, covariates={"size_factor": 3 * s}).mean)


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("validation", [None, 0.25])
def test_compiled_epochs_are_those_of_the_eager_engine(validation: float | None) -> None:
    """The same loss and weights. Fails when sizes are gathered by other rows than counts."""
    x, s = _data(90)
    given = {"covariates": {"size_factor": s}, "validation": validation, "seed": 0}
    runs = []
    for compile in (False, True):
        torch.manual_seed(0)
        vae = _vae()
        runs.append(pv.fit(vae, x, **given, epochs=3, batch_size=16, lr=1e-2, compile=compile))
    eager, compiled = runs
    assert (eager.engine, compiled.engine) == ("eager", "inductor")
    for name in ("loss", "elbo"):
        np.testing.assert_allclose(compiled.history[name], eager.history[name], rtol=1e-4)
    for a, b in zip(eager.vae.parameters(), compiled.vae.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_what_is_known_of_sizes_is_worth_nats() -> None:
    """Rates that differ by nothing but their size: a fit that knows it is much likelier."""
    x, s = _data(400)
    fits = {}
    for name, likelihood in (("sized", None), ("plain", Poisson((3,)))):
        torch.manual_seed(0)
        vae = _vae(likelihood)
        given = {"covariates": {"size_factor": s}} if name == "sized" else {}
        pv.fit(vae, x, **given, epochs=20, lr=1e-2, seed=0, compile=False)
        fits[name] = pv.evaluate(vae, x, num_samples=200, **given).log_marginal.mean()
    exact = torch.distributions.Poisson(s[:, None] * torch.tensor([0.5, 4.0, 30.0]))
    truth = float(exact.log_prob(x).sum(1).mean())
    assert fits["sized"] > truth - 0.3
    assert fits["sized"] > fits["plain"] + 0.5


def test_a_run_of_other_sizes_is_not_resumed(tmp_path: Path) -> None:
    x, s = _data()

    def fit(sizes: Tensor) -> pv.Run:
        torch.manual_seed(0)
        given = {"covariates": {"size_factor": sizes}, "seed": 0, "compile": False}
        return pv.fit(_vae(), x, **given, epochs=1, out=tmp_path / "run", resume=True)

    fit(s)
    assert fit(s).history["epoch"] == [1]
    with pytest.raises(ValueError, match=r"`resume`: expected the settings.*size_factor"):
        fit(2 * s)


def test_scores_under_other_sizes_are_not_compared() -> None:
    """Fails when the base measure says nothing of them."""
    x, s = _data()
    vae = _vae()
    one, other = (
        pv.evaluate(vae, x, num_samples=5, covariates={"size_factor": size}) for size in (s, 2 * s)
    )
    plain = pv.evaluate(_vae(Poisson((3,))), x, num_samples=5)
    for theirs in (other, plain):
        with pytest.raises(ValueError, match=r"one base measure for all, got .* size_factor"):
            evaluation.compare({"a": one, "b": theirs})


X, S = torch.ones(30, 3), torch.ones(30)


@pytest.mark.parametrize(
    ("says", "call"),
    [
        (
            r"^`covariates`: expected size_factor of each observation, got None",
            lambda v: v.sample(2),
        ),
        (r"^`covariates`: expected size_factor of each", lambda v: v.log_prob(X, 1)),
        (r"^`covariates`: expected size_factor of each", lambda v: v.model(X)),
        (r"^`covariates`: expected size_factor of each", lambda v: v.guide(X)),
        (r"^`covariates`: expected size_factor of each", lambda v: v.encode(X)),
        (r"^`covariates`: expected size_factor of each", lambda v: v.reconstruct(X)),
        (r"^`covariates`: expected size_factor of each", lambda v: pv.evaluate(v, X)),
        (r"^`covariates`: expected size_factor of each", lambda v: pv.fit(v, X, epochs=1)),
        (
            r"^`covariates`: expected size_factor of each observation, got \['size'\]",
            lambda v: pv.evaluate(v, X, covariates={"size": S}),
        ),
        (
            r"^`covariates: size_factor`: expected a tensor of shape \(30,\), got Tensor",
            lambda v: pv.evaluate(v, X, covariates={"size_factor": S[:, None]}),
        ),
        (
            r"^`covariates: size_factor`: .*GreaterThan.* got '0, 1 bad in all'",
            lambda v: pv.evaluate(v, X, covariates={"size_factor": torch.arange(30.0)}),
        ),
        (
            r"^`covariates: size_factor`: expected one row for each of 30 data",
            lambda v: pv.fit(v, X, covariates={"size_factor": S[1:]}, epochs=1),
        ),
        (
            r"^`size_factor`: expected a mean near 1 \(divide by it.*got 1000",
            lambda v: pv.fit(v, X, covariates={"size_factor": 1000 * S}, epochs=1),
        ),
        (r"^`covariates`: expected size_factor of each", lambda v: pv.criticism.check(v, X)),
        (r"^`covariates`: expected size_factor", lambda v: pv.posterior_predictive(v, X)),
        (r"^`covariates`: expected size_factor", lambda v: pv.prior_predictive(v, size=3)),
        (r"^`covariates`: expected size_factor", lambda v: pv.criticism.calibrate(v)),
        (r"^`covariates`: expected size_factor", lambda v: pv.criticism.pit(v, X)),
        (r"^`covariates`: expected size_factor", lambda v: pv.to_datatree(v, X)),
        (r"^`covariates`: expected size_factor", lambda v: evaluation.ais(v, X)),
        (r"^`covariates`: expected size_factor", lambda v: evaluation.gaps(v, X)),
        (r"^`covariates`: expected size_factor", lambda v: evaluation.rate_distortion(v, X)),
        (r"^`covariates`: expected size_factor", lambda v: evaluation.posterior_draws(v, X)),
    ],
)
def test_what_is_missing_is_named_in_one_line(says: str, call: Callable[[pv.VAE], Any]) -> None:
    with pytest.raises(ValueError, match=says) as error:
        call(_vae())
    assert "\n" not in str(error.value)


def test_sizes_that_no_one_asked_for_are_refused() -> None:
    plain = _vae(Poisson((3,)))
    with pytest.raises(ValueError, match=r"`covariates`: expected None with this likelihood"):
        pv.evaluate(plain, X, covariates={"size_factor": S})
    with pytest.raises(ValueError, match=r"`size_factor`: expected None for a likelihood without"):
        Poisson((3,))(torch.zeros(3), size_factor=torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"`size_factor`: expected True or False"):
        Poisson((3,), size_factor=2.0)  # type: ignore[arg-type]


def test_a_distribution_of_ones_own_names_its_covariates() -> None:
    """Trained, scored and refused like those of the package, with no more than an argument."""

    class Offset(likelihoods.Likelihood):
        """A normal distribution about z plus a known offset."""

        support = torch.distributions.constraints.real
        measure = "lebesgue"
        covariates = ("offset",)

        def init_params(self, x_train: Tensor, offset: Tensor) -> Tensor:
            return (x_train - offset[:, None]).mean(0)

        def forward(self, params: Tensor, offset: Tensor) -> Any:
            distribution = torch.distributions.Normal(params + offset[..., None], 1.0)
            return torch.distributions.Independent(distribution, 1)

    offset = torch.linspace(-50, 50, 40)
    x = offset[:, None] + torch.randn(40, 2)
    vae = _vae(Offset((2,)))
    run = pv.fit(vae, x, covariates={"offset": offset}, epochs=2, seed=0, compile=False)
    assert math.isfinite(run.history["elbo"][-1])
    scores = pv.evaluate(vae, x, covariates={"offset": offset}, num_samples=50)
    assert scores.log_marginal.mean() > -6  # without the offset, hundreds of nats less
    assert "offset" in scores.base_measure
    with pytest.raises(ValueError, match=r"`covariates`: expected offset of each observation"):
        pv.evaluate(vae, x)
