"""Names of the entries of arrays, which have none of their own: words of bags of words, say."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence, Sized
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
            lines = path.read_text(encoding="utf-8-sig").rstrip().split("\n")
        except UnicodeDecodeError:
            raise expected("names", "a text file in UTF-8, one name a line", str(path)) from None
        found = [line.strip() for line in lines]
        for place, name in enumerate(found, 1):
            if not name:
                raise expected("names", "a name on each line", f"none on line {place} of {path}")
        return found
    if isinstance(names, set | frozenset) or not isinstance(names, Iterable):
        raise expected("names", "a list of words, in the order of entries", names)
    found = list(names)
    if not all(isinstance(name, str) and name.strip() for name in found):
        raise expected("names", "words, or a text file of them", names)
    return [str(name) for name in found]


def with_names(raw: Raw, names: str | os.PathLike[str] | Sequence[str] | None) -> Raw:
    """Returns data whose entries have names.

    Args:
        raw: What a source holds.
        names: As many as x has entries, in their order; a text file has one a line. None are given
            if this is empty.

    Raises:
        ValueError: If x has names of its own or is no vector, there are more or fewer, or two are
            the same.
    """
    if names is None or (isinstance(names, Sized) and len(names) == 0):
        return raw
    if raw.names or raw.schema is not None:
        raise expected("names", "none, as the data have names of their own", names)
    shape = raw.splits["train"].shape[1:]
    found = names_of(names)
    if len(shape) != 1 or len(found) != shape[0]:
        what = f"{shape[0]} names, one for each entry of x" if len(shape) == 1 else "none of images"
        raise expected("names", what, f"{len(found)} of them")
    if len(set(found)) < len(found):
        twice = Counter(found).most_common(1)[0][0]
        raise expected("names", "each name once", twice)
    return replace(raw, names=found)
