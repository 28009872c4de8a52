"""Processes that share many fits, started while this one still imports what it needs itself."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

__all__ = ["end_with", "start_early"]

_PAUSE = 0.5  # seconds between two looks at whether there is anybody to work for
_watched: list[threading.Thread] = []  # by a worker of this machine, once


def start_early(argv: Sequence[str]) -> None:
    """Starts as many processes as ``--jobs`` says, if it does, and returns at once.

    They import torch while this one does; joblib keeps them, and gives them the fits.
    """
    jobs = _jobs(argv)
    if 1 < jobs <= (os.cpu_count() or 1):  # more is a mistake, or asked for with care
        threading.Thread(target=_start, args=(jobs,), daemon=True).start()


def end_with(owner: int) -> None:
    """Ends this process when the one that started it is killed: nobody else asks for results."""
    if not _watched:
        _watched.append(threading.Thread(target=_watch, args=(owner,), daemon=True))
        _watched[0].start()


def _jobs(argv: Sequence[str]) -> int:
    for before, word in zip(["", *argv], argv, strict=False):
        name, _, text = word.partition("=")
        text = word if before == "--jobs" else text if name == "--jobs" else ""
        if text.isdecimal():
            return int(text)
    return 1


def _start(jobs: int) -> None:
    import joblib

    calls = [joblib.delayed(_import)(os.getpid())] * jobs
    # What keeps them from starting is said where they are needed.
    with suppress(Exception):
        joblib.Parallel(n_jobs=jobs, backend="loky", batch_size=1)(calls)


def _import(owner: int) -> None:
    end_with(owner)
    # An interrupt is the business of the process that has the terminal.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        import_module("pyro_vae.training.fit")
    finally:
        signal.signal(signal.SIGINT, before)


def _watch(owner: int) -> None:
    while os.getppid() == owner:
        time.sleep(_PAUSE)
    os._exit(1)
