"""Sources of rows that are read when they are asked for: files, and containers of other packages.

A new one is a class with a length and `take`, and a line in :func:`stream`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from torch import Tensor

from pyro_vae._errors import as_path, expected
from pyro_vae.data.containers import package_of
from pyro_vae.data.rows import GivenLike, Numbers, given_of
from pyro_vae.data.source import Source, Stream
from pyro_vae.data.sources.arrays import ArraySource, array_of, opened_array
from pyro_vae.data.sources.items import ItemSource
from pyro_vae.data.sources.joined import Joined
from pyro_vae.data.sources.parquet import ParquetSource

__all__ = ["SUFFIXES", "is_elsewhere", "is_source", "stream"]

SUFFIXES = (".npy", ".h5", ".hdf5", ".zarr", ".parquet")
_ARRAYS = ("h5py", "zarr")
_ITEMS = ("torch", "datasets", "anndata")


def stream(
    data: str | os.PathLike[str] | Numbers | Source | Stream,
    *,
    key: str | None = None,
    missing: bool = False,
    **given: Unpack[GivenLike],
) -> Stream:
    """Returns rows that are read when they are asked for, of data larger than memory.

    :func:`pyro_vae.fit`, :func:`pyro_vae.evaluate`, :func:`pyro_vae.evaluation.impute`,
    :meth:`pyro_vae.VAE.encode` and :func:`pyro_vae.criticism.check` take them as they take arrays.
    Nothing is converted or standardised here: bytes stay bytes until a model sees them.

    Args:
        data: The path of a ``.npy``, ``.h5``, ``.zarr`` or ``.parquet`` file, whose columns are
            numbers; an array of shape ``(N, *event_shape)``, mapped to a file or not; an open array
            of HDF5 or Zarr; a map-style data set of torch, or one of Hugging Face; an ``AnnData``,
            best one that is backed; or a :class:`Source`: any object that has a length and
            ``take(rows)``.
        key: Which of several arrays of a file, or entries of items, is x.
        missing: Whether NaN, or null in a table, is an entry that nobody observed.
        **given: What goes with each observation (:class:`~pyro_vae.data.Given`): arrays as long as
            the data, mapped ones too.

    Raises:
        ValueError: If it is none of these, has no observation, or an option has no meaning for it.

    Example:
        >>> rows = stream(np.zeros((5, 3), dtype=np.uint8))
        >>> rows, rows[[4, 0]].read().x.dtype
        (Stream(5, event_shape=(3,), dtype=uint8), torch.uint8)
    """
    beside = given_of(given)
    if missing and "mask" in beside:
        raise expected("mask", "None with `missing`, which makes one", beside["mask"])
    if isinstance(data, Stream):
        _refuse_options("a stream", key, missing)
        for name in beside.keys() & data.first.given.keys():
            raise expected(name, "None, as the stream brings its own", "one more")
        # A stream of a stream would take what its source is free to read for blocks of a file.
        return Stream(Joined(data, beside)) if beside else data
    if isinstance(data, str | os.PathLike):
        source = _of_path(as_path("data", data), key, missing)
    else:
        source = _of_object(data, key, missing)
    return Stream(Joined(source, beside) if beside else source)


def _of_path(path: Path, key: str | None, missing: bool) -> Source:
    path = path.expanduser()
    if path.suffix not in SUFFIXES:
        raise expected("data", f"a file that ends in {', '.join(SUFFIXES)}", str(path))
    if not path.exists():
        raise expected("data", "an existing file", str(path))
    if path.suffix == ".parquet":
        if key is not None:
            raise expected("key", "None with a .parquet file", key)
        return ParquetSource(path, missing=missing)
    return ArraySource(opened_array(path, key), missing=missing)


def _of_object(data: Any, key: str | None, missing: bool) -> Source:
    package = package_of(data)
    if isinstance(data, np.ndarray) or package in _ARRAYS:
        return ArraySource(array_of(data, key), missing=missing)
    # Hugging Face's have a `take` of another meaning.
    if package in _ITEMS and (package == "datasets" or not isinstance(data, Source)):
        return ItemSource(data, package, key, missing=missing)
    if isinstance(data, Tensor) or hasattr(data, "__array__"):
        _refuse_options(f"a {type(data).__name__}", key, missing=False)
        array = data.detach().cpu().numpy() if isinstance(data, Tensor) else np.asarray(data)
        return ArraySource(array, missing=missing)
    if isinstance(data, Source):
        _refuse_options("a source, whose rows may bring a mask", key, missing)
        return data
    what = "a path, an array, a data set of items, or an object with a length and `take(rows)`"
    raise expected("data", what, data)


def _refuse_options(kind: str, key: str | None, missing: bool) -> None:
    """Refuses options of files and arrays where something else has rows.

    Raises:
        ValueError: If there is one.
    """
    if key is not None:
        raise expected("key", f"None with {kind}", key)
    if missing:
        raise expected("missing", f"False with {kind}", missing)


def is_elsewhere(data: Any) -> bool:
    """Returns whether data are not in memory: mapped, in an open file, or in a source.

    Example:
        >>> is_elsewhere(np.zeros((5, 3)))
        False
    """
    if is_source(data):
        return True
    if isinstance(data, np.memmap):
        return _has_rows(data)
    if isinstance(data, Tensor | np.ndarray | list | tuple | Mapping):
        return False
    package = package_of(data)
    if package in _ARRAYS:
        return _has_rows(data)
    return package == "anndata" and bool(getattr(data, "isbacked", False))


def is_source(data: Any) -> bool:
    """Returns whether data are rows that `take` gives, and no array however little they are."""
    if isinstance(data, Stream):
        return True
    if isinstance(data, Tensor | np.ndarray | list | tuple | Mapping):
        return False
    return package_of(data) is None and isinstance(data, Source) and not hasattr(data, "__array__")


def _has_rows(array: Any) -> bool:
    """Returns whether an array has rows of numbers; whoever reads all of it refuses any other."""
    if not all(hasattr(array, name) for name in ("shape", "dtype", "__getitem__")):
        return False
    return len(array.shape) > 1 and 0 not in array.shape and np.dtype(array.dtype).kind in "biuf"
