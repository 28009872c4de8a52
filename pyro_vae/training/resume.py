"""A run in progress: its folder, its lock, its checkpoints, and how it goes on."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pyro_vae import checkpoint
from pyro_vae._errors import as_path, expected, out_of_memory, positive_integer
from pyro_vae._signals import Interrupted
from pyro_vae.checkpoint import (
    CHECKPOINTS,
    SCHEMA,
    write_bytes,
    written,
)
from pyro_vae.engine.processes import all_processes
from pyro_vae.training.differences import differences
from pyro_vae.training.recipe import later_defaults
from pyro_vae.training.state_file import from_file, to_bytes

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "Resume",
    "RunInProgress",
    "check_same",
    "check_settings",
    "has_checkpoints",
    "in_progress",
    "is_finished",
    "is_unfinished",
    "locked",
    "of_a_checkpoint",
    "taken",
]

log = logging.getLogger("pyro_vae")

Resume: TypeAlias = bool | Literal["previous"]

_NAME = re.compile(r"step-(\d{10})-([0-9a-f]{64})\.safetensors")
_FURTHER = "further"  # checkpoints of a finished run on its way to more epochs
_STAGING = ".finishing"
# What the command line writes of the weights, and a longer run that Python fits does not.
_OF_WEIGHTS = ("scores.json", "scores.safetensors", "report.html", "samples.png",
               "samples.txt", "reconstructions.png", "reconstructions.txt", "latent.png",
               "curves.png", "pairs.png")  # fmt: skip
_REPRODUCTION = "nonfinite.safetensors"
_OF_DISKS = (None, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC, errno.EROFS)


class RunInProgress:
    """A run folder that is locked by this process and not finished; see :func:`in_progress`.

    Attributes:
        folder: The run folder.
        every: Steps from one checkpoint to the next; None writes one only when asked to stop.
        keep: Checkpoints to keep, the newest ones.
        resume: Whether to go on from what is there.
        writes: Whether this process does; of several the first one.
    """

    writes = True

    def __init__(self, folder: Path, every: int | None, keep: int, resume: Resume) -> None:
        self.folder = folder
        self.every = every
        self.keep = keep
        self.resume = resume
        self._place = folder / CHECKPOINTS
        self._thread: ThreadPoolExecutor | None = None
        self._writing: Future[Path] | None = None

    @property
    def checkpoints(self) -> list[Path]:
        """The checkpoints, oldest first."""
        found = self._place.glob("step-*")
        return sorted(path for path in found if _NAME.fullmatch(path.name))

    def begin(self, step: int, state: Mapping[str, Any]) -> None:
        """Takes a copy of a state, which a thread writes as a checkpoint, as a whole.

        One is written at a time: it waits for the one before. The thread has bytes and no tensor:
        whatever steps, compilers and devices do meanwhile, it is none of theirs.

        Args:
            step: Optimiser steps taken.
            state: Numbers, strings, tensors, and lists and mappings of them.

        Raises:
            ValueError: If the state holds anything else.
            OSError: If the one before could not be written; those before it stand.
        """
        self.written(wait=True)
        content = to_bytes({"schema": SCHEMA, "step": step, **state})
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "pyro-vae-write")
        self._writing = self._thread.submit(self._write, step, content)

    def written(self, *, wait: bool) -> Path | None:
        """Returns a checkpoint that was begun and is there by now, once; None if there is none.

        Args:
            wait: Whether to wait for it.

        Raises:
            OSError: If it could not be written; those before it stand.
        """
        writing = self._writing
        if writing is None or not (wait or writing.done()):
            return None
        wait_for([writing])  # an interrupt while it waits leaves it to be waited for
        self._writing = None
        return writing.result()

    def close(self) -> None:
        """Waits for what is being written; if that fails, there is another error to be raised."""
        if self._thread is not None:
            self._thread.shutdown()
        if self._writing is not None and (error := self._writing.exception()) is not None:
            log.warning("%s", error)
        self._thread = self._writing = None

    def write(self, step: int, state: Mapping[str, Any]) -> Path:
        """Writes a checkpoint, and returns when it is there; see :meth:`begin`."""
        self.begin(step, state)
        path = self.written(wait=True)
        assert path is not None
        return path

    def _write(self, step: int, content: bytes) -> Path:
        """Writes a file, named after its step and its SHA-256, and removes those not to be kept."""
        name = f"step-{step:010d}-{hashlib.sha256(content).hexdigest()}.safetensors"
        path = self._place / name
        before = self.checkpoints
        try:
            if self._place.name == _FURTHER:
                self._place.mkdir(exist_ok=True)
            write_bytes(path, content)
        except OSError as error:
            stands = f"; {before[-1].name[:15]} stands" if before else ""
            reason = error.strerror or error
            raise OSError(f"checkpoint of step {step} in {path.parent}: {reason}{stands}") from None
        # What has just been written stays, though its step may be lower than that of another.
        others = [each for each in self.checkpoints if each != path]
        for old in others[: max(0, len(others) + 1 - self.keep)]:
            old.unlink()
        return path

    def read(self) -> dict[str, Any] | None:
        """Returns the newest state, on the CPU; None if there is nothing to go on from.

        Damaged ones that are passed over for an older one are removed: they are the newest no more.

        Raises:
            ValueError: If it is damaged, and an older one was not asked for.
        """
        if self.resume is False:
            return None
        damage: ValueError | None = None
        passed: list[Path] = []
        for path in reversed(self.checkpoints):
            try:
                found = _NAME.fullmatch(path.name)
                state = from_file(path, found[2] if found else None)
            except ValueError as error:
                damage = error
                passed.append(path)
                if self.resume != "previous":
                    break
            else:
                for damaged in passed:
                    damaged.unlink()
                return state
        if damage is None:
            return None
        if self.resume == "previous":
            raise ValueError(f"{damage}, and no checkpoint before it is whole")
        raise ValueError(f"{damage}; --resume=previous goes on from the one before it")

    def reproduce(self, state: Mapping[str, Any]) -> Path:
        """Writes what repeats a failure."""
        if not self.writes:
            return self.folder / _REPRODUCTION
        write_bytes(self.folder / _REPRODUCTION, to_bytes({"schema": SCHEMA, **state}))
        return self.folder / _REPRODUCTION

    def go_further(self) -> dict[str, Any] | None:
        """Has checkpoints of a finished run beside it, which stays as it is until the longer is.

        Returns:
            The newest state on the way, if there is one.

        Raises:
            ValueError: If it is damaged, and an older one was not asked for.
        """
        self._place = self.folder / _FURTHER
        return self.read()

    def finish(self, write: Callable[[Path], object]) -> None:
        """Has a folder written, whose files then move here, ``model.json`` last of all.

        That file makes it a finished run: one that is killed before has its checkpoints still. A
        run that went further is an unfinished one for as long as its files move.
        """
        if not self.writes:
            return
        staging = self.folder / _STAGING
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        write(staging)
        if self._place.name == _FURTHER:
            self._place.replace(self.folder / CHECKPOINTS)
            (self.folder / "model.json").unlink()
            for name in _OF_WEIGHTS:  # of the shorter run, and seen beside the longer
                if (self.folder / name).exists():
                    (self.folder / name).unlink()
            written(self.folder)
        for path in sorted(staging.iterdir(), key=lambda path: path.name == "model.json"):
            path.replace(self.folder / path.name)
        written(self.folder)
        staging.rmdir()
        (self.folder / _REPRODUCTION).unlink(missing_ok=True)
        shutil.rmtree(self.folder / CHECKPOINTS)


def is_finished(folder: Path) -> bool:
    """Returns whether a folder holds a finished run."""
    return (folder / "model.json").exists()


def is_unfinished(folder: Path) -> bool:
    """Returns whether a folder holds a run that can be resumed."""
    return (folder / CHECKPOINTS).is_dir() and not is_finished(folder)


def has_checkpoints(folder: Path) -> bool:
    """Returns whether a folder holds a run that was left on its way, be it one to more epochs."""
    return is_unfinished(folder) or (folder / _FURTHER).is_dir()


def taken(argument: str, folder: Path) -> ValueError:
    """The error of a path that exists."""
    error = expected(argument, "a path that does not exist yet", str(folder))
    if is_unfinished(folder):
        return ValueError(f"{error}; --resume goes on with it")
    if is_finished(folder):
        return ValueError(f"{error}; {_how_it_goes_further(folder)}")
    return error


def ends_with_its_epochs(settings: Mapping[str, Any]) -> bool:
    """Returns whether the epochs of a longer run would have been others from the start."""
    return settings.get("schedule") == "cosine" or settings.get("average") == "swa"


def _how_it_goes_further(folder: Path) -> str:
    try:
        settings = checkpoint.read_json(folder / "fit.json", settings=dict)["settings"]
    except (OSError, ValueError):  # whoever reads the run is told of that
        settings = {}
    if ends_with_its_epochs(settings):
        return f"--init {folder} with another --out starts from its weights"
    return "--resume with more --epochs goes on with it"


@contextmanager
def in_progress(
    folder: str | Path,
    *,
    every: int | None = None,
    keep: int = 3,
    resume: Resume = False,
    argument: str = "out",
) -> Iterator[RunInProgress]:
    """Makes a run folder and holds its lock, or takes over one that was left unfinished.

    If the block ends in an error before there is anything to go on from, the folder goes too. Of
    several processes the first one makes it and holds its lock; the others know of it.

    Args:
        folder: The run folder.
        every: Steps from one checkpoint to the next; None writes one only when asked to stop.
        keep: Checkpoints to keep.
        resume: Whether to go on from what is there: from the last checkpoint, or, with
            ``previous``, from the last one that is whole.
        argument: What to call the folder in an error.

    Raises:
        ValueError: If the folder exists and is not to be resumed, is no run folder, or another
            process is writing to it.
    """
    processes = all_processes()
    held = _held(folder, every, keep, resume, argument)
    with ExitStack() as stack:
        progress = processes.from_first(lambda: stack.enter_context(held))
        progress.writes = processes.is_first
        yield progress


@contextmanager
def _held(
    folder: str | Path, every: int | None, keep: int, resume: Resume, argument: str
) -> Iterator[RunInProgress]:
    """Does so in the one process that writes."""
    folder = as_path(argument, folder)
    if every is not None:
        positive_integer("checkpoint_every", every)
    keep = positive_integer("keep", keep)
    if resume not in (True, False, "previous"):
        raise expected("resume", "True, False or previous", resume)
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    if not missing and not resume:
        raise taken(argument, folder)
    if any((folder / own).is_symlink() for own in (CHECKPOINTS, _FURTHER, _STAGING)):
        # What is removed when a run goes on, and when it is finished, is nobody else's.
        raise expected(argument, "a run folder with its checkpoints in it, no link", str(folder))
    if not missing and not (is_unfinished(folder) or is_finished(folder)):
        raise expected(argument, "a run folder to resume", str(folder))
    try:
        _make(folder, missing, argument)
        # What the holder of the lock has made is no one else's to remove.
        with locked(folder, argument), _removed_on_error(folder, missing):
            if not is_finished(folder):
                (folder / CHECKPOINTS).mkdir(exist_ok=True)
            _sweep(folder)
            with closing(RunInProgress(folder, every, keep, resume)) as progress:
                yield progress
    except OSError as error:
        noted = hasattr(error, "__notes__")  # by a callback, whose error it stays
        if is_unfinished(folder) and error.errno in _OF_DISKS and not noted:
            raise OSError(f"{error}; --resume goes on with {folder}") from error
        known = is_unfinished(folder) or is_finished(folder)
        if known or error.filename is None or noted:
            raise
        what = "a path that can be written to"
        raise expected(argument, what, f"{folder}: {error}") from None
    except BaseException as error:
        going_on = f"--resume goes on with {folder}" if has_checkpoints(folder) else ""
        left = going_on or (f"{folder} is written" if is_finished(folder) else "")
        if isinstance(error, KeyboardInterrupt) and left:
            reason = str(error) or "interrupted"
            hint = "" if "--resume" in reason else f"; {left}"
            signum = getattr(error, "signum", signal.SIGINT)
            raise Interrupted(f"{reason}{hint}", signum) from None
        noted = hasattr(error, "__notes__")  # by a callback, whose error it stays
        if isinstance(error, ValueError) and folder in missing and going_on and not noted:
            # What came after the fit has failed; the fit is not to be lost for that.
            raise ValueError(f"{error}; {going_on}") from None
        if out_of_memory(error) and going_on and not noted:
            line = " ".join(str(error).split()) or "out of memory"
            raise MemoryError(f"{line}; {going_on}") from error
        raise


def _make(folder: Path, missing: list[Path], argument: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=not missing)
    except OSError:
        if folder.is_dir():  # by someone else, since it was looked for
            raise taken(argument, folder) from None
        _remove_empty(missing[1:])
        raise


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # someone else may have written there meanwhile
            folder.rmdir()


@contextmanager
def _removed_on_error(folder: Path, made: list[Path]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        _remove(folder, made)
        raise


def _remove(folder: Path, made: list[Path]) -> None:
    """Takes away what this process has made, unless there is something to go on from."""
    checkpoints = folder / CHECKPOINTS
    kept = checkpoints.is_dir() and any(checkpoints.iterdir())
    if folder not in made or kept or is_finished(folder) or (folder / _REPRODUCTION).exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    _remove_empty(made[1:])


def _sweep(folder: Path) -> None:
    """Removes what a process that was killed had not finished writing."""
    shutil.rmtree(folder / _STAGING, ignore_errors=True)
    for place in (CHECKPOINTS, _FURTHER):
        for path in (folder / place).glob(".step-*"):
            path.unlink()
    if is_finished(folder):
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


@contextmanager
def locked(folder: Path, argument: str) -> Iterator[None]:
    """Holds the lock of a folder: the kernel's own, which ends with the process."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            what = "a run folder that no other process is writing to"
            raise expected(argument, what, str(folder)) from None
        yield
    finally:
        os.close(handle)


