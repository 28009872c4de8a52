"""The processes that work together: which there are, and what they say to each other."""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["Processes", "all_processes", "apart", "leave", "local_rank", "together"]

Made = TypeVar("Made")

log = logging.getLogger("pyro_vae")

_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_ERRORS = (ValueError, OSError, MemoryError, FloatingPointError)  # known to all processes alike
_apart: ContextVar[bool] = ContextVar("apart", default=False)


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
                with apart():
                    sent = [("made", make())]
            except BaseException as raised:
                error = raised
                sent = [("raised", _as_known(raised))]
        distributed.broadcast_object_list(sent, src=0)
        if error is not None:
            raise error
        outcome, value = sent[0]
        if outcome == "raised":
            raise value
        return value

    def first_of(self, value: Made) -> Made:
        """Returns what the first one has."""
        return self.from_first(lambda: value)

    def each(self, make: Callable[[], Made]) -> list[Made]:
        """Returns what each process makes, in their order; what one raises, all of them raise."""
        if self.count == 1:
            return [make()]
        from torch import distributed

        own: Exception | None = None
        try:
            said: tuple[str, Any] = ("made", make())
        except Exception as error:
            own, said = error, ("raised", _as_known(error))
        found: list[Any] = [None] * self.count
        try:
            with _of_a_group():
                distributed.all_gather_object(found, said)
        except ConnectionError as error:
            raise _noted(error if own is None else own) from error
        for rank, (outcome, value) in enumerate(found):
            if outcome == "raised":
                raise _noted(value if own is None or rank != self.rank else own)
        return [value for _, value in found]

    def gathered(self, value: Made) -> list[Made]:
        """Returns what each process has, in their order."""
        return self.each(lambda: value)

    @contextmanager
    def as_one(self) -> Iterator[None]:
        """Inside it, an error of one process is raised by all, where they next meet.

        They meet in :meth:`each`, or at the end; what else they say to each other knows of none.
        """

        def fail(error: Exception) -> None:
            raise error

        if self.count == 1:
            yield
            return
        try:
            yield
        except Exception as error:
            if not hasattr(error, _KNOWN):
                with suppress(Exception):
                    self.each(partial(fail, _noted(error)))
            raise
        self.gathered(None)

    def own(self, count: int) -> range:
        """Returns which of so many things that follow one another are this process's."""
        return range(self.rank * count // self.count, (self.rank + 1) * count // self.count)

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


_KNOWN = "known_to_all"  # an error that no process has to be told of


def _noted(error: Exception) -> Exception:
    setattr(error, _KNOWN, True)
    return error


def _as_known(error: BaseException) -> Exception:
    """Returns an error as other processes can have it."""
    if isinstance(error, Exception):
        with suppress(Exception):
            copy = pickle.loads(pickle.dumps(error))
            if type(copy) is type(error) and str(copy) == str(error):
                return error
    kind = next((each for each in _ERRORS if isinstance(error, each)), RuntimeError)
    return kind(str(error))


def _group() -> str:
    from torch import distributed

    group = distributed.group.WORLD
    assert group is not None
    return str(group.group_name)


def all_processes() -> Processes:
    """Returns the processes that a fit is shared by: one, unless there is a group.

    A group is one that the script has initialised, or the one that ``torchrun`` has started this
    process for, by its environment; processes that such a process starts for itself are in none,
    and nor is one that is :func:`apart`.
    """
    if _apart.get():
        return Processes()
    loaded: Any = sys.modules.get("torch.distributed")
    if loaded is not None and loaded.is_available() and loaded.is_initialized():
        return Processes(loaded.get_rank(), loaded.get_world_size())
    started = all(name in os.environ for name in _BY_TORCHRUN)
    if not started or os.environ["WORLD_SIZE"] == "1" or multiprocessing.parent_process():
        return Processes()
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    on_cuda = torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    store, rank, size = next(rendezvous("env://"))
    if os.environ.get("LOCAL_WORLD_SIZE") == str(size):
        # Where torchrun starts processes again, its store may still have what they wrote before,
        # and those who read it there look for each other where nobody is any more. Of several
        # machines each counts its own starts.
        start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = distributed.distributed_c10d.PrefixStore(start, store)
    backend = "cpu:gloo,cuda:nccl" if on_cuda else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size)
    atexit.register(leave)
    return Processes(distributed.get_rank(), distributed.get_world_size())


@contextmanager
def apart() -> Iterator[None]:
    """Inside it, this process is by itself: the others do not do what it does there."""
    before = _apart.set(True)
    try:
        yield
    finally:
        _apart.reset(before)


@contextmanager
def together(processes: Processes) -> Iterator[None]:
    """Inside it, processes but the first one log errors alone, and each knows when one has gone.

    Raises:
        ConnectionError: In place of what gloo and NCCL say of a process that has ended.
    """
    if processes.count == 1:
        yield
        return
    before = log.level
    if not processes.is_first:
        log.setLevel(logging.ERROR)
    try:
        with _of_a_group():
            yield
    finally:
        log.setLevel(before)


@contextmanager
def _of_a_group() -> Iterator[None]:
    """Inside it, what is said of a process that has ended is one line."""
    from torch import distributed

    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not (isinstance(error, distributed.DistError) or "gloo" in text or "NCCL" in text):
            raise
        reason = text.splitlines()[0]
        raise ConnectionError(f"another process of the group has ended: {reason}") from error


def local_rank() -> int:
    """Returns the number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def leave() -> None:
    """Ends the part of this process in its group, if it is in one."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
