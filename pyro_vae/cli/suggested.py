"""Which likelihood a command takes that was not asked for one."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import Namespace
from torch.distributions import constraints

from pyro_vae._terminal import say
from pyro_vae.cli.parsing import default_of, value_of
from pyro_vae.cli.runs import READING, load_data
from pyro_vae.data import NAMES, Dataset, load
from pyro_vae.likelihoods import suggest

__all__ = [
    "OF_FILES",
    "TABLES",
    "about_encoder",
    "encoder_of_text",
    "loading",
    "suggested",
    "words_of",
]

OF_FILES = ("key", "layers", "layout", "resize", "rescale", "names", "text", "max_length",
            "too_long", "vocabulary_size")  # fmt: skip
"""Options of how files of arrays, images and lines of text are read."""

TABLES = ("schema", "drop", "label", "kind", *READING)
"""Options of how a table is read, and of what is known of its columns."""


def suggested(
    argv: Sequence[str], config: Mapping[str, Any], options: Namespace
) -> tuple[dict[str, Any], tuple[Dataset, dict[str, Any]]] | None:
    """Returns the likelihood that suits a file of data, and prints which one and why.

    Args:
        argv: What was asked for on the command line.
        config: What was in a file of options.
        options: Both, read with the default likelihood.

    Returns:
        Its class and options, and the data as :func:`load_data` returns them; None where one was
        asked for, the data are a named set or are to be made binary: what these are fitted by is
        settled.

    Raises:
        ValueError: If the data cannot be loaded.
    """
    asked = value_of(argv, "--likelihood") is not None or "class" in config.get("likelihood", {})
    if asked or options.data in NAMES or options.binarize not in (None, "none"):
        return None
    loaded = load_data(support=constraints.real, **loading(options))
    found = suggest(loaded[0])
    say(f"--likelihood {found}: it suits the data, and none was asked for", error=True)
    return dict(found.likelihood), loaded


def encoder_of_text(
    argv: Sequence[str], config: Mapping[str, Any], data: Dataset | None
) -> dict[str, Any]:
    """Returns the encoder of lines of text by its role, unless one was asked for; else nothing.

    Args:
        argv: What was asked for on the command line.
        config: What was in a file of options.
        data: The data; None where they are not known yet.
    """
    asked = value_of(argv, "--encoder") is not None or "class" in config.get("encoder", {})
    if asked or data is None or (vocabulary := data.vocabulary) is None:
        return {}
    own = {"class": "SequenceEncoder", "levels": vocabulary.levels, "end": vocabulary.end}
    return {"encoder": own | config.get("encoder", {})}


def about_encoder(error: ValueError, argv: Sequence[str], config: Mapping[str, Any]) -> ValueError:
    """Returns a mistake about an option of the encoder with what names the encoder of a text.

    Options are read before the data are, and so as those of an MLP where no encoder is named.

    Args:
        error: A mistake about any option.
        argv: What was asked for on the command line.
        config: What was in a file of options.
    """
    asked = value_of(argv, "--encoder") is not None or "class" in config.get("encoder", {})
    text = any(each.endswith(".txt") or each.startswith("--text") for each in argv)
    if asked or not text or not re.match("`(--)?encoder", str(error)):
        return error
    named = "--encoder SequenceEncoder --encoder.levels K --encoder.end 0"
    return ValueError(f"{error}; for lines of text name the encoder: {named}, of K symbols and end")


def words_of(likelihood: Mapping[str, Any]) -> list[list[str]]:
    """Returns the words that columns hold, by the names of levels that a likelihood is given.

    Args:
        likelihood: ``class`` and options of a table's, whose columns may be of several.

    Example:
        >>> mood = {"class": "Ordinal", "levels": ["low", "high"]}
        >>> words_of({"class": "Mixed", "columns": ["Poisson", mood]})
        [[], ['low', 'high']]
    """
    words: list[list[str]] = []
    for column in likelihood.get("columns", [likelihood]) or ():
        given = column if isinstance(column, Mapping) else {}
        levels = given.get("levels")
        own = list(levels) if isinstance(levels, list | tuple) else []
        words += [own] * math.prod(given.get("event_shape") or (1,))
    return words if any(words) else []


def loading(options: Namespace) -> dict[str, Any]:
    """Returns the arguments of :func:`load_data` that options name, besides the support."""
    names = ("binarize", "cond", "size_factor", "covariate", "missing", "split", "pivot", *OF_FILES)
    named = {"source": options.data, "root": options.data_root} | {n: options[n] for n in names}
    known = default_of_load()
    asked = {"kinds" if n == "kind" else n: options[n] for n in TABLES if options[n] != known[n]}
    words = words_of(options.likelihood.as_dict()) if "likelihood" in options else []
    return named | {"words": words, "table": asked}


def default_of_load() -> dict[str, Any]:
    """Returns the defaults of the options of a table, by their names."""
    return {n: default_of(load, "kinds" if n == "kind" else n) for n in TABLES}
