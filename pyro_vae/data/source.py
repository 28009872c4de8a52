"""Rows that are read when they are asked for, of data that are larger than memory.

A :class:`Source` is anything that has a length and can `take` rows. A :class:`Stream` is what is
made of it: some of its rows in some order, read in blocks by a thread that is one block ahead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from threading import RLock
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from pyro_vae._errors import expected
from pyro_vae.data.rows import Rows

__all__ = ["Digests", "Source", "Stream", "ahead"]

T = TypeVar("T")

_BLOCK = 2**20  # bytes that are shuffled together, of a source that prefers no other number
_READ = 2**22  # bytes that are read at once


@runtime_checkable
class Source(Protocol):
    """Observations somewhere else, of which some are read at a time.

    The same rows are to be the same each time: what a fit has begun, it goes on with. All have the
    same with them, of one type and shape. Reading is done in a thread, and never in two at once.

    Two further attributes are looked at where there are some: ``rows_a_block``, how many
    neighbours are best read together, such as those of a chunk of a file; and ``names``, those of
    the columns of x.
    """

    def __len__(self) -> int:
        """Returns how many observations there are."""

    def take(self, rows: np.ndarray, /) -> Rows:
        """Returns observations, and what goes with them, on the CPU.

        Args:
            rows: Which, counted from 0, in any order: integers of shape ``(B,)``.
        """


class Stream:
    """Creates rows of a source that are read when they are asked for.

    Args:
        source: What has the rows.
        rows: Which of them, in this order: integers of shape ``(N,)``; all if not given.

    Raises:
        ValueError: If there are none, or what is read is no :class:`~pyro_vae.data.Rows` of one
            observation.

    Example:
        >>> import pyro_vae as pv
        >>> rows = pv.data.stream(np.arange(12.0).reshape(6, 2))
        >>> len(rows), rows.event_shape, rows[1:3].read().x
        (6, torch.Size([2]), tensor([[2., 3.],
                [4., 5.]], dtype=torch.float64))
    """

    def __init__(self, source: Source, rows: np.ndarray | None = None) -> None:
        self.source = source
        self._rows = rows
        # Of all that are made of one: a callback may read rows while a window is read.
        self._reading: Any = source._reading if isinstance(source, Stream) else RLock()
        if len(self) == 0:
            raise expected("data", "at least one observation", 0)
        self._kinds: dict[str, Any] = {}
        self.first = first = self.take(np.zeros(1, dtype=np.int64))
        self._kinds = _kinds_of(first)
        if first.x.numel() == 0:
            raise expected("data", "at least one entry in an observation", first.x)
        self.event_shape, self.dtype = first.x.shape[1:], first.x.dtype
        self.names: tuple[str, ...] = tuple(getattr(source, "names", ()))

    def __len__(self) -> int:
        return len(self.source) if self._rows is None else len(self._rows)

    def __getitem__(self, index: Any) -> Stream:
        """Returns a stream of some of the rows: ``index`` is a slice, a tensor or an array."""
        places = self.places(index)
        if len(places) == 0:
            raise expected("data", "at least one observation", 0)
        found = object.__new__(Stream)  # which reads no first row anew
        rows = places if self._rows is None else self._rows[places]
        found.__dict__.update(self.__dict__, _rows=rows)
        return found

    def __reduce__(self) -> tuple[type[Stream], tuple[Source, np.ndarray | None]]:
        return Stream, (self.source, self._rows)  # a lock is of its process

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"Stream({len(self)}, event_shape={tuple(self.event_shape)}, dtype={dtype})"

    def places(self, index: Any) -> np.ndarray:
        """Returns which rows an index means, shape ``(B,)``.

        Args:
            index: A slice; a tensor or an array of numbers of rows, or of booleans, one a row.

        Raises:
            ValueError: If it is none of these.
        """
        if isinstance(index, slice):
            return np.arange(*index.indices(len(self)))
        index = index.cpu().numpy() if isinstance(index, Tensor) else np.asarray(index)
        found = np.arange(len(self))[index]
        if found.ndim != 1:
            raise expected("index", "a slice or an array of rows", index)
        return found

    def take(self, index: np.ndarray) -> Rows:
        """Returns some of the rows.

        Args:
            index: Their places in this stream, shape ``(B,)``.

        Raises:
            ValueError: If the source gives anything else for them.
        """
        places = index if self._rows is None else self._rows[index]
        with self._reading:
            found = self.source.take(places)
        if not isinstance(found, Rows) or len(found) != len(places):
            what = f"a source that takes {len(places)} rows as `pyro_vae.data.Rows`"
            raise expected("data", what, found.x if isinstance(found, Rows) else found)
        if not self._kinds:  # of the first row, which is taken before they are known
            return found
        if torch.promote_types(found.x.dtype, self.first.x.dtype) == self.first.x.dtype:
            # Items that are lists of numbers may be all integers in some blocks alone.
            found = replace(found, x=found.x.to(self.first.x.dtype))
        if (kinds := _kinds_of(found)) != self._kinds:
            # A window has a place for each tensor of the first row, and for no other.
            what = f"a source whose rows are all alike, {_shown(self._kinds)}"
            raise expected("data", what, _shown(kinds))
        return found

    def read(self) -> Rows:
        """Returns all rows, in memory."""
        return self.take(np.arange(len(self)))

    @property
    def nbytes(self) -> int:
        """Bytes that all rows take in memory, in single precision or as they are if that is less.

        What goes with them is among them.
        """
        return len(self) * self.bytes_a_row

    @property
    def bytes_a_row(self) -> int:
        """Bytes that a row takes in single precision, with what goes with it."""
        others = sum(each.nbytes for each in self.first.tensors().values())
        return 4 * self.event_shape.numel() + others

    @property
    def has_blocks(self) -> bool:
        """Whether the source says how many neighbours are read together."""
        return bool(getattr(self.source, "rows_a_block", None))

    @property
    def rows_a_block(self) -> int:
        """How many neighbours are best read together; about a megabyte where the source is free."""
        own = getattr(self.source, "rows_a_block", None)
        return int(own) if own else max(1, _BLOCK // self.bytes_a_row)

    def edges(self, step: int) -> np.ndarray:
        """Returns where blocks of neighbours begin, and where the last one ends.

        They are blocks of the source: of one a part of whose rows are elsewhere, fewer are left. K
        of them have edges of shape ``(K + 1,)``.

        Args:
            step: Rows of the source a block.
        """
        size = len(self)
        starts = np.arange(0, size, step)
        if self._rows is not None and bool((np.diff(self._rows) > 0).all()):
            steps = np.arange(0, int(self._rows[-1]) + 1, step)
            starts = np.unique(np.searchsorted(self._rows, steps))
        return np.append(starts[starts < size], size)

    def blocks(self, size: int | None = None) -> Iterator[Rows]:
        """Yields the rows in order, so many at a time, and reads one block ahead.

        Args:
            size: How many; about four megabytes, in whole blocks, if not given.
        """
        step = max(1, _READ // self.bytes_a_row) if size is None else size
        if size is None:
            step = max(1, step // self.rows_a_block) * self.rows_a_block
        places = (np.arange(i, min(i + step, len(self))) for i in range(0, len(self), step))
        return ahead((lambda rows=rows: self.take(rows)) for rows in places)  # type: ignore[misc]

    def digests(self, look: Callable[[Rows, int], Mapping[str, Tensor]]) -> dict[str, str]:
        """Reads all rows once, and returns fingerprints, those of the same tensors in memory.

        Args:
            look: From a block of rows, and the place of its first, to the tensors, by name, whose
                fingerprints are asked for.

        Returns:
            The fingerprints, by name.
        """
        digests, start = Digests(len(self)), 0
        for block in self.blocks():
            digests.update(look(block, start))
            start += len(block)
        return digests.found()


def _kinds_of(rows: Rows) -> dict[str, Any]:
    """Returns what rows have, by name, and of which type and shape that is for one row."""
    if any(len(each) != len(rows) for each in rows.tensors().values()):
        sizes = {name: len(each) for name, each in rows.tensors().items()}
        raise expected("data", f"a source that takes {len(rows)} rows of all that it has", sizes)
    every = {"x": rows.x, **rows.tensors()}
    return {name: (each.dtype, tuple(each.shape[1:])) for name, each in every.items()}


def _shown(kinds: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {str(dtype).removeprefix('torch.')} {shape}"
        for name, (dtype, shape) in kinds.items()
    )


class Digests:
    """Creates fingerprints of tensors that come in pieces.

    Args:
        size: Rows in all.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._digests: dict[str, Any] = {}

    def update(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes in the next rows of tensors."""
        for name, tensor in tensors.items():
            if name not in self._digests:
                shape = self._size, *tensor.shape[1:]
                self._digests[name] = hashlib.sha256(f"{tensor.dtype} {shape}".encode())
            plain = tensor.detach().cpu().contiguous()
            plain = plain.view(torch.int16) if plain.dtype is torch.bfloat16 else plain
            self._digests[name].update(plain.numpy().data)

    def found(self) -> dict[str, str]:
        """Returns them as :func:`pyro_vae.data.dataset.fingerprint` has them."""
        return {name: digest.hexdigest() for name, digest in self._digests.items()}


def ahead(jobs: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Yields what jobs return, in order; while one is looked at, a thread does the next."""
    with ThreadPoolExecutor(1, "pyro-vae-read") as pool:
        pending: Future[T] | None = None
        for job in jobs:
            following = pool.submit(job)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
