"""The folder of a selection: its fits are kept as they come, so that it can be left and go on."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae._errors import as_path, expected, plural
from pyro_vae._signals import Interrupted
from pyro_vae.checkpoint import SCHEMA, read_json, write_bytes, write_json
from pyro_vae.data.dataset import fingerprint
from pyro_vae.training.differences import differences
from pyro_vae.training.resume import locked
from pyro_vae.training.state_file import from_file, to_bytes

__all__ = ["SELECTION", "Fit", "Kept", "described", "has_fits", "keeping", "taken"]

SELECTION = "selection.json"
_FITS = "fits"
_SETTINGS = "settings.json"
_NAME = re.compile(r"fit-(\d+)-(\d+)-(\d+)-([0-9a-f]{64})\.safetensors")
Fit = tuple[int, int, int]  # of which setting, seed and fold


class Kept:
    """The results of fits that are done, each in a file that is written as a whole.

    Args:
        folder: Where to; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._place = None if folder is None else folder / _FITS

    def read(self) -> dict[Fit, dict[str, Any]]:
        """Returns what is there; files that are damaged are removed, and fitted for again."""
        found: dict[Fit, dict[str, Any]] = {}
        for path in [] if self._place is None else sorted(self._place.iterdir()):
            if (name := _NAME.fullmatch(path.name)) is None:
                continue
            try:
                found[int(name[1]), int(name[2]), int(name[3])] = from_file(path, name[4])
            except ValueError:
                path.unlink()
        return found

    def add(self, fit: Fit, result: Mapping[str, Any]) -> None:
        """Writes a result: numbers, strings, tensors, and lists and mappings of them."""
        if self._place is None:
            return
        content = to_bytes({"schema": SCHEMA, **result})
        name = "-".join(["fit", *map(str, fit), hashlib.sha256(content).hexdigest()])
        write_bytes(self._place / f"{name}.safetensors", content)


def has_fits(folder: Path) -> bool:
    """Returns whether a folder has fits of a selection that can go on."""
    place = folder / _FITS
    return place.is_dir() and any(_NAME.fullmatch(path.name) for path in place.iterdir())


def taken(argument: str, folder: Path) -> ValueError:
    """The error of a path that exists."""
    error = expected(argument, "a path that does not exist yet", str(folder))
    goes_on = has_fits(folder) and not (folder / SELECTION).exists()
    return ValueError(f"{error}; --resume goes on with it") if goes_on else error


@contextmanager
def keeping(out: str | Path | None, resume: bool, settings: Mapping[str, Any]) -> Iterator[Kept]:
    """Makes the folder of a selection and holds its lock, or takes over one that was left.

    If the block ends in an error before there is a fit, the folder goes, too.

    Args:
        out: The folder; None keeps nothing.
        resume: Whether to go on from what is there.
        settings: What the selection is known again by, ready for JSON.

    Raises:
        ValueError: If the folder exists and is not to be resumed, is of no selection or of another
            one, or another process is writing to it.
    """
    if not isinstance(resume, bool):
        raise expected("resume", "True or False", resume)
    if out is None:
        if resume:
            raise expected("out", "the folder of the selection to resume", None)
        yield Kept(None)
        return
    folder = as_path("out", out)
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    if not missing and not resume:
        raise taken("out", folder)
    if not missing and not (folder / _FITS / _SETTINGS).is_file():
        raise expected("out", "the folder of a selection to resume", str(folder))
    try:
        (folder / _FITS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise expected("out", "a path that can be written to", f"{folder}: {error}") from None
    with locked(folder, "out"), _left_in_order(folder, missing):
        _check_same(folder, settings)
        yield Kept(folder)


def _check_same(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes what a selection is known by, or compares it with what it began with."""
    path, now = folder / _FITS / _SETTINGS, json.loads(json.dumps(settings))
    if not path.exists():
        write_json(path, {"settings": now})
    before = read_json(path, settings=dict)["settings"]
    if changed := differences(before, now):
        raise ValueError(f"`resume`: expected the settings and data of {folder}, got {changed}")


@contextmanager
def _left_in_order(folder: Path, made: list[Path]) -> Iterator[None]:
    """Has who ends the block early know how to go on; leaves nothing if there is nothing yet."""
    try:
        yield
    except BaseException as error:
        if not has_fits(folder):
            if folder in made:
                shutil.rmtree(folder, ignore_errors=True)
                with suppress(OSError):  # someone else may have written there meanwhile
                    for parent in made[1:]:
                        parent.rmdir()
            raise
        going_on = f"--resume goes on with {folder}"
        count = len(Kept(folder).read())
        if isinstance(error, KeyboardInterrupt):
            reason = f"{str(error) or 'interrupted'} after {plural(count, 'fit')}"
            signum = getattr(error, "signum", signal.SIGINT)
            raise Interrupted(f"{reason}; {going_on}", signum) from None
        if isinstance(error, OSError):
            raise OSError(f"{error}; {going_on}") from error
        raise


def described(value: Any) -> Any:
    """Returns what JSON has of an argument: tensors by their bytes, objects by their numbers.

    Example:
        >>> described({"lr": 0.1, "betas": (0.9, 0.99), "of": described})
        {'lr': 0.1, 'betas': [0.9, 0.99], 'of': 'described'}
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else str(value)
    if isinstance(value, np.ndarray | np.generic):
        is_numeric = value.dtype.kind in "biuf"
        value = torch.from_numpy(np.array(value)) if is_numeric else value.tolist()
        return described(value)
    if isinstance(value, Tensor):
        return fingerprint(value)
    if isinstance(value, torch.device | torch.dtype):
        return str(value)
    if isinstance(value, partial):
        return [described(each) for each in (value.func, value.args, value.keywords)]
    if isinstance(value, Mapping):
        return {str(name): described(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [described(each) for each in value]
    if callable(value) and hasattr(value, "__qualname__"):
        return value.__qualname__
    own = {
        name: described(each)
        for name, each in getattr(value, "__dict__", {}).items()
        if not name.startswith("_") and _is_plain(each)
    }
    return {"class": type(value).__name__} | own


def _is_plain(value: Any) -> bool:
    """Whether it is a number, a word, a function, or some of these; what is empty may be filled."""
    if isinstance(value, Mapping):
        return len(value) > 0 and all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return len(value) > 0 and all(map(_is_plain, value))
    named = callable(value) and hasattr(value, "__qualname__")
    return named or isinstance(value, bool | int | float | str | torch.device | torch.dtype)
