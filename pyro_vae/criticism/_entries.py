"""What the entries of a model's x are called: by their table, or else by their likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.data.axes import Axes, axes_of
from pyro_vae.data.entries import Entry, described
from pyro_vae.data.rows import Rows
from pyro_vae.data.schema import Schema
from pyro_vae.distributions import AngleSupport
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.programs import VAE

__all__ = ["entries_of", "likelihood_of"]

_FEW = 12  # levels that are more than the grey values of a pixel


def entries_of(vae: VAE, x: Any) -> tuple[Entry, ...]:
    """Returns the entries of a model's x.

    Args:
        vae: The model.
        x: Observations that know what their columns are called, or rows of them; a schema, names
            or a record of these; anything else, of which nothing is known.
    """
    found = described(vae.event_shape, _axes(x))
    if math.prod(vae.event_shape) > 1000 and not found[0].named:
        return found  # of an image, whose pixels are not shown one by one
    words = vae.likelihood.words
    return tuple(
        _by_likelihood(each, likelihood_of(vae, each), words[each.index] if words else ())
        for each in found
    )


def _axes(x: Any) -> Axes:
    """What is known of columns, by what knows it."""
    x = x.x if isinstance(x, Rows) else x
    if isinstance(x, Axes):
        return x
    if isinstance(x, Schema):
        return Axes(names=tuple(each.name for each in x.x), schema=x)
    if isinstance(x, Tensor):
        return axes_of(x)
    if isinstance(x, Sequence) and all(isinstance(each, str) for each in x):
        return Axes(names=tuple(x))
    return Axes()


def likelihood_of(vae: VAE, entry: Entry) -> Likelihood:
    """Returns the likelihood of an entry, which in a table is that of its column."""
    index = np.unravel_index(entry.index, tuple(vae.event_shape))
    return vae.likelihood.entry([int(i) for i in index])


def _by_likelihood(entry: Entry, likelihood: Likelihood, words: tuple[str, ...]) -> Entry:
    """Adds what a likelihood tells of an entry of which no table does."""
    if entry.field is not None:
        return entry
    support = likelihood.support
    if words:
        return replace(entry, kind="level", levels=words, ordered=True)
    if support is constraints.boolean:
        return replace(entry, kind="level", levels=("0", "1"), ordered=True)
    if isinstance(support, AngleSupport):
        return replace(entry, kind="angle", unit="radians")
    if isinstance(support, constraints.integer_interval):
        top = int(support.upper_bound)
        if support.lower_bound == 0 and top < _FEW:
            return replace(
                entry, kind="level", levels=tuple(map(str, range(top + 1))), ordered=True
            )
        return replace(entry, kind="count")
    if support is constraints.nonnegative_integer:
        return replace(entry, kind="count")
    return entry
