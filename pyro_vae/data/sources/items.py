"""Data sets of items of other packages, of which some are read at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from pyro_vae._errors import expected
from pyro_vae.data.containers import Asked, Contents, contents_of
from pyro_vae.data.raw import plain_tensor, with_missing
from pyro_vae.data.rows import Rows

__all__ = ["ItemSource"]


def _of_torch(data: Any, rows: np.ndarray) -> Any:
    return torch.utils.data.Subset(data, rows.tolist())


def _of_hugging_face(data: Any, rows: np.ndarray) -> Any:
    return data.select(rows)


def _of_annotated(data: Any, rows: np.ndarray) -> Any:
    # An open file of HDF5 takes rows in ascending order, and each once.
    places, back = np.unique(rows, return_inverse=True)
    some = data[places]
    some = some.to_memory() if getattr(some, "isbacked", False) else some
    return some[back]


_SELECT: Mapping[str, Callable[[Any, np.ndarray], Any]] = {
    "torch": _of_torch,
    "datasets": _of_hugging_face,
    "anndata": _of_annotated,
}


class ItemSource:
    """Creates a source of the items of a data set, which its own reader makes arrays of.

    Args:
        data: A map-style data set of torch, one of Hugging Face, or an ``AnnData``.
        package: Which of them it is.
        key: The entry of an item that is x, where there are several.
        missing: Whether NaN is an entry that nobody observed.

    Raises:
        ValueError: If it has no length, or its rows have no entries by name.
    """

    def __init__(
        self, data: Any, package: str, key: str | None = None, *, missing: bool = False
    ) -> None:
        if not hasattr(data, "__len__") or isinstance(data, torch.utils.data.IterableDataset):
            raise expected("data", "a map-style data set, which has a length", data)
        if key is not None and package == "anndata":
            raise expected("key", f"None with a {type(data).__name__}", key)
        self._data, self._package, self._key = data, package, key
        self._missing = missing
        first = np.zeros(min(1, len(data)), dtype=np.int64)
        self.names = tuple(self._contents(first).names) if len(first) else ()

    def __len__(self) -> int:
        return len(self._data)

    def take(self, rows: np.ndarray, /) -> Rows:
        return with_missing(plain_tensor(self._contents(rows).x), self._missing)

    def _contents(self, rows: np.ndarray) -> Contents:
        some = _SELECT[self._package](self._data, rows)
        return contents_of(some, Asked(key=self._key))
