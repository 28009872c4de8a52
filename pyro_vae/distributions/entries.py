"""Distributions and supports taken entry by entry."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import Independent
from torch import Tensor
from torch.distributions import constraints

from pyro_vae._errors import expected

__all__ = ["by_entry", "feasible", "masked"]


def by_entry(law: Any, event_dim: int) -> Any:
    """Returns the law of the single entries, batch shape the whole, or None if they depend."""
    if not isinstance(law, Independent) or law.base_dist.event_shape:
        return None
    return law.base_dist if law.reinterpreted_batch_ndims == event_dim else None


def masked(law: Any, mask: Tensor) -> Any:
    """Returns the law of those entries of x that a mask leaves.

    Args:
        law: p(x|z), of event shape ``event_shape``.
        mask: Booleans, shape ``(*, *event_shape)``; what they hide must still be feasible.

    Raises:
        ValueError: If the entries are not independent.
    """
    event_dim = len(law.event_shape)
    entries = by_entry(law, event_dim)
    if entries is None:
        name = type(law).__name__
        raise expected("mask", "a likelihood whose entries are independent given z", name)
    return entries.mask(mask).to_event(event_dim)


def feasible(support: constraints.Constraint, event_shape: Any) -> Tensor:
    """Returns a datum of a support, shape ``event_shape``: entries of 0, else a half, else 1."""
    datum = torch.full(torch.Size(event_shape), math.nan)
    for value in (1.0, 0.5, 0.0):
        tried = torch.full_like(datum, value)
        datum = torch.where(support.check(tried), tried, datum)
    return datum
