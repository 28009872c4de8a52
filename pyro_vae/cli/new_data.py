"""Which data a verb looks at: those of the run, where they are now, or others that it never saw."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import Namespace
from torch import Tensor

from pyro_vae import data as data_room
from pyro_vae._errors import expected, plural, positive_integer, typed_path
from pyro_vae._terminal import held_back, say
from pyro_vae.checkpoint import check_kinds, read_json
from pyro_vae.cli.parsing import Parser, default_of
from pyro_vae.cli.runs import (
    READING,
    cond_size_of,
    condition,
    recorded_columns,
    recorded_data,
    recorded_schema,
    recorded_source,
    recorded_table,
    recorded_unit,
    recorded_vocabulary,
)
from pyro_vae.data import Dataset, load
from pyro_vae.data.dataset import SPLITS, Split, fingerprint
from pyro_vae.data.inspection import copies_of, said_of_copies
from pyro_vae.data.rows import Rows
from pyro_vae.programs import VAE, Amortized

__all__ = [
    "add_data",
    "add_unseen",
    "data_of",
    "held_out",
    "only_condition",
    "read_as_before",
    "recorded_like",
    "say_copies",
    "training_copies",
]

_LOADED_BY = (
    "cond", "size_factor", "covariates", "missing", "words", "levels", "key", "layers", "layout",
    "resize", "rescale", "pivot", "text", "max_length", "too_long", "vocabulary_size", *READING,
)  # fmt: skip
_SUBSET_SEED = 20140414  # the same subset for every run and command: they remain comparable


def add_data(parser: Parser) -> None:
    """Adds the options of where the data are."""
    parser.add_argument(
        "--data",
        type=str | None,
        help="A file of data that the run has never seen, with columns of the same names in any "
        "order, all of which count as test data; or the same data, where they have moved.",
    )
    add_unseen(parser)
    parser.add_argument("--data_root", type=str | None, help="Folder of downloaded data sets.")


def add_unseen(parser: Parser) -> None:
    """Adds the option of what becomes of levels that the run does not know."""
    parser.add_argument(
        "--unseen",
        type=Literal["refuse", "missing"],
        default=default_of(load, "unseen"),
        help="Whether a level of new data that was never seen in training is refused, or counts as "
        "missing, of a run with --missing.",
    )


def data_of(folder: Path, vae: Amortized, split: Split, options: Namespace) -> tuple[Dataset, bool]:
    """Loads the data of a run, or new ones, whose test set is all of them.

    Args:
        folder: The run folder.
        vae: Its model.
        split: The split that will be used.
        options: Those of :func:`add_data`.

    Returns:
        The data, and whether they are those of the run.

    Raises:
        ValueError: If there are none, or they are not what the run knows.
    """
    source, root = options.data, options.data_root
    if source is None:
        return recorded_data(folder, split, source, root), True
    like = recorded_like(folder, vae)
    # If they are others, what is wrong with these is another thing, and what was done to them, too.
    with suppress(ValueError):
        with held_back() as notes:
            found = recorded_data(folder, split, source, root)
        for note in notes:
            logging.getLogger("pyro_vae").handle(note)
        return found, True
    moved: dict[str, Any] = {} if root is None else {"root": root}
    moved |= read_as_before(folder, source, like)
    data = load(source, like=like, unseen=options.unseen, **moved)
    size = sum(len(data.split(each)) for each in SPLITS)
    say(
        f"{data.name}: {plural(size, 'observation')}, all of a file that is not the run's",
        error=True,
    )
    return data, False


def training_copies(
    folder: Path, data: Dataset, split: Split, *, own: bool, root: str | None
) -> tuple[int | None, str]:
    """Counts observations that equal training ones, with what goes with them.

    Of others than the run's own, the training data are read again from where the run found them.

    Args:
        folder: The run folder.
        data: What is judged, of :func:`data_of`.
        split: The split of it that is.
        own: Whether they are the data of the run.
        root: Folder of the named sets; None if it has not moved.

    Returns:
        How many there are, None if that is not known; and a sentence on it, empty if there is
        nothing to say.
    """
    if split == "train" and own:
        return None, ""
    try:
        with held_back():  # whoever fitted the run was told
            train = data if own else recorded_data(folder, "train", None, root, download=False)
    except (OSError, ValueError):
        return None, (
            "whether observations equal training observations is not known: the training data of "
            "the run are not where it found them, or are others now"
        )
    rows = data.rows(split)
    count = copies_of(rows, train.rows("train"))
    return count, said_of_copies(count, len(rows), split if own else "")


def say_copies(folder: Path, data: Dataset, split: Split, *, own: bool, root: str | None) -> None:
    """Says what :func:`training_copies` found, once all else is known: an error is one line."""
    _, said = training_copies(folder, data, split, own=own, root=root)
    if said:
        say(said, error=True)


def read_as_before(folder: Path, source: str, like: Dataset) -> dict[str, Any]:
    """Returns how a text is read for a run from before there were schemas; nothing for others.

    Args:
        folder: The run folder.
        source: The text.
        like: What is known of the data of the run.
    """
    if like.schema is not None or source in data_room.NAMES:
        return {}
    recorded = recorded_source(folder, None)[1]
    how = recorded_table(folder, typed_path(source), recorded)[1]
    return {"header": how["header"]} if "header" in how else {}


def recorded_like(folder: Path, vae: Amortized) -> Dataset:
    """Returns what is known of the data of a run, without any of them.

    Args:
        folder: The run folder.
        vae: Its model.

    Raises:
        ValueError: If the record is damaged.
    """
    path = folder / "data.json"
    source, recorded = recorded_source(folder, None)
    record: dict[str, Any] = {"names": []} | read_json(path)
    check_kinds(path, record, {"names": list})
    unit = 1.0 if recorded["size_factor"] is None else recorded_unit(folder)
    schema = recorded_schema(folder)
    none = torch.empty(0, *vae.event_shape)
    options = {name: recorded[name] for name in _LOADED_BY if name in recorded}
    size = cond_size_of(folder, vae)
    words = vae.likelihood.words if isinstance(vae, VAE) else ()
    return Dataset(
        name=source if source in data_room.NAMES else Path(source).name,
        train=none,
        validation=none.clone(),
        test=none.clone(),
        labels=dict.fromkeys(SPLITS),
        support=vae.x_support,
        binarize=recorded["binarize"],
        columns=() if size is None else recorded_columns(folder, size),
        names=record["names"],
        size_unit=unit,
        schema=schema,
        vocabulary=recorded_vocabulary(folder),
        options=options | {"words": () if schema else recorded["words"] or words},
    )


def only_condition(
    folder: Path, vae: Amortized, data: Dataset, split: Split, text: str | None
) -> Dataset:
    """Returns the data of a run with those of one condition alone in a split, if one was asked for.

    Raises:
        ValueError: If it is none, or the run has no conditions.
    """
    if text is None:
        return data
    cond = condition(folder, vae, text)
    assert cond is not None  # it would have been refused
    chosen = torch.isclose(data.cond[split], cond).all(1)

    def some(each: Tensor) -> Tensor:
        return each[chosen]

    labels = data.labels[split]
    covariates = {name: some(each) for name, each in data.covariates.get(split, {}).items()}
    parts: dict[str, Any] = {
        "cond": {**data.cond, split: some(data.cond[split])},
        "labels": {**data.labels, split: None if labels is None else some(labels)},
        "mask": {**data.mask, split: some(data.mask[split])} if data.mask else {},
        "covariates": {**data.covariates, split: covariates},
    }
    parts[split] = some(data.split(split))
    name = f"{data.name}, {', '.join(each.name for each in data.columns)} = {text}"
    return replace(data, **parts, name=name)


def held_out(data: Dataset, split: Split, max_data: int | None) -> tuple[Rows, dict[str, Any]]:
    """Returns what to score, and its base measure.

    The base measure records it if it is not the whole split.

    Args:
        data: The data of a run.
        split: The split to score.
        max_data: The most data to take: a random subset, always the same one.

    Raises:
        ValueError: If the split is empty, or the most is no positive integer.
    """
    rows, measure = data.rows(split), data.base_measure(split)
    if len(rows) == 0:
        raise expected("--split", f"a split that {data.name} has", split)
    if max_data is None or positive_integer("--max-data", max_data) >= len(rows):
        return rows, measure
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(_SUBSET_SEED))
    chosen = rows[order[:max_data].sort().values]
    of_subset = {
        "split": f"{split}[{max_data} of {len(rows)}]",
        "fingerprint": fingerprint(chosen.x),
    }
    return chosen, measure | of_subset
