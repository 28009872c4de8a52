"""The contract of distributions, and the mass of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pyro.distributions.constraints import sphere
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.distributions import (
    MAX_ENUMERATED,
    AngleSupport,
    ColumnSupport,
    CompositionSupport,
    TotalSupport,
)
from pyro_vae.testing._assertions import all_true, close, require

__all__ = ["check_distribution", "total_mass"]

DRAWS = 4000  # from which the range of a grid comes, and means elsewhere
GRID_1D, _GRID_2D = 20_001, 601  # points for each entry
_AT_ONCE = 10_000  # points whose density is computed together
_LOGIT, _GRID_LOGIT = 22.0, 901  # to within 3e-10 of 0 and 1, in small steps


def check_distribution(d: Any, batch_shape: Sequence[int], event_shape: Sequence[int]) -> None:
    """Checks shapes, dtype, support and determinism of a distribution in double precision.

    Args:
        d: A distribution.
        batch_shape: What its batch shape should be.
        event_shape: What its event shape should be.

    Raises:
        AssertionError: If it is not as declared.

    Example:
        >>> import pyro.distributions as dist
        >>> check_distribution(dist.Normal(torch.zeros(2).double(), 1).to_event(1), (), (2,))
    """
    batch_shape, event_shape = torch.Size(batch_shape), torch.Size(event_shape)
    require(d.batch_shape == batch_shape, f"{d}: batch shape is not {tuple(batch_shape)}")
    require(d.event_shape == event_shape, f"{d}: event shape is not {tuple(event_shape)}")
    for sample_shape in (torch.Size(), torch.Size([4])):
        value = d.sample(sample_shape)
        shape = sample_shape + batch_shape + event_shape
        require(value.shape == shape, f"{d}: draws of shape {tuple(value.shape)}, not {shape}")
        require(value.dtype == torch.float64, f"{d}: draws are {value.dtype}, not torch.float64")
        require(all_true(d.support.check(value)), f"{d}: draws outside its support")
        log_prob = d.log_prob(value)
        require(
            log_prob.shape == sample_shape + batch_shape,
            f"{d}: log_prob of shape {tuple(log_prob.shape)}, not {sample_shape + batch_shape}",
        )
        require(log_prob.dtype == torch.float64, f"{d}: log_prob is {log_prob.dtype}")
        require(all_true(log_prob.isfinite()), f"{d}: log_prob of a draw is not finite")
        require(torch.equal(log_prob, d.log_prob(value)), f"{d}: log_prob is random")
    # After a draw, since some distributions cache what a draw computed.
    wider = d.expand(torch.Size([2, *batch_shape]))
    again = wider.log_prob(value[:2])
    require(
        wider.event_shape == event_shape
        and wider.sample().shape == (2, *batch_shape, *event_shape),
        f"{d}: draws of it expanded are of another shape",
    )
    require(
        close(again, log_prob[:2], 1e-9),
        f"{d}: log_prob of it expanded differs",
    )


@torch.no_grad()
def total_mass(d: Any) -> float:
    """Sums or integrates the density of a small distribution over its whole space.

    Args:
        d: A distribution of empty batch shape: enumerable, boolean, of at most two counts, of at
            most two real or positive numbers, of two shares, or of unit vectors of two or three
            coordinates.

    Returns:
        What should be 1.

    Raises:
        AssertionError: If the space is too large.

    Example:
        >>> import pyro.distributions as dist
        >>> round(total_mass(dist.Poisson(torch.tensor([2.0, 5.0])).to_event(1)), 6)
        1.0
    """
    if d.has_enumerate_support:
        try:
            return float(d.log_prob(d.enumerate_support()).exp().sum())
        except NotImplementedError:
            pass  # a product of variables, each with few states: spanned below
    size = d.event_shape.numel()
    draws = d.sample((DRAWS,)).reshape(DRAWS, size)
    if d.support is sphere:
        points, areas = sphere_points(size, draws.dtype)
        return float((d.log_prob(points).exp() * areas).sum())
    if isinstance(d.support, CompositionSupport):
        require(size == 2, f"{d}: compositions of 2 shares are integrated over, not of {size}")
        share, widths = _axis(constraints.unit_interval, draws[:, 0], 1)
        return float((d.log_prob(torch.stack([share, 1 - share], -1)).exp() * widths).sum())
    support, entries = entry_supports(d.support, size)
    if all(each is constraints.boolean for each in entries):
        require(2**size <= MAX_ENUMERATED, f"{d}: too many entries to sum over all states")
    else:
        require(size <= 2, f"{d}: at most two entries are integrated, not {size}")
    spanned = [_axis(each, draws[:, i], size) for i, each in enumerate(entries)]
    values = torch.cartesian_prod(*[axis for axis, _ in spanned]).reshape(-1, *d.event_shape)
    volume = torch.cartesian_prod(*[steps for _, steps in spanned]).reshape(-1, size).prod(1)
    inside = support.check(values).reshape(len(values), -1).all(-1)
    # A few at a time stay in the processor's cache: three times as fast.
    chunks = zip(values[inside].split(_AT_ONCE), volume[inside].split(_AT_ONCE), strict=True)
    return sum(float((d.log_prob(x).exp() * steps).sum()) for x, steps in chunks)


def _axis(support: Any, draws: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Returns where one entry of ``size`` is looked at, and the volume of each of these places."""
    points = GRID_1D if size == 1 else _GRID_2D
    # Far enough that a distribution with light tails has less than the tolerance outside.
    middle, width = float(draws.mean()), float(draws.std().clamp_min(1e-3))
    low, high = middle - 12 * width, middle + 12 * width
    if support is constraints.boolean:
        axis = torch.tensor([0.0, 1.0])
    elif support.is_discrete:
        axis = torch.arange(max(0, int(low)), int(high) + 10)
    elif support is constraints.unit_interval:
        # Even steps of the logit: a density may be steep, or infinite, at both ends.
        axis = torch.linspace(-_LOGIT, _LOGIT, _GRID_LOGIT, dtype=draws.dtype).sigmoid()
        return axis, 2 * _LOGIT / (_GRID_LOGIT - 1) * axis * (1 - axis)
    elif support is constraints.positive:
        # Even steps of the logarithm, in which a density may have tails of any weight.
        logs = draws.log()
        middle, width = float(logs.mean()), float(logs.std().clamp_min(1e-3))
        axis = torch.linspace(middle - 12 * width, middle + 12 * width, points, dtype=draws.dtype)
        return axis.exp(), 24 * width / (points - 1) * axis.exp()
    elif isinstance(support, AngleSupport):
        # The ends are one angle, which is looked at once.
        axis = torch.linspace(-math.pi, math.pi, points, dtype=draws.dtype)[1:]
        return axis, torch.full_like(axis, 2 * math.pi / (points - 1))
    else:
        axis = torch.linspace(low, high, points, dtype=draws.dtype)
        return axis, torch.full_like(axis, (high - low) / (points - 1))
    return axis.to(draws.dtype), torch.ones(len(axis), dtype=draws.dtype)


