"""Arrays in files: `.npy`, `.npz` and `.csv`."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae._errors import expected
from pyro_vae.data.dataset import SPLITS, Split
from pyro_vae.data.raw import Raw, as_labels, as_values

SUFFIXES = (".npy", ".npz", ".csv")
_KEYS: Mapping[Split, tuple[str, ...]] = {
    "train": ("train", "x_train"),
    "validation": ("validation", "valid", "val", "x_validation", "x_valid", "x_val"),
    "test": ("test", "x_test"),
}
_ONE = ("x", "data")
_ONE_LABELS = ("y", "labels")


def read_file(path: Path) -> Raw:
    """The arrays of a file, split where the file brings splits of its own."""
    if path.suffix not in SUFFIXES:
        raise expected("data", f"a file that ends in {', '.join(SUFFIXES)}", str(path))
    if not path.is_file():
        raise expected("data", "an existing file", str(path))
    if path.suffix == ".npz":
        return _read_splits(path)
    if path.suffix == ".npy":
        return Raw(splits={"train": as_values(_numpy_load(path))})
    values, names = _read_csv(path)
    return Raw(splits={"train": as_values(values)}, names=names)


def read_npz(path: Path) -> dict[str, np.ndarray]:
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
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise expected("data", "a NumPy file of plain arrays (no pickles)", str(path)) from error


def _read_splits(path: Path) -> Raw:
    """Splits under their names, or one array under ``x``, ``data`` or the only key."""
    arrays = read_npz(path)
    values = {}
    labels = {}
    for split in SPLITS:
        key = next((key for key in _KEYS[split] if key in arrays), None)
        if key is not None:
            values[split] = as_values(arrays[key], key)
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
        values["train"] = as_values(arrays[key], key)
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


def _read_csv(path: Path) -> tuple[np.ndarray, list[str]]:
    """Numbers separated by commas; a first row without any number names the columns.

    Returns:
        The numbers, and the names if there are any.
    """
    rows: list[np.ndarray] = []
    names: list[str] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for cells in reader:
                if not cells:
                    continue
                if not names:
                    names = [cell.strip() for cell in cells]
                    if not any(_is_number(cell) for cell in cells):
                        continue
                rows.append(_read_row(cells, reader.line_num, names))
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise expected("data", "a CSV file in UTF-8", str(path)) from error
    named = not any(_is_number(name) for name in names)
    return np.stack(rows) if rows else np.empty((0, len(names))), names if named else []


def _read_row(cells: list[str], line: int, names: list[str]) -> np.ndarray:
    if len(cells) != len(names):
        raise expected("data", f"{len(names)} cells in row {line}", len(cells))
    try:
        return np.array(cells, dtype=np.float64)
    except ValueError:
        column = next(i for i, cell in enumerate(cells) if not _is_number(cell))
        where = f"row {line}, column {column + 1}"
        if not _is_number(names[column]):
            where += f" ({names[column]})"
        raise expected("data", f"a number in {where}", cells[column]) from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
