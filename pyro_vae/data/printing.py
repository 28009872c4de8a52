"""A schema as text, for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyro_vae._terminal import shown
from pyro_vae.data.schema import Field

if TYPE_CHECKING:
    from pyro_vae.data.schema import Schema

__all__ = ["printed", "shortened"]

_NAME, _LISTED = 24, 6


def printed(schema: Schema, width: int = 80) -> str:
    """Returns a table of the columns, no line of which is longer than ``width``."""
    rows = [(shortened(shown(field.name), _NAME), _what(field), _why(field)) for field in schema]
    head = ("column", "kind", "why")
    sizes = [max(len(row[i]) for row in (head, *rows)) for i in range(2)]
    left = sum(sizes) + 4
    lines = [f"{head[0]:<{sizes[0]}}  {head[1]:<{sizes[1]}}  {head[2]}"]
    for name, what, why in rows:
        first, *more = textwrap.wrap(why, max(width - left, 20)) or [""]
        lines.append(f"{name:<{sizes[0]}}  {what:<{sizes[1]}}  {first}".rstrip())
        lines += [" " * left + each for each in more]
    for warning in schema.warnings:
        text = f"warning: {shown(warning)}"
        lines += textwrap.wrap(text, width, subsequent_indent="  ")
    return "\n".join(line[:width] for line in lines)


def shortened(text: str, length: int) -> str:
    """Returns a text of at most so many characters."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _what(field: Field) -> str:
    return f"{field.kind} ({field.role})" if field.role else field.kind


def _why(field: Field) -> str:
    levels = ""
    if field.levels and field.kind != "binary":
        levels = f"; {_levels(field.levels, ' < ' if field.kind == 'ordinal' else ', ')}"
    elif field.levels:
        levels = f"; 1 is {shown(str(field.levels[1]))}"
    offset = f"; {field.offset:,} is subtracted" if field.offset and field.kind != "time" else ""
    return f"{shown(field.reason)}{levels}{offset}"


def _levels(levels: Sequence[object], between: str) -> str:
    names = [shortened(shown(str(level)), 16) for level in levels]
    if len(names) > _LISTED:
        names = [*names[: _LISTED - 1], "…", names[-1]]
    return between.join(names)
