"""A run folder: where it goes, how it is written as a whole, and the data it remembers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae import data as data_room
from pyro_vae._errors import expected, positive_integer
from pyro_vae.checkpoint import read_json, write_json
from pyro_vae.data import Dataset
from pyro_vae.data.dataset import SPLITS, Binarize, Split, fingerprint
from pyro_vae.resume import Resume, taken

__all__ = [
    "as_device",
    "held_out",
    "load_data",
    "new_path",
    "record_data",
    "recorded_data",
    "writing",
]

_SUBSET_SEED = 20140414  # the same subset for every run and command: they remain comparable


def new_path(out: str | None, default: Path, *, resume: Resume = False) -> Path:
    """Returns where to write: ``out``, or the default, or the first of default-2, -3 that is free.

    What is to be resumed is the last of them that is there.

    Raises:
        ValueError: If ``out`` exists and is not to be resumed.
    """
    if out is not None:
        path = Path(out)
        if path.exists() and not resume:
            raise taken("--out", path)
        return path
    last = default
    for i in count(2):
        path = default if i == 2 else default.with_stem(f"{default.stem}-{i - 1}")
        if not path.exists():
            return last if resume else path
        last = path
    raise AssertionError


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """Gives a folder beside the one wanted, which takes its place if all goes well.

    Raises:
        ValueError: If nothing can be written there.
    """
    missing = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise expected("--out", "a path that can be written to", f"{folder}: {error}") from None
    try:
        yield beside
        beside.chmod(0o755)
        if folder.exists():
            raise expected("--out", "a path that does not exist yet", str(folder))
        beside.rename(folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        with suppress(OSError):  # someone else may have written there meanwhile
            for parent in missing:
                parent.rmdir()
        raise


def as_device(name: str | None) -> torch.device | None:
    """Returns the device of that name.

    Raises:
        ValueError: If this machine has no such device.
    """
    if name is None:
        return None
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"`--device`: expected one of this machine, got {name!r}: {reason}"
        ) from None


def load_data(
    source: str,
    support: constraints.Constraint,
    *,
    root: str | None,
    binarize: Binarize | None,
) -> tuple[Dataset, dict[str, Any]]:
    """Loads data as a likelihood of that support takes them.

    Binary data for binary laws, integer levels for counts and grey values for real ones, unless
    ``binarize`` says otherwise.

    Returns:
        The data, and the options that load them again.
    """
    levels = False
    if binarize is None and support is constraints.nonnegative_integer:
        levels = source in data_room.NAMES
    elif binarize is None and support is not constraints.boolean:
        binarize = "none"
    if root is not None:
        root = str(Path(root).expanduser().resolve())  # a replay works from anywhere
    data = data_room.load(source, root=root, binarize=binarize, levels=levels)
    options = {"root": root, "binarize": data.binarize, "levels": levels}
    return data, options


def record_data(folder: Path, data: Dataset, options: dict[str, Any]) -> None:
    """Writes ``data.json``: what finds the data again, and what tells that they are the same."""
    prints = {split: fingerprint(data.split(split)) for split in SPLITS}
    content = {"source": data.source, "options": options, "fingerprints": prints}
    write_json(folder / "data.json", content)


def recorded_data(folder: Path, split: Split, source: str | None, root: str | None) -> Dataset:
    """Loads the data of a run.

    Args:
        folder: The run folder.
        split: The split that will be used.
        source: Where the data are now; None if they have not moved.
        root: Folder of the named sets; None if it has not moved.

    Raises:
        ValueError: If the folder has no record of its data, or they are not the same any more.
    """
    record = read_json(folder / "data.json")
    try:
        known = record["fingerprints"][split]
        recorded = {name: record["options"][name] for name in ("root", "binarize", "levels")}
        found_by = record["source"] if source is None else source
    except (KeyError, TypeError):
        raise expected("RUN", "a readable data.json in it", str(folder)) from None
    told = {name: value for name, value in recorded.items() if name != "levels"}
    if not all(value is None or isinstance(value, str) for value in (*told.values(), found_by)):
        raise expected(str(folder / "data.json"), "names and paths", told | {"source": found_by})
    if source is None and ".." in Path(str(found_by)).parts:
        raise expected(str(folder / "data.json"), "a name or an absolute path", found_by)
    moved = {} if root is None else {"root": root}
    data = data_room.load(found_by, **(recorded | moved))
    found = fingerprint(data.split(split))
    if found != known:
        raise ValueError(
            f"`--data`: expected the {split} data of the run, fingerprint {known[:12]}, "
            f"got {data.name} with {found[:12]}"
        )
    return data


def held_out(data: Dataset, split: Split, max_data: int | None) -> tuple[Tensor, dict[str, Any]]:
    """Returns what to score and its base measure, which says so if it is not the whole split.

    Args:
        data: The data of a run.
        split: The split to score.
        max_data: The most data to take: a random subset, always the same one.

    Raises:
        ValueError: If the split is empty, or the most is no positive integer.
    """
    x, measure = data.split(split), data.base_measure(split)
    if len(x) == 0:
        raise expected("--split", f"a split that {data.name} has", split)
    if max_data is None or positive_integer("--max-data", max_data) >= len(x):
        return x, measure
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(_SUBSET_SEED))
    chosen = x[order[:max_data].sort().values]
    told = {"split": f"{split}[{max_data} of {len(x)}]", "fingerprint": fingerprint(chosen)}
    return chosen, measure | told
