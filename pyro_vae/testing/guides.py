"""The contract of guides."""

from __future__ import annotations

import copy
import itertools

import torch
from pyro.distributions.constraints import sphere
from torch import Tensor

from pyro_vae.distributions import same_support
from pyro_vae.guides import Guide
from pyro_vae.testing._assertions import all_true, close, require
from pyro_vae.testing._shared import (
    EXTREME,
    check_batches,
    check_extreme,
    check_gradients,
    check_mass,
)
from pyro_vae.testing.distributions import DRAWS, sphere_points
from pyro_vae.testing.parts import check_part

__all__ = ["check_guide"]

_CHUNKS = 25  # independent means, from which standard errors come


def check_guide(guide: Guide) -> None:
    """Checks a guide on random features and on extreme ones.

    Where its draws are reparameterised, the gradient of an expectation is compared with finite
    differences under common random numbers.

    Args:
        guide: A guide over at most two real entries, or enumerable.

    Raises:
        AssertionError: If the guide breaks its contract.

    Example:
        >>> from pyro_vae import guides
        >>> check_guide(guides.Normal(2))
    """
    check_part(guide)
    guide = copy.deepcopy(guide).double()
    features = check_batches(guide, guide.event_shape)
    z = guide(features).sample()
    require(all_true(guide.support.check(z)), f"{guide}: draws outside `support`, {guide.support}")
    check_gradients(guide, [features], lambda: guide(features).log_prob(z))
    check_mass(guide, guide(features[0, 0].detach()))
    if guide(features).has_rsample:
        if same_support(guide.support, sphere):
            _check_reparameterisation_on_sphere(guide)
        else:
            _check_reparameterisation(guide)
    for extreme in EXTREME:
        far = torch.full((5, *guide.param_shape), extreme, dtype=torch.float32)
        check_extreme(_single(guide), far)


def _single(guide: Guide) -> Guide:
    """Returns a copy in single precision, and with it the model it is part of, if any."""
    twin = copy.deepcopy(guide).float()
    view = getattr(twin, "_view", None)
    if view is not None:
        view.vae.float()
    return twin


def _check_reparameterisation(guide: Guide, step: float = 1e-5) -> None:
    features = torch.randn(2, *guide.param_shape, dtype=torch.float64)
    weights = torch.randn(2, *guide.event_shape, dtype=torch.float64)

    def expectation(features: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            z = guide(features).rsample((DRAWS,))
        return (weights * z + z.square()).mean(0).sum()

    leaf = features.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(expectation(leaf), leaf)
    for index in itertools.product(*map(range, features.shape)):
        shift = torch.zeros_like(features)
        shift[index] = step
        with torch.no_grad():
            rise = expectation(features + shift) - expectation(features - shift)
        slope = rise.detach() / (2 * step)
        require(
            close(gradient[index], slope, 1e-5 * (1 + float(slope.abs()))),
            f"{guide}: the gradient of an expectation of draws is {float(gradient[index]):.6g} at "
            f"feature {index}, finite differences give {float(slope):.6g}",
        )


def _check_reparameterisation_on_sphere(guide: Guide) -> None:
    """Compares gradients of an expectation with those of its integral, in standard errors.

    Draws that are accepted or rejected do not move smoothly with the features, though their
    gradient is unbiased: finite differences under common random numbers do not apply.
    """
    features = torch.randn(*guide.param_shape, dtype=torch.float64).requires_grad_()
    weights = torch.randn(2, *guide.event_shape, dtype=torch.float64)

    def f(z: Tensor) -> Tensor:
        return z @ weights[0] + (z @ weights[1]).square()

    points, areas = sphere_points(guide.event_shape.numel(), torch.float64)
    exact = (guide(features).log_prob(points).exp() * areas * f(points)).sum()
    (truth,) = torch.autograd.grad(exact, features)
    found = []
    for _ in range(_CHUNKS):
        mean = f(guide(features).rsample((DRAWS,))).mean()
        found.append(torch.autograd.grad(mean, features)[0])
    gradients = torch.stack(found)
    errors = gradients.std(0) / _CHUNKS**0.5
    away = ((gradients.mean(0) - truth).abs() / errors.clamp_min(1e-9)).max()
    require(
        bool(away < 6),  # a Student-t variable with a degree of freedom less than there are chunks
        f"{guide}: the gradient of an expectation of draws is {float(away):.1f} standard errors "
        "from that of its integral",
    )
