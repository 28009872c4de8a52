"""JSON as others wrote it: what no file of a run holds is refused while it is read."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

__all__ = ["loads"]


def loads(text: str | bytes) -> Any:
    """Reads JSON.

    Raises:
        ValueError: If it is none, an object has a name twice, or a number is not finite.
        RecursionError: If it is nested deeper than Python's stack.
    """
    return json.loads(
        text,
        parse_float=_finite,
        parse_int=_integer,
        parse_constant=_finite,
        object_pairs_hook=_once,
    )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of which no name comes twice: each reader would choose which of them counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{twice[:40]!r} comes twice")
    return found


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"not a finite number: {text[:12]}")
    return value


def _integer(text: str) -> int:
    _finite(text)  # what no float holds would not be shown either
    return int(text)
