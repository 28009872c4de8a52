"""A pass over training rows: those on the device at once, those of a source in windows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from pyro_vae._errors import expected
from pyro_vae.data.rows import Rows
from pyro_vae.engine import CompiledSVI, NonFinite, Position
from pyro_vae.engine.batches import rows_as_they_are
from pyro_vae.engine.memory import layout
from pyro_vae.engine.protocol import Batch
from pyro_vae.programs import Amortized
from pyro_vae.programs.streamed import StreamedRows
from pyro_vae.training.splits import Accepted

__all__ = ["Pass", "Resident", "WindowPosition", "Windows", "pass_of", "position_of", "window_of"]

log = logging.getLogger("pyro_vae")

_BLOCKS = 16  # of a window, at least, of a source that is read as one likes
_PARTS = 4  # of the memory: a window that is used, one that is read, and what reading takes
_BYTES = (torch.bool, torch.uint8, torch.int8, torch.int16)  # smaller than what a program takes


def pass_of(vae: Amortized, accepted: Accepted, batch_size: int, rows_a_pass: int) -> Pass:
    """Returns what takes passes over the training rows of a fit.

    Args:
        vae: The model.
        accepted: The rows.
        batch_size: Rows a step.
        rows_a_pass: Rows a pass.

    Raises:
        ValueError: As :func:`window_of`.
    """
    rows = accepted.train
    if isinstance(rows, Rows):
        return Resident(rows, accepted.draw, batch_size, rows_a_pass)
    window = accepted.memory.window or window_of(rows, accepted.memory.most, batch_size)
    neighbours = accepted.memory.neighbours or _neighbours(rows, window)
    log.info(
        "%s rows are read in %d windows of %s, %d neighbours together",
        f"{len(rows):,}", -(-len(rows) // window), f"{window:,}", neighbours,
    )  # fmt: skip
    dtype = next((each.dtype for each in vae.parameters()), torch.get_default_dtype())
    return Windows(rows, window, batch_size, rows_a_pass, dtype, neighbours)


class Pass(Protocol):
    """What takes a pass over the training rows."""

    @property
    def window(self) -> int | None:
        """Rows of a window; None where all are on the device."""

    @property
    def neighbours(self) -> int | None:
        """Rows of a block, which stay together; None where all are on the device."""

    def __call__(
        self, svi: CompiledSVI, position: Position | None, on_step: Callable[[Position], None]
    ) -> Tensor:
        """Takes a pass, or what is left of one, and returns the loss of each step."""


class Resident:
    """Creates passes over rows that are on the device.

    Args:
        rows: The rows.
        draw: What to do to each batch afresh, if anything.
        batch_size: Rows a step.
        rows_a_pass: Rows a pass, at most one less than there are.
    """

    window: int | None = None
    neighbours: int | None = None

    def __init__(
        self,
        rows: Rows,
        draw: Callable[[Tensor], Tensor] | None,
        batch_size: int,
        rows_a_pass: int,
    ) -> None:
        self._x, self._size = rows.x, batch_size
        self._rows_a_pass = rows_a_pass
        self._tensors, structure = tree_flatten(dict(rows.given))
        self._transform = draw if len(self._tensors) == 0 else _by_name(structure, draw)

    def __call__(
        self, svi: CompiledSVI, position: Position | None, on_step: Callable[[Position], None]
    ) -> Tensor:
        return svi.epoch(
            self._x,
            *self._tensors,
            batch_size=self._size,
            transform=self._transform,
            position=self.begun() if position is None else position,
            on_step=on_step,
        )

    def begun(self) -> Position:
        """Draws the order of a pass."""
        return Position(torch.randperm(len(self._x))[: self._rows_a_pass])

    def batch(self, position: Position) -> tuple[Batch, list[Tensor]]:
        """Returns the rows of the next step, and how the programs take them; goes on behind it."""
        index = position.order[position.start : position.start + self._size]
        position.start += len(index)
        index = index.to(self._x.device)
        rows = [tensor[index] for tensor in (self._x, *self._tensors)]
        layouts = tuple(map(layout, rows))
        return Batch(("rows", layouts), rows_as_they_are(self._transform), self._transform), rows


@dataclass
class WindowPosition(Position):
    """Where a pass in windows is: within a window, and which window that is.

    Attributes:
        blocks: Blocks of neighbours in the order in which they are read.
        seed: Of the orders within windows.
        window: The window, counted from 0.
        before: Losses of the windows before.
    """

    blocks: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.long))
    seed: int = 0
    window: int = 0
    before: list[Tensor] = field(default_factory=list)


def position_of(state: Mapping[str, Any], device: torch.device) -> Position:
    """Returns a position that a checkpoint has, with losses on the device."""
    position = WindowPosition(**state) if "blocks" in state else Position(**state)
    position.losses = [losses.to(device) for losses in position.losses]
    return position


def window_of(rows: StreamedRows, memory: int, batch_size: int) -> int:
    """Returns how many rows a window has: whole batches of the rows that a part of memory holds.

    Raises:
        ValueError: If the memory is too little for a window of one batch or block.
    """
    stream = rows.stream
    held = memory // _PARTS // stream.bytes_a_row
    window = held // batch_size * batch_size
    block = stream.rows_a_block if stream.has_blocks else 1  # which is read as a whole
    least = min(-(-max(batch_size, block) // batch_size) * batch_size, len(rows))
    if window < least and held < len(rows):
        what = (
            f"at least {_PARTS * least * stream.bytes_a_row:,} bytes, for windows of {least} rows"
        )
        raise expected("max_memory", what, memory)
    return min(window, len(rows)) if window > 0 else len(rows)


def _neighbours(rows: StreamedRows, window: int) -> int:
    """Returns how many rows that follow one another stay together: a window has several such."""
    own = rows.stream.rows_a_block
    return own if rows.stream.has_blocks else min(own, max(1, window // _BLOCKS))


class Windows:
    r"""Creates passes over rows of a source, in windows that fit into memory.

    The blocks of neighbours, as the source has them, are permuted, and laid end to end. What is
    within a window of so many rows is permuted again, and fed in batches, as rows in memory are;
    meanwhile a thread reads the next window. A single window that has all rows is permuted as they
    would be in memory: the steps are the same. Rows further apart than a window in the order of
    blocks never meet in a batch. On CUDA a window is copied from pinned memory, while steps go on.

    The order is a function of torch's generator at the start of a pass, and a checkpoint has it.

    References:
        Corgi: two-level hierarchical data shuffling for SGD without random access (Xu et al.,
        2022), https://arxiv.org/abs/2206.05830

    Args:
        rows: The rows.
        window: Rows a window, a multiple of ``batch_size``, or all of them.
        batch_size: Rows a step.
        rows_a_pass: Rows a pass, at most one less than there are.
        dtype: That of the rows within a step: bytes stay bytes until then.
        neighbours: Rows of a block; as the source has them if not given.
    """

    def __init__(
        self,
        rows: StreamedRows,
        window: int,
        batch_size: int,
        rows_a_pass: int,
        dtype: torch.dtype,
        neighbours: int | None = None,
    ) -> None:
        self._rows, self.window = rows, window
        self.neighbours = neighbours or _neighbours(rows, window)
        self._size, self._rows_a_pass = batch_size, rows_a_pass
        self._edges = rows.stream.edges(self.neighbours)
        self._device = rows.vae.device
        first = rows.stream.first
        self._is_bytes = first.x.dtype in _BYTES and not first.given
        cast = _Cast(dtype) if self._is_bytes else None
        tensors, structure = tree_flatten(dict(rows[:1].given))
        self._transform = cast if len(tensors) == 0 else _by_name(structure, cast)
        self._kept: list[Tensor] = []  # on CUDA, at the addresses that its graphs know
        is_cuda = self._device.type == "cuda"
        self._copies = torch.cuda.Stream(self._device) if is_cuda else None

    @property
    def _count(self) -> int:
        """Windows of a pass."""
        return -(-self._rows_a_pass // self.window)

    def __call__(
        self, svi: CompiledSVI, position: Position | None, on_step: Callable[[Position], None]
    ) -> Tensor:
        if position is None:
            position = self._begun()
        assert isinstance(position, WindowPosition)
        with ThreadPoolExecutor(1, "pyro-vae-read") as pool:
            reading = pool.submit(self._read, position.blocks, position.window)
            while True:
                places, tensors = reading.result()
                following = _Following(pool, self._read, position, self._count)
                with _in_the_data(places):
                    losses = svi.epoch(
                        *self._placed(tensors),
                        batch_size=self._size,
                        transform=self._transform,
                        position=position,
                        on_step=following.then(on_step),
                    )
                position.before.append(losses)
                if (next_one := following.reading()) is None:
                    return torch.cat(position.before)
                reading = next_one
                position.window += 1
                position.order, position.start = self._order(position.seed, position.window), 0
                position.losses = []

    def _begun(self) -> WindowPosition:
        """Draws the order of a pass."""
        if self._count == 1 and self.window >= len(self._rows):  # as rows in memory have it
            order = torch.randperm(len(self._rows))[: self._rows_a_pass]
            return WindowPosition(order, blocks=torch.arange(len(self._edges) - 1))
        blocks = torch.randperm(len(self._edges) - 1)
        seed = int(torch.randint(2**62, ()))
        return WindowPosition(self._order(seed, 0), blocks=blocks, seed=seed)

    def _order(self, seed: int, window: int) -> Tensor:
        size = min(self.window, self._rows_a_pass - window * self.window)
        generator = torch.Generator().manual_seed((seed + window) % 2**63)
        return torch.randperm(size, generator=generator)

    def _places(self, blocks: Tensor, window: int) -> np.ndarray:
        """Returns which rows a window has, in the order of the blocks."""
        order = blocks.numpy()
        starts, stops = self._edges[:-1][order], self._edges[1:][order]
        ends = np.cumsum(stops - starts)
        first, last = window * self.window, min((window + 1) * self.window, len(self._rows))
        here = np.flatnonzero((ends > first) & (ends - (stops - starts) < last))
        found = []
        for i in here:
            begins = ends[i] - (stops[i] - starts[i])
            low, high = max(first, begins) - begins, min(last, ends[i]) - begins
            found.append(np.arange(starts[i] + low, starts[i] + high))
        return np.concatenate(found)

    def _read(self, blocks: Tensor, window: int) -> tuple[np.ndarray, list[Tensor]]:
        """Reads a window; of a last one that has fewer rows, the others are never looked at."""
        places = self._places(blocks, window)
        rows = self._moved(self._rows.stream.take(places))
        if not self._is_bytes:
            rows = self._rows.taken(rows)
        tensors, _ = rows.flatten()
        if len(places) < self.window:
            tensors = [_padded(each, self.window) for each in tensors]
        return places, tensors

    def _moved(self, rows: Rows) -> Rows:
        """Returns rows on the device, on CUDA by way of pinned memory and a stream of its own."""
        if self._copies is None:
            return rows.to(self._device)
        leaves, structure = rows.flatten()
        with torch.cuda.stream(self._copies):
            moved = [each.pin_memory().to(self._device, non_blocking=True) for each in leaves]
        self._copies.synchronize()
        return Rows.unflatten(moved, structure)

    def _placed(self, tensors: list[Tensor]) -> list[Tensor]:
        """Returns a window where graphs look for it."""
        if self._copies is None:
            return tensors
        if not self._kept:
            self._kept = [each.clone() for each in tensors]
        for kept, each in zip(self._kept, tensors, strict=True):
            each.record_stream(torch.cuda.current_stream(self._device))
            kept.copy_(each)
        return self._kept


class _Following:
    """The window that comes next, which is read once the first step of this one is taken.

    By then what is compiled is compiled: nothing else runs while a graph is captured.
    """

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        read: Callable[[Tensor, int], tuple[np.ndarray, list[Tensor]]],
        position: WindowPosition,
        count: int,
    ) -> None:
        self._pool, self._read, self._blocks = pool, read, position.blocks
        self._window, self._is_there = position.window + 1, position.window + 1 < count
        self._future: Future[tuple[np.ndarray, list[Tensor]]] | None = None

    def reading(self) -> Future[tuple[np.ndarray, list[Tensor]]] | None:
        """Returns what reads it; None after the last window."""
        if self._future is None and self._is_there:
            self._future = self._pool.submit(self._read, self._blocks, self._window)
        return self._future

    def then(self, on_step: Callable[[Position], None]) -> Callable[[Position], None]:
        """Returns what is called after a step."""

        def after(position: Position) -> None:
            self.reading()
            on_step(position)

        return after


class _Cast:
    """What makes numbers of the bytes of a batch, within a step."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def __call__(self, x: Tensor) -> Tensor:
        return x.to(self._dtype)


def _padded(tensor: Tensor, size: int) -> Tensor:
    padded = tensor.new_empty(size, *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    return padded


@contextmanager
def _in_the_data(places: np.ndarray) -> Iterator[None]:
    """Inside it, rows that an error names are those of the data, not of a window."""
    try:
        yield
    except NonFinite as error:
        if error.rows is not None:
            error.rows = torch.from_numpy(places)[error.rows]
        raise


def _by_name(
    structure: TreeSpec, draw: Callable[[Tensor], Tensor] | None
) -> Callable[..., dict[str, Any]]:
    """What makes a batch of tensors into the arguments that the programs know by name."""

    def transform(x: Tensor, *others: Tensor) -> dict[str, Any]:
        return {"x": x if draw is None else draw(x), **tree_unflatten(others, structure)}

    return transform
