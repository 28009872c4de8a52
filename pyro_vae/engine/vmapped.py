"""Graphs of one form as one: their operations run once, on the tensors of all, laid together.

What is drawn at random is taken out of a graph and comes in beside its other inputs, so that each
of those that are laid together draws from a generator of its own.

References:
    torch.func: JAX-like composable function transforms for PyTorch (PyTorch contributors),
    https://docs.pytorch.org/docs/stable/func.html
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import starmap
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Node
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae.engine.errors import NotCapturable
from pyro_vae.engine.graph import (
    LIFTED,
    Function,
    Graph,
    is_made_of_numbers,
    is_random,
    never_seeded,
    refusal,
)
from pyro_vae.engine.memory import layout, preserved

__all__ = ["Followed", "Sample", "Stacks", "Traced", "split"]

# They overwrite their first argument, or make another like it: only its layout matters.
_OF_A_LAYOUT = {
    *("rand_like", "randn_like", "randint_like", "bernoulli_", "normal_", "uniform_"),
    *("exponential_", "geometric_", "cauchy_", "log_normal_", "random_"),
}


class Operations(TorchDispatchMode):
    """Creates the record of what a run does, which is that of another run of the same form.

    Tensors are known by where they come from: an argument, an operation, or the order in which
    those that were there before are met.

    Args:
        args: The arguments.

    Attributes:
        done: The operations, with what they were done to.
        tensors: Those that were there before.
        constants: Those that were made of numbers of Python's.
    """

    def __init__(self, args: Sequence[Tensor]) -> None:
        super().__init__()
        self.done: list[tuple[Any, ...]] = []
        self.tensors: list[Tensor] = []
        self.constants: list[Tensor] = []
        self._names = {id(arg): f"argument {number}" for number, arg in enumerate(args)}
        self._kept: list[Any] = list(args)  # an identity is one while the object lives

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        words = self._word(args), self._word(tuple(given.items()))
        if func in LIFTED:
            self.constants.append(args[0])
        result = func(*args, **given)
        for number, made in enumerate(result if isinstance(result, list | tuple) else (result,)):
            if isinstance(made, Tensor) and id(made) not in self._names:
                self._names[id(made)] = f"{len(self.done)}.{number}"
                self._kept.append(made)
        self.done.append((func, *words))
        return result

    def _word(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return tuple(map(self._word, value))
        if not isinstance(value, Tensor):
            # `True`, 1 and 1.0 are equal, and not the same to an operation.
            return repr(value) if isinstance(value, bool | int | float) else value
        if id(value) not in self._names:
            self._names[id(value)] = f"there {len(self.tensors)} {layout(value)}"
            self.tensors.append(value)
        return self._names[id(value)]


def followed(function: Function, state: Sequence[Tensor], args: Sequence[Tensor]) -> Operations:
    """Runs a function once, and puts back what it moves; returns what it has done.

    A value that it reads back is an operation, too, which a :class:`Sample` is refused for.
    """
    args = [arg.detach() for arg in args]
    with preserved(state), never_seeded(), Operations(args) as operations:
        try:
            function(*args)
        except NotCapturable:
            raise
        except Exception as error:
            raise refusal(error) from error
    return operations


class Followed(Graph):
    """What a function does, which is only to be compared with what a :class:`Sample` does.

    Attributes:
        operations: What it does.
    """

    def __init__(self, function: Function, state: Sequence[Tensor], args: Sequence[Tensor]) -> None:
        self.operations = followed(function, state, args)
        self._inputs = list(self.operations.tensors)
        self._replaced = []

    def rebind(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> bool:
        return False


class Traced(Graph):
    """A graph that is kept as it was captured, and run operation by operation."""

    def __call__(self, *args: Tensor) -> list[Tensor]:
        return self.uncompiled(*args)

    def _compile(self, module: GraphModule, args: Sequence[Tensor]) -> None:
        """Leaves it as it is."""


class Sample(Traced):
    """The graph of one of several functions of the same operations.

    Attributes:
        operations: What it does.
    """

    def __init__(self, function: Function, state: Sequence[Tensor], args: Sequence[Tensor]) -> None:
        self.operations = followed(function, state, args)
        super().__init__(function, state, args)

    def rebind(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> bool:
        return False

    @property
    def module(self) -> GraphModule:
        """What was captured; it has no tensors of its own."""
        return self._module

    @property
    def sources(self) -> list[Tensor | int]:
        """For each input of the module the tensor that it is, or the number of the argument."""
        return self._inputs

    @property
    def written(self) -> list[bool]:
        """For each input of the module whether it is written to."""
        return [any(each is source for each in self._written) for source in self._inputs]

    def sources_of(self, other: Followed) -> list[Tensor | int]:
        """Returns the same for another function.

        Raises:
            NotCapturable: If that one does something else.
        """
        mine, theirs = self.operations, other.operations
        constants = zip(mine.constants, theirs.constants, strict=False)
        if mine.done != theirs.done or not all(starmap(torch.equal, constants)):
            pairs = zip(mine.done, theirs.done, strict=False)
            at = next((one for one, two in pairs if one != two), ("that makes tensors of numbers",))
            raise NotCapturable(f"their steps are different operations, from `{at[0]}` on")
        pairs_ = zip(mine.tensors, theirs.tensors, strict=True)
        places = {id(tensor): its for tensor, its in pairs_}
        inputs = [node for node in self._module.graph.nodes if node.op == "placeholder"]
        found: list[Tensor | int] = []
        for node, source in zip(inputs, self._inputs, strict=True):
            if isinstance(source, int) or is_made_of_numbers(node):
                found.append(source)  # whose values are the same, or the operations would differ
            elif id(source) in places:
                found.append(places[id(source)])
            else:
                raise NotCapturable("a step reads a tensor that is not found in another fit")
        return found


class Stacks:
    """Creates the memory of tensors of which several fits have one each, laid together.

    The tensors stay the objects that they are, and are views of it from then on: what is written
    here is written there.
    """

    def __init__(self) -> None:
        self._of: dict[tuple[int, ...], Tensor] = {}
        self._kept: list[Sequence[Tensor]] = []

    def stack(self, tensors: Sequence[Tensor]) -> Tensor:
        """Returns the memory, shape ``(fits, *shape)``.

        Raises:
            NotCapturable: If a tensor shares its memory with others.
        """
        key = tuple(map(id, tensors))
        if key in self._of:
            return self._of[key]
        if any(id(tensor) in each for each in self._of for tensor in tensors):
            raise NotCapturable("what one fit has in several places, another has not")
        if len(set(key)) < len(key) or not all(map(_is_alone, tensors)):
            raise NotCapturable("tensors of their models share memory")
        stacked = torch.stack([tensor.detach() for tensor in tensors])
        for tensor, place in zip(tensors, stacked, strict=True):
            tensor.data = place
        self._of[key] = stacked
        self._kept.append(tensors)
        return stacked

    def part(self, number: int) -> None:
        """Gives the tensors of one fit memory of their own again."""
        for tensors in self._kept:
            tensors[number].data = tensors[number].data.clone()


def _is_alone(tensor: Tensor) -> bool:
    """Tells whether a tensor has all of its memory, in order, to itself."""
    size = tensor.numel() * tensor.element_size()
    return tensor.is_contiguous() and tensor.untyped_storage().nbytes() == size


def split(
    module: GraphModule, trained: Sequence[bool], examples: Sequence[Tensor]
) -> tuple[GraphModule, GraphModule]:
    """Splits a graph into what it draws at random and the rest.

    Args:
        module: A graph without tensors of its own.
        trained: Of each input, whether a step moves it.
        examples: The inputs.

    Returns:
        What makes the list of all random tensors, in their order, of the inputs; and what makes the
        outputs of the inputs, followed by the random tensors.

    Raises:
        NotCapturable: If what is drawn depends on what a step moves.
    """
    rest = GraphModule(module, copy.deepcopy(module.graph))
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with torch.no_grad():
        FakeTensorProp(rest, mode).propagate(*(example.detach() for example in examples))
    nodes = list(rest.graph.nodes)
    inputs = [node for node in nodes if node.op == "placeholder"]
    random = [node for node in nodes if is_random(node)]
    needed = _behind([value for node in random for value in _values(node)])
    for node, moves in zip(inputs, trained, strict=True):
        if moves and node in needed:
            raise NotCapturable("what it draws at random depends on the parameters")
    draws = torch.fx.Graph()
    copies: dict[Node, Node] = {}
    for node in nodes:
        if node.op == "placeholder":
            copies[node] = draws.placeholder(node.name)
        elif node in random:
            copies[node] = _drawn(draws, node, copies)
        elif node in needed:
            copies[node] = draws.node_copy(node, copies.__getitem__)
    draws.output([copies[node] for node in random])
    last = inputs[-1]
    for number, node in enumerate(random):
        with rest.graph.inserting_after(last):
            last = rest.graph.placeholder(f"drawn_{number}")
        node.replace_all_uses_with(last)
        rest.graph.erase_node(node)
    rest.graph.eliminate_dead_code()
    for node in rest.graph.nodes:
        node.meta.clear()
    rest.recompile()
    return GraphModule(module, draws), rest


def _layout(node: Node) -> Node | None:
    """Returns the argument of a random operation of which only the layout matters, if any."""
    target: Any = node.target
    first = node.args[0] if node.args else None
    is_one = target._overloadpacket.__name__ in _OF_A_LAYOUT and isinstance(first, Node)
    return first if is_one and isinstance(first, Node) else None


def _values(node: Node) -> list[Node]:
    """Returns the arguments of a random operation whose values matter."""
    layout = _layout(node)
    return [each for each in node.all_input_nodes if each is not layout]


def _behind(nodes: Sequence[Node]) -> set[Node]:
    """Returns all that some nodes are made of, with them."""
    found: set[Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += _values(node) if is_random(node) else node.all_input_nodes
    return found


def _drawn(draws: torch.fx.Graph, node: Node, copies: dict[Node, Node]) -> Node:
    """Copies a random operation, with an empty tensor where only the layout matters."""
    layout = _layout(node)
    made = node.meta["val"]
    if not isinstance(made, Tensor):
        raise NotCapturable(f"`{node.target}` draws more than one tensor")
    if layout is None:
        return draws.node_copy(node, copies.__getitem__)
    target: Any = node.target
    if target._schema.is_mutable and len(layout.users) > 1:
        raise NotCapturable(f"`{target}` overwrites what others read")
    like = layout.meta["val"]
    where = {"dtype": like.dtype, "device": like.device}
    empty = draws.call_function(
        torch.empty_strided, (tuple(like.shape), tuple(like.stride())), where
    )
    return draws.node_copy(node, lambda each: empty if each is layout else copies[each])
