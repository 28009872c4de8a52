"""What verbs make of a Pyro pair where a VAE has more to offer, or it has itself."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear import LinearGaussian
from torch import Tensor

import pyro_vae as pv
from pyro_vae.evaluation import accuracy, probe, rate_distortion


@pytest.fixture(scope="module")
def linear() -> LinearGaussian:
    return LinearGaussian(dim=6, latent=2, columns="correlated", factor=1.2, dtype=torch.float64)


@pytest.fixture(scope="module")
def x(linear: LinearGaussian) -> Tensor:
    torch.manual_seed(0)
    return linear.marginal.sample((30,))


def _guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.mean(-1), 1.0))


def _model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("x", dist.Normal(z[:, None].expand(len(x), 2), 1.0).to_event(1), obs=x)


def _dependent(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
        w = pyro.sample("w", dist.Normal(z, 1.0))
        pyro.sample("x", dist.Normal(w[:, None].expand(len(x), 2), 1.0).to_event(1), obs=x)


def _dependent_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.mean(-1), 1.0))
        pyro.sample("w", dist.Normal(z, 1.0))


def test_a_discrete_site_that_is_masked_is_not_summed() -> None:
    """A site that an observation is without would count once for each of its states."""

    def model(x: Tensor, mask: Tensor) -> None:
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=mask[:, 0]):
            k = pyro.sample("k", dist.Categorical(torch.ones(3) / 3))
            pyro.sample("x", dist.Normal(k[:, None].float(), 1.0).to_event(1), obs=x)

    def guide(x: Tensor, mask: Tensor) -> None:
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=mask[:, 0]):
            pyro.sample("k", dist.Categorical(torch.ones(len(x), 3) / 3))

    x, mask = torch.zeros(6, 1), torch.arange(6)[:, None] < 4
    scores = pv.evaluate(pv.Program(model, guide), x, mask=mask, num_samples=50)
    assert not scores.is_exact
    assert scores.log_marginal[5] == pytest.approx(0.0, abs=1e-6)


def _reconstructed(likelihood: Any) -> Tensor:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.sample("x", likelihood(z[:, None].expand(len(x), 2)).to_event(1), obs=x)

    program = pv.Program(model, _guide)
    torch.manual_seed(0)
    return program.reconstruct(torch.ones(4, 2))


def test_reconstructions_are_means_of_draws_or_refused() -> None:
    """No distribution of these has a mean in closed form; only the first has one."""

    def folded(z: Tensor) -> Any:
        return dist.FoldedDistribution(dist.Normal(z, 0.1))

    assert torch.allclose(_reconstructed(folded), torch.ones(4, 2), atol=0.05)
    for heavy in (
        lambda z: dist.Cauchy(z, 1.0),
        lambda z: dist.Categorical(logits=torch.stack([z, -z], -1)),
    ):
        with pytest.raises(ValueError, match=r"`program`: .*'x' that has a mean; `program.repl"):
            _reconstructed(heavy)


def test_what_takes_a_vae_alone_names_what_takes_a_program() -> None:
    x = torch.randn(30, 2)
    program: Any = pv.Program(_model, _guide)
    program.initialize(x)
    with pytest.raises(ValueError, match=r"`vae`: expected a VAE .*; of a Program, `probe`"):
        accuracy(program, x, [0] * 30)
    with pytest.raises(ValueError, match=r"`build`: .* a VAE; `compare` ranks Programs"):
        pv.select(lambda dim: program, x, {"dim": [1, 2]}, folds=2, epochs=1)
    with pytest.raises(ValueError, match="`prior`: expected"):
        pv.sklearn.VAEDensity(1, prior=program).fit(x.numpy())
    labels = (x[:, 1] > 0).long()
    assert probe(program, x, labels).accuracy["linear"] > 0.6


def test_rate_and_distortion_are_those_of_the_vae(linear: LinearGaussian, x: Tensor) -> None:
    program = pv.Program(linear.vae.model, linear.vae.guide)
    theirs, ours = (rate_distortion(each, x).summary() for each in (linear.vae, program))
    for name in ("rate", "distortion", "mutual_information", "marginal_kl"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-6), name


def test_rate_and_distortion_of_dependent_sites_are_refused() -> None:
    program = pv.Program(_dependent, _dependent_guide)
    with pytest.raises(ValueError, match="`vae`: expected a guide whose sites depend on x alone"):
        rate_distortion(program, torch.randn(10, 2))


def test_the_variance_of_a_guide_is_that_of_its_draws() -> None:
    """In closed form, and by draws where sites depend on each other: 1, and 1 + 1."""
    x = torch.randn(5, 2)
    alone = pv.Program(_model, _guide).encode(x)
    assert torch.allclose(alone.variance, torch.ones(5, 1))
    both = pv.Program(_dependent, _dependent_guide).encode(x).variance
    assert torch.allclose(both.mean(0), torch.tensor([1.0, 2.0]), rtol=0.25)
