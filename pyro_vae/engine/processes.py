"""The processes that take steps together: which there are, and what they say to each other."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["Processes", "all_processes", "local_rank"]

Made = TypeVar("Made")

_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_ERRORS = (ValueError, OSError, MemoryError, FloatingPointError)  # known to all processes alike


@dataclass(frozen=True)
class Processes:
    """The processes that take part, and which of them this one is.

    Attributes:
        rank: Number of this process; that of rank 0 writes and talks.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and talks."""
        return self.rank == 0

    def from_first(self, make: Callable[[], Made]) -> Made:
        """Returns in all processes what the first one makes, or raises what it raises."""
        if self.count == 1:
            return make()
        from torch import distributed

        error: BaseException | None = None
        sent: list[Any] = [None]
        if self.is_first:
            try:
                sent = [("made", make())]
            except BaseException as raised:
                error = raised
                kind = next((i for i, each in enumerate(_ERRORS) if isinstance(raised, each)), -1)
                sent = [("raised", (kind, str(raised)))]
        distributed.broadcast_object_list(sent, src=0)
        if error is not None:
            raise error
        outcome, value = sent[0]
        if outcome == "raised":
            kind, text = value
            raise (RuntimeError if kind < 0 else _ERRORS[kind])(text)
        return value

    def first_of(self, value: Made) -> Made:
        """Returns what the first one has."""
        return self.from_first(lambda: value)

    def gathered(self, value: Made) -> list[Made]:
        """Returns what each process has, in their order."""
        if self.count == 1:
            return [value]
        from torch import distributed

        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, value)
        return found

    def stacked(self, rows: Tensor) -> Tensor:
        """Returns the rows of all processes, in their order, shape ``(count * k, n)``."""
        if self.count == 1:
            return rows
        # The operators keep their names; those of Python move from one torch to the next.
        operators = torch.ops._c10d_functional
        pending = operators.all_gather_into_tensor(rows, self.count, _group())
        return operators.wait_tensor(pending)

    def added(self, value: Tensor) -> Tensor:
        """Returns the sum over all processes; it may be part of a graph."""
        if self.count == 1:
            return value
        operators = torch.ops._c10d_functional
        return operators.wait_tensor(operators.all_reduce(value, "sum", _group()))


def _group() -> str:
    from torch import distributed

    group = distributed.group.WORLD
    assert group is not None
    return str(group.group_name)


def all_processes() -> Processes:
    """Returns the processes that a fit is shared by: one, unless there is a group.

    A group is one that the script has initialised, or the one that ``torchrun`` has started this
    process for, by its environment; processes that such a process starts for itself are in none.
    """
    loaded: Any = sys.modules.get("torch.distributed")
    if loaded is not None and loaded.is_available() and loaded.is_initialized():
        return Processes(loaded.get_rank(), loaded.get_world_size())
    started = all(name in os.environ for name in _BY_TORCHRUN)
    if not started or os.environ["WORLD_SIZE"] == "1" or multiprocessing.parent_process():
        return Processes()
    from torch import distributed

    on_cuda = torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo")
    atexit.register(_leave)
    return Processes(distributed.get_rank(), distributed.get_world_size())


def local_rank() -> int:
    """Returns the number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def _leave() -> None:
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
