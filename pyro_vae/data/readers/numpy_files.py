"""Arrays in NumPy's files: ``.npy`` and ``.npz``."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from pyro_vae._errors import expected
from pyro_vae.data.budget import check_fits
from pyro_vae.data.containers import Asked, Contents, raw_of
from pyro_vae.data.containers.keyed import parts_of
from pyro_vae.data.raw import Raw

__all__ = ["arrays_of", "read_npy", "read_npz"]

# What NumPy and zipfile make of damage, besides what they refuse in words of their own.
_DAMAGED = (ValueError, OSError, EOFError, RuntimeError, KeyError, zipfile.BadZipFile, zlib.error,
            tokenize.TokenError)  # fmt: skip
# What `scipy.sparse.save_npz` writes of any matrix, besides where its values are.
_SPARSE = {"data", "shape", "format"}


def read_npy(path: Path, asked: Asked) -> Raw:
    """The array of a file, as training data; it has no columns to condition on."""
    if asked.key is not None:
        raise expected("key", "None, as an .npy file has one array", asked.key)
    # What is mapped is read once, as it is made float32.
    mapped = _numpy_mapped(path)
    check_fits(mapped.shape, mapped.itemsize)
    return raw_of({"train": Contents(mapped)}, asked)


def read_npz(path: Path, asked: Asked) -> Raw:
    """Splits under their names, or one array under ``x``, ``data`` or the only key.

    Or a sparse matrix, as SciPy saves one.
    """
    arrays = arrays_of(path)
    if arrays.keys() >= _SPARSE:
        if asked.key is not None:
            raise expected("key", "None, as a sparse matrix is one array", asked.key)
        return raw_of({"train": Contents(_dense(path, arrays))}, asked)
    return raw_of(parts_of(arrays, asked), asked)


def _dense(path: Path, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns a matrix of compressed rows or columns."""
    from scipy import sparse  # slow, and few need it

    kinds: dict[str, Any] = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix}
    with _damage_told(path):
        kind, shape = arrays["format"].item(), arrays["shape"].tolist()
        kind = kind.decode() if isinstance(kind, bytes) else kind
        if kind in ("bsr", "coo", "dia"):
            what = "a sparse matrix of rows or columns, as `tocsr` makes one before `save_npz`"
            raise expected("data", what, f"{kind} in {path}")
        made = kinds[kind]
        values = arrays["data"]
        places = [arrays[name] for name in ("shape", "indices", "indptr")]
        if any(each.ndim != 1 or each.dtype.kind not in "iu" for each in places):
            raise ValueError("places that are no integers")
        check_fits(shape, values.itemsize)
        matrix = made((values, arrays["indices"], arrays["indptr"]), shape=shape)
        matrix.check_format(full_check=True)  # places outside the shape would be written to
        found: np.ndarray = matrix.toarray()
        return found


def arrays_of(path: Path) -> Mapping[str, np.ndarray]:
    """The arrays of an `.npz` file by their keys, each read when it is asked for.

    Nothing in it is executed, and what nobody asks for is not unpacked.

    Raises:
        ValueError: If it is no such file, or has a key twice.
    """
    with _damage_told(path), path.open("rb") as file:
        if isinstance(np.load(file, allow_pickle=False), np.ndarray):
            raise expected("data", "an .npz archive of arrays", str(path))
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            inside = archive.infolist()
    sizes = {info.filename.removesuffix(".npy"): info.file_size for info in inside}
    if len(sizes) < len(inside):
        raise expected("data", f"each key once in {path}", [info.filename for info in inside])
    return _Archive(path, sizes)


class _Archive(Mapping[str, np.ndarray]):
    """The arrays of an `.npz` file, and how many bytes each is unpacked to."""

    def __init__(self, path: Path, sizes: Mapping[str, int]) -> None:
        self._path, self._sizes = path, sizes

    def __iter__(self) -> Iterator[str]:
        return iter(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self._sizes:
            raise KeyError(key)
        with _damage_told(self._path), np.load(self._path, allow_pickle=False) as archive:
            name = key if key in archive.zip.namelist() else f"{key}.npy"
            with archive.zip.open(name) as member:  # before there is memory for what it promises
                itemsize, *shape = _header(member)
                if math.prod(shape) * itemsize > self._sizes[key]:
                    raise ValueError("an array that is longer than what there is of it")
                check_fits(shape, itemsize)
            found: np.ndarray = archive[key]
            return found


def _header(member: IO[bytes]) -> tuple[int, ...]:
    """Returns how many bytes an entry has, and the shape."""
    of = np.lib.format
    first = of.read_magic(member)[0] == 1
    shape, _, dtype = (of.read_array_header_1_0 if first else of.read_array_header_2_0)(member)
    return (dtype.itemsize, *shape)


def _numpy_mapped(path: Path) -> np.ndarray:
    with _damage_told(path):
        return np.lib.format.open_memmap(path, mode="r")


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """Inside it, what NumPy finds wrong with a file is one line about the file."""
    try:
        yield
    except _DAMAGED as error:
        if str(error).startswith("`data`"):
            raise
        raise expected("data", "a NumPy file of plain arrays (no pickles)", str(path)) from error
