"""Draws of z from a proposal that is adapted to each observation, where the guide is a poor one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.data.rows import Rows
from pyro_vae.distributions import same_support
from pyro_vae.programs.weigh import draws_at_once

if TYPE_CHECKING:
    from pyro_vae.programs.protocol import Amortized

__all__ = ["AdaptiveMixture", "adapts", "draw_prior", "effective", "moments", "refined"]

_DEFENSIVE = 0.2  # of the draws are from the prior, which bounds the weights
_FREEDOM = 5.0  # degrees of freedom of the proposal: tails heavier than a posterior's
_AROUND = 50  # draws of the guide: Newton's steps start from the best of them
_NEWTON = 8  # steps to the mode, at most
_NEGLIGIBLE = 1e-2  # nats that a step gains: the mode is near enough
_STEP = 0.5  # of the differences that curvature is found by, in standard deviations of the guide
_DAMPED = (1.0, 0.5, 0.25, 0.1)  # shares of a step, of which the best is taken
_FLATTEST = 0.1  # curvature, at least: that of a standard normal prior is one
_ROUNDS = 6  # that adapt the proposal by moments where curvature does not suffice
_NARROWEST = 1e-7  # variance, as a share of the largest: float32 resolves no less
_ENOUGH = 0.2  # of the draws are effective: no more rounds


def draw_prior(prior: Any, count: int, size: int) -> Tensor:
    """Draws z, shape ``(count, size, *event_shape)``: of N conditions, ``size`` is N."""
    z: Tensor = prior.sample((count,) if prior.batch_shape else (count, size))
    return z


def effective(log_weights: Tensor) -> Tensor:
    """Returns the effective number of draws of each observation, shape ``(B,)``, float64.

    It is zero where all are minus infinity, or one is NaN or infinity.

    Args:
        log_weights: Shape ``(S, B)``.
    """
    return (1 / log_weights.double().softmax(0).square().sum(0)).nan_to_num(nan=0.0)


def adapts(vae: Amortized) -> bool:
    """Returns whether z is a vector of real numbers, to which a proposal can be adapted."""
    return same_support(vae.space.support, constraints.real_vector)


class AdaptiveMixture:
    """A multivariate t distribution for each observation, and the prior beside it.

    A fifth of the draws, rounded down, and one at least is from the prior, which bounds each
    weight: by five times p(x|z) for a fifth.

    References:
        Safe and Effective Importance Sampling (Owen and Zhou, 2000),
        https://doi.org/10.1080/01621459.2000.10473909

    Args:
        prior: p(z), of batch shape ``()`` or ``(B,)``.
        mean: Of z, flattened: shape ``(B, D)``.
        covariance: Of the scale, shape ``(B, D, D)``.
        shape: That of z.
    """

    def __init__(self, prior: Any, mean: Tensor, covariance: Tensor, shape: torch.Size) -> None:
        self._prior, self._shape = prior, shape
        self._t = _StudentT(mean, _factor(covariance))
        self._size = len(mean)

    def draw(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns draws ``(count, B, *shape)``, their log p(z) and their log-density here."""
        from_prior = max(1, int(_DEFENSIVE * count))
        share = from_prior / count  # that there is, else the density would not be that of the draws
        others = draw_prior(self._prior, from_prior, self._size).flatten(2)
        z = torch.cat([self._t.sample(count - from_prior), others])
        events = z.unflatten(2, self._shape)
        log_prior = self._prior.log_prob(events)
        log_proposal = torch.logaddexp(
            self._t.log_prob(z) + (math.log1p(-share) if share < 1 else -math.inf),
            log_prior + math.log(share),
        )
        return events, log_prior, log_proposal


def _factor(covariance: Tensor) -> Tensor:
    """Returns lower triangular factors, of covariances that rounding left indefinite, too."""
    values, vectors = torch.linalg.eigh(covariance.double())
    values = values.maximum(_NARROWEST * values[..., -1:])
    clamped = (vectors * values[..., None, :]) @ vectors.mT
    return torch.linalg.cholesky(clamped).to(covariance.dtype)


