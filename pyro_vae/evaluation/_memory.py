"""How much memory an operation takes, found by doing it once."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_vae._errors import expected

__all__ = ["as_bytes", "peak_bytes"]

_UNITS = {"": 1, "K": 1, "M": 2, "G": 3, "T": 4}


def as_bytes(text: str, argument: str = "max_memory") -> int:
    """Returns the number of bytes that a text such as ``512MiB``, ``2GB`` or ``1000000`` names.

    Raises:
        ValueError: If it names none.

    Example:
        >>> as_bytes("512MiB"), as_bytes("2 GB"), as_bytes("4096")
        (536870912, 2000000000, 4096)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if found is None or (found[3] and not found[2]):
        raise expected(argument, "a number of bytes such as 512MiB", text)
    unit = found[2].upper()
    scale = (1024 if found[3] else 1000) ** _UNITS[unit] if unit else 1
    return int(float(found[1]) * scale)


def peak_bytes(run: Callable[[], Any]) -> int:
    """Runs something and returns the most bytes that the tensors it made have held at once.

    What a kernel keeps to itself while it runs is not seen.

    Example:
        >>> import torch
        >>> x = torch.zeros(1000)
        >>> peak_bytes(lambda: ((x + 1) * 2 + 1).sum())  # never more than two at a time
        8000
    """
    with _Allocations() as allocations:
        run()
    return allocations.peak


class _Allocations(TorchDispatchMode):
    """Counts the storages that operations return, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._live = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._known.update(self._storages((args, kwargs)))
        result = func(*args, **kwargs)
        for storage in self._storages(result):
            if storage not in self._known:  # a view is of what has been counted
                self._known.add(storage)
                self._live += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes())
        self.peak = max(self.peak, self._live)
        return result

    @staticmethod
    def _storages(values: Any) -> list[Any]:
        return [each.untyped_storage() for each in tree_leaves(values) if isinstance(each, Tensor)]

    def _freed(self, count: int) -> None:
        self._live -= count
