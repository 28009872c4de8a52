"""Readers of files, one format a file: a new one is its function and its line in ``READERS``.

A reader takes the path, whether entries may be missing, the columns beside x, which may hold words,
and the words of those of x, and returns the :class:`~pyro_vae.data.raw.Raw` arrays, split where the
file brings splits of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pyro_vae._errors import expected
from pyro_vae.data.raw import Raw
from pyro_vae.data.readers.csv_files import Words, read_csv
from pyro_vae.data.readers.numpy_files import read_npy, read_npz

__all__ = ["READERS", "Reader", "read_file"]


class Reader(Protocol):
    """Reads the files of one format."""

    def __call__(
        self, path: Path, *, missing: bool, cond: Sequence[str], beside: Sequence[str], words: Words
    ) -> Raw: ...


READERS: Mapping[str, Reader] = {".npy": read_npy, ".npz": read_npz, ".csv": read_csv}


def read_file(
    path: Path,
    *,
    missing: bool = False,
    cond: Sequence[str] = (),
    beside: Sequence[str] = (),
    words: Words = (),
) -> Raw:
    """The arrays of a file.

    Args:
        path: A file that ends in one of the suffixes of ``READERS``.
        missing: Whether entries may be missing: NaN, and in a table empty cells or ``NA``.
        cond: Columns of a table that may hold words in place of numbers.
        beside: All columns that are to lie beside x.
        words: For each column of x, in order, the words whose places, from 0, are its values; none
            for a column of numbers.

    Raises:
        ValueError: If there is no such file, or it is damaged.
    """
    if path.suffix not in READERS:
        raise expected("data", f"a file that ends in {', '.join(READERS)}", str(path))
    if not path.is_file():
        raise expected("data", "an existing file", str(path))
    return READERS[path.suffix](path, missing=missing, cond=cond, beside=beside, words=words)
