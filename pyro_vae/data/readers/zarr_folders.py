"""Arrays in folders of Zarr, ``.zarr``: one, several by name, or an annotated matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae._errors import expected
from pyro_vae.data.budget import check_fits
from pyro_vae.data.containers import Asked, Contents, raw_of
from pyro_vae.data.containers.keyed import parts_of
from pyro_vae.data.raw import Raw
from pyro_vae.data.readers.hdf5_files import annotated

__all__ = ["read_zarr"]

_ANNOTATED = {"obs", "var"}


def read_zarr(path: Path, asked: Asked) -> Raw:
    """Returns the array of a folder, or its arrays, which mean what those of an `.npz` file do.

    A folder that ``AnnData`` has written is read as an `.h5ad` file is.

    Raises:
        ValueError: If it is no such folder, Zarr is not installed, it is not known which array is
            x, or one has no use.
    """
    try:
        import zarr
    except ImportError:
        what = "zarr, to read .zarr folders: pip install 'pyro-vae[data]'"
        raise expected("data", what, str(path)) from None
    try:
        stored: Any = zarr.open(str(path), mode="r")
        if not hasattr(stored, "keys"):
            return _alone(stored, asked)
        if set(stored) >= _ANNOTATED:
            return raw_of({"train": annotated(stored, asked)}, asked)
        arrays = _arrays(stored)
    except (OSError, KeyError, TypeError, AttributeError) as error:
        reason = f"{path}: {error}".splitlines()[0]
        raise expected("data", "a folder that Zarr has written", reason) from None
    if asked.layers is not None:
        raise expected("layers", "None with a .zarr folder that is no AnnData", asked.layers)
    if not arrays:
        raise expected("data", "a Zarr folder with an array", str(path))
    return raw_of(parts_of(arrays, asked), asked)


def _alone(stored: Any, asked: Asked) -> Raw:
    for name in ("key", "layers"):
        if getattr(asked, name) is not None:
            raise expected(name, "None with a .zarr folder of one array", getattr(asked, name))
    check_fits(stored.shape, stored.dtype.itemsize)
    return raw_of({"train": Contents(np.asarray(stored))}, asked)


def _arrays(group: Any, above: str = "") -> dict[str, Any]:
    """Returns the arrays of a group and of those in it, by their paths."""
    found: dict[str, Any] = {}
    for name in sorted(group):
        each = group[name]
        path = f"{above}{name}"
        found |= _arrays(each, f"{path}/") if hasattr(each, "keys") else {path: each}
    return found
