"""What a container holds, in arrays, before anything is checked or split."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae._errors import expected, plural, unknown_name
from pyro_vae.data.dataset import Split
from pyro_vae.data.raw import Raw, as_labels, as_values
from pyro_vae.data.text import Text

__all__ = ["Asked", "Contents", "array_of", "as_column", "chosen", "raw_of"]


@dataclass(frozen=True)
class Asked:
    """What is asked of a container.

    Attributes:
        argument: What to call the data in an error.
        missing: Whether NaN is an entry that nobody observed.
        beside: Columns that are to lie beside x.
        label: The column beside x that holds labels.
        key: Which of several arrays is x; the only one if not given.
        layers: The layer of an ``AnnData`` that is x, in place of its ``X``.
        resize: Height and width that images are to have; None leaves them as they are.
        pivot: The columns of a table of events that make rows, columns and amounts of x; empty for
            a table whose rows are those of x.
        text: How lines of text become rows.
    """

    argument: str = "data"
    missing: bool = False
    beside: tuple[str, ...] = ()
    label: str | None = None
    key: str | None = None
    layers: str | None = None
    resize: tuple[int, int] | None = None
    pivot: tuple[str, ...] = ()
    text: Text = field(default_factory=Text)


@dataclass(frozen=True)
class Contents:
    """What a container holds of one split.

    Attributes:
        x: Observations, an array or a tensor of shape ``(N, *event_shape)``.
        names: Of the columns of x, where they have names.
        labels: Integers of shape ``(N,)``, if there are some.
        mask: Which entries of x are observed, of its shape, if not all.
        classes: What the labels 0, 1, ... are called, if they have names.
        beside: Columns of numbers or words, by name, shape ``(N,)`` each.
        dims: Names of the dimensions of one observation, where they have names.
        coords: Labels along these dimensions, by name.
        index: Labels of the observations, shape ``(N,)``.
        image: Whether x are images, channels first.
    """

    x: Any
    names: Sequence[str] = ()
    labels: Any = None
    mask: Any = None
    classes: Sequence[str] = ()
    beside: Mapping[str, Any] = field(default_factory=dict)
    dims: Sequence[str] = ()
    coords: Mapping[str, Any] = field(default_factory=dict)
    index: Any = None
    image: bool = False


def raw_of(parts: Mapping[Split, Contents], asked: Asked) -> Raw:
    """Returns the contents of all splits as values that are checked.

    Raises:
        ValueError: If there is no training set, values are no finite numbers, or splits differ.
    """
    if "train" not in parts:
        raise expected(asked.argument, "a training set", sorted(parts))
    first = parts["train"]
    alone = len(parts) == 1
    splits = {split: _values(each, "" if alone else split, asked) for split, each in parts.items()}
    shape = tuple(splits["train"].shape[1:])
    for split, x in splits.items():
        if x.shape[1:] != shape or list(parts[split].names) != list(first.names):
            raise expected(asked.argument, f"{split} data of event shape {shape}", x)
    labels = {
        split: as_labels(each.labels, len(splits[split]))
        for split, each in parts.items()
        if each.labels is not None
    }
    aside: dict[str, dict[Split, Tensor]] = {}
    words: dict[str, Sequence[str]] = {"label": first.classes} if first.classes else {}
    for name in (*asked.beside, *((asked.label,) if asked.label else ())):
        if name in first.beside:
            aside[name], words[name] = _column(name, parts, splits)
    if asked.label in asked.beside:
        raise expected("label", "each column once", asked.label)
    if asked.label is not None and not (asked.label == "label" and labels):
        labels = _labels(asked.label, aside, list(first.beside))
        words["label"] = words.pop(asked.label)
    return Raw(
        splits=splits,
        labels=labels,
        names=list(first.names),
        words=words,
        aside={name: each for name, each in aside.items() if name != asked.label},
        others=[name for name in first.beside if name not in aside],
        dims=tuple(first.dims),
        coords=dict(first.coords),
        index={split: each.index for split, each in parts.items() if each.index is not None},
        image=first.image,
        classes=tuple(words.get("label", ())) if labels else (),
    )


def _column(
    name: str, parts: Mapping[Split, Contents], splits: Mapping[Split, Tensor]
) -> tuple[dict[Split, Tensor], list[str]]:
    """Returns a column of all splits as numbers, and the words that they are places of."""
    every = np.concatenate([np.asarray(each.beside[name]) for each in parts.values()])
    values, words = as_column(name, every)
    lengths = [len(splits[split]) for split in parts]
    return dict(zip(parts, values.split(lengths), strict=True)), words


def _labels(
    name: str, aside: Mapping[str, Mapping[Split, Tensor]], known: Sequence[str]
) -> dict[Split, Tensor]:
    """Returns a column beside x as labels.

    Raises:
        ValueError: If there is none, or it is neither of integers nor of words.
    """
    if not known:
        raise expected("label", "data with columns beside x that have names", name)
    if name not in aside:
        raise unknown_name("label", name, known)
    for values in aside[name].values():
        if not (values == values.round()).all():
            raise expected("label", f"an integer or a word for each observation in {name}", "none")
    return {split: values.long() for split, values in aside[name].items()}


def _values(part: Contents, what: str, asked: Asked) -> Tensor:
    """Returns x of a split, NaN where a mask hides it.

    Raises:
        ValueError: If the mask is none of x, or hides entries where none may be missing.
    """
    if part.mask is None:
        return as_values(part.x, what, missing=asked.missing)
    x, mask = np.asarray(part.x), np.asarray(part.mask)
    of = f" of {what}" if what else ""
    if mask.shape != x.shape or not np.isin(mask, (0, 1)).all():
        raise expected("mask", f"true or false{of}, of shape {x.shape}, true is observed", mask)
    seen = torch.from_numpy(mask.astype(bool))
    if not (asked.missing or seen.all()):
        hidden = (
            f"True (--missing) with a mask{of} that hides {plural(int((~seen).sum()), 'entry')}"
        )
        raise expected("missing", hidden, asked.missing)
    values = as_values(np.where(mask.astype(bool), x, x.dtype.type(0)), what, missing=asked.missing)
    values[~seen] = math.nan
    return values


def as_column(name: str, values: np.ndarray) -> tuple[Tensor, list[str]]:
    """Returns a column as numbers, and the words that they are places of, if it holds words.

    Args:
        name: What it is called.
        values: Numbers, or words; NaN and None are missing.

    Raises:
        ValueError: If it holds neither.
    """
    if values.dtype.kind in "biuf":
        return torch.from_numpy(values.astype(np.float64)), []
    given = values.tolist()
    missing = [each is None or each != each for each in given]
    there = [each for each, lacks in zip(given, missing, strict=True) if not lacks]
    if all(isinstance(each, int | float) for each in there):
        numbers = [math.nan if lacks else each for each, lacks in zip(given, missing, strict=True)]
        return torch.tensor(numbers, dtype=torch.float64), []
    if not all(isinstance(each, str) for each in there):
        raise expected("data", f"numbers alone or words alone in {name}", there[0])
    words = sorted(set(there))
    place = {word: float(i) for i, word in enumerate(words)}
    places = [place.get(each, math.nan) if isinstance(each, str) else math.nan for each in given]
    return torch.tensor(places, dtype=torch.float64), words


def array_of(value: Any, argument: str = "data") -> Any:
    """Returns what NumPy reads of an array of another package, sparse ones made dense.

    Raises:
        ValueError: If NumPy cannot read it.
    """
    try:
        if hasattr(value, "to_memory"):  # of a file, in AnnData's words
            value = value.to_memory()
        for dense in ("toarray", "todense"):  # of SciPy; of arrays with more dimensions
            if hasattr(value, dense):
                value = getattr(value, dense)()
        return np.asarray(value)
    except Exception as error:  # whatever a foreign object raises is not for a traceback
        reason = f"{type(value).__name__}, which NumPy cannot read: {error}".splitlines()[0]
        raise ValueError(f"`{argument}`: expected an array of numbers, got {reason}") from None


def chosen(key: str | None, names: Sequence[str], kind: str, known: Sequence[str] = ()) -> str:
    """Returns the name of the array that is x.

    Args:
        key: What was asked for, if anything.
        names: What there is.
        kind: What to call one of them.
        known: Names that are x where several are there, the first that is there.

    Raises:
        ValueError: If there is no such array, or several and none was asked for.
    """
    if key is not None:
        if key not in names:
            raise unknown_name("key", key, names)
        return key
    if len(names) == 1:
        return names[0]
    for name in known:
        if name in names:
            return name
    raise expected("key", f"the name (--key) of the {kind} that is x", list(names))
