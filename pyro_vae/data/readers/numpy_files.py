"""Arrays in NumPy's files: ``.npy`` and ``.npz``."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae._errors import expected
from pyro_vae.data.containers import Asked, Contents, raw_of
from pyro_vae.data.containers.keyed import parts_of
from pyro_vae.data.raw import Raw

__all__ = ["arrays_of", "read_npy", "read_npz"]

# What NumPy and zipfile make of damage, besides what they refuse in words of their own.
_DAMAGED = (ValueError, OSError, EOFError, RuntimeError, KeyError, zipfile.BadZipFile, zlib.error,
            tokenize.TokenError)  # fmt: skip


def read_npy(path: Path, asked: Asked) -> Raw:
    """The array of a file, as training data; it has no columns to condition on."""
    if asked.key is not None:
        raise expected("key", "None, as an .npy file has one array", asked.key)
    # What is mapped is read once, as it is made float32.
    return raw_of({"train": Contents(_numpy_load(path, mapped=True))}, asked)


def read_npz(path: Path, asked: Asked) -> Raw:
    """Splits under their names, or one array under ``x``, ``data`` or the only key."""
    return raw_of(parts_of(arrays_of(path), asked), asked)


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file by their keys; nothing in it is executed."""
    found = _numpy_load(path)
    if not isinstance(found, dict):
        raise expected("data", "an .npz archive of arrays", str(path))
    return found


def _numpy_load(path: Path, *, mapped: bool = False) -> Any:
    try:
        if mapped:
            return np.lib.format.open_memmap(path, mode="r")
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            return dict(found) if isinstance(found, np.lib.npyio.NpzFile) else found
    except _DAMAGED as error:
        raise expected("data", "a NumPy file of plain arrays (no pickles)", str(path)) from error
