"""Arrays in NumPy's files: ``.npy`` and ``.npz``."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae._errors import expected
from pyro_vae.data.dataset import SPLITS, Split
from pyro_vae.data.raw import Raw, as_labels, as_values
from pyro_vae.data.readers.csv_files import Reading

__all__ = ["arrays_of", "read_npy", "read_npz"]

_KEYS: Mapping[Split, tuple[str, ...]] = {
    "train": ("train", "x_train"),
    "validation": ("validation", "valid", "val", "x_validation", "x_valid", "x_val"),
    "test": ("test", "x_test"),
}
_ONE = ("x", "data")
_ONE_LABELS = ("y", "labels")
# What NumPy and zipfile make of damage, besides what they refuse in words of their own.
_DAMAGED = (ValueError, OSError, EOFError, RuntimeError, KeyError, zipfile.BadZipFile, zlib.error,
            tokenize.TokenError)  # fmt: skip


def read_npy(path: Path, how: Reading, *, missing: bool) -> Raw:
    """The array of a file, as training data; it has no columns to condition on."""
    return Raw(splits={"train": as_values(_numpy_load(path), missing=missing)})


def read_npz(path: Path, how: Reading, *, missing: bool) -> Raw:
    """Splits under their names, or one array under ``x``, ``data`` or the only key."""
    arrays = arrays_of(path)
    values = {}
    labels = {}
    for split in SPLITS:
        key = next((key for key in _KEYS[split] if key in arrays), None)
        if key is not None:
            values[split] = as_values(arrays[key], key, missing=missing)
            # The label of `x_train` is `y_train`, that of `train` may also be `train_labels`.
            bare = key.removeprefix("x_")
            own = next((y for y in (f"y_{bare}", f"{bare}_labels") if y in arrays), None)
            if own is not None:
                labels[split] = as_labels(arrays[own], len(values[split]))
    if not values:
        others = [key for key in arrays if key not in _ONE_LABELS]
        key = next((key for key in _ONE if key in arrays), others[0] if len(others) == 1 else None)
        if key is None:
            raise expected("data", "keys train (and test), or x, or one array", sorted(arrays))
        values["train"] = as_values(arrays[key], key, missing=missing)
        own = next((y for y in _ONE_LABELS if y in arrays), None)
        if own is not None:
            labels["train"] = as_labels(arrays[own], len(values["train"]))
    if "train" not in values:
        raise expected("data", "a training set under the key train", sorted(arrays))
    for split, x in values.items():
        if x.shape[1:] != values["train"].shape[1:]:
            shape = tuple(values["train"].shape[1:])
            raise expected("data", f"{split} data of event shape {shape}", x)
    return Raw(splits=values, labels=labels)


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file by their keys; nothing in it is executed."""
    found = _numpy_load(path)
    if not isinstance(found, dict):
        raise expected("data", "an .npz archive of arrays", str(path))
    return found


def _numpy_load(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            return dict(found) if isinstance(found, np.lib.npyio.NpzFile) else found
    except _DAMAGED as error:
        raise expected("data", "a NumPy file of plain arrays (no pickles)", str(path)) from error
