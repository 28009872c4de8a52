"""Signals that wait for a good moment: a run that is asked to stop saves itself first."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from pyro_vae._terminal import say

__all__ = ["Interrupted", "Waiting", "leaving_at_once", "raising", "stopping"]

_Handler = Callable[[int, FrameType | None], None]

# What asks a process to end, and why. Windows has no SIGHUP, which a closed terminal sends.
_ASKED = {
    getattr(signal, name): why
    for name, why in {"SIGTERM": "terminated", "SIGHUP": "the terminal was closed"}.items()
    if hasattr(signal, name)
}


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop.

    Attributes:
        signum: By which signal.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


class Waiting:
    """Notes SIGINT, SIGTERM and SIGHUP, for whoever asks between two steps.

    A second SIGINT is at once.

    Attributes:
        signum: What came; None if nothing did.
    """

    def __init__(self) -> None:
        self.signum: int | None = None

    def note(self, signum: int, frame: FrameType | None) -> None:
        """Handles a signal."""
        if self.signum is not None and signum == signal.SIGINT:
            raise Interrupted("interrupted twice: left at once", signum)
        self.signum = signum
        name = signal.Signals(signum).name
        # A terminal that was closed takes no word; nor does one that is being written to.
        with suppress(OSError, RuntimeError, ValueError):
            say(f"{name}: stopping after this step (interrupt again to leave at once)", error=True)

    @contextmanager
    def __call__(self) -> Iterator[Waiting]:
        """Inside it, signals are noted."""
        with _handled(self.note, signal.SIGINT, *_ASKED):
            yield self


@contextmanager
def raising() -> Iterator[None]:
    """Inside it, SIGTERM and SIGHUP raise :class:`Interrupted`: what was begun is put in order."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Interrupted(_ASKED[signum], signum)

    with _handled(stop, *_ASKED):
        yield


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Inside it, a signal ends the process, in one line.

    For imports: an exception in the midst of one becomes another, or a traceback that nobody
    catches, and there is nothing yet that could be lost.
    """

    def leave(signum: int, frame: FrameType | None) -> None:
        with suppress(OSError):
            os.write(2, f"{_ASKED.get(signum, 'interrupted')}\n".encode())
        os._exit(128 + signum)

    with _handled(leave, signal.SIGINT, *_ASKED):
        yield


@contextmanager
def _handled(handler: _Handler, *signums: int) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets no other thread handle signals
        return
    before = {signum: signal.getsignal(signum) for signum in signums}
    # What runs under nohup ignores signals, and should.
    ours = [signum for signum, old in before.items() if old not in (signal.SIG_IGN, None)]
    try:
        for signum in ours:
            signal.signal(signum, handler)
        yield
    finally:
        for signum in ours:
            signal.signal(signum, before[signum])


def stopping() -> bool:
    """Returns whether a run was asked to stop, and waits for the end of its step."""
    handlers = (signal.getsignal(each) for each in (signal.SIGINT, *_ASKED))
    waiting = (getattr(handler, "__self__", None) for handler in handlers)
    return any(isinstance(each, Waiting) and each.signum is not None for each in waiting)
