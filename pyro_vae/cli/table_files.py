"""Tables that verbs write, and the columns of the data that go along with what they found."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyro_vae import data as data_room
from pyro_vae._errors import expected, typed_path
from pyro_vae.cli.runs import recorded_source
from pyro_vae.data import Dataset
from pyro_vae.data.containers import Asked
from pyro_vae.data.dataset import SPLITS, Split
from pyro_vae.data.formulas import quoted_frame
from pyro_vae.data.frames import Table
from pyro_vae.data.likeness import reading_like
from pyro_vae.data.pivoting import pivot_columns
from pyro_vae.data.readers import Reading, read_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "TABLES",
    "WRITTEN",
    "beside_rows",
    "content_of",
    "named_columns",
    "names_of_rows",
    "read_like",
    "rows_in_order",
]

TABLES = (".csv", ".parquet")
WRITTEN = (*TABLES, ".xlsx")
"""The suffixes of tables that can be written."""

_NEEDS = {".parquet": "pyarrow", ".xlsx": "openpyxl"}


def content_of(frame: pd.DataFrame, suffix: str, *, safe: bool = False) -> bytes:
    """Returns a table as the bytes of a file.

    Args:
        frame: The table, whose index is no part of it.
        suffix: One of :data:`WRITTEN`.
        safe: Whether text that a spreadsheet would compute is quoted.

    Raises:
        ValueError: If the package is not installed that writes such a file.
    """
    frame = quoted_frame(frame) if safe else frame
    if suffix == ".csv":
        return frame.to_csv(index=False, lineterminator="\n").encode()
    content = io.BytesIO()
    try:
        if suffix == ".xlsx":
            frame.to_excel(content, index=False, engine="openpyxl")
        else:
            frame.to_parquet(content, index=False)
    except ImportError:
        way = f"{_NEEDS[suffix]} to write {suffix} files: pip install 'pyro-vae[data]'"
        raise expected("--out", f"a .csv file, or {way}", suffix) from None
    return content.getvalue()


def read_like(source: str, like: Dataset) -> Table | None:
    """Returns the table of a file as it was written; None if it is none.

    Args:
        source: A named set or a file.
        like: What is known of the data of the run.

    Raises:
        ValueError: If it cannot be read.
    """
    path = typed_path(source)
    if source in data_room.NAMES or path.is_dir() or like.options.get("pivot"):
        return None
    if like.vocabulary is not None:  # lines of text, which were read
        return None
    asked = Asked(missing=True, key=like.options.get("key"), layers=like.options.get("layers"))
    found = read_file(path, reading_like(Reading(), like), asked)
    return found if isinstance(found, Table) else None


def rows_in_order(data: Dataset) -> tuple[list[tuple[Split, int]], torch.Tensor]:
    """Returns which observations a data set has, in the order of its source where it has one.

    Returns:
        The splits that are not empty, each with its size, and the places of all observations in
        the order of splits: of one array, where each is in it; else 0, 1, ....
    """
    sizes = [(split, len(data.split(split))) for split in SPLITS if len(data.split(split)) > 0]
    places = torch.cat([data.places[split] for split, _ in sizes])
    if len(places.unique()) < len(places):  # the source has splits of its own
        places = torch.arange(len(places))
    return sizes, places


def beside_rows(
    folder: Path, data: Dataset, like: Dataset, source: str | None, *, own: bool
) -> dict[str, Any]:
    """Returns what names the observations of all splits: ids, labels, splits, by name.

    Args:
        folder: The run folder.
        data: The observations.
        like: What is known of the data of the run.
        source: The file that the data are from; None if it is that of the run.
        own: Whether they are the data of the run, which have splits.

    Returns:
        Columns in the order of :func:`rows_in_order`, sorted by place.
    """
    sizes, places = rows_in_order(data)
    order = places.argsort()
    found: dict[str, Any] = {}
    table = read_like(recorded_source(folder, source)[0], like)
    named = [] if table is None else named_columns(table, like)
    if own or len(sizes) > 1:
        splits = np.repeat([split for split, _ in sizes], [size for _, size in sizes])
        taken = any(name == "split" for name, _ in named)
        found["split of the run" if taken else "split"] = splits[order.numpy()]
    if (pivot := pivot_columns(like.options.get("pivot"))) and data.index:
        found[pivot[0]] = np.concatenate([data.index[split] for split, _ in sizes])[order.numpy()]
    found |= {name: column.reset_index(drop=True) for name, column in named}
    if table is not None:
        return found
    if all(data.labels[split] is not None for split, _ in sizes):
        labels = torch.cat([data.labels[split] for split, _ in sizes])
        found["label"] = labels[order].numpy()
    return found


def names_of_rows(
    folder: Path, data: Dataset, like: Dataset, source: str | None, split: Split
) -> dict[str, Any]:
    """Returns what names the observations of one split: ids, labels, texts, and the row, from 1.

    Args:
        folder: The run folder.
        data: The observations.
        like: What is known of the data of the run.
        source: The file that the data are from; None if it is that of the run.
        split: Of these.
    """
    places = data.places[split].numpy()
    table = read_like(recorded_source(folder, source)[0], like)
    found: dict[str, Any] = {}
    for name, column in [] if table is None else named_columns(table, like):
        found[name] = column.iloc[places].reset_index(drop=True)
    if table is None and data.labels[split] is not None:
        found["label"] = data.labels[split].cpu().numpy()
    if (pivot := pivot_columns(like.options.get("pivot"))) and data.index:
        found[pivot[0]] = data.index[split]
    if data.vocabulary is not None:  # whose rows are not the lines of a file that has empty ones
        found["text"] = data.vocabulary.decode(getattr(data, split))
    return found | {"row": places + 1}


def named_columns(table: Table, like: Dataset) -> Sequence[tuple[str, Any]]:
    """Returns the columns of a table that name its rows: ids, and what the schema has beside x."""
    names = table.names
    known = [
        each.name
        for each in like.schema or ()
        if (each.kind == "id" or each.role) and not each.in_x
    ]
    return [(name, table.frame.iloc[:, names.index(name)]) for name in known if name in names]
