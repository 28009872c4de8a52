"""YAML from outside, whose extent is known before anything is made of it.

A file of 400 bytes can stand for 10^9 values: an alias repeats what an anchor names, a merge key
(``<<``) copies it, and each may hold others. The nodes of a document are a graph as small as its
text, and how large they become when they are expanded follows from it.
"""

from __future__ import annotations

from typing import Any

import yaml

__all__ = ["Excess", "load"]

_DEEPEST = 64  # levels of mappings and lists in each other
_ALIASES = 2**12  # a table of as many columns may have them
_LONGEST = 100  # characters of a number or a date: 1:1:1:... takes quadratic time
_WORDS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "null", "bool", "binary", "merge")}

# That of libyaml is ten times as fast, and not everywhere.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Excess(ValueError):
    """There is more in a text than in any file of options."""


def load(text: str, most: int) -> Any:
    """Returns what a text says, as ``yaml.safe_load`` does.

    Args:
        text: One document.
        most: The most values that it may have, those of aliases and merges counted where they are
            repeated.

    Raises:
        Excess: If there are more of them, or it is deeper than any, or a value holds itself.
        yaml.YAMLError: If it is no YAML.
        ValueError: If a value is not what it looks like, such as a date of month 13.
    """
    _check_events(text, most)
    loader = _Loader(text)
    try:
        if (root := loader.get_single_node()) is None:
            return None
        _check_extent(root, most)
        return loader.construct_document(root)
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        # What PyYAML makes of `!!int ""`, `!!bool x` and `!!timestamp x`.
        raise ValueError(f"a value is not of its kind: {error}") from None
    finally:
        loader.dispose()


def _check_events(text: str, most: int) -> None:
    """Reads the text as a stream, which takes no memory, and stops where there is too much."""
    values = aliases = depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        values += isinstance(event, yaml.NodeEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        _check(values, most, "values")
        _check(aliases, _ALIASES, "aliases")
        _check(depth, _DEEPEST, "levels")


def _check_extent(root: yaml.Node, most: int) -> None:
    """Adds up the graph of nodes from its leaves, each of which is visited once."""
    extents: dict[int, tuple[int, int]] = {}  # values and levels, by node
    begun: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting[-1]
        if id(node) in extents:
            waiting.pop()
        elif isinstance(node, yaml.ScalarNode):
            if node.tag not in _WORDS:
                _check(len(node.value), _LONGEST, "characters of a number")
            extents[id(node)] = 1, 0
        elif id(node) in begun:
            parts = [extents.get(id(part)) for part in _parts(node)]
            known = [part for part in parts if part is not None]
            if len(known) < len(parts):  # one of them is begun, and waits for this one
                raise Excess("no value that holds itself")
            values = 1 + sum(part[0] for part in known)
            levels = 1 + max((part[1] for part in known), default=0)
            _check(values, most, "values")
            _check(levels, _DEEPEST, "levels")
            extents[id(node)] = values, levels
        else:
            begun.add(id(node))
            waiting += [part for part in _parts(node) if id(part) not in begun]


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value)


def _check(found: int, most: int, what: str) -> None:
    if found > most:
        raise Excess(f"at most {most:,} {what}")
