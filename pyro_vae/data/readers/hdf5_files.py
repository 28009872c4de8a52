"""Arrays in HDF5 files, ``.h5`` and ``.hdf5``; and annotated matrices, ``.h5ad``.

An ``.h5ad`` file is read as its specification has it, without the package that wrote it
(https://anndata.readthedocs.io/en/stable/fileformat-prose.html).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae._errors import expected, unknown_name
from pyro_vae.data.budget import check_fits
from pyro_vae.data.containers import Asked, Contents, raw_of
from pyro_vae.data.containers.keyed import parts_of
from pyro_vae.data.raw import Raw

__all__ = ["annotated", "read_h5ad", "read_hdf5"]

_SPARSE = ("csr_matrix", "csc_matrix")


def read_hdf5(path: Path, asked: Asked) -> Raw:
    """Returns the arrays of a file, which mean what those of an `.npz` file of their names do.

    Raises:
        ValueError: If it is none, it is not known which array is x, or one has no use.
    """
    with _opened(path) as file:
        arrays: dict[str, Any] = {}
        file.visititems(lambda name, each: arrays.update({name: each} if _is_array(each) else {}))
        if not arrays:
            raise expected("data", "an HDF5 file with an array", str(path))
        try:
            return raw_of(parts_of(arrays, asked), asked)
        except OSError as error:
            raise expected("data", "an HDF5 file that is whole", f"{path}: {error}") from None


def read_h5ad(path: Path, asked: Asked) -> Raw:
    """Returns ``X`` of an ``AnnData`` file, or a layer, with the columns of ``obs`` beside it.

    Raises:
        ValueError: If it is none, or there is no such layer.
    """
    if asked.key is not None:
        raise expected("key", "None with an .h5ad file, of which `layers` is an array", asked.key)
    with _opened(path) as file:
        try:
            contents = annotated(file, asked)
        except (KeyError, OSError, TypeError, AttributeError) as error:
            raise expected("data", "an .h5ad file of AnnData", f"{path}: {error}") from None
        return raw_of({"train": contents}, asked)


def annotated(file: Any, asked: Asked) -> Contents:
    """Returns what an annotated matrix in an open file holds, of HDF5 or of Zarr."""
    obs, var = file["obs"], file["var"]
    layers = list(file.get("layers", ()))
    place = "X"
    if asked.layers is not None or "X" not in file:
        if asked.layers not in layers:
            raise unknown_name("layers", asked.layers, layers)
        place = f"layers/{asked.layers}"
    columns = {name: _column(obs[name]) for name in _ordered(obs)}
    return Contents(
        _matrix(file[place]),
        names=_words(var[_index(var)]),
        beside={name: each for name, each in columns.items() if each is not None},
        index=np.asarray(_words(obs[_index(obs)])),
    )


def _matrix(stored: Any) -> np.ndarray:
    """Returns a dense matrix, of a dense one or of the three arrays of a sparse one."""
    kind = _text(stored.attrs.get("encoding-type", "array"))
    if kind not in _SPARSE:
        check_fits(stored.shape, stored.dtype.itemsize)
        return np.asarray(stored)
    from scipy import sparse  # slow, and few need it

    parts = tuple(np.asarray(stored[name]) for name in ("data", "indices", "indptr"))
    shape = tuple(int(size) for size in stored.attrs["shape"])
    check_fits(shape, parts[0].itemsize)
    made: Any = sparse.csr_matrix if kind == "csr_matrix" else sparse.csc_matrix
    found: np.ndarray = made(parts, shape=shape).toarray()
    return found


def _column(stored: Any) -> np.ndarray | None:
    """Returns a column of numbers or words; None if it holds something else."""
    kind = _text(stored.attrs.get("encoding-type", "array"))
    if kind == "categorical":
        words = np.array([*_any_values(stored["categories"]), None], dtype=object)
        return words[np.asarray(stored["codes"])]  # a missing one is -1, the last
    if kind.startswith("nullable"):
        values = _any_values(stored["values"]).astype(object)
        values[np.asarray(stored["mask"])] = None
        return values
    if not _is_array(stored) or stored.ndim != 1:
        return None
    return _any_values(stored)


def _any_values(stored: Any) -> np.ndarray:
    values = np.asarray(stored)
    if values.dtype.kind in "biuf":
        return values
    return np.array(_words(stored), dtype=object)


def _words(stored: Any) -> list[str]:
    stored = stored if _is_array(stored) else stored["values"]  # where words may be missing
    return [_text(each) for each in np.asarray(stored).tolist()]


def _ordered(table: Any) -> list[str]:
    return [_text(name) for name in table.attrs.get("column-order", ())]


def _index(table: Any) -> str:
    return _text(table.attrs["_index"])


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _is_array(stored: Any) -> bool:
    return hasattr(stored, "dtype") and hasattr(stored, "shape")


def _opened(path: Path) -> Any:
    import h5py  # slow, and few need it

    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise expected("data", "an HDF5 file", f"{path}: {error}".splitlines()[0]) from None
