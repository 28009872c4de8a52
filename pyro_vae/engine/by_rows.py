"""Rows whose batches processes share: each does some of them, and all have what comes of each.

What is drawn for a batch is what one process draws for it, so that the results are the same bits
for any number of processes, on processors of one kind that have as many threads each.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pyro_vae._errors import expected
from pyro_vae._untouched import undisturbed
from pyro_vae.data.rows import Rows
from pyro_vae.engine.generators import draw_from, drawn_from
from pyro_vae.engine.processes import Processes, all_processes, together
from pyro_vae.programs import Amortized
from pyro_vae.programs.streamed import StreamedRows

__all__ = ["Again", "Report", "by_rows", "check_alike", "in_blocks", "in_turn", "mixed"]

log = logging.getLogger("pyro_vae")

Result = TypeVar("Result")
Report = Callable[[float], None]
"""Called with the fraction of something that is done."""


@contextmanager
def by_rows() -> Iterator[None]:
    """Inside it, all processes of a group do the same, and what one raises all of them raise."""
    processes = all_processes()
    with together(processes), processes.as_one():
        yield


def in_turn(
    vae: Amortized,
    rows: Rows | StreamedRows,
    size: int,
    seed: int,
    work: Callable[[Rows, Report], Result],
    draw: Callable[[Rows], object] | None,
    progress: Report | None = None,
) -> list[Result]:
    """Does some work on each batch of rows, and returns what comes of each, in their order.

    All batches draw from one generator, one after the other. Of several processes each does the
    work on batches that follow one another, and for those before them draws their random numbers
    alone. It is then compared where each process began and where the one before it ended: if these
    differ, each process does all of it, as it does where nobody knows what is drawn.

    Args:
        vae: The program, in whose evaluation mode it is done.
        rows: Rows that it accepted.
        size: Rows a batch.
        seed: Of all batches.
        work: Returns what comes of a batch, whose tensors are then on the CPU.
        draw: Draws for a batch what the work on it draws, which is to be much less work; None if
            there is no such way.
        progress: Called with the fraction of its share that a process has done.
    """
    processes, count = all_processes(), -(-len(rows) // size)

    def share(own: range) -> tuple[bytes, bytes, list[Result]]:
        with undisturbed(vae, seed, vae.device), torch.no_grad():
            for batch in _batches(rows, size, range(own.start)):
                assert draw is not None  # or it begins with the first
                draw(batch)
            before, found = _state(vae), []
            for i, batch in enumerate(_batches(rows, size, own)):
                found.append(work(batch, partial(_report, progress, i, len(own))))
            return before, _state(vae), found

    if processes.count == 1:
        return share(range(count))[2]
    if draw is not None:
        shares = processes.each(lambda: _plain(share(processes.own(count))))
        ends = [after for _, after, _ in shares[:-1]]
        if ends == [before for before, _, _ in shares[1:]]:
            return [each for _, _, found in shares for each in found]
        log.warning("each process does all rows: what is drawn for some depends on those before")
    return processes.each(lambda: _plain(share(range(count))[2]))[0]


class Again:
    """Creates what does some work on each batch again and again, as after each epoch of a fit.

    Each time it begins with the same seed, so that the same is drawn for each batch. The first time
    each process does all of it, and notes the generators before each batch: from then on each does
    a share. Where a batch leaves them otherwise than the first time, each does all of it again.
    """

    def __init__(self) -> None:
        self._states: list[Mapping[str, Tensor]] = []
        self._varies = False

    def __call__(
        self,
        vae: Amortized,
        rows: Rows | StreamedRows,
        size: int,
        seed: int,
        work: Callable[[Rows], Result],
    ) -> list[Result]:
        """Returns what comes of each batch, in their order.

        Args:
            vae: The program, in whose evaluation mode it is done.
            rows: The same rows each time.
            size: Rows a batch.
            seed: Of all batches.
            work: Returns what comes of a batch.
        """
        processes, states, count = all_processes(), self._states, -(-len(rows) // size)

        def share() -> tuple[bool, list[Result]]:
            own = processes.own(count)
            with undisturbed(vae, seed, vae.device):
                draw_from(states[own.start], vae.device)
                found = [work(batch) for batch in _batches(rows, size, own)]
                return _bytes(states[own.stop]) == _state(vae), found

        if processes.count > 1 and count > 1 and len(states) == count + 1 and not self._varies:
            shares = processes.each(lambda: _plain(share()))
            if all(same for same, _ in shares):
                return [each for _, found in shares for each in found]
            self._varies = True
        states.clear()
        found = []
        with undisturbed(vae, seed, vae.device):
            for batch in rows.batches(size):
                states.append(drawn_from(vae.device))
                found.append(work(batch))
            states.append(drawn_from(vae.device))
        return found


def in_blocks(
    vae: Amortized,
    rows: Rows | StreamedRows,
    size: int,
    seed: int | None,
    work: Callable[[Rows, int], Result],
) -> list[Result]:
    """Does some work on each block of rows, and returns what comes of each, in their order.

    Each block has random numbers of its own. Of several processes each does the work on blocks that
    follow one another.

    Args:
        vae: The program, in whose evaluation mode it is done.
        rows: Rows that it accepted.
        size: Rows a block.
        seed: Of the first block, from which those of the others follow; None draws from the
            generators as they are, and then each process does all of it.
        work: Returns what comes of a block, given the place of its first row.
    """
    processes = Processes() if seed is None else all_processes()

    def share() -> list[Result]:
        own, found = processes.own(-(-len(rows) // size)), []
        for i, block in zip(own, _batches(rows, size, own), strict=True):
            each = seed if seed is None or i == 0 else mixed(seed, i * size)
            with undisturbed(vae, each, vae.device), torch.no_grad():
                found.append(work(block, i * size))
        return found

    if processes.count == 1:
        return share()
    return [each for found in processes.each(lambda: _plain(share())) for each in found]


def mixed(seed: int, number: int) -> int:
    """Returns a seed of its own for each number."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def check_alike(vae: Amortized, asked: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Checks that all processes ask for the same of the same model and data.

    Args:
        vae: The model.
        asked: Arguments by name.
        tensors: Data by name.

    Raises:
        ValueError: If one does not, in all of them.
    """
    processes = all_processes()
    if processes.count == 1:
        return
    known = {name: repr(value) for name, value in asked.items()}
    known |= {name: _digest({name: tensor}) for name, tensor in tensors.items()}
    state = vae.state_dict()  # what a module adds to it of its own may be anything
    known["vae"] = _digest({k: each for k, each in state.items() if isinstance(each, Tensor)})
    every = processes.gathered(known)
    for rank, other in enumerate(every):
        for name, value in every[0].items():
            if other.get(name) != value:
                what = "the same in all processes, which share the rows"
                raise expected(name, what, f"another one in process {rank}")


def _batches(rows: Rows | StreamedRows, size: int, which: range) -> Iterator[Rows]:
    """Yields some of the batches of rows, which follow one another."""
    if len(which) == 0:
        return
    some = slice(which.start * size, which.stop * size)
    part = rows[some] if isinstance(rows, Rows) else rows.part(some)
    yield from part.batches(size)


def _report(progress: Report | None, i: int, count: int, fraction: float) -> None:
    if progress is not None:
        progress((i + fraction) / count)


def _state(vae: Amortized) -> bytes:
    return _bytes(drawn_from(vae.device))


def _bytes(state: Mapping[str, Tensor]) -> bytes:
    return b"".join(each.cpu().numpy().tobytes() for each in state.values())


def _plain(found: Any) -> Any:
    """Returns the same with tensors that another process can have, and no more than these."""

    def plain(each: Any) -> Any:
        return each.detach().cpu().clone() if isinstance(each, Tensor) else each

    return tree_map(plain, found)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(plain.numpy().data)
    return digest.hexdigest()
