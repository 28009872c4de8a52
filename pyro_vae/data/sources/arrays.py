"""Arrays that are not in memory: mapped to a file, or open in HDF5 or Zarr."""

from __future__ import annotations

import mmap
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_vae._errors import expected, unknown_name
from pyro_vae.data.raw import with_missing
from pyro_vae.data.rows import Rows

__all__ = ["ArraySource", "array_of", "opened_array"]

_ALONE = 4  # rows a run, on average: of shorter runs an index is faster than slices
_CHUNK = 2**26  # bytes of the rows of a chunk, at most, of which all are read at once, and kept


class ArraySource:
    """Creates a source of the rows of an array, of which those that are asked for are copied.

    A chunk of HDF5 or Zarr is unpacked as a whole, whatever is asked of it, and the last one is
    kept for what is asked next. Pages of a file that is mapped are given back once they are copied:
    what the process then holds is what it was asked for.

    Args:
        array: What has a shape, a dtype and slices: ``(N, *event_shape)``.
        missing: Whether NaN is an entry that nobody observed.

    Raises:
        ValueError: If it has no rows of real numbers.
    """

    def __init__(self, array: Any, *, missing: bool = False) -> None:
        if not hasattr(array, "shape") or len(array.shape) < 2:
            raise expected("data", "at least two dimensions (data by event)", array)
        if isinstance(array, np.ma.MaskedArray):
            error = expected("data", "no masked array, whose hidden values would be data", array)
            raise ValueError(f"{error}; `.filled(nan)` of floats, with `missing`, lacks them")
        dtype = np.dtype(array.dtype)
        if dtype.kind not in "biuf":
            raise expected("data", "real, integer or boolean values", array)
        self._array, self._missing = array, missing
        self._dtype = np.dtype(np.float64) if dtype.itemsize > 8 else dtype.newbyteorder("=")
        self._mapping = _mapping_of(array)
        chunks = getattr(array, "chunks", None)
        self.rows_a_block = int(chunks[0]) if chunks else None
        of_a_chunk = (self.rows_a_block or 0) * int(np.prod(array.shape[1:])) * self._dtype.itemsize
        self._in_chunks = 0 < of_a_chunk <= _CHUNK
        self._last: tuple[int, np.ndarray] = (-1, np.empty(0))

    def __len__(self) -> int:
        return int(self._array.shape[0])

    def take(self, rows: np.ndarray, /) -> Rows:
        found = np.empty((len(rows), *self._array.shape[1:]), dtype=self._dtype)
        if self._in_chunks:
            assert self.rows_a_block is not None
            numbers = rows // self.rows_a_block
            for number in np.unique(numbers):
                here = np.flatnonzero(numbers == number)
                found[here] = self._chunk(int(number))[rows[here] % self.rows_a_block]
            return with_missing(torch.from_numpy(found), self._missing)
        starts = np.concatenate([[0], np.flatnonzero(np.diff(rows) != 1) + 1, [len(rows)]])
        is_plain = isinstance(self._array, np.ndarray) and self._array.dtype == self._dtype
        if is_plain and len(rows) < _ALONE * (len(starts) - 1):
            np.take(self._array, rows, axis=0, out=found, mode="clip")
        else:
            for start, stop in pairwise(starts):
                if start < stop:
                    first = int(rows[start])
                    found[start:stop] = self._array[first : first + int(stop - start)]
        if self._mapping is not None:
            self._mapping.madvise(mmap.MADV_DONTNEED)
        return with_missing(torch.from_numpy(found), self._missing)

    def _chunk(self, number: int) -> np.ndarray:
        """Returns the rows of a chunk: one of them takes as long to read as all."""
        last, kept = self._last
        if last != number:
            assert self.rows_a_block is not None
            first = number * self.rows_a_block
            kept = np.asarray(self._array[first : first + self.rows_a_block])
            self._last = number, kept  # at once, as threads may ask at the same time
        return kept


def _mapping_of(array: Any) -> mmap.mmap | None:
    """Returns what maps an array to a file, where pages of it can be given back.

    Of one that may be written to, pages may have been, and giving these back would lose that.
    """
    found: Any = array
    while isinstance(found, np.ndarray):
        # A private copy that is no longer written to has pages of its own as well.
        if found.flags.writeable or getattr(found, "mode", "r") == "c":
            return None
        found = found.base
    return found if isinstance(found, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED") else None


def opened_array(path: Path, key: str | None = None) -> Any:
    """Returns the array of a file, open or mapped, of which nothing is read yet.

    Args:
        path: A ``.npy``, ``.h5``, ``.hdf5`` file, or a ``.zarr`` folder.
        key: Which of several arrays; the only one if not given.

    Raises:
        ValueError: If it is no such file, there is no such array, or Zarr is not installed.
    """
    if path.suffix == ".npy":
        if key is not None:
            raise expected("key", "None, as an .npy file has one array", key)
        try:
            return np.lib.format.open_memmap(path, mode="r")
        except (ValueError, OSError, EOFError) as error:
            what = "a NumPy file of plain arrays (no pickles)"
            raise expected("data", what, str(path)) from error
    return array_of(_opened_zarr(path) if path.suffix == ".zarr" else _opened_hdf5(path), key)


def array_of(stored: Any, key: str | None = None) -> Any:
    """Returns the array that is meant: of a group or an open file, or by itself.

    Args:
        stored: An array, or what has arrays by name.
        key: Which of several; the only one if not given.

    Raises:
        ValueError: If there is no such array, or a key of one that stands by itself.
    """
    if not hasattr(stored, "keys"):
        if key is not None:
            raise expected("key", "None with an array, which is x", key)
        return stored
    names = [name for name in stored if hasattr(stored[name], "shape")]
    if key is None and len(names) == 1:
        key = names[0]
    if key is None or key not in stored:
        raise unknown_name("key", key, names)
    return stored[key]


def _opened_hdf5(path: Path) -> Any:
    import h5py  # slow, and few need it

    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise expected("data", "an HDF5 file", f"{path}: {error}".splitlines()[0]) from None


def _opened_zarr(path: Path) -> Any:
    try:
        import zarr
    except ImportError:
        what = "zarr, to read .zarr folders: pip install 'pyro-vae[data]'"
        raise expected("data", what, str(path)) from None
    try:
        return zarr.open(str(path), mode="r")
    except (OSError, KeyError, TypeError, AttributeError) as error:
        reason = f"{path}: {error}".splitlines()[0]
        raise expected("data", "a folder that Zarr has written", reason) from None