def moments(z: Tensor, log_weights: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and covariance of weighted draws, ``(B, D)`` and ``(B, D, D)``.

    References:
        Adaptive Multiple Importance Sampling (Cornuet et al., 2012),
        https://arxiv.org/abs/0907.1254

    Args:
        z: Shape ``(S, B, D)``.
        log_weights: Shape ``(S, B)``.
        covariance: What there was before: few effective draws determine none, and then it stays.
    """
    dim = z.shape[2]
    weights = log_weights.softmax(0)
    ess = 1 / weights.square().sum(0)
    mean = (weights[..., None] * z).sum(0)
    centered = z - mean
    found = torch.einsum("sn,snd,sne->nde", weights, centered, centered)
    # Few effective draws determine no covariance: then the last one keeps its weight.
    trust = (ess / (ess + dim + 2))[:, None, None]
    covariance = trust * found + (1 - trust) * covariance
    return mean, covariance + 1e-6 * torch.eye(dim, dtype=z.dtype, device=z.device)


def refined(vae: Amortized, rows: Rows, count: int) -> tuple[Tensor, Tensor]:
    r"""Draws z from a proposal that is adapted to each observation, and weighs them.

    A few damped Newton steps lead from the best of 50 draws of the guide to the mode of
    :math:`\log p(x, z)`, and its curvature there to a multivariate t distribution (a Laplace
    approximation with heavier tails). While less than a fifth of the draws for some observation are
    effective, all proposals are moved to the weighted moments of their draws, six times at most. Of
    these rounds each observation is given the one that has most effective draws; the choice is by
    the same weights that are returned, whose effective draws are therefore somewhat too many.

    References:
        Bayesian Inference in Econometric Models Using Monte Carlo Integration (Geweke, 1989),
        https://doi.org/10.2307/1913710, for importance sampling around the mode
        Adaptive Multiple Importance Sampling (Cornuet et al., 2012),
        https://arxiv.org/abs/0907.1254

    Args:
        vae: The model, in evaluation mode; :func:`adapts` says whether it can be.
        rows: B observations that it accepted.
        count: Draws for each, S.

    Returns:
        Draws, shape ``(S, B, *event_shape)``, and their log weights, shape ``(S, B)``.
    """
    shape, prior = vae.space.event_shape, vae.prior_at(rows.given)

    def log_joint(z: Tensor) -> Tensor:
        return vae.log_joint(z.unflatten(2, shape), rows)

    guide = vae.infer(rows)
    start = guide.sample((_AROUND,)).flatten(2)
    mean, covariance = _at_the_mode(log_joint, start, draws_at_once(vae, rows.x))
    best_z, best_weights, most = None, None, None
    for _ in range(_ROUNDS + 1):
        z, log_prior, log_proposal = AdaptiveMixture(prior, mean, covariance, shape).draw(count)
        likelihoods = [vae.log_likelihood(p, rows) for p in z.split(draws_at_once(vae, rows.x))]
        log_weights = torch.cat(likelihoods) + log_prior - log_proposal
        found = effective(log_weights)
        if best_z is None or best_weights is None or most is None:
            best_z, best_weights, most = z, log_weights, found
        else:
            better = found > most
            best_z = torch.where(better.reshape(-1, *(1 for _ in shape)), z, best_z)
            best_weights = torch.where(better, log_weights, best_weights)
            most = torch.where(better, found, most)
        if bool((most >= _ENOUGH * count).all()):
            break
        moved, spread = moments(z.flatten(2), log_weights, covariance)
        # Where no weight is finite there are no moments: the proposal stays.
        sound = moved.isfinite().all(1) & spread.isfinite().all(2).all(1)
        mean = torch.where(sound[:, None], moved, mean)
        covariance = torch.where(sound[:, None, None], spread, covariance)
    assert best_z is not None
    assert best_weights is not None
    return best_z, best_weights


def _at_the_mode(
    log_joint: Callable[[Tensor], Tensor], start: Tensor, at_once: int
) -> tuple[Tensor, Tensor]:
    """Returns the mode of log p(x, z), and the inverse of its curvature there.

    Curvature is by differences of gradients over half a standard deviation of the guide: that is
    the scale that matters, and networks with kinks have none at a point.

    Args:
        log_joint: From z, shape ``(S, B, D)``, to ``(S, B)``, differentiable.
        start: Draws of the guide, shape ``(S, B, D)``.
        at_once: Draws to compute with at a time.
    """
    scale = start.std(0).clamp_min(1e-3)
    dim = start.shape[2]
    values = torch.cat([log_joint(part) for part in start.split(at_once)])
    best, where = values.max(0)
    z = start[where, torch.arange(len(where), device=where.device)]
    covariance = torch.diag_embed(scale.square())
    steps = torch.eye(dim, dtype=z.dtype, device=z.device)[:, None] * (_STEP * scale)  # (D, B, D)
    for _ in range(_NEWTON):
        points = torch.cat([z[None], z + steps, z - steps])
        gradients = torch.cat([_gradient(log_joint, part) for part in points.split(at_once)])
        rises = (gradients[1 : dim + 1] - gradients[dim + 1 :]) / (2 * _STEP * scale.T[..., None])
        curvature = -rises.permute(1, 0, 2)
        curvature = (curvature + curvature.mT) / 2
        curvature = torch.where(curvature.isfinite(), curvature, 0.0)
        values, vectors = torch.linalg.eigh(curvature)
        # Where it is no peak a step goes uphill all the same.
        covariance = (vectors / values.abs().clamp_min(_FLATTEST)[:, None]) @ vectors.mT
        step = torch.einsum("bde,be->bd", covariance, gradients[0].nan_to_num())
        tries = torch.stack([z + share * step for share in _DAMPED])
        heights = torch.cat([log_joint(part) for part in tries.split(at_once)])
        top, which = heights.nan_to_num(nan=-math.inf).max(0)
        rises_by = (top - best).clamp_min(0)
        chosen = tries[which, torch.arange(len(which), device=which.device)]
        z = torch.where((top > best)[:, None], chosen, z)
        best = torch.maximum(best, top)
        if bool((rises_by < _NEGLIGIBLE).all()):
            break
    return z, covariance


def _gradient(log_joint: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(log_joint(z).sum(), z)
    return gradient


class _StudentT:
    """A multivariate t distribution for each observation."""

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        self._mean, self._scale = mean, scale

    def sample(self, size: int) -> Tensor:
        normal = self._mean.new_empty(size, *self._mean.shape).normal_()
        half = self._mean.new_full((size, len(self._mean), 1), _FREEDOM / 2)
        mixing = (torch._standard_gamma(half) / half).sqrt()
        return self._mean + torch.einsum("nde,sne->snd", self._scale, normal) / mixing

    def log_prob(self, z: Tensor) -> Tensor:
        dim = z.shape[-1]
        centered = (z - self._mean).permute(1, 2, 0)
        white = torch.linalg.solve_triangular(self._scale, centered, upper=False)
        square = white.square().sum(1).T
        constant = (
            math.lgamma((_FREEDOM + dim) / 2)
            - math.lgamma(_FREEDOM / 2)
            - dim / 2 * math.log(_FREEDOM * math.pi)
        )
        log_det = self._scale.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return constant - log_det - (_FREEDOM + dim) / 2 * torch.log1p(square / _FREEDOM)
