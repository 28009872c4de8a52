"""How long each process takes for its own part of a step, and which of them falls behind."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch

__all__ = ["Pace", "Stopwatch", "behind"]

_FEWEST = 20  # steps, whose median is no accident
_SLOW = 1.5  # times the median of the others
_LEAST = 1e-3  # seconds: of shorter steps nobody waits for long


class Pace(NamedTuple):
    """What one process has needed for its own part of a step, in the median of some steps.

    Attributes:
        seconds: By the clock.
        busy: That it has computed.
        steps: How many there were.
        is_crowded: Whether the processes of its machine have more threads than there are cores:
            how long one of them waits for a core is then an accident.
    """

    seconds: float
    busy: float
    steps: int
    is_crowded: bool


class Stopwatch:
    """Creates what takes the time of the own parts of steps, up to where all wait for each other.

    On an accelerator, which works on while the process goes on, it is no measure of what it takes.
    """

    def __init__(self) -> None:
        self._began = (0.0, 0.0)
        self._seconds: list[float] = []
        self._busy: list[float] = []

    def start(self) -> None:
        """Begins a step."""
        self._began = time.perf_counter(), time.thread_time()

    def stop(self) -> None:
        """Ends its own part."""
        self._seconds.append(time.perf_counter() - self._began[0])
        self._busy.append(time.thread_time() - self._began[1])

    def read(self) -> Pace:
        """Returns what it has measured since it was last read."""
        seconds, busy = (statistics.median(each or [0.0]) for each in (self._seconds, self._busy))
        pace = Pace(seconds, busy, len(self._seconds), _is_crowded())
        self._seconds.clear()
        self._busy.clear()
        return pace


def behind(paces: Sequence[Pace]) -> tuple[int, str] | None:
    """Returns which process is slower than the others, and what is known of it; None if none is.

    One that has computed for as long as the others has waited for a core, which counts where the
    processes of the group do not wait for each other.

    Args:
        paces: Of all processes, two at least, in their order.

    Example:
        >>> behind([Pace(0.010, 0.010, 100, False), Pace(0.025, 0.011, 100, False)])
        (1, '25.0 ms for its part of a step (11.0 computing), where the others take 10.0 ms')
    """
    rank = max(range(len(paces)), key=lambda i: paces[i].seconds)
    one, others = paces[rank], [each for i, each in enumerate(paces) if i != rank]
    seconds = statistics.median(each.seconds for each in others)
    busy = statistics.median(each.busy for each in others)
    if min(each.steps for each in paces) < _FEWEST or one.seconds - seconds < _LEAST:
        return None
    waits = any(each.is_crowded for each in paces)
    if one.seconds <= _SLOW * seconds or (waits and one.busy <= _SLOW * busy):
        return None
    took, usual, own = (1000 * each for each in (one.seconds, seconds, one.busy))
    its = f"{took:.1f} ms for its part of a step ({own:.1f} computing)"
    return rank, f"{its}, where the others take {usual:.1f} ms"


def _is_crowded() -> bool:
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    known = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return here * torch.get_num_threads() > cores
