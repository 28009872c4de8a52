"""The continuous Bernoulli distribution, steep ones included, against the exponential on [0, 1]."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from pyro_vae.distributions import SteepContinuousBernoulli
from pyro_vae.likelihoods import ContinuousBernoulli

LOGITS = (-500.0, -20.0, -3.0, -0.26, -0.24, -1e-4, 0.0, 0.3, 4.0, 40.0, 300.0)


def _exact(logit: float) -> tuple[scipy.stats.rv_continuous, bool]:
    """An exponential variable cut off at 1, and whether 1 less x is it."""
    if logit == 0:
        return scipy.stats.uniform(), False
    return scipy.stats.truncexpon(b=abs(logit), scale=1 / abs(logit)), logit > 0


@pytest.mark.parametrize("logit", LOGITS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-9)])
def test_density_and_moments_are_exact(logit: float, dtype: torch.dtype, tolerance: float) -> None:
    """Fails beyond 16 with the distribution of PyTorch, whose constant stops growing there."""
    d = SteepContinuousBernoulli(torch.tensor(logit, dtype=dtype))
    exact, turned = _exact(float(d.logits))
    x = torch.linspace(0, 1, 9, dtype=dtype)
    at = 1 - x.double() if turned else x.double()
    expected = exact.logpdf(at.numpy())
    within = tolerance * (10 + abs(logit))  # of the product of logit and x
    np.testing.assert_allclose(d.log_prob(x).double().numpy(), expected, atol=within)
    mean = 1 - exact.mean() if turned else exact.mean()
    loose = 1e-7 if abs(logit) < 1e-3 else 0.0  # SciPy loses digits there
    assert float(d.mean) == pytest.approx(mean, rel=10 * tolerance, abs=loose)
    if abs(logit) > 0.2:  # SciPy loses digits below
        assert float(d.variance) == pytest.approx(exact.var(), rel=2e-5)


def test_draws_are_of_the_density() -> None:
    """Means and variances of 40,000 draws, within 4.5 standard errors each; a fixed seed."""
    torch.manual_seed(0)
    d = SteepContinuousBernoulli(torch.tensor(LOGITS))
    draws = d.sample((40_000,))
    assert d.support.check(draws).all()
    error = (d.variance / len(draws)).sqrt()
    assert ((draws.mean(0) - d.mean) / error).abs().max() < 4.5
    squares = (draws - d.mean).square()
    error = squares.std(0) / len(draws) ** 0.5
    assert ((squares.mean(0) - d.variance) / error).abs().max() < 4.5


def test_gradients_are_finite_and_those_of_the_mean() -> None:
    """The derivative of log p(x) by the logit is x less the mean, of any logit."""
    logits = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    d = SteepContinuousBernoulli(logits)
    d.log_prob(torch.tensor(0.25, dtype=torch.float64)).sum().backward()
    torch.testing.assert_close(logits.grad, 0.25 - d.mean.detach(), atol=1e-8, rtol=1e-7)
    assert torch.autograd.grad(d.mean.sum() + d.variance.sum(), logits)[0].isfinite().all()


def test_the_likelihood_starts_at_the_mean_of_dark_pixels() -> None:
    """Fails where a mean below 1/16 is out of reach."""
    x = torch.tensor([[0.03], [0.05], [0.04]])
    likelihood = ContinuousBernoulli((1,))
    mean = likelihood(likelihood.init_params(x)[None]).mean
    assert float(mean) == pytest.approx(0.04, rel=1e-3)


def test_draws_have_the_gradient_of_their_mean() -> None:
    """That is the variance, within 4.5 standard errors; it was 0 for a logit below 1e-3."""
    torch.manual_seed(0)
    logits = torch.tensor([-2.0, -9e-4, 0.0, 9e-4, 2.0], dtype=torch.float64)
    each = logits.repeat(20_000, 1).requires_grad_()
    slopes = torch.autograd.grad(SteepContinuousBernoulli(each).rsample().sum(), each)[0]
    error = slopes.std(0) / len(slopes) ** 0.5
    assert ((slopes.mean(0) - SteepContinuousBernoulli(logits).variance) / error).abs().max() < 4.5