@contextmanager
def of_a_checkpoint(folder: Path) -> Iterator[None]:
    """Inside it, what does not fit is the fault of a checkpoint.

    It is what it was when it was written, but perhaps not by this model: networks of the user's
    own are known by their name alone.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip() or type(error).__name__
        what = "a checkpoint of this model and optimiser"
        raise ValueError(f"`{folder / CHECKPOINTS}`: expected {what}, got {reason}") from None


def check_settings(
    progress: RunInProgress, state: Mapping[str, Any] | None, settings: Mapping[str, Any]
) -> None:
    """Checks that a run that goes on is of these settings.

    Args:
        progress: The run.
        state: What it goes on from, if there is something, and it is not finished.
        settings: Those of now.

    Raises:
        ValueError: If it is of others.
    """
    folder = progress.folder
    if is_finished(folder):
        before = checkpoint.read_json(folder / "fit.json", settings=dict)["settings"]
        steps = checkpoint.read_json(folder / "engine.json")
    else:
        with of_a_checkpoint(folder):
            before = settings if state is None else state["settings"]
            steps = {} if state is None else state["svi"]["engine_steps"]
    check_same(before, settings, steps, str(folder))


def check_same(
    before: Mapping[str, Any], settings: Mapping[str, Any], steps: Mapping[str, int], what: str
) -> None:
    """Checks that a run goes on with the settings that it began with.

    Args:
        before: Those that it began with.
        settings: Those of now.
        steps: Taken by each engine so far.
        what: The run, in words.

    Raises:
        ValueError: If they are others.
    """
    if before.get("compile") == "auto" != settings["compile"]:
        # What it chose may be asked for: a config that it has written does.
        before = {**before, "compile": any(name != "eager" for name in steps)}
    off = later_defaults()
    if (changed := differences(off | dict(before), off | dict(settings))) != "":
        raise ValueError(f"`resume`: expected the settings and data of {what}, got {changed}")
