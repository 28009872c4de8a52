"""Latent traversals and interpolations: what changes in x when z moves along a line."""

from __future__ import annotations

import torch
from pyro.distributions.constraints import sphere
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae._errors import expected, positive_integer
from pyro_vae.criticism._replicates import prior_of, repeated
from pyro_vae.data.rows import Given, Numbers, Rows, RowsLike
from pyro_vae.distributions import same_support
from pyro_vae.programs import VAE
from pyro_vae.programs.accept import as_tensor, rows_of

__all__ = ["interpolated", "interpolations", "traversals", "traversed"]

_POLE = 0.98  # at 1 nothing would be left of the other coordinates
_DRAWS = 4000  # of a prior whose moments have no closed form


@torch.no_grad()
def traversals(
    vae: VAE, x: RowsLike, units: Numbers, *, steps: int = 7, reach: float = 3.0
) -> Tensor:
    r"""Moves one latent unit at a time, the others staying at E[z|x].

    A real unit goes from ``-reach`` to ``reach`` standard deviations of the prior around its mean,
    in equal steps; a one-hot unit takes each of its classes in turn, a binary one 0 and 1. On the
    sphere a coordinate goes from -1 to 1, and the others keep their proportions.

    .. math:: \hat x_{us} = E[x \mid z], \quad z_u = \mu_u + c_s \sigma_u, \quad
        z_{-u} = E[z_{-u} \mid x_0]

    References:
        beta-VAE (Higgins et al., 2017), https://openreview.net/forum?id=Sy2fzU9gl

    Args:
        vae: The model, with one latent variable, a vector or one-hot.
        x: Where to start, shape ``(*event_shape)``; or one row, with what goes with it.
        units: Indices of latent units, shape ``(U,)``.
        steps: Positions of a real unit, S; a discrete unit has one for each state.
        reach: How far to go, in standard deviations of the prior.

    Returns:
        E[x|z], shape ``(U, S, *event_shape)``.

    Raises:
        ValueError: If latents are neither vectors nor one-hot.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(5), pv.guides.Normal(5), pv.likelihoods.Bernoulli((4,)))
        >>> traversals(vae, torch.ones(4), torch.tensor([0, 3])).shape
        torch.Size([2, 7, 4])
    """
    return traversed(vae, x, units, steps=steps, reach=reach).mean


@torch.no_grad()
def traversed(
    vae: VAE, x: RowsLike, units: Numbers, *, steps: int = 7, reach: float = 3.0
) -> Distribution:
    """Returns p(x|z) along the paths of :func:`traversals`, batch shape ``(U, S)``."""
    start_at = as_tensor(x)
    rows = rows_of(vae, start_at[None] if isinstance(start_at, Tensor) else start_at, {})
    chosen, count = as_tensor(units), vae.prior.event_shape[0]
    whole = isinstance(chosen, Tensor) and chosen.ndim == 1 and not chosen.is_floating_point()
    if not whole or not ((chosen >= 0) & (chosen < count)).all():
        raise expected("units", f"indices of latent units, from 0 to {count - 1}", units)
    start = _start(vae, rows)[0]
    if same_support(vae.prior.support, constraints.one_hot):
        moved = torch.eye(start.shape[-1]).to(start)  # (classes, classes)
    elif same_support(vae.prior.support, constraints.boolean):
        moved = torch.tensor([0.0, 1.0]).to(start)[:, None].expand(2, len(start))
    elif same_support(vae.prior.support, sphere):
        positions = torch.linspace(-_POLE, _POLE, positive_integer("steps", steps)).to(start)
        moved = positions[:, None].expand(-1, len(start))
    else:
        positions = torch.linspace(-reach, reach, positive_integer("steps", steps)).to(start)
        mean, scale = _moments(vae, rows.given)
        moved = mean + positions[:, None] * scale  # (S, dim)
    z = start.expand(len(chosen), len(moved), *start.shape).clone()
    for i, unit in enumerate(chosen.tolist()):
        z[i, :, unit] = moved if start.ndim == 2 else moved[:, unit]
        if same_support(vae.prior.support, sphere):
            others = torch.arange(len(start)).to(z.device) != unit
            rest = (1 - moved[:, :1].square()).sqrt()
            z[i] = torch.where(others, rest * _direction(torch.where(others, start, 0.0)), z[i])
    return vae.decode(z, **repeated(rows.conditions, z.shape[1]))


