"""Distributions and supports taken entry by entry."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import Independent
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae._errors import expected

__all__ = ["by_entry", "feasible", "masked"]


def by_entry(d: Any, event_dim: int) -> TorchDistributionMixin | None:
    """Returns the distribution of single entries, or None where entries are dependent."""
    if (own := getattr(d, "by_entry", None)) is not None:
        found: TorchDistributionMixin | None = own()  # what knows it is asked
        return found
    if not isinstance(d, Independent) or d.base_dist.event_shape:
        return None
    return d.base_dist if d.reinterpreted_batch_ndims == event_dim else None


def masked(d: Any, mask: Tensor) -> Distribution:
    """Returns the distribution of the entries of x that are observed.

    Args:
        d: p(x|z), of event shape ``event_shape``.
        mask: True where an entry is observed, shape ``(*, *event_shape)``. Hidden entries must
            hold a value of the support all the same.

    Raises:
        ValueError: If the entries are not independent.
    """
    event_dim = len(d.event_shape)
    entries = by_entry(d, event_dim)
    if entries is None:
        name = type(d).__name__
        raise expected("mask", "a likelihood whose entries are independent given z", name)
    return entries.mask(mask).to_event(event_dim)


def feasible(support: constraints.Constraint, event_shape: Any) -> Tensor:
    """Returns some observation of a support, shape ``event_shape``: entries of 0, 1/2 or 1."""
    observation = torch.full(torch.Size(event_shape), math.nan)
    for value in (1.0, 0.5, 0.0):
        tried = torch.full_like(observation, value)
        observation = torch.where(support.check(tried), tried, observation)
    return observation
