"""Rows of a source as a program takes them: checked in one pass, then read some at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae._errors import expected
from pyro_vae._untouched import evaluating
from pyro_vae.data.budget import budget
from pyro_vae.data.rows import Rows, given_of
from pyro_vae.data.source import Stream
from pyro_vae.data.sources import is_elsewhere, is_source, stream

if TYPE_CHECKING:
    from pyro_vae.programs.protocol import Amortized

__all__ = ["StreamedRows", "at_equal_distances", "checked", "features_of", "refuse_unused",
           "streamed"]  # fmt: skip

_ENCODED = 1024  # rows at a time


def kept_elsewhere(
    x: Any,
    given: Mapping[str, Any],
    max_memory: int | str | None = None,
    device: torch.device | None = None,
) -> Stream | None:
    """Returns data that are to stay where they are, as they do not fit; None for all others.

    Args:
        x: What a verb was called with. A :class:`~pyro_vae.data.Stream` stays where it is, and so
            does another source.
        given: What goes with it.
        max_memory: Bytes that data may take; a quarter of what is free if not given.
        device: Where they would be.

    Raises:
        ValueError: If it is no number of bytes, or what goes with x is of another length.
    """
    if not is_elsewhere(x):
        return None
    rows = stream(x, **given)
    return rows if is_source(x) or rows.nbytes > budget(max_memory, device) else None


class StreamedRows:
    """Creates rows of a source as a program takes them, which are read when they are asked for.

    It has the methods of :class:`~pyro_vae.data.Rows` that need no more than some rows at a time.

    Args:
        vae: The program.
        stream: The rows, which it accepts: see :func:`checked`.
        leave_out: What goes with the rows, and is left out.
        is_strict: Whether what the program has no use for is refused, and not left out, too.
    """

    def __init__(
        self,
        vae: Amortized,
        stream: Stream,
        leave_out: tuple[str, ...] = (),
        *,
        is_strict: bool = False,
    ) -> None:
        self.vae, self.stream = vae, stream
        self._left_out, self._is_strict = leave_out, is_strict

    def __len__(self) -> int:
        return len(self.stream)

    def __getitem__(self, index: Any) -> Rows:
        """Reads some of the rows: ``index`` is a slice, a tensor or an array."""
        return self.taken(self.stream.take(self.stream.places(index)))

    def part(self, index: slice) -> StreamedRows:
        """Returns some of the rows, which are read when they are asked for."""
        stream = self.stream[index]
        return StreamedRows(self.vae, stream, self._left_out, is_strict=self._is_strict)

    @property
    def x(self) -> Tensor:
        """Raises an error: not all rows are in memory.

        Raises:
            ValueError: Always.
        """
        what = "rows in memory, which this asks for: `stream[rows].read()` has some of them"
        raise expected("x", what, self.stream)

    def without(self, *names: str) -> StreamedRows:
        """Returns the rows without some of what goes with them."""
        left_out = (*self._left_out, *names)
        return StreamedRows(self.vae, self.stream, left_out, is_strict=self._is_strict)

    def batches(self, size: int) -> Iterator[Rows]:
        """Yields the rows, in order, in batches of at most ``size``; a thread reads ahead."""
        block = max(1, self.stream.rows_a_block // size) * size
        for rows in self.stream.blocks(block):
            for batch in rows.batches(size):
                yield self.taken(batch)

    def taken(self, rows: Rows, argument: str = "x") -> Rows:
        """Returns rows that were read as the program takes them."""
        kept = rows.without(*self._left_out)
        return self.vae.accepts(kept if self._is_strict else self.vae.uses(kept), argument)


def checked(
    rows: StreamedRows,
    argument: str,
    look: Callable[[Rows, Rows], Mapping[str, Tensor]],
) -> dict[str, str]:
    """Reads all rows once, checks that the program accepts them, and returns fingerprints.

    Args:
        rows: The rows.
        argument: What to call them in an error.
        look: From a block of rows as they come and as the program takes them to the tensors, by
            name, whose fingerprints are asked for.

    Raises:
        ValueError: If it does not accept them, with the place of the first rows of their block.
    """

    def looked_at(block: Rows, start: int) -> Mapping[str, Tensor]:
        try:
            return look(block, rows.taken(block, argument))
        except ValueError as error:
            if start == 0:
                raise
            raise ValueError(f"{error}; counted from row {start:,}") from None

    return rows.stream.digests(looked_at)


def streamed(vae: Amortized, x: Any, given: Mapping[str, Any]) -> StreamedRows | None:
    """Returns the rows that a verb was called with, if they are to stay elsewhere.

    Raises:
        ValueError: As :func:`kept_elsewhere`, or if something goes with them that has no use.
    """
    if not is_elsewhere(x) or (stream := kept_elsewhere(x, given)) is None:
        return None
    if "labels" in given_of(given):
        raise expected("labels", "None, as labels are used in fitting alone", given["labels"])
    refuse_unused(vae, given)
    return StreamedRows(vae, stream, ("labels",))


@torch.no_grad()
def features_of(rows: StreamedRows) -> Tensor:
    """Returns what the guide's family reads of all rows, shape ``(N, *param_shape)``."""
    with evaluating(rows.vae):
        return torch.cat([rows.vae.features(batch) for batch in rows.batches(_ENCODED)])


def refuse_unused(vae: Amortized, given: Mapping[str, Any]) -> None:
    """Refuses what goes with rows and has no use in a program.

    Raises:
        ValueError: If there is something.
    """
    for name, value in given_of(given).items():
        if name not in vae.takes:
            raise expected(name, "None, as the model has no use for it", value)


def at_equal_distances(rows: StreamedRows, entries: int) -> Rows:
    """Returns rows at equal distances, so many that they have about as many entries.

    Args:
        rows: All rows.
        entries: Of x, at most, but for a single row.
    """
    event = rows.stream.event_shape.numel()
    step = -(-len(rows) * event // entries)
    return rows[np.arange(0, len(rows), max(1, step))]
