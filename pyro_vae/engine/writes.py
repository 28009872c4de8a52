"""What a graph does with the memory of its inputs."""

from __future__ import annotations

import operator
from collections.abc import Iterator

from torch.fx import Graph, Node

__all__ = ["addressed", "written"]


def written(graph: Graph) -> set[Node]:
    """Returns the inputs of a graph that it writes to, by themselves or by a view of them."""
    return _inputs(
        place
        for node in graph.nodes
        if node.op == "call_function" and node.target is not operator.getitem
        for place in _shared(node, by_writing=True)
    )


def addressed(graph: Graph) -> set[Node]:
    """Returns the inputs that it reads by a place in memory, of which they may be a view."""
    return _inputs(
        place
        for node in graph.nodes
        if node.op == "call_function" and "as_strided" in str(node.target)
        for place in node.all_input_nodes
    )


def _inputs(nodes: Iterator[Node]) -> set[Node]:
    """Returns the inputs of a graph whose memory some nodes may share."""
    waiting = list(nodes)
    met: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node not in met:
            met.add(node)
            waiting += _shared(node, by_writing=False)
    return {node for node in met if node.op == "placeholder"}


def _shared(node: Node, by_writing: bool) -> Iterator[Node]:
    """Yields what an operation writes to, or everything whose memory its results may be."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:  # nothing is known about it
        yield from node.all_input_nodes
        return
    for number, argument in enumerate(schema.arguments):
        alias = argument.alias_info
        if alias is not None and (alias.is_write or not by_writing):
            value = node.args[number] if number < len(node.args) else node.kwargs.get(argument.name)
            for leaf in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(leaf, Node):
                    yield leaf
