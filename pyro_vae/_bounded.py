"""What may be built because a file says so: bounded by numbers, by parts and by time."""

from __future__ import annotations

import math
import time
from typing import Any, Self

import torch
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae._errors import expected

__all__ = ["Bounded"]

_SECONDS = 0.8  # of this thread's own time, in which a model of 1,000 layers is built
_A_SECOND = 2**24  # numbers that are drawn in another one
_MODULES = 2**14


class Bounded(TorchDispatchMode):
    """Refuses to build more than a file accounts for, before there is memory for it.

    Args:
        limit: Numbers of all tensors together.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self._made = 0
        self._modules = 0

    def __enter__(self) -> Self:
        super().__enter__()
        # The first tensor that a mode sees imports torch's compiler, a second or more, which is not
        # the model's.
        self._end = math.inf
        torch.zeros(())
        self._made = 0
        self._hook = register_module_module_registration_hook(self._registered)
        self._end = time.thread_time() + _SECONDS + self._limit / (8 * _A_SECOND)
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._hook.remove()

    def _registered(self, module: Any, name: str, part: Any) -> None:
        self._modules += 1
        if self._modules > _MODULES:
            raise expected("args", f"a model of at most {_MODULES:,} parts", "more")
        self._check_time()

    def _check_time(self) -> None:
        if time.thread_time() > self._end:
            raise expected("args", "a model that is built in a second", "one that takes longer")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        size = 0
        for value in (*args, *(kwargs or {}).values()):
            if isinstance(value, list | tuple) and all(isinstance(each, int) for each in value):
                size = max(size, math.prod(value))
        name = func.overloadpacket.__name__
        if name in ("arange", "linspace", "eye", "randperm"):
            numbers = [value for value in args if isinstance(value, int | float)]
            size = int(max(numbers, default=0)) ** (2 if name == "eye" else 1)
        self._made += size
        if self._made > self._limit:
            raise expected("args", "a model no larger than its weights", f"{size:,} numbers")
        self._check_time()
        return func(*args, **(kwargs or {}))
