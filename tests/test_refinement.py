"""Guides that refine what the encoder says, and what the encoder learns from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import small

import pyro_vae as pv
from pyro_vae import guides, likelihoods, networks, priors


def test_refinement_gains_and_converges_to_the_best_of_the_family() -> None:
    """On a linear model, whose best diagonal guide is known; fails when the steps go downhill."""
    weight = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0]]).double()
    precision = 1 + weight.square().sum(0) / 0.25
    x = torch.tensor([[1.0, -1.0, 0.5]]).double()
    best = (x @ weight / 0.25) / precision
    reached = []
    for steps in (1, 300):
        guide = guides.SemiAmortized(2, steps=steps, step_size=0.02)
        vae = pv.VAE(
            priors.Normal(2),
            guide,
            likelihoods.Normal((3,), scale=0.5),
            encoder=networks.MLP((4,)),
            decoder=networks.MLP(()),
        ).double()
        with torch.no_grad():
            vae.decoder.layers[0].weight.copy_(weight)
            vae.decoder.layers[0].bias.zero_()
        torch.manual_seed(0)
        q = vae.encode(x.expand(50, -1)).mean  # each with draws of its own
        reached.append((q - best).square().mean().sqrt())
    assert reached[1] < 0.15
    assert reached[0] > 2 * reached[1]


@pytest.mark.parametrize(
    "other",
    [(priors.Normal(1), guides.Normal(1)), (priors.Categorical(1, 3), guides.GumbelSoftmax(1, 3))],
    ids=["real", "discrete"],
)
def test_a_part_of_a_product_is_refined(other: tuple[Any, Any]) -> None:
    """Each bound in the mean of 500 draws; fails when features are those of the encoder."""
    bounds = []
    for steps in (1, 100):
        guide = guides.SemiAmortized(2, steps=steps, step_size=0.05)
        torch.manual_seed(0)
        vae = small(
            priors.Product([priors.Normal(2), other[0]]),
            guides.Product([guide, other[1]]),
            likelihoods.Normal((4,), scale=0.5),
        )
        x = 2 * torch.randn(3, 4).double()
        bounds.append(pv.evaluate(vae, x, num_samples=500).elbo.mean())
    assert bounds[1] > bounds[0] + 0.5


def test_refined_parts_are_independent_of_the_others() -> None:
    parts = [guides.SemiAmortized(2), guides.GumbelSoftmax(1, 3)]
    with pytest.raises(ValueError, match="`independent`: expected True where a family refines"):
        guides.Product(parts, independent=False)


def test_the_encoder_learns_through_the_refinement() -> None:
    vae = small(priors.Normal(2), guides.SemiAmortized(2, steps=2))
    loss = pv.objectives.ELBO().differentiable_loss(vae.model, vae.guide, torch.eye(4).double())
    loss.backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in vae.parameters())  # type: ignore[union-attr]
