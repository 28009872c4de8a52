"""A network whose weights are latent, against closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.networks import MLP, Bayesian

_NOISE, _OWN = 0.5, 0.7


class _Linear:
    """x = W c + z + noise, in double precision: W and z are normal, and so is everything else."""

    def __init__(self, rank: int = 0) -> None:
        torch.manual_seed(0)
        network = nn.Linear(2, 3, bias=False).double()
        self.decoder = Bayesian(network, dist.Normal(0.0, 1.0), rank=rank)

    def model(self, x: Tensor, cond: Tensor) -> None:
        decode = self.decoder.at(pyro.sample("decoder", self.decoder.prior()))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), _OWN).to_event(1))
            pyro.sample("x", dist.Normal(decode(cond) + z, _NOISE).to_event(1), obs=x)

    def guide(self, x: Tensor, cond: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        weights = pyro.sample("decoder", self.decoder.guide())
        share = _OWN**2 / (_OWN**2 + _NOISE**2)
        with pyro.plate("data", len(x)):
            loc = share * (x - self.decoder.at(weights)(cond))
            pyro.sample("z", dist.Normal(loc, share**0.5 * _NOISE).to_event(1))

    def program(self) -> pv.Program:
        return pv.Program(self.model, self.guide)


def _data(size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    cond = torch.randn(size, 2, generator=generator).double()
    weights = torch.tensor([[1.0, -0.5], [0.3, 0.8], [-1.2, 0.1]]).double()
    noise = torch.randn(size, 3, generator=generator).double()
    return cond @ weights.T + (_OWN**2 + _NOISE**2) ** 0.5 * noise, cond


def _posterior(x: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of W, ``(3, 2)``, and the covariance of each of its rows."""
    variance = _OWN**2 + _NOISE**2
    covariance = torch.linalg.inv(torch.eye(2).double() + cond.T @ cond / variance)
    return x.T @ cond / variance @ covariance, covariance


def _predictive(x: Tensor, cond: Tensor, mean: Tensor, covariance: Tensor) -> np.ndarray:
    """log p(x_new | data): normal, with what W is uncertain of on top."""
    variance = _OWN**2 + _NOISE**2 + (cond @ covariance * cond).sum(-1, keepdim=True)
    log_prob: Tensor = dist.Normal(cond @ mean.T, variance.sqrt()).to_event(1).log_prob(x)
    return log_prob.numpy()


def test_a_conjugate_linear_decoder_has_its_closed_form() -> None:
    """q(w) is set to the posterior, that of three rows of W, which are independent of each other.

    The data are few: with W at its mean instead the scores lie far outside of their errors.
    """
    x, cond = _data(5)
    new, beside = _data(50)[0][10:], _data(50)[1][10:]
    mean, covariance = _posterior(x, cond)
    pair = _Linear(rank=6)
    program = pair.program()
    program.initialize(x, cond=cond)
    root = torch.linalg.cholesky(covariance)
    with torch.no_grad():
        pair.decoder.loc.copy_(mean.flatten())  # type: ignore[union-attr]
        pair.decoder.factor.copy_(torch.block_diag(root, root, root))
        pair.decoder.raw_scale.fill_(-20.0)
    scores = pv.evaluate(program, new, cond=beside, num_samples=20, num_globals=80)
    exact = _predictive(new, beside, mean, covariance)
    off = (scores.log_marginal - exact) / scores.mcse
    assert np.mean(np.abs(off) < 3) > 0.97
    error = scores.mcse.mean()
    assert abs(scores.log_marginal.mean() - exact.mean()) < 3 * error
    fixed = _predictive(new, beside, mean, torch.zeros(2, 2).double())
    assert abs(fixed.mean() - exact.mean()) > 3 * error


@pytest.mark.long
@pytest.mark.parametrize(("rank", "near"), [(0, 0.25), (2, 0.4)])
def test_a_fit_finds_the_posterior(rank: int, near: float) -> None:
    """Conditions are orthogonal, so that the posterior has independent weights.

    Gradients are of one draw a step: scales end within a quarter, those of low rank within 40 %.
    """
    x, cond = _data(64)
    cond = torch.linalg.qr(cond).Q * 8
    x = cond @ torch.tensor([[1.0, -0.5], [0.3, 0.8], [-1.2, 0.1]]).double().T + 0.8 * x
    mean, covariance = _posterior(x, cond)
    pair = _Linear(rank)
    options: dict[str, Any] = {"batch_size": 64, "schedule": "cosine", "compile": False}
    pv.fit(pair.program(), x, cond=cond, epochs=300, lr=0.03, seed=0, device="cpu", **options)
    q = pair.decoder.guide()
    spread = covariance.diagonal().sqrt().repeat(3)
    assert ((q.mean - mean.flatten()).abs() / spread).max() < 0.5
    assert torch.allclose(q.variance.sqrt(), spread, rtol=near)