@torch.no_grad()
def interpolations(vae: VAE, first: RowsLike, second: RowsLike, *, steps: int = 8) -> Tensor:
    r"""Goes from data to other data through latent space.

    Real latents move along a straight line, those on the sphere along the arc above it; discrete
    ones change unit after unit from the most probable state of the first observation to that of the
    second.

    .. math:: \hat x_s = E[x \mid z_s], \quad z_s = (1 - t_s) \, E[z \mid x_1] + t_s E[z \mid x_2]

    Args:
        vae: The model, with one latent variable, a vector or one-hot.
        first: Where to start, shape ``(P, *event_shape)``; or rows, with what goes with them.
            Their conditions hold all the way.
        second: Where to end, of the same shape.
        steps: Positions on the way, both ends included, S.

    Returns:
        E[x|z], shape ``(P, S, *event_shape)``.

    Raises:
        ValueError: If latents are neither vectors nor one-hot.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(5), pv.guides.Normal(5), pv.likelihoods.Bernoulli((4,)))
        >>> interpolations(vae, torch.ones(3, 4), torch.zeros(3, 4)).shape
        torch.Size([3, 8, 4])
    """
    return interpolated(vae, first, second, steps=steps).mean.transpose(0, 1)


@torch.no_grad()
def interpolated(vae: VAE, first: RowsLike, second: RowsLike, *, steps: int = 8) -> Distribution:
    """Returns p(x|z) along the paths of :func:`interpolations`, batch shape ``(S, P)``."""
    begin, end = rows_of(vae, first, {}, "first"), rows_of(vae, second, {}, "second")
    ends = _start(vae, begin)[:, None], _start(vae, end)[:, None]
    along = torch.linspace(0, 1, positive_integer("steps", steps)).to(ends[0])
    if vae.prior.support.is_discrete:
        units = vae.prior.event_shape[0]
        turned = torch.arange(units).to(along)[None] < (along * units).round()[:, None]
        each = turned.reshape(1, steps, units, *(1,) * (ends[0].ndim - 3))
        z = torch.where(each, ends[1], ends[0])
    else:
        z = torch.lerp(ends[0], ends[1], along[None, :, None])
        if same_support(vae.prior.support, sphere):
            z = _direction(z)
    return vae.decode(z.transpose(0, 1), **begin.conditions)


def _start(vae: VAE, rows: Rows) -> Tensor:
    """E[z|x], or the value nearest to it that z can have: a state, or a point on the sphere."""
    mean = vae.encode(rows.x, **rows.given).mean
    if same_support(vae.prior.support, constraints.one_hot):
        return torch.nn.functional.one_hot(mean.argmax(-1), mean.shape[-1]).to(mean)
    if same_support(vae.prior.support, constraints.boolean):
        return mean.round()
    if same_support(vae.prior.support, sphere):
        return _direction(mean)
    if not same_support(vae.prior.support, constraints.real_vector):
        raise expected("vae", "vectors or one-hot latents", vae.prior.support)
    return mean


def _direction(z: Tensor) -> Tensor:
    return torch.nn.functional.normalize(z, dim=-1)


def _moments(vae: VAE, given: Given) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each unit under the prior."""
    prior = prior_of(vae, given)
    try:
        return prior.mean, prior.stddev
    except NotImplementedError:
        draws = prior.sample((_DRAWS,))
        return draws.mean(0), draws.std(0)
