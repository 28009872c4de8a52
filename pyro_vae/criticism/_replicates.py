"""Replicates of observations: what the model draws in the place of each, as it was given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pyro_vae.data.rows import Conditions, Given, Rows
from pyro_vae.distributions import sample_of
from pyro_vae.programs import Amortized
from pyro_vae.programs.adaptive import draw_prior

__all__ = [
    "at_one_draw",
    "cycled",
    "draw_prior",
    "from_guide",
    "hidden",
    "prior_of",
    "repeated",
    "replicate",
    "simulate",
]


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

    What all observations of a data set share is drawn once for each.

    Args:
        vae: The model.
        num_sets: How many.
        size: Observations in each.
        given: What goes with each of the ``size`` observations.
    """
    if vae.has_globals:
        each = [simulate(one, 1, size, given) for one in _programs(vae, num_sets)]
        return torch.cat(each)
    z = draw_prior(prior_of(vae, given), num_sets, size)
    return replicate(vae, z, given)


def from_guide(vae: Amortized, data: Rows, counts: Sequence[int]) -> Iterator[Tensor]:
    """Yields so many replicates each time, z from q(z|x): ``(count, N, *event_shape)``."""
    if vae.has_globals:
        for count in counts:
            drawn = [from_guide(one, data, [1]) for one in _programs(vae, count)]
            yield torch.cat([x for each in drawn for x in each])
        return
    guide = vae.encode(data.x, **data.given)
    for count in counts:
        yield replicate(vae, guide.sample((count,)), data.given)


def at_one_draw(vae: Amortized) -> Amortized:
    """Returns the program at a draw of what observations share; itself where that is nothing."""
    return _programs(vae, 1)[0] if vae.has_globals else vae


def _programs(vae: Amortized, count: int) -> Sequence[Amortized]:
    """One program for each of some data sets, at draws that the caller's generator decides."""
    return vae.fixed(count, int(torch.randint(2**31, ())))


def replicate(vae: Amortized, z: Tensor, given: Given) -> Tensor:
    """Draws x from each z, ``(*, N, *event_shape)``, and hides what is hidden in the data."""
    return hidden(vae, sample_of(vae.decode(z, **given)), given)
