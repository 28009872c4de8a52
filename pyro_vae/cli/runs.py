"""A run folder: where it goes, how it is written as a whole, and the data it remembers."""

from __future__ import annotations

import csv
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae import _errors
from pyro_vae import data as data_room
from pyro_vae._errors import expected, typed_path, unknown_name
from pyro_vae.checkpoint import check_kinds, read_json, size_of, write_json
from pyro_vae.cli.parsing import read_yaml
from pyro_vae.data import Dataset
from pyro_vae.data.columns import Column, columns_by_name
from pyro_vae.data.dataset import SPLITS, Binarize, Split, fingerprint
from pyro_vae.data.frames import NUMBERS
from pyro_vae.data.naming import names_of
from pyro_vae.data.readers.csv_files import header_of_words
from pyro_vae.data.schema import Schema
from pyro_vae.data.text import Vocabulary
from pyro_vae.programs import VAE, Amortized
from pyro_vae.training.resume import Resume, taken

__all__ = [
    "READING",
    "SEED",
    "as_device",
    "cond_size_of",
    "condition",
    "covariates_at",
    "load_data",
    "new_path",
    "record_data",
    "recorded_config",
    "recorded_data",
    "recorded_schema",
    "recorded_scores",
    "recorded_source",
    "recorded_table",
    "recorded_unit",
    "recorded_vocabulary",
    "writing",
]

READING: Mapping[str, Any] = {
    "sep": str, "decimal": str, "thousands": str, "na_values": str, "header": str, "encoding": str,
}  # fmt: skip
"""How a text is read, by the names of options, and the types of what is recorded."""

SEED = 0  # where a function has none by default: a command gives the same again

# What scores.json holds.
_MEANS = ("log_marginal", "elbo", "reconstruction", "kl", "mcse", "standard_error",
          "k_hat_median", "k_hat_above_threshold")  # fmt: skip
_COUNTS = ("active_units", "num_samples")
_OF_SOME = ("bits_per_dim", "accuracy", "accuracy_standard_error")  # runs
_DESCRIBED = {"data": str, "split": str, "binarize": str, "transform": str}


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
        beside = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")
        beside.mkdir()  # as the umask says
    except OSError as error:
        raise expected("--out", "a path that can be written to", f"{folder}: {error}") from None
    try:
        yield beside
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
    return None if name is None else _errors.as_device("--device", name)


def load_data(
    source: str,
    support: constraints.Constraint,
    *,
    root: str | None,
    binarize: Binarize | None,
    cond: str | None = None,
    size_factor: str | None = None,
    covariate: str | None = None,
    missing: bool = False,
    split: str = "random",
    words: list[list[str]] | None = None,
    table: Mapping[str, Any] | None = None,
    **reading: Any,
) -> tuple[Dataset, dict[str, Any]]:
    """Loads data as a likelihood of that support takes them.

    Binary data for binary likelihoods, integer levels for counts and grey values for real ones,
    unless ``binarize`` asks otherwise.

    Args:
        source: A named set or a file.
        support: Of the likelihood.
        root: Folder of the named sets.
        binarize: How grey values are made binary, if anyhow.
        cond: Columns to condition on.
        size_factor: The column of size factors.
        covariate: Columns of other covariates.
        missing: Whether entries may be missing.
        split: How rows are held out.
        words: The words of columns of x.
        table: How a table is read, and what is known of its columns.
        **reading: How files of arrays and images are read.

    Returns:
        The data, and the options that load them again.
    """
    levels = False
    if binarize is None and support is constraints.nonnegative_integer:
        levels = source in data_room.NAMES
    elif binarize is None and support is not constraints.boolean:
        binarize = "none"
    if root is not None:
        root = os.path.realpath(typed_path(root))  # a replay works from anywhere
    beside: dict[str, Any] = {"cond": cond or "", "size_factor": size_factor, "missing": missing}
    if columns := columns_by_name("--covariate", covariate):
        beside["covariates"] = columns
    if split != "random":
        beside["split"] = split
    if words:
        beside["words"] = words
    if reading.get("names") is not None:  # themselves, as their file may move
        reading["names"] = names_of(reading["names"])
    beside |= {name: value for name, value in reading.items() if value not in (None, False)}
    asked = dict(table or {})
    options = {"root": root, "binarize": binarize, "levels": levels}
    data = data_room.load(source, **(options | beside | asked))
    # What is known of columns is a part of the schema, which is written beside.
    how = {name: value for name, value in asked.items() if name in READING}
    return data, options | {"binarize": data.binarize, "layout": None} | beside | how


