"""Arrays by name, of an `.npz` or an HDF5 file: what each name means, and none is passed over."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from pyro_vae._errors import expected, unknown_name
from pyro_vae.data.budget import check_fits
from pyro_vae.data.containers.contents import Asked, Contents
from pyro_vae.data.dataset import SPLITS, Split
from pyro_vae.data.raw import MISSING, as_values

__all__ = ["parts_of"]

_KEYS: Mapping[Split, tuple[str, ...]] = {
    "train": ("train", "x_train"),
    "validation": ("validation", "valid", "val", "x_validation", "x_valid", "x_val"),
    "test": ("test", "x_test"),
}
_ONE = ("x", "data")
_ONE_LABELS = ("y", "labels", "label", "target", "targets")
_ONE_MASK = ("mask", "x_mask", "data_mask")
_SERIES = {"values", "lengths"}
_WEIGHTS = re.compile(r"(^|_)weights?(_|$)")


def parts_of(arrays: Mapping[str, Any], asked: Asked) -> dict[Split, Contents]:
    """Returns splits under their names, or one array under ``x``, ``data`` or the only key.

    Labels and masks go with the array that they are named after: ``y_train`` or ``train_labels``,
    and ``mask_train``, ``train_mask`` or ``x_train_mask`` with ``x_train``. ``values`` and
    ``lengths`` are series of several lengths, one after the other: all are made as long as the
    longest, NaN after their ends.

    Args:
        arrays: What there is, by name; each is read where it is used.
        asked: What is asked of them.

    Raises:
        ValueError: If there is no training set, or an array has no use.
    """
    if asked.key is not None:
        if asked.key not in arrays:
            raise unknown_name("key", asked.key, sorted(arrays))
        return {"train": _part(arrays, asked.key, (), ())}
    if set(arrays) == _SERIES:
        return {"train": Contents(_padded(arrays["values"], arrays["lengths"], asked))}
    parts: dict[Split, Contents] = {}
    used: set[str] = set()
    for split in SPLITS:
        key = next((key for key in _KEYS[split] if key in arrays), None)
        if key is not None:
            bare = key.removeprefix("x_")
            labels = (f"y_{bare}", f"{bare}_labels", f"{bare}_targets")
            masks = (f"{key}_mask", f"mask_{bare}", f"{bare}_mask")
            parts[split] = _part(arrays, key, labels, masks, used)
    if not parts:
        beside = (*_ONE_LABELS, *_ONE_MASK)
        others = [key for key in arrays if key not in beside and not _WEIGHTS.search(key)]
        key = next((key for key in _ONE if key in arrays), others[0] if len(others) == 1 else None)
        if key is None:
            what = "keys train (and test), or x, or one array"
            error = expected(asked.argument, what, sorted(arrays))
            raise ValueError(f"{error}; `key` (--key) names the one that is x")
        names = (*_ONE_MASK, f"{key}_mask")
        parts["train"] = _part(arrays, key, _ONE_LABELS, names, used)
    if "train" not in parts:
        raise expected(asked.argument, "a training set under the key train", sorted(arrays))
    _refuse(sorted(arrays.keys() - used), asked)
    return parts


def _part(
    arrays: Mapping[str, Any],
    key: str,
    labels: tuple[str, ...],
    masks: tuple[str, ...],
    used: set[str] | None = None,
) -> Contents:
    """Returns an array with the first of its labels and masks that is there."""
    found = [next((name for name in names if name in arrays), None) for names in (labels, masks)]
    if used is not None:
        used.update(name for name in (key, *found) if name is not None)
    x = arrays[key]
    if not isinstance(x, np.ndarray) and hasattr(x, "dtype"):  # of a file, read later on
        check_fits(x.shape, np.dtype(x.dtype).itemsize)
    of_x = [None if name is None else np.asarray(arrays[name]) for name in found]
    return Contents(x, labels=of_x[0], mask=of_x[1])


def _padded(values: Any, lengths: Any, asked: Asked) -> np.ndarray:
    """Returns series that lie one after the other as one array ``(N, T, ...)``, NaN at the ends.

    Raises:
        ValueError: If the lengths are not those of the values, or nothing may be missing.
    """
    values, lengths = np.asarray(values), np.asarray(lengths)
    whole = lengths.ndim == 1 and lengths.dtype.kind in "iu" and len(lengths) > 0
    if not whole or lengths.min() < 1:
        raise expected(asked.argument, "positive whole numbers under the key lengths", lengths)
    counts = lengths.tolist()
    if values.ndim == 0 or sum(counts) != len(values):
        what = f"{sum(counts)} rows under the key values, as lengths add up to"
        raise expected(asked.argument, what, values)
    longest = max(counts)
    if min(counts) < longest and not asked.missing:
        error = expected(asked.argument, "series of one length", f"{min(counts)} to {longest}")
        raise ValueError(f"{error}{MISSING}")
    check_fits((len(counts), longest, *values.shape[1:]), values.itemsize)
    # What float32 holds of a channel is a question of all its steps: of late ones there are few.
    rows = as_values(values.reshape(len(values), -1), "values", missing=asked.missing).numpy()
    rows = rows.reshape(values.shape)
    padded = np.full((len(counts), longest, *values.shape[1:]), np.nan, np.float32)
    ends = np.cumsum(counts)
    for series, count, end in zip(padded, counts, ends, strict=True):
        series[:count] = rows[end - count : end]
    return padded


def _refuse(unused: list[str], asked: Asked) -> None:
    """Refuses arrays that are not read: someone put them there."""
    for name in unused:
        if _WEIGHTS.search(name):
            what = f"no weights of observations ({name}), which no objective takes"
            raise expected(asked.argument, what, unused)
    if unused:
        error = expected(asked.argument, "no arrays besides those that have a use", unused)
        raise ValueError(f"{error}; `key` (--key) reads one array alone")
