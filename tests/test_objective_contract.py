"""Every exported objective keeps its contract, and the contract notices those that do not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import OBJECTIVES, Case
from torch import Tensor

import pyro_vae as pv
from pyro_vae import testing
from pyro_vae.objectives import ELBO, IWAE, Objective, Renyi, TotalCorrelation


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("case", OBJECTIVES, ids=str)
def test_objective(case: Case) -> None:
    testing.check_objective(case())


def test_every_exported_objective_is_tried() -> None:
    exported = {getattr(pv.objectives, name) for name in pv.objectives.__all__}
    concrete = {o for o in exported if isinstance(o, type) and Objective in o.__mro__[1:]}
    assert {case.part for case in OBJECTIVES} == concrete


def quadrature(bound: Callable[[Tensor], Tensor], num_samples: int) -> Any:
    """The expected loss of ``num_samples`` draws an observation, by Gauss-Hermite rules in each.

    Args:
        bound: From log-weights, shape ``(S, *)``, to what is maximised.
        num_samples: S.
    """
    points, weights = np.polynomial.hermite_e.hermegauss(32)
    nodes, shares = torch.tensor(points), torch.tensor(weights / math.sqrt(2 * math.pi))
    combined = torch.tensor(list(itertools.product(range(32), repeat=num_samples)))

    def expected_loss(vae: pv.VAE, x: Tensor) -> Tensor:
        q = vae.encode(x).base_dist
        z = q.loc + q.scale * nodes[:, None, None]
        log_q = torch.distributions.Normal(q.loc, q.scale).log_prob(z).sum(-1)
        log_weights = vae.decode(z).log_prob(x) + vae.prior().log_prob(z) - log_q
        values = bound(log_weights[combined].movedim(1, 0))
        return -(shares[combined].prod(1)[:, None] * values).sum()

    return expected_loss


def renyi(alpha: float) -> Callable[[Tensor], Tensor]:
    return lambda w: (((1 - alpha) * w).logsumexp(0) - math.log(len(w))) / (1 - alpha)


def mean(w: Tensor) -> Tensor:
    return w.mean(0)


@pytest.mark.long
@pytest.mark.parametrize(
    ("objective", "bound", "num_samples"),
    [
        (ELBO(), mean, 1),
        (ELBO("sampled", num_particles=2), mean, 1),
        (IWAE(2), renyi(0.0), 2),
        (IWAE(2, "dreg"), renyi(0.0), 2),
        (IWAE(2, "stl"), renyi(0.0), 2),
        (Renyi(0.6, 2), renyi(0.6), 2),
        (Renyi(1.5, 2), renyi(1.5), 2),
        (Renyi(1.0, 2), mean, 1),
        (TotalCorrelation(1.0), mean, 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Objective) else str(value)[:1],
)
def test_value_and_gradient_are_those_of_quadrature(
    objective: Objective, bound: Callable[[Tensor], Tensor], num_samples: int
) -> None:
    """Fails when log K is not taken off."""
    truth = quadrature(bound, num_samples)
    testing.check_objective(objective, expected_loss=truth, capture=False)


def changed(objective: Objective, **attributes: Any) -> Objective:
    for name, value in attributes.items():
        setattr(objective, name, value)
    return objective


class Doubled(ELBO):
    """Its gradient is twice what it should be."""

    def differentiable_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().differentiable_loss(*args, **kwargs)
        return 2 * loss - loss.detach()


class Counting(ELBO):
    """It takes an evaluation for a step."""

    def differentiable_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        self.advance()
        return super().differentiable_loss(*args, **kwargs)


class ReadingBack(ELBO):
    """It cannot be captured."""

    def differentiable_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().differentiable_loss(*args, **kwargs)
        return loss if loss.item() > 0 else 0 * loss


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (changed(IWAE(5, "stl"), unbiased_gradient=True), "gradient of the guide is off by"),
        (changed(Renyi(-2.0, 10), is_bound=True), "declared a bound"),
        (changed(ELBO(beta=0.5), is_bound=True), "declared a bound"),
        (changed(ELBO(capacity=0.5), is_bound=True), "declared a bound"),
        (Doubled(), "gradient of the model is off by"),
        (Counting(), "evaluating it is a step"),
        (ReadingBack(), "cannot be captured"),
    ],
    ids=lambda o: type(o).__name__,
)
def test_a_broken_objective_is_found(objective: Objective, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        testing.check_objective(objective)


def test_a_value_that_is_off_is_found() -> None:
    truth = quadrature(lambda w: w.mean(0) + 0.1, 1)
    with pytest.raises(AssertionError, match="the expected loss is off by"):
        testing.check_objective(ELBO(), expected_loss=truth, capture=False)
