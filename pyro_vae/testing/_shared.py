"""Checks that the contracts of several kinds of parts share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.part import Part
from pyro_vae.testing._assertions import all_true, require
from pyro_vae.testing.covariates import of_rows, some_covariates
from pyro_vae.testing.distributions import check_distribution, total_mass

__all__ = ["EXTREME", "check_batches", "check_extreme", "check_gradients", "check_mass"]

_BATCH_SHAPES = ((), (5,), (3, 5))
EXTREME = (-1e3, -30.0, 0.0, 30.0, 1e3)  # what a network may return early in a fit


def check_mass(part: Part, d: Any) -> None:
    """Checks that the density of a small distribution sums to 1."""
    mass = total_mass(d)
    require(abs(mass - 1) < 1e-3, f"{part}: its density sums to {mass:.6g}, not to 1")


def check_batches(part: Guide | Likelihood, event_shape: torch.Size) -> Tensor:
    """Checks each number of batch dimensions; returns parameters with two of them."""
    params = torch.empty(0)
    for batch_shape in _BATCH_SHAPES:
        params = torch.randn(*batch_shape, *part.param_shape, dtype=torch.float64)
        named = some_covariates(part, *batch_shape[-1:])
        check_distribution(part(params, **named), batch_shape, event_shape)
    value = part(params, **named).sample()
    one_by_one = torch.stack(
        [
            part(params[0, i], **of_rows(named, i)).log_prob(value[0, i])
            for i in range(params.shape[1])
        ]
    )
    require(
        torch.allclose(part(params, **named).log_prob(value)[0], one_by_one),
        f"{part}: the density of an observation depends on the rest of its batch",
    )
    return params.requires_grad_()


def check_gradients(module: nn.Module, inputs: Iterable[Tensor], f: Callable[[], Tensor]) -> None:
    """Checks that ``f`` has a finite, non-zero gradient for each named parameter and input."""
    named = [*module.named_parameters(), *((f"input {i}", t) for i, t in enumerate(inputs))]
    if not named:
        return
    total = f().square().sum()
    require(total.requires_grad, f"{module}: no gradient reaches {', '.join(n for n, _ in named)}")
    gradients = torch.autograd.grad(total, [t for _, t in named], allow_unused=True)
    for (name, _), gradient in zip(named, gradients, strict=True):
        require(gradient is not None, f"{module}: no gradient reaches {name}")
        assert gradient is not None
        require(all_true(gradient.isfinite()), f"{module}: the gradient of {name} is not finite")
        require(bool(gradient.abs().max() > 0), f"{module}: the gradient of {name} is zero")


def check_extreme(part: Guide | Likelihood, params: Tensor, value: Tensor | None = None) -> None:
    """Checks that the density and its gradient are finite far away, in single precision."""
    params = params.requires_grad_()
    d = part(params, **some_covariates(part, len(params), dtype=torch.float32))
    if value is None:
        value = d.rsample() if d.has_rsample else d.sample()
    log_prob = d.log_prob(value)
    where = f"where the network returns {float(params.detach().flatten()[0]):g}"
    require(all_true(log_prob.isfinite()), f"{part}: log_prob is not finite {where}")
    (gradient,) = torch.autograd.grad(log_prob.sum(), params)
    require(all_true(gradient.isfinite()), f"{part}: the gradient is not finite {where}")
