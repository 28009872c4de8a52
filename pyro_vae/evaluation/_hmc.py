"""Hamiltonian Monte Carlo: all chains of all data at once, a step size for each observation."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Density", "Point", "leapfrog", "transition"]

# Trajectories of one length all return to the energy they came from where the target is normal, at
# any multiple of half a period: each chain varies its step size by up to this share.
_JITTER = 0.5


class Point(NamedTuple):
    r"""Where the chains are on a path of densities, ``log f_beta = log base + beta * ratio``.

    Base and ratio are kept apart, so that a new ``beta`` costs no new gradient.

    Attributes:
        z: Shape ``(C, B, *event_shape)``.
        base: Log-density at ``beta = 0``, shape ``(C, B)``.
        ratio: Log-density at 1 less that at 0, shape ``(C, B)``.
        base_gradient: Of ``base`` by z.
        ratio_gradient: Of ``ratio`` by z.
    """

    z: Tensor
    base: Tensor
    ratio: Tensor
    base_gradient: Tensor
    ratio_gradient: Tensor

    def log_density(self, beta: Tensor | float) -> Tensor:
        """Returns ``log f_beta``, up to a constant, shape ``(C, B)``."""
        return self.base + beta * self.ratio

    def gradient(self, beta: Tensor | float) -> Tensor:
        """Returns the gradient of ``log f_beta`` by z."""
        return self.base_gradient + beta * self.ratio_gradient


Density = Callable[[Tensor], Point]


def leapfrog(
    density: Density,
    point: Point,
    momentum: Tensor,
    beta: Tensor | float,
    stride: Tensor,
    num_leapfrog: int,
) -> tuple[Point, Tensor]:
    """Follows Hamilton's equations: reversible, and volume is preserved.

    Args:
        density: Evaluates a path of distributions at z.
        point: The start.
        momentum: Its momentum, of unit mass in units of ``stride``, shape of z.
        beta: Which distribution of the path, a single number.
        stride: Step size times scale, broadcast to the shape of z.
        num_leapfrog: Steps.

    Returns:
        The end and its momentum.
    """
    momentum = momentum + stride / 2 * point.gradient(beta)
    for step in range(num_leapfrog):
        point = density(point.z + stride * momentum)
        last = step == num_leapfrog - 1
        momentum = momentum + (stride / 2 if last else stride) * point.gradient(beta)
    return point, momentum


def transition(
    density: Density,
    point: Point,
    beta: Tensor | float,
    step_size: Tensor,
    scale: Tensor,
    num_leapfrog: int,
) -> tuple[Point, Tensor]:
    """Moves every chain by a transition that leaves ``f_beta`` invariant and is reversible.

    The momentum is drawn afresh, so that the transition is its own reversal. A proposal whose
    density is not finite is rejected.

    References:
        MCMC Using Hamiltonian Dynamics (Neal, 2011), https://arxiv.org/abs/1206.1901

    Args:
        density: Evaluates a path of distributions at z.
        point: Where the chains are.
        beta: Which distribution of the path, a single number.
        step_size: One for each observation, shape ``(B,)``.
        scale: Of each entry of z, shape ``(B, *event_shape)``.
        num_leapfrog: Leapfrog steps of a proposal.

    Returns:
        The next point, and the probabilities with which the proposals were accepted, ``(C, B)``.
    """
    entries = range(2, point.z.ndim)
    trailing = (...,) + (None,) * len(entries)
    spread = 1 + _JITTER * (2 * torch.rand_like(point.base) - 1)
    stride = (spread * step_size)[trailing] * scale
    momentum = torch.randn_like(point.z)
    proposal, end = leapfrog(density, point, momentum, beta, stride, num_leapfrog)
    kinetic = [each.square().sum(tuple(entries)) / 2 for each in (momentum, end)]
    log_ratio = proposal.log_density(beta) - point.log_density(beta) + kinetic[0] - kinetic[1]
    probability = log_ratio.nan_to_num(nan=-torch.inf).clamp_max(0).exp()
    accepted = torch.rand_like(probability) < probability
    chosen = (
        torch.where(accepted[trailing] if new.ndim > 2 else accepted, new, old)
        for new, old in zip(proposal, point, strict=True)
    )
    return Point(*chosen), probability
