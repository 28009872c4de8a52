"""The density of many normal distributions at once, by products of matrices."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae.distributions import NormalMixture, log_probs_of_each, mixture

K, D = 20, 5


def parts(scale: float, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and scales; means are a hundred away from 0 and one from each other."""
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(shape, generator=generator, dtype=dtype) for shape in (K, (K, D), (K, D))]
    return draw[0], 100 + draw[1], scale * (1 + draw[2].square())


def of(logits: Tensor, loc: Tensor, scale: Tensor, kind: type = NormalMixture) -> dist.Distribution:
    components = dist.Normal(loc, scale).to_event(1)
    return kind(dist.Categorical(logits=logits), components)


@pytest.mark.parametrize("scale", [10.0, 1.0, 1e-2, 1e-4])
def test_the_density_is_that_of_differences(scale: float) -> None:
    """Values and gradients, where float32 products would be wrong by units and more."""
    leaves = [each.requires_grad_() for each in parts(scale)]
    draws = of(*leaves).sample((40,))
    z = draws.requires_grad_()
    value = of(*leaves).log_prob(z)
    gradients = torch.autograd.grad(value.sum(), [z, *leaves])
    exact = [each.detach().double().requires_grad_() for each in (z, *leaves)]
    reference = of(*exact[1:], kind=dist.MixtureSameFamily).log_prob(exact[0])
    assert value.dtype == torch.float32
    assert torch.allclose(value.double(), reference, rtol=1e-6, atol=1e-5)
    for own, other in zip(gradients, torch.autograd.grad(reference.sum(), exact), strict=True):
        assert torch.allclose(own.double(), other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def test_scales_of_a_millionth_lose_thousandths_of_a_nat() -> None:
    _, loc, scale = parts(1e-6, torch.float64)
    components = dist.Normal(loc, scale).to_event(1)
    z = components.sample()
    own = log_probs_of_each(components, z).diagonal()
    assert torch.allclose(own, components.log_prob(z), rtol=0, atol=2e-3)


@pytest.mark.parametrize("of_values", [torch.int64, torch.float32, torch.float64])
@pytest.mark.parametrize("of_means", [torch.float32, torch.float64])
def test_its_type_is_that_of_a_difference(of_values: torch.dtype, of_means: torch.dtype) -> None:
    """Fails when densities of integers are cut to integers."""
    leaves, z = parts(10.0, of_means), torch.full((3, D), 100, dtype=of_values)
    own, plain = of(*leaves).log_prob(z), of(*leaves, dist.MixtureSameFamily).log_prob(z)
    assert own.dtype == plain.dtype
    assert torch.allclose(own, plain, rtol=1e-5)


@pytest.mark.parametrize("shape", [(), (7,), (3, 7), (3, 1)])
def test_it_is_expanded_as_any_distribution(shape: tuple[int, ...]) -> None:
    logits, loc, scale = parts(1.0)
    plain = of(logits, loc, scale, dist.MixtureSameFamily).expand((7,))
    expanded = of(logits, loc, scale).expand((1,)).expand((7,))
    assert expanded.sample().shape == (7, D)
    z = 100 + torch.randn((*shape, D), generator=torch.Generator().manual_seed(1))
    value = expanded.log_prob(z)
    assert value.shape == plain.log_prob(z).shape
    assert torch.allclose(value, plain.log_prob(z), rtol=1e-5)


def test_values_are_checked_as_ever() -> None:
    with pytest.raises(ValueError, match="within the support"):
        of(*parts(1.0)).log_prob(torch.full((3, D), torch.nan))


def test_a_mixture_of_others_is_as_it_was() -> None:
    """Dependent entries, and positive ones, have no such products."""
    full = dist.MultivariateNormal(torch.zeros(3, 2), torch.eye(2).expand(3, 2, 2))
    positive = dist.LogNormal(torch.zeros(3, 2), torch.ones(3, 2)).to_event(1)
    for components in (full, positive):
        made = mixture(dist.Categorical(logits=torch.zeros(3)), components)
        assert type(made) is dist.MixtureSameFamily


def test_priors_use_it_inside_the_plate() -> None:
    """Fails when expansion over the data falls back to all differences."""
    for prior in (pv.priors.Mixture(2, 30), pv.priors.VampPrior(2, 30)):
        pv.VAE(prior, pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)), seed=0)
        expanded = prior().expand((64,))
        with torch.profiler.profile(record_shapes=True) as profile:
            expanded.log_prob(torch.zeros(64, 2))
        shapes = [shape for event in profile.events() for shape in event.input_shapes]
        assert [64, 30] in shapes
        assert [64, 30, 2] not in shapes
