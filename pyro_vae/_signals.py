"""Signals that wait for a good moment: a run that is asked to stop saves itself first."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupted", "Waiting", "raising", "stopping"]

_Handler = Callable[[int, FrameType | None], None]


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop.

    Attributes:
        signum: By which signal.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


class Waiting:
    """Notes SIGINT and SIGTERM, for whoever asks between two steps; a second SIGINT is at once.

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
        print(f"{name}: stopping after this step (interrupt again to leave at once)",
              file=sys.stderr, flush=True)  # fmt: skip

    @contextmanager
    def __call__(self) -> Iterator[Waiting]:
        """Inside it, signals are noted."""
        with _handled(self.note, signal.SIGINT, signal.SIGTERM):
            yield self


@contextmanager
def raising() -> Iterator[None]:
    """Inside it, SIGTERM raises :class:`Interrupted`, so that what was begun is put in order."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Interrupted("terminated", signum)

    with _handled(stop, signal.SIGTERM):
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
    handlers = (signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM))
    waiting = (getattr(handler, "__self__", None) for handler in handlers)
    return any(isinstance(each, Waiting) and each.signum is not None for each in waiting)
