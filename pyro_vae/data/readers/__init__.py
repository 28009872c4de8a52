"""Readers of files, one format a file: a new one is its function and its line in a table.

A reader of arrays takes the path and what is asked of it; one of tables takes the path, whether entries may be missing, the columns beside x, which may hold words,
and the words of those of x, and returns the :class:`~pyro_vae.data.raw.Raw` arrays, split where the
file brings splits of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pyro_vae._errors import expected
from pyro_vae.data.containers import Asked
from pyro_vae.data.raw import Raw
from pyro_vae.data.readers.csv_files import Words, read_csv
from pyro_vae.data.readers.hdf5_files import read_h5ad, read_hdf5
from pyro_vae.data.readers.images import read_images
from pyro_vae.data.readers.numpy_files import read_npy, read_npz

__all__ = ["ARRAYS", "READERS", "SUFFIXES", "Reader", "read_file"]


class Reader(Protocol):
    """Reads the files of one format."""

    def __call__(
        self, path: Path, *, missing: bool, cond: Sequence[str], beside: Sequence[str], words: Words
    ) -> Raw: ...


READERS: Mapping[str, Reader] = {".csv": read_csv}
ARRAYS: Mapping[str, Callable[[Path, Asked], Raw]] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".h5ad": read_h5ad,
}
SUFFIXES = (*ARRAYS, *READERS)


def read_file(
    path: Path,
    *,
    missing: bool = False,
    cond: Sequence[str] = (),
    beside: Sequence[str] = (),
    words: Words = (),
    asked: Asked | None = None,
) -> Raw:
    """The arrays of a file.

    Args:
        path: A file that ends in one of the suffixes, or a folder of images.
        missing: Whether entries may be missing: NaN, and in a table empty cells or ``NA``.
        cond: Columns of a table that may hold words in place of numbers.
        beside: All columns that are to lie beside x.
        words: For each column of x, in order, the words whose places, from 0, are its values; none
            for a column of numbers.
        asked: What is asked of files of arrays, and of images.

    Raises:
        ValueError: If there is no such file, or it is damaged.
    """
    asked = Asked(missing=missing, beside=tuple(beside)) if asked is None else asked
    if path.is_dir():
        return read_images(path, asked)
    if path.suffix not in SUFFIXES:
        raise expected("data", f"a file that ends in {', '.join(SUFFIXES)}", str(path))
    if not path.is_file():
        raise expected("data", "an existing file", str(path))
    for name in ("key", "layers", "resize"):
        if getattr(asked, name) is not None and path.suffix in READERS:
            raise expected(name, f"None with a {path.suffix} file", getattr(asked, name))
    if path.suffix in ARRAYS:
        return ARRAYS[path.suffix](path, asked)
    return READERS[path.suffix](path, missing=missing, cond=cond, beside=beside, words=words)
