"""What dimensions are called in a tree of draws, and how its variables are stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_vae._errors import expected, unknown_name
from pyro_vae.data.axes import axes_of
from pyro_vae.distributions import same_support
from pyro_vae.programs import Amortized

__all__ = ["Coords", "Dims", "Labels", "as_they_came", "constant", "label", "storage"]

Dims = Mapping[str, Sequence[str]]
Coords = Mapping[str, Sequence[Any]]

_LEADING = ("chain", "draw", "data")
_RESERVED = (*_LEADING, "latent", "group", "class")  # of z
_Z = {1: ("latent",)}
_ONE_HOT = {2: ("group", "class")}
_X = {1: ("feature",), 2: ("row", "column"), 3: ("channel", "row", "column")}


def storage(support: Constraint, dtype: torch.dtype) -> np.dtype[Any]:
    """Returns what values are stored as: integers where they are discrete.

    Args:
        support: Where they live.
        dtype: What the model computes in.
    """
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is constraints.boolean or support is constraints.one_hot:
        return np.dtype(np.int8)
    if support.is_discrete:
        return np.dtype(np.int64)
    return torch.empty(0, dtype=dtype).numpy().dtype


def constant(name: str, value: Any) -> np.ndarray:
    """Returns data that no draw changes as an array.

    Raises:
        ValueError: If they are no numbers or strings.
    """
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    if array.dtype == object:
        raise expected("constant_data", f"numbers or strings for {name}", value)
    return array


def as_they_came(
    x: Any, dims: Dims | None, coords: Coords | None
) -> tuple[Dims | None, Coords | None]:
    """Returns names and labels of dimensions, those that observations came with where none given.

    Args:
        x: A tensor, of a data set or of a container, and anything else, of which nothing is known.
        dims: Names of dimensions that were given.
        coords: Labels along dimensions that were given.
    """
    if not isinstance(x, torch.Tensor):
        return dims, coords
    axes, rank = axes_of(x), x.ndim - 1
    own = [f"x_{name}" if name in _RESERVED else name for name in axes.dims]
    if len(own) == rank and "x" not in (dims or {}):
        dims = {"x": own} | dict(dims or {})
    event = (dims or {}).get("x", _X.get(rank, ()))
    known = {} if len(event) != rank else {
        name: axes.coords[dim]
        for name, dim in zip(event, axes.dims, strict=False)
        if dim in axes.coords
    }  # fmt: skip
    if axes.names and rank == 1:
        known[event[0]] = axes.names
    if axes.index is not None:
        known["data"] = axes.index
    # What two places share is no label of either.
    known = {name: each for name, each in known.items() if len(np.unique(each)) == len(each)}
    return dims, (known | dict(coords or {})) or coords


class Labels:
    """Names the dimensions of every variable of a model.

    Args:
        vae: The model.
        dims: Names of the event dimensions of ``x``, of ``z`` and of further variables, where the
            defaults will not do.
        coords: Labels along any dimension: ``data`` or an event dimension.
        further: Event shapes of further variables, by name.

    Raises:
        ValueError: If a variable or dimension is unknown, a name stands for two dimensions, or
            there are more names or fewer than a shape is long.
    """

    def __init__(
        self,
        vae: Amortized,
        dims: Dims | None,
        coords: Coords | None,
        further: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        shapes = {"x": vae.event_shape, "z": vae.space.event_shape} | dict(further or {})
        for name in dims or {}:
            if name not in shapes:
                raise unknown_name("dims", name, shapes)
        defaults = {
            "x": _X,
            "z": _ONE_HOT if same_support(vae.space.support, constraints.one_hot) else _Z,
        }
        self.event: dict[str, tuple[str, ...]] = {}
        self.sizes: dict[str, int] = {}
        for variable, shape in shapes.items():
            default = defaults.get(variable, {})
            names = _names(variable, shape, (dims or {}).get(variable), default)
            self.event[variable] = names
            for name, size in zip(names, shape, strict=True):
                if name in _LEADING or names.count(name) > 1 or self.sizes.get(name, size) != size:
                    raise expected("dims", f"one dimension to a name in {variable}", name)
                self.sizes[name] = size
        for name in coords or {}:
            if name not in ("data", *self.sizes):
                raise unknown_name("coords", name, ("data", *self.sizes))
        self.given = dict(coords or {})

    def dims(self, variable: str, *leading: str) -> tuple[str, ...]:
        """Returns the leading dimensions and those of one ``x`` or ``z``."""
        return (*leading, *self.event[variable])

    def coords(
        self, dims: Iterable[str], num_chains: int, num_draws: int, size: int
    ) -> dict[str, np.ndarray]:
        """Returns the labels along dimensions; they are counted where none were given.

        Raises:
            ValueError: If there are more labels or fewer than the dimension is long.
        """
        sizes = {"chain": num_chains, "draw": num_draws, "data": size} | self.sizes
        return label({name: sizes[name] for name in dims}, self.given)


def label(sizes: Mapping[str, int], given: Coords) -> dict[str, np.ndarray]:
    """Returns labels along dimensions of these sizes; they are counted where none were given.

    Raises:
        ValueError: If there are more labels or fewer than a dimension is long.
    """
    labels = {name: np.asarray(given.get(name, np.arange(sizes[name]))) for name in sizes}
    for name, along in labels.items():
        if along.shape != (sizes[name],):
            raise expected("coords", f"{sizes[name]} labels along {name}", given[name])
    return labels


def _names(
    variable: str,
    shape: Sequence[int],
    given: Sequence[str] | None,
    defaults: Mapping[int, tuple[str, ...]],
) -> tuple[str, ...]:
    counted = tuple(f"{variable}_dim_{i}" for i in range(len(shape)))
    if given is None:
        return defaults.get(len(shape), counted)
    if isinstance(given, str) or len(given) != len(shape):
        raise expected("dims", f"{len(shape)} names for {variable} of shape {tuple(shape)}", given)
    return tuple(given)
