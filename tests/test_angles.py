"""Angles: their distribution, and what wraps around."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.criticism import check
from pyro_vae.criticism.statistics import default_statistics
from pyro_vae.data import Rows
from pyro_vae.distributions import NaturalVonMises
from pyro_vae.likelihoods import Likelihood, Mixed, VonMises


def _vae(likelihood: Likelihood) -> pv.VAE:
    torch.manual_seed(0)
    networks = pv.networks.MLP((8,)), pv.networks.MLP((8,))
    return pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood, *networks)


def _wrapped(x: Tensor) -> Tensor:
    return torch.remainder(x + math.pi, 2 * math.pi) - math.pi


@pytest.mark.parametrize("kappa", [0.0, 1e-3, 0.5, 4.0, 300.0, 1e4])
@pytest.mark.parametrize("loc", [-3.1, 0.0, 2.0])
def test_a_density_of_angles_is_that_of_scipy(kappa: float, loc: float) -> None:
    """In both precisions, with gradients. Fails where the Bessel function overflows."""
    x = torch.linspace(-math.pi, math.pi, 7).double()  # whose ends are beyond by rounding
    cosine, sine = (torch.tensor(kappa * f(loc), dtype=torch.float64) for f in (math.cos, math.sin))
    exact = kappa * (np.cos(x.numpy() - loc) - 1) - np.log(2 * np.pi * scipy.special.i0e(kappa))
    found = NaturalVonMises(cosine, sine).log_prob(x)
    np.testing.assert_allclose(found.numpy(), exact, rtol=1e-9, atol=1e-9 * (1 + kappa))
    single = [each.float().requires_grad_() for each in (cosine, sine)]
    log_prob = NaturalVonMises(*single).log_prob(x.float())
    np.testing.assert_allclose(log_prob.detach(), exact, rtol=1e-5, atol=1e-6 * (1 + kappa))
    for gradient in torch.autograd.grad(log_prob.sum(), single):
        assert gradient.isfinite()


def test_draws_of_angles_are_of_their_distribution() -> None:
    """Kolmogorov and Smirnov's test, and moments on the circle."""
    cosine, sine = torch.tensor([0.0, -3.0, 0.3]).double(), torch.tensor([0.0, -0.2, 0.4]).double()
    d = NaturalVonMises(cosine, sine)
    draws = d.sample((4000,))
    for i in range(3):
        kappa, loc = math.hypot(cosine[i], sine[i]), math.atan2(sine[i], cosine[i])
        # Turned such that no mass is cut.
        turned = _wrapped(draws[:, i] - loc).numpy().copy()
        exact = scipy.stats.vonmises(kappa) if kappa else scipy.stats.uniform(-np.pi, 2 * np.pi)
        assert scipy.stats.kstest(turned, exact.cdf).pvalue > 1e-3
        length = 1 - float(d.variance[i])
        vectors = np.exp(1j * turned)
        assert abs(vectors.real.mean() - length) < 4 * vectors.real.std() / 4000**0.5
    assert float(d.mean[1]) == pytest.approx(math.atan2(-0.2, -3.0))


def test_angles_start_at_the_largest_likelihood() -> None:
    r = np.random.default_rng(0)
    x = np.stack([r.vonmises(3.0, 2.0, 800), r.vonmises(-1.0, 0.4, 800)], 1)
    likelihood = VonMises((2,)).double()
    params = likelihood.init_params(torch.from_numpy(x))
    for i in range(2):
        kappa, loc, _ = scipy.stats.vonmises.fit(x[:, i], fscale=1)
        a, b = params[i], params[2 + i]
        assert float(torch.hypot(a, b)) == pytest.approx(kappa, rel=1e-4)
        assert math.cos(math.atan2(b, a) - loc) == pytest.approx(1.0, abs=1e-8)
    constant = likelihood.init_params(torch.full((9, 2), 3.0).double())
    assert torch.hypot(*constant.view(2, 2)).max() <= 1e4 * (1 + 1e-9)


