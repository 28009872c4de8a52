"""Data sets of Hugging Face's ``datasets``, by column, with their splits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pyro_vae._errors import expected
from pyro_vae.data.containers.contents import Asked, Contents, array_of, chosen
from pyro_vae.data.dataset import Split
from pyro_vae.data.pixels import as_pixels, stacked

__all__ = ["read_columns", "read_splits"]

_X = ("image", "img", "x", "pixel_values", "features")
_LABELS = ("label", "labels", "y", "fine_label")
_SPLITS: Mapping[str, Split] = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}


def read_splits(data: Mapping[str, Any], asked: Asked) -> dict[Split, Contents]:
    """Returns the splits of a ``DatasetDict``.

    Raises:
        ValueError: If a split has no meaning here.
    """
    for name in data:
        if name not in _SPLITS:
            what = f"splits of these: {', '.join(_SPLITS)}; one by itself is `data[{name!r}]`"
            raise expected(asked.argument, what, list(data))
    return {_SPLITS[name]: read_columns(each, asked) for name, each in data.items()}


def read_columns(data: Any, asked: Asked) -> Contents:
    """Returns the column of x, with numbers and words beside it; or a table of numbers.

    Raises:
        ValueError: If it is streamed, or it is not known which column is x.
    """
    if not hasattr(data, "__len__"):
        kind = type(data).__name__
        raise ValueError(
            f"`{asked.argument}`: expected a data set with a length, got {kind}: "
            "`datasets.Dataset.from_list(list(data.take(1000)))` is one"
        )
    columns = {name: _column(data, name, asked) for name in data.column_names}
    wide = [name for name, each in columns.items() if each.ndim > 1]
    flat = {name: each for name, each in columns.items() if each.ndim == 1}
    image = False
    if wide:
        name = chosen(asked.key, wide, "column", _X)
        if asked.key is None and len(wide) > 1:
            unused = [each for each in wide if each != name]
            raise expected("key", f"the name of the column that is x, beside {unused}", None)
        x, names, image = columns[name], (), type(data.features[name]).__name__ == "Image"
    else:
        names = tuple(
            name
            for name, each in flat.items()
            if each.dtype.kind in "biuf" and name not in (*asked.beside, *_LABELS)
        )
        words = [n for n, e in flat.items() if e.dtype.kind not in "biuf" and n not in asked.beside]
        if words or not names:
            what = "columns of numbers, with words in `cond` or apart"
            raise expected(asked.argument, what, words or sorted(flat))
        x = np.stack([flat[name] for name in names], 1)
    free = [name for name in _LABELS if name in flat and name not in (asked.label, *names)]
    label = free[0] if free and asked.label is None else None
    whole = label is not None and flat[label].dtype.kind in "biu"
    classes = getattr(data.features[label], "names", ()) if label is not None and whole else ()
    return Contents(
        x,
        names=names,
        labels=flat[label] if label is not None and whole else None,
        classes=tuple(classes or ()),
        beside={name: each for name, each in flat.items() if name not in (*names, label)},
        image=image,
    )


def _column(data: Any, name: str, asked: Asked) -> np.ndarray:
    values = data[name]
    if hasattr(values, "__getitem__") and type(data.features[name]).__name__ == "Image":
        pictures = [as_pixels(each, asked.resize) for each in values]
        names = [f"row {i}" for i in range(len(pictures))]
        found: np.ndarray = stacked(pictures, asked.argument, names)
        return found
    if type(data.features[name]).__name__ in ("Value", "ClassLabel"):
        listed = list(values)
        array = np.asarray(listed)
        return array if array.dtype.kind in "biuf" else np.array(listed, dtype=object)
    array = array_of(list(values), asked.argument)
    if array.dtype.kind not in "biuf":
        what = f"arrays of numbers, of one shape, in the column {name}"
        raise expected(asked.argument, what, str(data.features[name]))
    return array
