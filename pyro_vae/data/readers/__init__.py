"""Readers of files, one format a file: a new one is its function and its line in a table.

A reader of tables takes the path and how texts are read. It returns a
:class:`~pyro_vae.data.frames.Table`, whose columns :func:`~pyro_vae.data.frames.from_frame` makes
numbers of. One of arrays takes the path and what is asked of it, and returns the
:class:`~pyro_vae.data.raw.Raw` arrays, split where the file brings splits of its own; one of lines
of text takes the path, how texts are read and how lines become rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pyro_vae._errors import expected
from pyro_vae.data.containers import Asked
from pyro_vae.data.frames import Table
from pyro_vae.data.raw import Raw
from pyro_vae.data.readers.csv_files import Reading, read_csv
from pyro_vae.data.readers.excel_files import read_excel
from pyro_vae.data.readers.hdf5_files import read_h5ad, read_hdf5
from pyro_vae.data.readers.images import read_images
from pyro_vae.data.readers.numpy_files import read_npy, read_npz
from pyro_vae.data.readers.parquet_files import read_parquet
from pyro_vae.data.readers.text_files import read_text
from pyro_vae.data.readers.zarr_folders import read_zarr
from pyro_vae.data.text import Text

__all__ = ["ARRAYS", "READERS", "SUFFIXES", "TEXTS", "Reading", "read_file", "refuse_text"]

READERS: Mapping[str, Callable[[Path, Reading], Table]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".gz": read_csv,
    ".bz2": read_csv,
    ".xz": read_csv,
    ".parquet": read_parquet,
    ".xlsx": read_excel,
}
ARRAYS: Mapping[str, Callable[[Path, Asked], Raw]] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".h5ad": read_h5ad,
    ".zarr": read_zarr,
}
TEXTS: Mapping[str, Callable[[Path, Reading, Text], Raw]] = {".txt": read_text}
SUFFIXES = (*ARRAYS, *READERS, *TEXTS)


def read_file(path: Path, how: Reading | None = None, asked: Asked | None = None) -> Table | Raw:
    """Returns the table or the arrays of a file.

    Args:
        path: A file that ends in one of the suffixes, or a folder of images.
        how: How texts are read.
        asked: What is asked of files of arrays, and of images.

    Raises:
        ValueError: If there is no such file, or it is damaged.
    """
    asked = asked or Asked()
    if path.suffix not in TEXTS:
        refuse_text(asked)
    if path.is_dir() and path.suffix != ".zarr":
        return read_images(path, asked)
    if path.suffix not in SUFFIXES:
        raise expected("data", f"a file that ends in {', '.join(SUFFIXES)}", str(path))
    folder = path.suffix == ".zarr"
    if not (path.is_dir() if folder else path.is_file()):  # a pipe would be waited for without end
        what = "a folder, as Zarr writes one" if folder else "an existing file"
        raise expected("data", what, str(path))
    if asked.layers is not None and path.suffix not in (".h5ad", ".zarr"):
        raise expected("layers", f"None with a {path.suffix} file", asked.layers)
    if path.suffix in ARRAYS:
        return ARRAYS[path.suffix](path, asked)
    for name in ("key", "resize"):
        if getattr(asked, name) is not None:
            raise expected(name, f"None with a {path.suffix} file", getattr(asked, name))
    if path.suffix in TEXTS:
        return TEXTS[path.suffix](path, how or Reading(), asked.text)
    return READERS[path.suffix](path, how or Reading())


def refuse_text(asked: Asked) -> None:
    """Refuses options of lines of text for other data.

    Raises:
        ValueError: If such an option is given.
    """
    for name, value in asked.text.given().items():
        raise expected(name, "None with data that are no .txt file, of lines of text", value)
