"""Objectives of importance weights: values by quadrature, gradients by theory."""

from __future__ import annotations

import copy
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae.data.rows import Rows
from pyro_vae.objectives import ELBO, IWAE, Objective, Renyi
from pyro_vae.training.scales import Scales

EXACTLY = {"rtol": 1e-10, "atol": 1e-10}


def small_vae() -> pv.VAE:
    return pv.VAE(
        pv.priors.Normal(2),
        pv.guides.Normal(2),
        pv.likelihoods.Normal((3,), scale=0.7),
        pv.networks.MLP((5,), activation="tanh"),
        pv.networks.MLP((5,), activation="tanh"),
    ).double()


def loss_and_gradient(objective: Objective, vae: pv.VAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """Under a fixed seed; all gradients as one vector."""
    pyro.set_rng_seed(1)
    loss = objective.differentiable_loss(vae.model, vae.guide, x)
    gradients = torch.autograd.grad(loss, list(vae.parameters()))
    return loss, torch.cat([gradient.flatten() for gradient in gradients])


def test_one_draw_is_the_elbo_to_the_last_digit() -> None:
    vae, x = small_vae(), torch.randn(6, 3).double()
    loss, gradient = loss_and_gradient(IWAE(1), vae, x)
    by_elbo, its_gradient = loss_and_gradient(ELBO("sampled"), vae, x)
    assert torch.equal(loss, by_elbo)
    assert torch.equal(gradient, its_gradient)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(
    "objective",
    [IWAE(3), IWAE(3, "stl"), IWAE(3, "dreg"), Renyi(0.5, 3)],
    ids=lambda o: getattr(o, "gradient", "renyi"),
)
def test_a_captured_step_is_an_eager_one(objective: Any) -> None:
    vae, x = small_vae(), torch.randn(6, 3).double()
    ends = []
    for compiled in (False, True):
        twin = copy.deepcopy(vae)
        pyro.set_rng_seed(1)
        svi = pv.CompiledSVI(
            twin.model,
            twin.guide,
            lambda params: torch.optim.SGD(params, lr=0.01),
            objective,
            compile=compiled,
        )
        loss = svi.step(x)
        assert svi.engine_steps == {"inductor" if compiled else "eager": 1}
        ends.append((loss, torch.cat([p.detach().flatten() for p in twin.parameters()])))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-6)
    torch.testing.assert_close(ends[0][1], ends[1][1])


def test_residuals_weigh_as_the_objective_weighs_its_draws() -> None:
    """At order 0.5 by the roots of the weights that IWAE has, order 0; fails when it is 1 + 0.5."""
    vae, rows = small_vae(), Rows(torch.randn(6, 3).double())

    def weights(objective: Objective) -> Tensor:
        return Scales(vae, objective, rows)._with_draws(3, lambda params, weights: weights)

    roots = weights(IWAE(20)).sqrt()
    torch.testing.assert_close(weights(Renyi(0.5, 20)), roots / roots.sum(0))
