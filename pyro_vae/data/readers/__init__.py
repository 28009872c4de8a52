"""Readers of files, one format a file: a new one is its function and its line in ``READERS``.

A reader takes the path and how texts are read. It returns a
:class:`~pyro_vae.data.frames.Table`, whose columns :func:`~pyro_vae.data.frames.from_frame` makes
numbers of, or the :class:`~pyro_vae.data.raw.Raw` arrays, split where the file brings splits of its
own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from pyro_vae._errors import expected
from pyro_vae.data.frames import Table
from pyro_vae.data.raw import Raw
from pyro_vae.data.readers.csv_files import Reading, read_csv
from pyro_vae.data.readers.excel_files import read_excel
from pyro_vae.data.readers.numpy_files import read_npy, read_npz
from pyro_vae.data.readers.parquet_files import read_parquet

__all__ = ["READERS", "Reader", "Reading", "read_file"]


class Reader(Protocol):
    """Reads the files of one format."""

    def __call__(self, path: Path, how: Reading, *, missing: bool) -> Table | Raw: ...


def _csv(path: Path, how: Reading, *, missing: bool) -> Table:
    return read_csv(path, how)


READERS: Mapping[str, Reader] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".csv": _csv,
    ".tsv": _csv,
    ".gz": _csv,
    ".parquet": read_parquet,
    ".xlsx": read_excel,
}


def read_file(path: Path, how: Reading | None = None, *, missing: bool = False) -> Table | Raw:
    """Returns the table or the arrays of a file.

    Args:
        path: A file that ends in one of the suffixes of ``READERS``.
        how: How texts are read.
        missing: Whether entries of arrays may be NaN, which is missing then.

    Raises:
        ValueError: If there is no such file, or it is damaged.
    """
    if path.suffix not in READERS:
        raise expected("data", f"a file that ends in {', '.join(READERS)}", str(path))
    if not path.is_file():
        raise expected("data", "an existing file", str(path))
    return READERS[path.suffix](path, how or Reading(), missing=missing)
