"""Names of the entries of arrays, which have none of their own: words of bags of words, say."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from pyro_vae._errors import expected, typed_path
from pyro_vae.data.raw import Raw

__all__ = ["names_of", "with_names"]


def names_of(names: str | os.PathLike[str] | Sequence[str]) -> list[str]:
    """Returns names, those of a text file one a line.

    Raises:
        ValueError: If there is no such file, it is no text, or names are no words.
    """
    if isinstance(names, str | os.PathLike):
        path = typed_path(names)
        if not path.is_file():
            raise expected("names", "an existing text file, one name a line", str(path))
        try:
            return path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
        except UnicodeDecodeError:
            raise expected("names", "a text file in UTF-8, one name a line", str(path)) from None
    found = list(names)
    if not all(isinstance(name, str) for name in found):
        raise expected("names", "words, or a text file of them", names)
    return found


def with_names(raw: Raw, names: str | os.PathLike[str] | Sequence[str]) -> Raw:
    """Returns data whose entries have names.

    Args:
        raw: What a source holds.
        names: As many as x has entries, in their order; a text file has one a line. None are given
            if this is empty.

    Raises:
        ValueError: If x has names of its own or is no vector, there are more or fewer, or two are
            the same.
    """
    if not isinstance(names, os.PathLike) and len(names) == 0:
        return raw
    if raw.names or raw.schema is not None:
        raise expected("names", "none, as the data have names of their own", names)
    shape = raw.splits["train"].shape[1:]
    found = names_of(names)
    if len(shape) != 1 or len(found) != shape[0]:
        what = f"{shape[0]} names, one for each entry of x" if len(shape) == 1 else "none of images"
        raise expected("names", what, f"{len(found)} of them")
    if len(set(found)) < len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise expected("names", "each name once", twice)
    return replace(raw, names=found)
