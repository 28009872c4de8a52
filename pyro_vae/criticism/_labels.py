"""What dimensions are called in a tree of draws, and how its variables are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_vae._errors import expected, unknown_name
from pyro_vae.vae import VAE

__all__ = ["Coords", "Dims", "Labels", "storage"]

Dims = Mapping[str, Sequence[str]]
Coords = Mapping[str, Sequence[Any]]

_SAMPLE = ("chain", "draw")
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


class Labels:
    """Names the dimensions of every variable of a model.

    Args:
        vae: The model.
        dims: Names of the event dimensions of ``x``, of ``z`` or of both, where the defaults will
            not do.
        coords: Labels along any dimension: ``data`` or an event dimension.

    Raises:
        ValueError: If a variable or dimension is unknown, a name is used twice, or the numbers of
            names or labels are not those of the shapes.
    """

    def __init__(self, vae: VAE, dims: Dims | None, coords: Coords | None) -> None:
        shapes = {"x": vae.event_shape, "z": vae.prior.event_shape}
        for name in dims or {}:
            if name not in shapes:
                raise unknown_name("dims", name, shapes)
        z = {1: ("latent",), 2: ("group", "class")} if vae.prior.support.is_discrete else {}
        self.event = {
            "x": _names("x", shapes["x"], (dims or {}).get("x"), _X),
            "z": _names("z", shapes["z"], (dims or {}).get("z"), {1: ("latent",)} | z),
        }
        names = ["data", *self.event["x"], *self.event["z"]]
        for name in (*_SAMPLE, *names):
            if names.count(name) > (name not in _SAMPLE):
                raise expected("dims", "every dimension to have a name of its own", name)
        self.sizes = {
            name: size
            for variable, shape in shapes.items()
            for name, size in zip(self.event[variable], shape, strict=True)
        }
        for name in coords or {}:
            if name not in names:
                raise unknown_name("coords", name, names)
        self.given = dict(coords or {})

    def dims(self, variable: str, *, draws: bool = True, event: bool = True) -> tuple[str, ...]:
        """Returns the dimensions of ``x`` or ``z``: chain, draw, data and those of one event."""
        return (
            *(_SAMPLE if draws else ()),
            "data",
            *(self.event[variable] if event else ()),
        )

    def coords(self, dims: Sequence[str], *, num_draws: int, size: int) -> dict[str, np.ndarray]:
        """Returns the labels along dimensions; they are counted where none were given."""
        sizes = {"chain": 1, "draw": num_draws, "data": size} | self.sizes
        labels = {}
        for name in dims:
            labels[name] = np.asarray(self.given.get(name, np.arange(sizes[name])))
            if labels[name].shape != (sizes[name],):
                raise expected("coords", f"{sizes[name]} labels along {name}", self.given[name])
        return labels

    def dataset(
        self,
        variables: Mapping[str, tuple[tuple[str, ...], np.ndarray]],
        *,
        num_draws: int,
        size: int,
    ) -> xarray.Dataset:
        """Returns labelled variables, each given as its dimensions and its values."""
        dims = dict.fromkeys(name for names, _ in variables.values() for name in names)
        coords = self.coords(list(dims), num_draws=num_draws, size=size)
        return xarray.Dataset(dict(variables), coords)


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
