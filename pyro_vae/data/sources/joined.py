"""What goes with the rows of a source, and lies elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pyro_vae._errors import expected
from pyro_vae.data.raw import plain_tensor
from pyro_vae.data.rows import Given, Rows
from pyro_vae.data.source import Source, Stream
from pyro_vae.data.sources.arrays import ArraySource

__all__ = ["Joined"]


class Joined:
    """Creates a source whose rows have more that goes with them.

    Args:
        source: What has the rows.
        given: What goes with each, arrays as long as the source, mapped ones too.

    Raises:
        ValueError: If one is of another length.
    """

    def __init__(self, source: Source, given: Given) -> None:
        self.source = source
        self.names = getattr(source, "names", ())
        is_free = isinstance(source, Stream) and not source.has_blocks
        self.rows_a_block = None if is_free else getattr(source, "rows_a_block", None)
        self._given: dict[str, Any] = {
            name: {key: self._held(f"{name}: {key}", each) for key, each in value.items()}
            if isinstance(value, Mapping)
            else self._held(name, value)
            for name, value in given.items()
        }

    def __len__(self) -> int:
        return len(self.source)

    def _held(self, argument: str, value: Any) -> Any:
        """Returns what rows can be taken from, and checks its length."""
        if isinstance(value, np.ma.MaskedArray | Stream):
            raise expected(argument, "a plain array, in memory or mapped", value)
        is_elsewhere = isinstance(value, np.memmap) or hasattr(value, "chunks")
        if not isinstance(value, Tensor | np.ndarray) and not is_elsewhere:
            value = np.asarray(value)
        if value.ndim == 0 or len(value) != len(self.source):
            raise expected(argument, f"one row for each of {len(self.source)} data", value)
        if is_elsewhere:
            return ArraySource(value) if value.ndim > 1 else np.array(value)
        return value

    def take(self, rows: np.ndarray, /) -> Rows:
        found = self.source.take(rows)
        given = {
            name: {key: _some(each, rows) for key, each in value.items()}
            if isinstance(value, Mapping)
            else _some(value, rows)
            for name, value in self._given.items()
        }
        return Rows(found.x, cast(Given, {**found.given, **given}))


def _some(value: Any, rows: np.ndarray) -> Tensor:
    if isinstance(value, ArraySource):
        return value.take(rows).x
    if isinstance(value, Tensor):
        return value.cpu()[torch.from_numpy(rows)]
    found: Tensor = plain_tensor(value[rows])
    return found