class _AroundTheCut(nn.Module):
    """Directions on both sides of π, by the sign of z, and a normal variable."""

    def forward(self, z: Tensor) -> Tensor:
        direction = math.pi + 0.4 * z[:, 0]
        return torch.stack([5 * direction.cos(), 5 * direction.sin(), z[:, 1]], 1)


def test_what_lies_on_both_sides_of_the_cut_is_imputed_there() -> None:
    """Fails when directions are averaged as numbers: then -π and π make 0."""
    likelihood = Mixed((2,), [VonMises((1,)), "Normal"])
    parts = pv.priors.Normal(2), pv.guides.Normal(2), likelihood
    vae = pv.VAE(*parts, pv.networks.MLP((8,)), _AroundTheCut())
    x = torch.stack([torch.zeros(50), torch.randn(50)], 1)
    mask = torch.tensor([False, True]).expand(50, 2)
    filled = vae.impute(x, mask, num_samples=300)
    assert (filled[:, 0].abs() > 2.3).all()
    assert torch.equal(filled[:, 1], x[:, 1])
    drawn = vae.impute(x, mask, num_samples=300, num_imputations=20)[..., 0]
    assert drawn.cos().mean() < -0.7
    assert (drawn > 0).float().mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.long
def test_angles_that_turn_full_circle_are_learned() -> None:
    """Two angles that differ by noise. Fails when the decoder's output jumps at π."""
    r = np.random.default_rng(0)
    first = r.uniform(-np.pi, np.pi, 500)
    x = torch.from_numpy(np.stack([first, first + r.vonmises(1.0, 20.0, 500)], 1)).float()
    x = _wrapped(x)
    vae = _vae(VonMises((2,)))
    options: dict[str, Any] = {"seed": 0, "compile": False, "device": "cpu", "batch_size": 100}
    pv.fit(vae, x, epochs=80, lr=1e-2, **options)
    found = pv.evaluate(vae, x, num_samples=200).log_marginal.mean()
    # Uniform margins, and the two as they are.
    assert -2 * math.log(2 * math.pi) + 0.6 < found
    best = -math.log(2 * math.pi) - float(scipy.stats.vonmises(20.0).entropy())
    assert found < best + 0.1


def test_angles_are_looked_at_on_the_circle(tmp_path: Path) -> None:
    """Statistics do not depend on where it is cut. Fails with the spread of numbers."""
    vae = _vae(VonMises((3,)))
    asked = {each.name: each for each in default_statistics(vae)}
    x = 0.3 * torch.randn(1, 500, 3)
    x[..., 1] += x[..., 0]
    for name in ("spread", "correlation", "distances"):
        here, there = asked[name](_wrapped(x)), asked[name](_wrapped(x + math.pi))
        torch.testing.assert_close(here, there, atol=1e-3, rtol=1e-3)
    assert float(asked["correlation"](x)[0, 0]) > 0.6
    assert float(asked["mean"](x)[0, 0]) == pytest.approx(float(x[..., 0].cos().mean()))
    observed = vae.sample(60)
    assert {"mean", "spread", "marginals"} <= {r.statistic for r in check(vae, observed).rows}
    again = pv.load(pv.save(vae, tmp_path / "model"))
    z = torch.randn(60, 2)
    torch.testing.assert_close(again.decode(z).log_prob(observed), vae.decode(z).log_prob(observed))


def test_angles_beyond_the_circle_are_refused() -> None:
    vae = _vae(VonMises((2,)))
    x = torch.tensor([[3.1, -3.1], [0.0, 4.0]])
    with pytest.raises(ValueError, match=r"of VonMises, Angle\(from -π to π radians\), got 4 at"):
        vae.accepts(Rows(x))
    assert torch.equal(vae.accepts(Rows(_wrapped(x))).x, _wrapped(x))
