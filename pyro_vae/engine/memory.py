"""The memory of tensors: what is in it once, what has the same strides, what is put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pyro_vae.engine.generators import random_state, set_random_state

__all__ = ["Snapshot", "Span", "elements", "layout", "overlap", "preserved", "span", "twin"]

Span: TypeAlias = tuple[torch.device, int, int]


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


def span(tensor: Tensor) -> Span:
    """Returns the memory that a tensor is a view of: its device, start and end, in bytes."""
    storage = tensor.untyped_storage()
    start = storage.data_ptr()
    return tensor.device, start, start + storage.nbytes()


def overlap(one: Span, other: Span) -> bool:
    """Tells whether two pieces of memory have bytes in common.

    Example:
        >>> x = torch.zeros(4)
        >>> overlap(span(x[:1]), span(x[2:])), overlap(span(x), span(x.clone()))
        (True, False)
    """
    return one[0] == other[0] and one[1] < other[2] and other[1] < one[2]


class Snapshot:
    """Creates a copy of tensors and of random states, to be put back.

    Args:
        tensors: What is copied. What was made in inference mode is left out: it cannot be changed
            outside it.

    Attributes:
        values: The copies by the identities of the tensors, each with its elements once.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        kept = [tensor for tensor in tensors if not tensor.is_inference()]
        self._places = [elements(tensor) for tensor in kept]
        copies = [place.clone() for place in self._places]
        self.values = dict(zip(map(id, kept), copies, strict=True))
        self._copies = copies
        devices = {tensor.device for tensor in tensors} or {torch.device("cpu")}
        self._random = {device: random_state(device) for device in devices}

    @torch.no_grad()
    def put_values_back(self) -> None:
        """Gives the tensors the values that they had."""
        for place, value in zip(self._places, self._copies, strict=True):
            place.copy_(value)

    def put_random_back(self) -> None:
        """Gives the generators the states that they had."""
        for device, state in self._random.items():
            set_random_state(state, device)


@contextmanager
def preserved(tensors: Sequence[Tensor]) -> Iterator[list[Callable[[], None]]]:
    """Puts back, on leaving, random states and the values of the tensors.

    Yields:
        What will be done on leaving; clear the list to keep things as they then are.
    """
    snapshot = Snapshot(tensors)
    undo = [snapshot.put_values_back, snapshot.put_random_back]
    try:
        yield undo
    finally:
        for action in undo:
            action()
