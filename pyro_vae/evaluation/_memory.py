"""How much memory an operation takes, found by doing it once."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_vae.data.budget import as_bytes

__all__ = ["as_bytes", "peak_bytes"]


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
