"""New data as a model knows them: columns by name, in the order of those that it was fitted to."""

from __future__ import annotations

import inspect
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch

from pyro_vae._errors import expected, unknown_name
from pyro_vae.data.dataset import Dataset
from pyro_vae.data.encoding import Unseen
from pyro_vae.data.frames import Table
from pyro_vae.data.raw import MISSING, Raw
from pyro_vae.data.readers.csv_files import Reading

__all__ = [
    "as_known",
    "check_alone",
    "check_unseen",
    "in_classes",
    "in_order",
    "in_words",
    "reading_like",
]

log = logging.getLogger("pyro_vae")
_NAMED = 6  # columns, in a line
_FREE = {"data", "like", "unseen", "root", "seed", "download", *(f.name for f in fields(Reading))}


def check_alone(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Refuses options that data which are loaded like others take from these.

    Args:
        function: Whose defaults the options have if nobody gave them.
        given: All of them.

    Raises:
        ValueError: If one is given.
    """
    for name, parameter in inspect.signature(function).parameters.items():
        value, default = given[name], parameter.default
        as_ever = value is default or (default is not None and value == default)
        if name not in _FREE and not as_ever:
            raise expected(name, "nothing with `like`, whose data bring it", value)


def check_unseen(unseen: Unseen, like: Dataset | None) -> None:
    """Refuses to take levels for missing where nothing may be missing.

    Raises:
        ValueError: If it is so, or the word is unknown.
    """
    if unseen not in ("refuse", "missing"):
        raise unknown_name("unseen", unseen, ("refuse", "missing"))
    if unseen == "missing" and like is None:
        raise expected("unseen", "refuse without `like`", unseen)
    if unseen == "missing" and like is not None and not like.options.get("missing"):
        what = "refuse, as only a model that is fitted with `missing` (--missing) takes masks"
        raise expected("unseen", what, unseen)


def reading_like(how: Reading, like: Dataset) -> Reading:
    """Returns how a text is read: as that of other data, but for what is asked for."""
    own = {f.name: like.options[f.name] for f in fields(Reading) if f.name in like.options}
    if own.get("header", "infer") == "infer" and like.names:
        # Names that are known are in the first row, whatever is below it.
        counted = list(like.names) == [f"column {i + 1}" for i in range(len(like.names))]
        own["header"] = "none" if counted else 0
    return Reading(**(own | how.given()))


def in_words(error: ValueError, like: Dataset) -> ValueError:
    """Returns an error about new data with the way out that there is for these."""
    text = str(error)
    if text.endswith(MISSING):
        way = "; a model that is fitted with `missing` (--missing) takes it"
        return ValueError(text.removesuffix(MISSING) + way)
    if re.search(r"expected one of .*, in row \d", text) and like.options.get("missing"):
        return ValueError(f"{text}; `unseen` (--unseen missing) takes it for missing")
    return error


def as_known(table: Table, like: Dataset, beside: Mapping[str, Sequence[str]]) -> Table:
    """Returns a table with the columns that other data have, in their order.

    Args:
        table: Any table with names of columns.
        like: The data that a model was fitted to.
        beside: The columns that go with x, by the option that asks for them.

    Raises:
        ValueError: If it lacks one that may not be missing.
    """
    schema = like.schema
    x = [field.name for field in schema.x] if schema else list(like.names)
    if not x:
        return table
    names = table.names
    for option, wanted in beside.items():
        for name in wanted:
            if name not in names:
                raise expected("data", f"a column {name}, which goes with x (`{option}`)", names)
    others = [field.name for field in schema or () if field.role == "label"]
    others = [name for name in others if name in names]
    kept = [*x, *(name for wanted in beside.values() for name in wanted), *others]
    left_out = [field.name for field in schema or () if not field.in_x]
    _compare(names, x, [*kept, *left_out], like)
    return table.reordered(kept)


def in_classes(raw: Raw, like: Dataset) -> Raw:
    """Returns data whose labels count the classes of other data, -1 for one that those lack."""
    known, own = list(like.classes), list(raw.classes)
    if not own or not known or own == known:
        return raw
    if strange := [name for name in own if name not in known]:
        log.warning("labels that %s lack are taken as unknown: %s", like.name,
                    ", ".join(strange[:_NAMED]) + _more(strange))  # fmt: skip
    at = torch.tensor([known.index(name) if name in known else -1 for name in own])
    labels = {
        split: torch.where(label >= 0, at[label.clamp_min(0)], -1)
        for split, label in raw.labels.items()
    }
    return replace(raw, labels=labels, classes=tuple(known))


def in_order(raw: Raw, like: Dataset) -> Raw:
    """Returns arrays whose entries have names in the order of those of other data.

    Raises:
        ValueError: If they lack one that may not be missing, or have another shape.
    """
    known, own = list(like.names), list(raw.names)
    if own and known and own != known:
        _compare(own, known, known, like)
        at = [own.index(name) if name in own else None for name in known]
        splits = {
            split: torch.stack(
                [x.new_full((len(x),), math.nan) if i is None else x[:, i] for i in at], 1
            )
            for split, x in raw.splits.items()
        }
        raw = replace(raw, splits=splits, names=known)
    shape = tuple(raw.splits["train"].shape[1:])
    if shape != tuple(like.event_shape):
        what = f"observations of shape {tuple(like.event_shape)}, as those of {like.name}"
        raise expected("data", what, shape)
    # Entries without names of their own are those of the other data, in their order.
    return raw if own else replace(raw, names=known)


def _compare(
    names: Sequence[str], wanted: Sequence[str], known: Sequence[str], like: Dataset
) -> None:
    """Says which columns are new and which are missing, and refuses these where they must be."""
    lacking = [name for name in wanted if name not in names]
    if len(lacking) == len(wanted) or (lacking and not like.options.get("missing")):
        what = f"columns {', '.join(wanted[:_NAMED])}{_more(wanted)} as {like.name} has them"
        error = expected("data", what, f"none called {', '.join(lacking[:_NAMED])}{_more(lacking)}")
        way = "" if like.options.get("missing") else (
            "; a model that is fitted with `missing` (--missing) takes it for unobserved"
        )  # fmt: skip
        raise ValueError(f"{error}{way}")
    if lacking:
        log.warning(
            "took the columns %s, which are not there, for unobserved",
            f"{', '.join(lacking[:_NAMED])}{_more(lacking)}",
        )
    if extra := [name for name in names if name not in known]:
        log.warning(
            "left out the columns %s, which %s does not have",
            f"{', '.join(extra[:_NAMED])}{_more(extra)}",
            like.name,
        )


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
