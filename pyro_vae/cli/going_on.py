"""The command that goes on with a run, wherever it was left."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pyro_vae._errors import expected
from pyro_vae._signals import Interrupted
from pyro_vae.cli.parsing import value_of
from pyro_vae.cli.programs import typed_before
from pyro_vae.cli.runs import recorded_config
from pyro_vae.training.resume import has_checkpoints, is_unfinished

__all__ = ["check_resumed", "going_on"]

_HINT = "; --resume goes on with"
_KINDS = (ValueError, OSError, MemoryError)


@contextmanager
def going_on(
    folder: Path,
    argv: Sequence[str],
    verb: str = "fit",
    can_go_on: Callable[[Path], bool] = has_checkpoints,
) -> Iterator[None]:
    """Inside it, who is told that a run can go on reads the command that does so.

    Args:
        folder: Where the run goes.
        argv: What was typed after the verb.
        verb: The verb.
        can_go_on: Whether a folder has something to go on from.
    """
    try:
        yield
    except (Interrupted, *_KINDS) as error:
        reason, hint, _ = str(error).partition(_HINT)
        if not hint or not can_go_on(folder):
            raise
        message = f"{reason}; this goes on with it: {_again(folder, argv, verb)}"
        if isinstance(error, Interrupted):
            raise Interrupted(message, error.signum) from None
        kind = next(kind for kind in _KINDS if isinstance(error, kind))
        raise kind(message) from error


def _again(folder: Path, argv: Sequence[str], verb: str) -> str:
    """What was typed, to go on in the folder."""
    kept: list[str] = []
    values = iter(argv)
    for token in values:
        name = token.partition("=")[0]
        if token == "--out":
            next(values, None)
        elif name not in ("--out", "--resume"):
            kept.append(token)
    return shlex.join(["pyro-vae", verb, *kept, "--out", str(folder), "--resume"])


def check_resumed(argv: Sequence[str]) -> None:
    """Refuses to resume what is not named, and says how the last run that was left goes on.

    Args:
        argv: What was typed after ``fit``.

    Raises:
        ValueError: If nothing but the folder, or nothing at all, stands beside ``--resume``.
    """
    out = value_of(argv, "--out")
    others = [token for token in argv if token != out and token.partition("=")[0] != "--out"]
    if [token.partition("=")[0] for token in others] != ["--resume"]:
        return
    left = [Path(out)] if out is not None else sorted(Path("runs").glob("*"), key=_changed)
    left = [folder for folder in left if is_unfinished(folder)]
    error = expected("data", "the command that began the run, with --resume after it", None)
    if not left:
        where = "runs" if out is None else out
        raise ValueError(f"{error}; {where} has no unfinished run")
    raise ValueError(f"{error}; {left[-1]} goes on with: {_replayed(left[-1])}")


def _changed(folder: Path) -> float:
    return folder.stat().st_mtime


def _replayed(folder: Path) -> str:
    """The command that goes on with a run by the options in its folder.

    Raises:
        ValueError: If these are missing or damaged.
    """
    words = ["pyro-vae", "fit", str(recorded_config(folder).get("data", "DATA"))]
    words += ["--config", str(folder / "config.yaml")]
    if (pair := typed_before(folder)) is not None:
        words += ["--program", pair]
    return shlex.join([*words, "--out", str(folder), "--resume"])
