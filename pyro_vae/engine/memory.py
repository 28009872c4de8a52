"""The memory of tensors: what is in it once, what has the same strides, what is put back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pyro_vae.engine.generators import random_state, set_random_state

__all__ = ["elements", "layout", "preserved", "twin"]


def layout(tensor: Tensor) -> tuple[Any, ...]:
    """Returns what a graph takes for granted about a tensor."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def elements(tensor: Tensor) -> Tensor:
    """Returns a view of the tensor with each element in memory once.

    An expanded tensor shows elements several times, and torch refuses to write to it.

    Example:
        >>> elements(torch.zeros(3, 1).expand(2, 3, 4)).shape
        torch.Size([1, 3, 1])
    """
    tensor = tensor.detach()
    for dim, stride in enumerate(tensor.stride()):
        if stride == 0 and tensor.shape[dim] > 1:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


def twin(tensor: Tensor) -> Tensor:
    """Returns a copy with the very strides that compiled code takes for granted."""
    copy = torch.empty_strided(
        tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device
    )
    elements(copy).copy_(elements(tensor))
    return copy


@contextmanager
def preserved(tensors: Sequence[Tensor]) -> Iterator[list[Callable[[], None]]]:
    """Puts back, on leaving, random states and the values of the tensors.

    Yields:
        What will be done on leaving; clear the list to keep things as they then are.
    """
    # What was made in inference mode cannot be changed outside it.
    places = [elements(t) for t in tensors if not t.is_inference()]
    values = [place.clone() for place in places]

    @torch.no_grad()
    def put_back() -> None:
        for place, value in zip(places, values, strict=True):
            place.copy_(value)

    undo: list[Callable[[], None]] = [
        put_back,
        *(
            functools.partial(set_random_state, random_state(device), device)
            for device in {t.device for t in tensors} or {torch.device("cpu")}
        ),
    ]
    try:
        yield undo
    finally:
        for action in undo:
            action()
