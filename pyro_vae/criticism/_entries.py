"""What the entries of a model's x are called: by their table, or else by their likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_vae.data.axes import Axes, axes_of
from pyro_vae.data.entries import Entry, described
from pyro_vae.data.rows import Rows
from pyro_vae.data.schema import Schema
from pyro_vae.data.source import Stream
from pyro_vae.distributions import AngleSupport
from pyro_vae.likelihoods import Autoregressive, Categorical, Likelihood
from pyro_vae.programs import Amortized, Program
from pyro_vae.programs.composition import Composition

__all__ = ["entries_of", "likelihood_of", "support_of"]

_FEW = 12  # levels that are more than the grey values of a pixel


def entries_of(vae: Amortized, x: Any) -> tuple[Entry, ...]:
    """Returns the entries of a model's x.

    Args:
        vae: The model.
        x: Observations that know what their columns are called, or rows of them; a schema, names
            or a record of these; anything else, of which nothing is known.
    """
    axes = _axes(x)
    found = described(vae.event_shape, axes)
    nominal = _nominal(vae)
    if math.prod(vae.event_shape) > 1000 and not found[0].named and not any(nominal):
        return found  # of an image, whose pixels are not shown one by one
    words = vae.likelihood.words if isinstance(vae, Composition) else ()
    return tuple(
        _by_support(
            each,
            nominal.get(each.index) or support_of(vae, each),
            axes.symbols or (words[each.index] if words else ()),
            ordered=each.index not in nominal,
        )
        for each in found
    )


def _nominal(vae: Amortized) -> dict[int, Constraint]:
    """Where entries live that are classes in no order, by their places.

    A likelihood that gives each level a probability of its own knows of no order. But where the
    entries are pixels, whose levels have no names, they are grey values.
    """
    if isinstance(vae, Composition):
        shape = vae.event_shape
        grey = len(shape) > 1 and not vae.likelihood.words
        if grey:
            return {}
        each = (
            (i, vae.likelihood.entry([int(k) for k in np.unravel_index(i, tuple(shape))]))
            for i in range(shape.numel())
        )
        return {i: own.support for i, own in each if isinstance(own, Autoregressive | Categorical)}
    if not isinstance(vae, Program):
        return {}
    sites = (local for local in vae.structure.observed.values() for _ in range(local.shape.numel()))
    return {i: local.base_support for i, local in enumerate(sites) if local.is_nominal}


def _axes(x: Any) -> Axes:
    """What is known of columns, by what knows it."""
    x = x.x if isinstance(x, Rows) else x
    if isinstance(x, Axes):
        return x
    if isinstance(x, Schema):
        return Axes(names=tuple(each.name for each in x.x), schema=x)
    if isinstance(x, Tensor):
        return axes_of(x)
    if isinstance(x, Stream):
        return Axes(names=x.names)
    if isinstance(x, Sequence) and all(isinstance(each, str) for each in x):
        return Axes(names=tuple(x))
    return Axes()


def support_of(vae: Amortized, entry: Entry | None = None) -> Constraint:
    """Returns where an entry lives, or any if none is given."""
    likelihood = likelihood_of(vae, entry)
    return vae.x_support if likelihood is None else likelihood.support


def likelihood_of(vae: Amortized, entry: Entry | None = None) -> Likelihood | None:
    """Returns the likelihood of an entry, which in a table is that of its column, or of all.

    There is none if a program is not composed of parts.
    """
    if not isinstance(vae, Composition):
        return None
    if entry is None:
        return vae.likelihood
    index = np.unravel_index(entry.index, tuple(vae.event_shape))
    return vae.likelihood.entry([int(i) for i in index])


def _by_support(
    entry: Entry, support: Constraint, words: tuple[str, ...], *, ordered: bool
) -> Entry:
    """Adds what its support tells of an entry of which no table does."""
    if entry.field is not None:
        return entry
    if words:
        return replace(entry, kind="level", levels=words, ordered=ordered)
    if support is constraints.boolean:
        return replace(entry, kind="level", levels=("0", "1"), ordered=True)
    if isinstance(support, AngleSupport):
        return replace(entry, kind="angle", unit="radians")
    if isinstance(support, constraints.integer_interval):
        top = int(support.upper_bound)
        if support.lower_bound == 0 and (top < _FEW or not ordered):
            levels = tuple(map(str, range(top + 1)))
            return replace(entry, kind="level", levels=levels, ordered=ordered)
        return replace(entry, kind="count")
    if support is constraints.nonnegative_integer:
        return replace(entry, kind="count")
    return entry
