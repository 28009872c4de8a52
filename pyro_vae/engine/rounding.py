"""How much of a result is rounding: the same computation with every operand rounded at random.

Two orders of the same sum differ by their rounding, and how much that makes in a result depends on
the program: next to nothing, or all of it where large terms cancel, a matrix is nearly singular, or
Adam divides a gradient by its own size. So it is measured: in Monte Carlo arithmetic each operand
is multiplied by 1 + u, u uniform within some units of its last place, and results are compared.

References:
    Monte Carlo Arithmetic: how to gamble with floating point and win (Parker, Pierce and Eggert,
    2000), https://doi.org/10.1109/5992.852391
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["RandomRounding"]

_WIDTH = 4  # units in the last place
# They move numbers, and do not compute with them.
_EXACT = {
    *("index", "index_select", "gather", "embedding", "cat", "stack", "clone", "_to_copy", "where"),
    *("constant_pad_nd", "repeat", "roll", "flip", "lift_fresh", "lift_fresh_copy", "sign", "abs"),
}


class RandomRounding(TorchDispatchMode):
    """Rounds the operands of every operation inside it at random, those of backward passes too.

    What is compared, drawn or moved is left as it is: one is still one, and draws are the same.

    Args:
        seed: Of the rounding.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if (
            func._schema.is_mutable
            or func.is_view
            or torch.Tag.nondeterministic_seeded in func.tags
            or func._overloadpacket.__name__ in _EXACT
        ):
            return func(*args, **kwargs)
        rounded = func(*tree_map(self._rounded, args), **tree_map(self._rounded, kwargs))
        floating = [isinstance(r, Tensor) and r.is_floating_point() for r in tree_leaves(rounded)]
        return rounded if all(floating) else func(*args, **kwargs)

    def _rounded(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        device = value.device
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        width = _WIDTH * torch.finfo(value.dtype).eps
        noise = torch.rand(
            value.shape, generator=self._generators[device], device=device, dtype=torch.float64
        )
        return (value * (1 + width * (2 * noise - 1))).to(value.dtype)
