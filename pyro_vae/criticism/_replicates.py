"""Replicates of observations: what the model draws in the place of each, as it was given."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pyro_vae.data.rows import Conditions, Given
from pyro_vae.programs import Amortized
from pyro_vae.programs.adaptive import draw_prior

__all__ = ["cycled", "draw_prior", "hidden", "prior_of", "repeated", "replicate", "simulate"]


_Some = TypeVar("_Some", Conditions, Given)


def prior_of(vae: Amortized, given: Conditions) -> Any:
    """Returns p(z), or p(z|c) of each condition: batch shape ``()`` or ``(N,)``."""
    return vae.prior_at(given)


def cycled(given: _Some, size: int, first: int = 0) -> _Some:
    """Returns what goes with observations for ``size`` others: theirs, over and over.

    Example:
        >>> cycled({"cond": torch.arange(2)[:, None]}, 3)["cond"].flatten().tolist()
        [0, 1, 0]
    """
    return cast(_Some, tree_map(lambda each: each[_index(each, size, first)], dict(given)))


def _index(each: Tensor, size: int, first: int) -> Tensor:
    return torch.arange(first, first + size, device=each.device) % len(each)


def repeated(given: _Some, count: int) -> _Some:
    """Returns what goes with N observations for ``count`` copies of all, one after the other."""
    return cast(
        _Some,
        tree_map(lambda each: each.repeat(count, *(1,) * (each.ndim - 1)), dict(given)),
    )


def hidden(vae: Amortized, x: Tensor, given: Given) -> Tensor:
    """Hides the entries of replicates ``(*, N, *event_shape)`` that are hidden in the data."""
    return vae.hidden(x, given)


def simulate(vae: Amortized, num_sets: int, size: int, given: Given) -> Tensor:
    """Draws data sets, z from the prior: ``(num_sets, size, *event_shape)``.

    Args:
        vae: The model.
        num_sets: How many.
        size: Observations in each.
        given: What goes with each of the ``size`` observations.
    """
    z = draw_prior(prior_of(vae, given), num_sets, size)
    return replicate(vae, z, given)


def replicate(vae: Amortized, z: Tensor, given: Given) -> Tensor:
    """Draws x from each z, ``(*, N, *event_shape)``, and hides what is hidden in the data."""
    return hidden(vae, vae.decode(z, **given).sample(), given)