def entry_supports(support: Any, size: int) -> tuple[Any, list[Any]]:
    """Returns a support without what makes events of entries, and that of each entry."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if isinstance(support, ColumnSupport):
        return support, support.each()
    if isinstance(support, CompositionSupport):
        return support, [constraints.unit_interval] * size
    if isinstance(support, TotalSupport):
        return support, [constraints.integer_interval(0, support.upper_bound)] * size
    return support, [support] * size


def sphere_points(dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Points over the unit sphere, ``(P, dim)``, and the area each stands for, ``(P,)``."""
    require(dim in (2, 3), f"spheres of 2 or 3 coordinates are integrated over, not {dim}")
    count = GRID_1D if dim == 2 else _GRID_2D
    angles = torch.arange(count, dtype=dtype) * (2 * math.pi / count)
    circle = torch.stack([angles.cos(), angles.sin()], -1)
    if dim == 2:
        return circle, torch.full((count,), 2 * math.pi / count, dtype=dtype)
    nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(count // 2))
    heights = nodes.to(dtype)[:, None, None].expand(-1, count, 1)
    around = (1 - heights.square()).sqrt() * circle
    areas = weights.to(dtype)[:, None].expand(-1, count) * (2 * math.pi / count)
    return torch.cat([heights, around], -1).reshape(-1, 3), areas.reshape(-1)
