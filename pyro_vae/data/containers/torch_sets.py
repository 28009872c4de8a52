"""Data sets of ``torch.utils.data``: of tensors, or one item at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae._errors import expected
from pyro_vae.data.containers.contents import Asked, Contents, array_of, chosen
from pyro_vae.data.pixels import as_pixels, stacked

__all__ = ["read_torch_set"]

_X = ("x", "image", "img", "data", "pixel_values")
_LABELS = ("label", "labels", "y", "target")


def read_torch_set(data: Any, asked: Asked) -> Contents:
    """Returns a map-style data set whose items are x, (x, label) or a mapping of such.

    Pictures become bytes, channels first.

    Raises:
        ValueError: If it has no length, an item is none of these, or they are of several sizes.
    """
    kind = type(data).__name__
    if isinstance(data, torch.utils.data.DataLoader):
        raise ValueError(
            f"`{asked.argument}`: expected a data set, got a {kind}: its data set is "
            "`loader.dataset`"
        )
    if isinstance(data, torch.utils.data.TensorDataset):
        return _of_tensors(data.tensors, asked)
    if isinstance(data, torch.utils.data.IterableDataset) or not hasattr(data, "__len__"):
        what = "a map-style data set, which has a length"
        raise ValueError(f"`{asked.argument}`: expected {what}, got {kind}: `list` of it is one")
    if len(data) == 0:
        raise expected(asked.argument, "at least one observation", f"an empty {kind}")
    values, labels, image = [], [], False
    for item in _items(data):
        x, label = _parts(item, asked, kind)
        if hasattr(x, "mode") and hasattr(x, "getbands"):  # a picture of Pillow's
            x, image = as_pixels(x, asked.resize), True
        values.append(x if isinstance(x, Tensor) else array_of(x, asked.argument))
        labels.append(label)
    x = stacked(values, asked.argument, [f"item {i}" for i in range(len(values))])
    return Contents(x, labels=_labels(labels, kind), image=image)


def _items(data: Any) -> Iterator[Any]:
    """Yields the items by number: a data set without an end of its own would go on."""
    return (data[i] for i in range(len(data)))


def _parts(item: Any, asked: Asked, kind: str) -> tuple[Any, Any]:
    """Returns x and the label, or None, of one item.

    Raises:
        ValueError: If there is more in it, or it is not known what is x.
    """
    if isinstance(item, Mapping):
        known = [name for name in item if name not in _LABELS]
        name = chosen(asked.key, known, "entry of an item", _X)
        if asked.key is None and len(known) > 1:
            unused = [each for each in known if each != name]
            raise expected("key", f"the name of the entry that is x, beside {unused}", None)
        return item[name], next((item[each] for each in _LABELS if each in item), None)
    if isinstance(item, Sequence) and not isinstance(item, str):
        if len(item) == 1:
            return item[0], None
        if len(item) == 2:
            return item[0], item[1]
        what = "items that are x, or x and a label"
        raise expected(asked.argument, what, f"{len(item)} parts in an item of {kind}")
    return item, None


def _labels(labels: Sequence[Any], kind: str) -> np.ndarray | None:
    if all(label is None for label in labels):
        return None
    try:
        array = np.asarray([int(label) for label in labels])
        whole = all(float(label) == one for label, one in zip(labels, array, strict=True))
    except (TypeError, ValueError):
        whole = False
    if not whole:
        what = f"an integer as the second part of each item of {kind}, its label"
        raise expected("data", what, labels[0])
    return array


def _of_tensors(tensors: Sequence[Tensor], asked: Asked) -> Contents:
    if len(tensors) == 1:
        return Contents(tensors[0])
    x, labels, *more = tensors
    if more or labels.ndim != 1 or labels.is_floating_point():
        shapes = [tuple(each.shape) for each in tensors]
        what = "a TensorDataset of x, or of x and integer labels (what else there is goes to "
        raise expected(asked.argument, f"{what}`cond`, `mask` or `covariates`)", shapes)
    return Contents(x, labels=labels)
