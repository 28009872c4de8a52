"""What differs between two settings, in a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["differences"]

_SHOWN = 5  # differences named one by one


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Returns in one line what differs between two settings; nothing if nothing does.

    A setting that there was not before is no difference if it is off now: None, False or 0.

    Example:
        >>> differences({"epochs": 3, "model": {"dim": 2}}, {"epochs": 4, "model": {"dim": 2}})
        'epochs was 3, is 4'
        >>> differences({"epochs": 3}, {"epochs": 3, "mask": False})
        ''
        >>> differences({"parts": [{"dim": 2}]}, {"parts": [{"dim": 3, "learned": False}]})
        'parts.0.dim was 2, is 3'
    """
    old, new = dict(_leaves(before)), dict(_leaves(now))
    found = [
        f"{key} was {_short(old.get(key))}, is {_short(new.get(key))}"
        for key in dict.fromkeys((*old, *new))
        if old.get(key) != new.get(key) and (key in old or new[key])
    ]
    more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "; ".join(found[:_SHOWN]) + more


def _leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    elif isinstance(tree, list | tuple) and any(isinstance(each, Mapping) for each in tree):
        # Parts within a part, which may have options by now that there were not before.
        for i, value in enumerate(tree):
            yield from _leaves(value, f"{name}.{i}")
    else:
        yield name, list(tree) if isinstance(tree, tuple) else tree


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
