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
from pyro_vae.data.stream import Source

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
        self.source, self._given = source, dict(given)
        self.names = getattr(source, "names", ())
        self.rows_a_block = getattr(source, "rows_a_block", None)
        for name, value in self._given.items():
            each = value if isinstance(value, Mapping) else {name: value}
            for key, array in each.items():
                if not hasattr(array, "__len__") or len(array) != len(source):
                    raise expected(key, f"one row for each of {len(source)} data", array)

    def __len__(self) -> int:
        return len(self.source)

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
    if isinstance(value, Tensor):
        return value.cpu()[torch.from_numpy(rows)]
    found: Tensor = plain_tensor(np.asarray(value)[rows])
    return found
