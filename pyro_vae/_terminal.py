"""What a terminal is shown of text that comes from outside: names, cells, paths, foreign files.

A terminal takes some characters for commands: one that clears the screen, renames the window or
hides what follows may stand in a header of a CSV file. All that the package prints or logs goes
through here.
"""

from __future__ import annotations

import logging
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["held_back", "say", "shown", "shown_lines"]

# They join letters, of Persian for one, and are no commands.
_JOINERS = "\u200c\u200d"


def shown(text: object) -> str:
    r"""Returns text of one line, with what is no letter, sign or space written out.

    These are the control characters, line breaks among them, those that turn the direction of
    writing, and halves of characters.

    Example:
        >>> print(shown("a\x1b[31mb \u202e c\n"))
        a\x1b[31mb \u202e c\n
    """
    line = str(text)
    if line.isprintable():
        return line
    return "".join(each if _is_plain(each) else _written_out(each) for each in line)


def shown_lines(text: object) -> str:
    r"""Returns text of several lines, each as :func:`shown` has it.

    Example:
        >>> print(shown_lines("a\nb\r"))
        a
        b\r
    """
    return "\n".join(shown(line) for line in str(text).split("\n"))


def say(text: object, *, error: bool = False) -> None:
    """Prints text from wherever, on standard output or on standard error."""
    print(shown_lines(text), file=sys.stderr if error else sys.stdout, flush=error)


@contextmanager
def held_back() -> Iterator[list[logging.LogRecord]]:
    """Keeps what is logged inside of it, for an attempt of which nothing is said if it fails.

    Yields:
        The records, which :meth:`logging.Logger.handle` shows after all.
    """
    log, kept = logging.getLogger("pyro_vae"), list[logging.LogRecord]()

    def keep(record: logging.LogRecord) -> bool:
        kept.append(record)
        return False

    log.addFilter(keep)
    try:
        yield kept
    finally:
        log.removeFilter(keep)


def _is_plain(each: str) -> bool:
    return each.isprintable() or each in _JOINERS or unicodedata.category(each) == "Zs"


def _written_out(each: str) -> str:
    return each.encode("unicode_escape").decode()


class _Shown(logging.Filter):
    """Lets all records through, with their messages as a terminal may have them."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            text = record.getMessage()
        except (TypeError, ValueError, KeyError):  # its arguments do not go with its message
            record.msg, record.args = shown_lines(f"{record.msg} {record.args}"), None
            return True
        if (plain := shown_lines(text)) != text:
            record.msg, record.args = plain, None
        return True


# A filter sees no records of the loggers below its own.
logging.getLogger("pyro_vae").addFilter(_Shown())
logging.getLogger("pyro_vae.training").addFilter(_Shown())
