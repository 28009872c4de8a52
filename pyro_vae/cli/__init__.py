"""The command line, ``pyro-vae``: a module a verb."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import (
    AbstractContextManager,
    nullcontext,
    redirect_stderr,
    redirect_stdout,
    suppress,
)
from importlib import import_module
from importlib.metadata import version
from types import ModuleType

from pyro_vae._errors import expected, out_of_memory, unknown_name
from pyro_vae._signals import Interrupted, leaving_at_once, raising
from pyro_vae._terminal import say, shown

__all__ = ["VERBS", "entry", "main"]

# What processes that torchrun starts share: steps, and rows.
_BY_ROWS = ("evaluate", "impute", "encode")
_SHARED = ("fit", *_BY_ROWS)
_UNREAD = 128 + 13  # as of SIGPIPE, which Windows does not have
VERBS: dict[str, str] = {
    "inspect": "Show what the columns of a table are; write it as a schema.",
    "fit": "Fit a VAE; write model, scores and pictures to a folder.",
    "evaluate": "Score a run on held-out data.",
    "check": "Compare held-out data with what a run simulates.",
    "compare": "Rank runs by log p(x) of the same held-out data.",
    "select": "Cross-validate options of fit on held-out log p(x).",
    "sample": "Draw from a run.",
    "impute": "Fill the missing cells of a table, given the others.",
    "encode": "Write the latent means and scales of data, a row each.",
    "anomalies": "Rank rows by how unlikely they are, with a p-value each.",
    "probe": "Predict labels from latent means, and from the data.",
    "rate-distortion": "Take the ELBO apart: distortion, rate, information.",
    "recommend": "Rank for each user what they have not seen.",
    "topics": "Print the words of topics, or a summary of a text.",
    "compress": "Compress an array without loss, by a run.",
    "decompress": "Write the array that was compressed.",
    "report": "Write one HTML page about a run.",
    "push": "Share a run on the Hugging Face Hub, with a model card.",
    "completion": "Print a script by which a shell completes commands.",
}
_HELP = f"""usage: pyro-vae COMMAND ...

A VAE is a prior, a guide, a decoder and a likelihood, fitted by an objective,
then evaluated and criticised.

commands:
{"".join(f"  {verb:<15} {what}{chr(10)}" for verb, what in VERBS.items())}
options:
  -h, --help Show this message; pyro-vae COMMAND --help explains a command.
  --version  Show the version.

example:
  pyro-vae fit digits"""


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: What follows ``pyro-vae`` on the command line; that of the process if None.

    Returns:
        The exit code: 0, or what the command returns; 2 after a mistake, reported in one line on
        standard error; 130 if interrupted, 143 if terminated, 129 if the terminal was closed.
    """
    verb, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if verb in _BY_ROWS and _is_one_of_several() and os.environ["RANK"] != "0":
        # The first one has the terminal, and says what any of them has to say.
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            return _code_of(verb, rest)
    return _code_of(verb, rest)


def _code_of(verb: str, rest: list[str]) -> int:
    try:
        if verb in ("-h", "--help"):
            say(_HELP)
            return 0
        if verb == "--version":
            say(f"pyro-vae {version('pyro-vae')}")
            return 0
        if verb not in VERBS:
            raise unknown_name("command", verb, VERBS)
        if verb not in _SHARED and _is_one_of_several():
            what = f"one of the commands {', '.join(_SHARED)}, which processes share"
            raise expected("torchrun", what, verb)
        with raising():
            run: Callable[[list[str]], int | None] = _module(verb).run
            with _as_one(verb):
                return run(rest) or 0
    except SystemExit as done:  # argparse leaves this way after printing help
        return int(done.code or 0)
    except KeyboardInterrupt as stop:
        return _stopped(stop)
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        return _UNREAD
    except Exception as error:
        if (before := _left_for(error)) is not None:
            return _stopped(before)
        if (line := _in_one_line(error)) is None:
            raise
        return _fail(f"error: {line}", 2)


def _is_one_of_several() -> bool:
    """Tells whether torchrun has started this process with others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def _as_one(verb: str) -> AbstractContextManager[None]:
    """Inside it, what one of several processes raises all of them raise."""
    if verb not in _BY_ROWS or not _is_one_of_several():
        return nullcontext()
    from pyro_vae.engine.by_rows import by_rows

    return by_rows()


def _stopped(stop: KeyboardInterrupt) -> int:
    """Says that a command did as it was asked to, which is no error."""
    return _fail(str(stop) or "interrupted", 128 + getattr(stop, "signum", signal.SIGINT))


def _left_for(error: BaseException | None) -> Interrupted | None:
    """Returns what asked to stop, if an error came on the way out: the terminal may be closed."""
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error


def _in_one_line(error: Exception) -> str | None:
    """Returns what is wrong with what was typed, or with code that was named; None for others."""
    programs = sys.modules.get("pyro_vae.cli.programs")  # which imports torch
    try:
        if programs is not None and (line := programs.raised_inside(error)) is not None:
            return str(line)
    except MemoryError:  # there is not enough even to look where it was raised
        return "out of memory"
    if isinstance(error, ValueError | FloatingPointError | OSError | MemoryError):
        return str(error) or "out of memory"
    return f"out of memory: {error}" if out_of_memory(error) else None


def _module(verb: str) -> ModuleType:
    return import_module(f"pyro_vae.cli.{verb.replace('-', '_')}")


def _fail(message: str, code: int) -> int:
    with suppress(OSError):  # a terminal that was closed
        say(" ".join(shown(word) for word in message.split()), error=True)
    return code


def _open_streams() -> None:
    """Opens what was closed: its number is that of the next file else, such as a checkpoint's.

    Whatever writes to standard error, torch's own code for one, would write there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which takes the lowest number that is free
        if getattr(sys, name) is None:
            file = os.fdopen(number, "w" if number else "r", closefd=False)
            setattr(sys, name, file)


def entry() -> None:
    """The console script."""
    _open_streams()
    if sys.argv[1:2] and sys.argv[1] in VERBS:
        with leaving_at_once():
            _module(sys.argv[1])
    code, unwritten = main(), False
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _UNREAD
    except OSError as error:  # a full disk
        code, unwritten = _fail(f"error: standard output: {error}", 2), True
    if unwritten or code == _UNREAD:  # what is left to print has no reader, either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # all is done: no traceback of what is left
    processes = sys.modules.get("pyro_vae.engine.processes")  # which imports torch
    if processes is not None and _is_one_of_several():
        # A thread of the group that is late has aborted a process whose interpreter had gone, and
        # torchrun then ends the others.
        with suppress(OSError, RuntimeError):  # of a group that is broken, or a closed pipe
            processes.leave()
        with suppress(OSError):
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
