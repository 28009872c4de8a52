"""Attributes of others that are replaced for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["replaced"]

_INHERITED = object()


@contextmanager
def replaced(parts: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """Inside it, attributes have other values; then they are as they were, inherited ones too.

    Args:
        parts: The owner of each, its name, and its value.
    """
    saved = [(owner, name, vars(owner).get(name, _INHERITED)) for owner, name, _ in parts]
    try:
        for owner, name, value in parts:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in saved:
            if value is not _INHERITED:
                setattr(owner, name, value)
            elif name in vars(owner):
                delattr(owner, name)