def record_data(folder: Path, data: Dataset, options: dict[str, Any]) -> None:
    """Writes ``data.json``: what finds the data again, and what shows that they are the same."""
    prints: dict[str, str] = {split: fingerprint(data.split(split)) for split in SPLITS}
    for split in SPLITS:
        for name, tensor in data.rows(split).tensors().items():
            prints[f"{split} {name}"] = fingerprint(tensor)
    content: dict[str, Any] = {"source": data.source, "options": options, "fingerprints": prints}
    content |= {"columns": [each.spec() for each in data.columns], "size_unit": data.size_unit}
    content["names"] = list(data.names)
    write_json(folder / "data.json", content)
    if data.schema is not None:
        write_json(folder / "schema.json", data.schema.spec())
    if data.vocabulary is not None:
        write_json(folder / "vocabulary.json", data.vocabulary.spec())


def recorded_schema(folder: Path) -> Schema | None:
    """Reads the schema of the table that a run was fitted to; None if there is none.

    Raises:
        ValueError: If it is damaged.
    """
    path = folder / "schema.json"
    return Schema.from_spec(read_json(path, columns=dict)) if path.exists() else None


def recorded_vocabulary(folder: Path) -> Vocabulary | None:
    """Reads the vocabulary of the text that a run was fitted to; None if it was no text.

    Raises:
        ValueError: If it is damaged.
    """
    path = folder / "vocabulary.json"
    if not path.exists():
        return None
    content = read_json(path, unit=str, length=int, unknown=bool, symbols=list)
    try:
        return Vocabulary.from_spec(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def recorded_table(
    folder: Path, path: Path, recorded: Mapping[str, Any]
) -> tuple[Schema | str, dict[str, Any]]:
    """Reads how the table of a run is read: the schema of its columns, and how its text is read.

    Args:
        folder: The run folder.
        path: The table.
        recorded: The options that load it, of :func:`recorded_source`.
    """
    how = {name: recorded[name] for name in READING if name in recorded}
    schema = recorded_schema(folder)
    if schema is not None:
        return schema, how
    if recorded["pivot"] is not None:
        return NUMBERS, how
    if path.suffix == ".csv" and path.is_file():  # of a run from before there were schemas
        how["header"] = header_of_words(path)
    return NUMBERS, how


def recorded_scores(folder: Path) -> dict[str, Any]:
    """Reads the scores of a run, as :meth:`pyro_vae.evaluation.Scores.summary` gave them.

    Raises:
        ValueError: If ``scores.json`` is missing or damaged.
    """
    path = folder / "scores.json"
    kinds = dict.fromkeys(_MEANS, int | float | None) | dict.fromkeys(_COUNTS, int)
    summary = read_json(path, base_measure=dict, **kinds)
    given = dict.fromkeys(summary.keys() & set(_OF_SOME), int | float | None)
    check_kinds(path, summary, given)
    measure = summary["base_measure"]
    check_kinds(path, measure, _DESCRIBED)
    if measure["split"] not in SPLITS:
        raise unknown_name(f"{path}: split", measure["split"], SPLITS)
    return summary


def recorded_config(folder: Path) -> dict[str, Any]:
    """Reads the options of a run.

    Raises:
        ValueError: If ``config.yaml`` is missing, damaged or no plain file inside the folder.
    """
    path = folder / "config.yaml"
    size_of(path)
    return read_yaml("RUN", path)


def recorded_columns(folder: Path, size: int) -> list[Column]:
    """Reads the columns that make up a condition.

    Args:
        folder: The run folder.
        size: Entries of a condition.

    Raises:
        ValueError: If they are missing or damaged, or another number of entries.
    """
    path = folder / "data.json"
    try:
        columns = [Column.from_spec(each) for each in read_json(path, columns=list)["columns"]]
    except (TypeError, AttributeError) as error:
        raise expected(str(path), "the columns of conditions", str(error)) from None
    if sum(each.size for each in columns) != size:
        raise expected(str(path), f"columns of {size} entries", [each.spec() for each in columns])
    return columns


def recorded_source(folder: Path, source: str | None) -> tuple[str, dict[str, Any]]:
    """Reads what finds the data of a run, and the options that load them.

    Args:
        folder: The run folder.
        source: Where data are that are to be taken instead; None if none are.

    Raises:
        ValueError: If the folder has no record of its data, or it is damaged.
    """
    path = folder / "data.json"
    record = read_json(path, source=str | None, options=dict)
    found_by: str | None = record["source"] if source is None else source
    recorded: dict[str, Any] = {"cond": "", "size_factor": None, "covariates": {}, "missing": False}
    recorded |= {"split": "random", "words": [], "key": None, "layers": None, "resize": None}
    recorded["pivot"] = None
    recorded["names"] = []
    # A run of before has none, and took arrays as they were.
    recorded |= {"rescale": False, "layout": "channels-first"}
    recorded |= dict.fromkeys(("text", "max_length", "too_long", "vocabulary_size"))
    recorded |= record["options"]
    kinds: dict[str, Any] = {"root": str | None, "binarize": str, "levels": bool, "cond": str}
    kinds |= {"size_factor": str | None, "covariates": dict, "missing": bool}
    kinds |= {"split": str, "words": list, "key": str | None, "layers": str | None}
    kinds |= {"resize": int | None, "rescale": bool, "layout": str | None, "pivot": str | None}
    kinds |= {"names": list, "text": str | None, "too_long": str | None}
    kinds |= {"max_length": int | None, "vocabulary_size": int | None}
    kinds |= {name: kind for name, kind in READING.items() if name in recorded}
    check_kinds(path, recorded, kinds)
    check_kinds(path, recorded["covariates"], dict.fromkeys(recorded["covariates"], str))
    if found_by is None or (source is None and ".." in Path(found_by).parts):
        raise expected(str(path), "a name or an absolute path", found_by)
    return found_by, {name: recorded[name] for name in kinds}


def recorded_data(
    folder: Path, split: Split, source: str | None, root: str | None, *, download: bool = True
) -> Dataset:
    """Loads the data of a run.

    Args:
        folder: The run folder.
        split: The split that will be used.
        source: Where the data are now; None if they have not moved.
        root: Folder of the named sets; None if it has not moved.
        download: Whether a named set may be fetched.

    Raises:
        ValueError: If the folder has no record of its data, or they are not the same any more.
    """
    path = folder / "data.json"
    prints = read_json(path, fingerprints=dict)["fingerprints"]
    check_kinds(path, prints, {split: str} | dict.fromkeys(prints, str))
    found_by, recorded = recorded_source(folder, source)
    # What is not there is not fetched to where a file points.
    recorded["download"] = download and (root is not None or recorded["root"] is None)
    moved: dict[str, Any] = {} if root is None else {"root": root}
    if found_by not in data_room.NAMES:
        moved["schema"], how = recorded_table(folder, typed_path(found_by), recorded)
        moved |= how
    if isinstance(moved.get("schema"), Schema):
        moved["words"] = ()  # a part of the schema
    data = data_room.load(found_by, **(recorded | moved))
    known = prints[split]
    found = fingerprint(data.split(split))
    if found != known:
        raise ValueError(
            f"`--data`: expected the {split} data of the run, fingerprint {known[:12]}, "
            f"got {data.name} with {found[:12]}; with `--data FILE` others count as new data"
        )
    for name, tensor in data.rows(split).tensors().items():
        if fingerprint(tensor) != prints.get(f"{split} {name}"):
            raise ValueError(f"`--data`: expected the {name} of the run, got others in {data.name}")
    if data.cond:
        columns = recorded_columns(folder, data.cond[split].shape[1])
        if [each.words for each in data.columns] != [each.words for each in columns]:
            raise expected("--data", "the words of the run's conditions", data.name)
    return data


def cond_size_of(folder: Path, vae: Amortized) -> int | None:
    """Returns the entries of a condition of a run: of a pair as many as the record of its data has.

    Raises:
        ValueError: If the record is damaged.
    """
    if isinstance(vae, VAE):
        return vae.cond_size
    path = folder / "data.json"
    try:
        sizes = [Column.from_spec(each).size for each in read_json(path, columns=list)["columns"]]
    except (TypeError, AttributeError) as error:
        raise expected(str(path), "the columns of conditions", str(error)) from None
    return sum(sizes) or None


def covariates_of_run(folder: Path, vae: Amortized) -> tuple[str, ...]:
    """Returns the names of the covariates of a run."""
    if isinstance(vae, VAE):
        return tuple(vae.likelihood.covariates)
    recorded = recorded_source(folder, None)[1]
    sized = () if recorded["size_factor"] is None else ("size_factor",)
    return (*sized, *recorded["covariates"])


def condition(folder: Path, vae: Amortized, text: str | None) -> Tensor | None:
    """Returns the condition, shape ``(cond_size,)``, that a user wrote: a value for each column.

    Raises:
        ValueError: If it is none, it is missing, or the run has no conditions.
    """
    size = cond_size_of(folder, vae)
    if size is None:
        if text is not None:
            raise expected("--cond", "nothing, as the run has no conditions", text)
        return None
    columns = recorded_columns(folder, size)
    values = [] if text is None else next(csv.reader([text], skipinitialspace=True), [])
    if len(values) != len(columns):
        what = ", ".join(f"{each.name} ({each})" for each in columns)
        raise expected("--cond", f"a value for {what}", text)
    pairs = zip(columns, values, strict=True)
    return torch.cat([column.read(value.strip())[0] for column, value in pairs])


def covariates_at(
    folder: Path, vae: Amortized, size: float | None, others: str | None
) -> dict[str, Tensor]:
    """Returns the covariates of one observation that a user wrote, each of shape ``()``.

    Args:
        folder: The run folder.
        vae: Its model.
        size: The size factor.
        others: Those of other names, as ``noise=0.3,exposure=7``.

    Raises:
        ValueError: If one is missing, is no number that the likelihood takes, or is none of its.
    """
    found: dict[str, Tensor] = {}
    for name, text in columns_by_name("--covariate", others).items():
        try:
            found[name] = torch.tensor(float(text))
        except ValueError:
            raise expected("--covariate", f"a number for {name}", text) from None
    names = covariates_of_run(folder, vae)
    if "size_factor" in names:
        if size is None or not 0 < size < math.inf:
            raise expected("--size-factor", "a positive number", size)
        found["size_factor"] = torch.tensor(size / recorded_unit(folder))
    elif size is not None:
        raise expected("--size-factor", "nothing, as the run has no size factors", size)
    if found.keys() != set(names):
        wanted = [name for name in names if name != "size_factor"]
        what = f"numbers for {', '.join(wanted)}" if wanted else "nothing, as the run has none"
        raise expected("--covariate", what, others)
    return found


def recorded_unit(folder: Path) -> float:
    """Reads what the size factors of a run were divided by.

    Raises:
        ValueError: If it is missing or not positive.
    """
    path = folder / "data.json"
    unit: float = read_json(path, size_unit=int | float)["size_unit"]
    if unit <= 0:
        raise expected(str(path), "a positive size_unit", unit)
    return unit
