"""Compositions: shares that add up to 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae.criticism import check
from pyro_vae.data import Rows
from pyro_vae.distributions import CompositionSupport, EdgedDirichlet
from pyro_vae.likelihoods import Dirichlet


def _vae(size: int = 3) -> pv.VAE:
    torch.manual_seed(0)
    networks = pv.networks.MLP((8,)), pv.networks.MLP((8,))
    return pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), Dirichlet((size,)), *networks)


def _shares(size: int = 400) -> Tensor:
    """Of three minerals, which one direction moves."""
    r = np.random.default_rng(0)
    z = r.normal(size=(size, 1))
    alpha = 40 * np.exp(z * [1.0, 0.0, -1.0]) / np.exp(z * [1.0, 0.0, -1.0]).sum(1, keepdims=True)
    return torch.from_numpy(np.stack([r.dirichlet(each) for each in alpha])).float()


def test_draws_of_shares_are_of_their_distribution() -> None:
    """Each share is a beta variable. Fails when concentrations are normalised."""
    alpha = torch.tensor([0.4, 3.0, 7.0]).double()
    draws = EdgedDirichlet(alpha).expand((4000,)).sample()
    for i in range(3):
        exact = scipy.stats.beta(float(alpha[i]), float(alpha.sum() - alpha[i]))
        assert scipy.stats.kstest(draws[:, i].numpy().copy(), exact.cdf).pvalue > 1e-3


def test_mass_at_the_edge_of_a_simplex_is_kept() -> None:
    """Of a share that is zero more often than not. Fails when the edge is that of the inside."""
    d = EdgedDirichlet(torch.tensor([0.05, 0.3]).double())
    edges = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double()
    mass = d.EDGE * d.log_prob(edges).exp()
    exact = scipy.stats.beta(0.05, 0.3)
    assert float(mass[0]) == pytest.approx(exact.cdf(d.EDGE), rel=1e-4)
    assert float(mass[1]) == pytest.approx(exact.sf(1 - d.EDGE), rel=1e-4)


def test_several_zeros_have_a_density_and_a_gradient() -> None:
    likelihood = Dirichlet((5,))
    params = torch.full((3, 5), -80.0, requires_grad=True)
    x = torch.tensor([[1.0, 0, 0, 0, 0], [0, 0.5, 0.5, 0, 0], [0.2, 0.2, 0.2, 0.2, 0.2]])
    log_prob = likelihood(params).log_prob(x)
    (gradient,) = torch.autograd.grad(log_prob.sum(), params)
    assert log_prob.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("alpha", [[0.2, 0.3, 0.1], [2.0, 30.0, 5.0], [900.0, 50.0, 3000.0]])
def test_shares_start_at_the_largest_likelihood(alpha: list[float]) -> None:
    """No gradient is left. Fails with moments for the fixed point."""
    x = torch.from_numpy(np.random.default_rng(0).dirichlet(alpha, size=900))
    x = x.clamp_min(1e-5) / x.clamp_min(1e-5).sum(1, keepdim=True)
    likelihood = Dirichlet((3,)).double()
    found = likelihood(likelihood.init_params(x)).concentration.requires_grad_()
    log_prob = torch.distributions.Dirichlet(found).log_prob(x).mean()
    (gradient,) = torch.autograd.grad(log_prob, found)
    assert (gradient * found).abs().max() < 0.01
    constant = likelihood.init_params(x[:1].expand(9, 3))
    assert constant.isfinite().all()


@pytest.mark.long
def test_a_direction_that_moves_shares_is_found(tmp_path: Path) -> None:
    x = _shares()
    margins = Dirichlet((3,))
    start = margins(margins.init_params(x)).log_prob(x).mean()
    vae = _vae()
    options: dict[str, Any] = {"seed": 0, "compile": False, "device": "cpu"}
    pv.fit(vae, x, epochs=60, lr=1e-2, batch_size=100, **options)
    assert pv.evaluate(vae, x, num_samples=100).log_marginal.mean() > float(start) + 0.3
    drawn = vae.sample(200)
    torch.testing.assert_close(drawn.sum(1), torch.ones(200))
    again = pv.load(pv.save(vae, tmp_path / "model"))
    z = torch.randn(400, 2)
    torch.testing.assert_close(again.decode(z).log_prob(x), vae.decode(z).log_prob(x))
    rows = check(vae, x[:60], level=0.5).rows
    assert {"spread", "marginals"} <= {row.statistic for row in rows}


def test_rows_that_are_no_compositions_are_refused() -> None:
    """By the row's sum, to four digits. Fails when entries are looked at one by one."""
    vae = _vae()
    x = torch.tensor([[0.2, 0.3, 0.5], [0.2, 0.3, 0.49], [0.7, 0.6, -0.3]])
    assert CompositionSupport().check(x).tolist() == [[True] * 3, [False] * 3, [True, True, False]]
    assert CompositionSupport().check(torch.tensor([0.3333, 0.3333, 0.3334])).all()
    with pytest.raises(ValueError, match=r"of Dirichlet, Composition\(.*\), got 0.2 at index \[1,"):
        vae.accepts(Rows(x[:2]))
    with pytest.raises(ValueError, match=r"whose entries are independent given z"):
        vae.accepts(Rows(x[:1], {"mask": torch.ones(1, 3, dtype=torch.bool)}))


@pytest.mark.parametrize("event_shape", [(1,), (2, 3)])
def test_what_is_no_row_of_shares_is_reported_in_one_line(event_shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="`event_shape`: expected "):
        Dirichlet(event_shape)
