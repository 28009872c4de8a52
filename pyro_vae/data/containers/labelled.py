"""Labelled arrays of xarray: dimensions and coordinates by name."""

from __future__ import annotations

from typing import Any

from pyro_vae._errors import expected
from pyro_vae.data.containers.contents import Asked, Contents, array_of, chosen

__all__ = ["read_labelled"]


def read_labelled(data: Any, asked: Asked) -> Contents:
    """Returns an array whose first dimension is that of observations, or one of a set of arrays.

    Coordinates along the first dimension are columns beside x; so are the other arrays of a set
    that have this dimension alone. Arrays that have one dimension, the same, are columns of x.

    Raises:
        ValueError: If it is not known which array is x.
    """
    if type(data).__name__ in ("DataTree", "Variable"):
        raise ValueError(
            f"`{asked.argument}`: expected a DataArray or a Dataset, got {type(data).__name__}: "
            "`tree.dataset` is that of a node"
        )
    if not hasattr(data, "data_vars"):
        return _of_array(data, {}, asked.argument)
    arrays = {str(name): array for name, array in data.data_vars.items()}
    wide = [name for name, array in arrays.items() if array.ndim > 1]
    flat = {name: array for name, array in arrays.items() if array.ndim == 1}
    if not arrays:
        raise expected(asked.argument, "a Dataset with a variable", "one without")
    if asked.key is None and not wide and len({array.dims for array in flat.values()}) == 1:
        columns = [name for name in flat if name not in asked.beside]
        stacked = data[columns].to_array("feature").transpose(..., "feature")
        others = {name: flat[name] for name in flat if name in asked.beside}
        return _of_array(stacked, others, asked.argument, names=columns)
    name = chosen(asked.key, wide, "variable") if asked.key is None else chosen(
        asked.key, list(arrays), "variable"
    )  # fmt: skip
    along = arrays[name].dims[:1]
    others = {n: each for n, each in flat.items() if each.dims == along and n != name}
    unused = sorted(arrays.keys() - others.keys() - {name})
    if asked.key is None and unused:
        raise expected("key", f"the name of the variable that is x, as {unused} has no use", None)
    return _of_array(arrays[name], others, asked.argument)


def _of_array(array: Any, others: dict[str, Any], argument: str, names: Any = ()) -> Contents:
    if array.ndim == 0:
        raise expected(argument, "an array of at least one dimension", "a DataArray of none")
    first, *dims = (str(dim) for dim in array.dims)
    along = {
        str(name): array_of(each.values, argument)
        for name, each in (*array.coords.items(), *others.items())
        if each.dims == (first,)
    }
    known = {str(name) for name in array.coords}
    coords = {dim: array_of(array.coords[dim].values) for dim in dims if dim in known}
    return Contents(
        array_of(array.values, argument),
        names=names,
        beside={name: each for name, each in along.items() if each.dtype.kind in "biufOUST"},
        dims=dims,
        coords=coords,
        index=along.get(first),
    )