def test_draws_of_several_weights_are_those_of_each() -> None:
    torch.manual_seed(0)
    network = MLP((5,))
    decoder = Bayesian(network)
    with pytest.raises(ValueError, match=r"`network`: expected one that is built: `build\(in_sha"):
        decoder.prior()
    decoder.build((2,), (3,), cond_size=1)
    assert decoder.num_weights == 3 * 5 + 5 + 5 * 3 + 3
    z, cond = torch.randn(4, 7, 2), torch.randn(7, 1)
    weights = decoder.prior().sample((4, 1))
    together = decoder.at(weights)(z, cond)
    assert together.shape == (4, 7, 3)
    for w, each, one in zip(weights, z, together, strict=True):
        assert torch.allclose(decoder.at(w[0])(each, cond), one, atol=1e-6)
    start = decoder.at(decoder.guide().mean)(z[0], cond)
    assert torch.allclose(start, network(z[0], cond), atol=1e-6)
    assert [name for name, each in decoder.named_parameters() if each.requires_grad] == [
        "loc",
        "raw_scale",
    ]


def test_an_autoguide_of_the_weights_is_taken() -> None:
    pair = _Linear()
    x, cond = _data(30)
    blocked = pyro.poutine.block(pair.model, expose=["decoder"])
    automatic = pyro.infer.autoguide.AutoNormal(blocked)

    def guide(x: Tensor, cond: Tensor) -> None:
        weights = automatic(x, cond)["decoder"]
        with pyro.plate("data", len(x)):
            loc = 0.6 * (x - pair.decoder.at(weights)(cond))
            pyro.sample("z", dist.Normal(loc, 0.4).to_event(1))

    program = pv.Program(pair.model, guide)
    run = pv.fit(program, x, cond=cond, epochs=2, seed=0, device="cpu", compile=False)
    assert np.isfinite(run.history["elbo"]).all()
    scores = pv.evaluate(program, x[:5], cond=cond[:5], num_samples=20, num_globals=3)
    assert np.isfinite(scores.mcse).all()


def test_parameters_are_saved_and_the_draws_come_back(tmp_path: Any) -> None:
    x, cond = _data(30)
    pair = _Linear(rank=1)
    pv.fit(pair.program(), x, cond=cond, epochs=2, lr=0.05, seed=0, device="cpu",
           out=tmp_path / "run")  # fmt: skip
    again = _Linear(rank=1)
    program = pv.load(tmp_path / "run", program=again.program())
    assert torch.equal(again.decoder.loc.detach(), pair.decoder.loc.detach())  # type: ignore[union-attr]
    known = program.sample(4, cond=cond[:4], seed=1)
    assert torch.equal(known, program.sample(4, cond=cond[:4], seed=1))


_MIXTURE = dist.MixtureSameFamily(
    dist.Categorical(torch.tensor([0.5, 0.5])),
    dist.Normal(torch.zeros(2), torch.tensor([1.0, 0.1])),
)


def _tied() -> nn.Module:
    network = nn.ModuleDict({name: nn.Linear(2, 2, bias=False) for name in "ab"})
    network["b"].weight = network["a"].weight
    return network


@pytest.mark.parametrize(
    "prior",
    [dist.LogNormal(0.5, 2.0), dist.HalfNormal(3.0), dist.Beta(2.0, 3.0), dist.StudentT(3.0)],
)
def test_priors_that_are_made_of_others_are_kept(prior: Any) -> None:
    """Of a module: what it is made of is moved and saved with it, to double precision here."""
    network = Bayesian(nn.Linear(1, 2).double(), prior)
    at = torch.full((4,), 0.3).double()
    once = prior.log_prob(torch.tensor(0.3)).item()
    assert network.prior().log_prob(at).item() == pytest.approx(4 * once, rel=1e-5)
    assert network.prior().log_prob(at).dtype == torch.float64


def test_a_layer_that_is_used_twice_has_its_weights_once() -> None:
    layer = nn.Linear(2, 2, bias=False)
    network = Bayesian(nn.Sequential(layer, layer))
    assert network.num_weights == 4
    assert network.at(2 * torch.eye(2).flatten())(torch.ones(1, 2)).tolist() == [[4.0, 4.0]]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"network": 3}, "`network`: expected a network, got 3"),
        (
            {"network": MLP((5,)).build((2,), (3,))},  # type: ignore[func-returns-value]
            "`network`: expected a network, and `build` returns none, got None",
        ),
        ({"network": nn.ReLU()}, "`network`: expected one that has weights, got ReLU"),
        ({"prior": 1.0}, r"`prior`: expected a distribution of a number, .*, got 1.0"),
        ({"rank": -1}, "`rank`: expected a positive integer, got -1"),
        ({"prior": _MIXTURE}, "`prior`: expected a distribution that its parameters alone m"),
        ({"network": _tied()}, "`network`: expected weights that are not tied, got 'a.wei"),
    ],
)
def test_bad_arguments_are_one_line(arguments: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        Bayesian(**{"network": nn.Linear(1, 2), **arguments})
