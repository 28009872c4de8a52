"""The contract of missingness models."""

from __future__ import annotations

import copy
import itertools

import torch

from pyro_vae.missingness import Missingness
from pyro_vae.testing._assertions import all_true, require
from pyro_vae.testing._shared import EXTREME, check_gradients
from pyro_vae.testing.parts import check_part

__all__ = ["check_missingness"]

_BATCH_SHAPES = ((), (5,), (3, 5))


def check_missingness(missingness: Missingness) -> None:
    """Checks a missingness model on random data, on extreme ones, and where it starts.

    The probabilities of all masks must sum to 1, and depend on no other observation. Where
    ``start`` puts it, the mean must be the share of each entry that is observed, within half an
    observation at either side, for any x. Parameters and x must have gradients.

    Args:
        missingness: A missingness model of a few entries.

    Raises:
        AssertionError: If it breaks its contract.

    Example:
        >>> from pyro_vae import missingness
        >>> check_missingness(missingness.SelfMasking((2,)))
    """
    check_part(missingness)
    part = copy.deepcopy(missingness).double()
    shape = part.event_shape
    share = torch.linspace(0.2, 0.8, shape.numel(), dtype=torch.float64).reshape(shape)
    masks = torch.rand(1000, *shape, dtype=torch.float64) < share
    part.start(masks)
    mean = part(torch.randn(7, *shape, dtype=torch.float64)).mean
    require(
        bool(((mean - masks.double().mean(0)).abs() < 1 / len(masks)).all()),
        f"{part}: `start` does not fit the shares that are observed",
    )
    for same in (masks[:1] | True, masks[:1] & False):
        part.start(same.expand(9, *shape))
        d = part(torch.randn(2, *shape, dtype=torch.float64))
        require(
            all_true(d.log_prob(d.sample()).isfinite()),
            f"{part}: `start` is not finite where every mask is the same",
        )
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.normal_()
    for batch_shape in _BATCH_SHAPES:
        x = torch.randn(*batch_shape, *shape, dtype=torch.float64)
        d = part(x)
        require(
            (d.batch_shape, d.event_shape) == (batch_shape, shape),
            f"{part}: batch shape {tuple(d.batch_shape)}, event shape {tuple(d.event_shape)}",
        )
        every = itertools.product((0.0, 1.0), repeat=shape.numel())
        states = torch.tensor(list(every), dtype=torch.float64).reshape(-1, *shape)
        states = states.reshape(-1, *(1,) * len(batch_shape), *shape)
        mass = d.log_prob(states.expand(-1, *batch_shape, *shape)).logsumexp(0).exp()
        require(
            torch.allclose(mass, torch.ones_like(mass)),
            f"{part}: the probabilities of masks do not sum to 1",
        )
    mask = d.sample()
    require(
        torch.allclose(part(x[0, :1]).log_prob(mask[0, :1]), d.log_prob(mask)[0, :1]),
        f"{part}: the probability of a mask depends on the rest of its batch",
    )
    x.requires_grad_()
    check_gradients(part, [x], lambda: part(x).log_prob(mask))
    _check_extreme(copy.deepcopy(part).float())


def _check_extreme(part: Missingness) -> None:
    """Checks that density and gradient are finite for data far away, in single precision."""
    for value in EXTREME:
        x = torch.full((2, *part.event_shape), value, requires_grad=True)
        masks = torch.stack([torch.zeros(part.event_shape), torch.ones(part.event_shape)])
        log_prob = part(x).log_prob(masks)
        (gradient,) = torch.autograd.grad(log_prob.sum(), x)
        require(
            all_true(log_prob.isfinite()) and all_true(gradient.isfinite()),
            f"{part}: log_prob or its gradient is not finite at {value:g}",
        )
