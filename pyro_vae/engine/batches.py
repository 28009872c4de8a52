"""How the arguments of programs are made from tensors: as they are, or rows gathered from data."""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from pyro_vae.engine.memory import layout
from pyro_vae.engine.protocol import Arguments, Batch

__all__ = ["batch_of", "gathered", "rows_as_they_are"]


def batch_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Batch, tuple[Tensor, ...]]:
    """Splits the arguments of a step into its tensors and everything else, which is a key."""
    if not kwargs and all(isinstance(arg, Tensor) for arg in args):
        return Batch(("step", tuple(map(layout, args))), _positional), args
    leaves, spec = tree_flatten((args, kwargs))
    tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
    numbers = tuple(leaf for leaf in leaves if _is_number(leaf))
    others = tuple(None if isinstance(v, Tensor) or _is_number(v) else v for v in leaves)
    kinds = tuple(type(leaf) for leaf in leaves if not isinstance(leaf, Tensor))

    def filled(tensors: Sequence[Tensor], numbers: Sequence[Any]) -> Arguments:
        rest, left = iter(tensors), iter(numbers)
        made = [
            next(rest) if isinstance(old, Tensor) else next(left) if _is_number(old) else old
            for old in leaves
        ]
        return tree_unflatten(made, spec)

    def as_given(tensors: Sequence[Tensor], step: int) -> Arguments:
        return filled(tensors, numbers)

    key = "step", tuple(map(layout, tensors)), tuple(map(_key, others)), kinds, str(spec)
    return Batch(key, as_given, others, numbers, filled), tensors


def _is_number(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim == 0 and value.dtype.kind in "iuf"
    kinds = (int, float, np.integer, np.floating)
    return isinstance(value, kinds) and not isinstance(value, (bool, enum.Enum))


def _key(value: Any) -> tuple[type, Any]:
    # `True`, 1 and 1.0 are equal, and not the same to a program.
    return type(value), value if isinstance(value, Hashable) else id(value)


def _positional(tensors: Sequence[Tensor], step: int) -> Arguments:
    return tuple(tensors), {}


def gathered(
    batch_size: int, transform: Callable[..., Any] | None
) -> Callable[[Sequence[Tensor], int], Arguments]:
    """Returns what makes an index of rows, and data, into the arguments of a step."""

    def arguments(inputs: Sequence[Tensor], step: int) -> Arguments:
        index = inputs[0]
        rows = index[step * batch_size : (step + 1) * batch_size]
        return _transformed(transform, tuple(tensor[rows] for tensor in inputs[1:]))

    return arguments


def rows_as_they_are(
    transform: Callable[..., Any] | None,
) -> Callable[[Sequence[Tensor], int], Arguments]:
    """Returns what makes rows that are gathered already into the arguments of a step."""

    def arguments(inputs: Sequence[Tensor], step: int) -> Arguments:
        return _transformed(transform, tuple(inputs))

    return arguments


def _transformed(transform: Callable[..., Any] | None, args: Any) -> Arguments:
    if transform is not None:
        made = transform(*args)
        if isinstance(made, dict):
            return (), made
        args = made
    return args if isinstance(args, tuple) else (args,), {}
