"""What an engine is: it takes steps of a problem, whose arguments come in batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from torch import Tensor

__all__ = ["Arguments", "Attempt", "Batch", "Call", "Engine", "EngineName"]

EngineName: TypeAlias = Literal["inductor", "cuda-graph", "eager"]
Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]


class Batch(NamedTuple):
    """How the arguments of the programs are made from tensors.

    Attributes:
        key: All that the arguments depend on besides the values of the tensors: their layouts,
            and whatever is no tensor. Batches of one key may share a graph.
        arguments: From the tensors and the number of a step in a call, what the programs take.
        reads: What else ``arguments`` reads, to be watched.
        numbers: Those among the arguments, whose values are no part of the key.
        filled: From the tensors and other numbers, what the programs take with these.
    """

    key: Any
    arguments: Callable[[Sequence[Tensor], int], Arguments]
    reads: Any = None
    numbers: tuple[Any, ...] = ()
    filled: Callable[[Sequence[Tensor], Sequence[Any]], Arguments] | None = None


class Call(NamedTuple):
    """Some steps that an engine is asked for, and which graph may take them.

    Attributes:
        key: All that a graph of them depends on besides the values of tensors.
        batch: How their arguments are made.
        tensors: What from.
        inputs: The same, as a graph takes it: with numbers among them.
        steps: How many.
    """

    key: Any
    batch: Batch
    tensors: Sequence[Tensor]
    inputs: Sequence[Tensor]
    steps: int

    def arguments(self, number: int) -> Arguments:
        """Returns what the programs take in one of the steps."""
        return self.batch.arguments(self.tensors, number)


class Attempt(NamedTuple):
    """Steps some of which may have been refused by what distributions check, and were not taken.

    Attributes:
        batch: How their arguments were made.
        tensors: What from.
        losses: Of each; NaN where it was not taken.
        valid: Whether each was taken, shape ``(count,)``; none is after one that was not.
        random: State of the generators before; nothing where it is after a step that was refused.
    """

    batch: Batch
    tensors: Sequence[Tensor]
    losses: Tensor
    valid: Tensor
    random: Mapping[str, Tensor]

    def counts(self) -> tuple[int, int]:
        """Returns how many steps there are, and how many were taken."""
        return len(self.losses), int(self.valid.long().cumprod(0).sum())


class Engine(Protocol):
    """What takes the steps of :class:`~pyro_vae.engine.problem.Problem`.

    Another engine is a class of this shape, and a line in ``CompiledSVI`` that chooses it.

    Attributes:
        name: What took the last steps.
        masks: Whether the last steps leave out every update after a loss that is not finite by
            themselves, so that losses need no look before the end of a pass.
        random: State of torch's generator before the last step, where it is known.
        attempt: The last steps, where some may have been refused; None where they were taken.
        captures: Graphs made so far.
        unrolls: Whether it may be asked for several steps at once.
    """

    @property
    def name(self) -> EngineName: ...

    @property
    def masks(self) -> bool: ...

    @property
    def random(self) -> Tensor | None: ...

    @property
    def attempt(self) -> Attempt | None: ...

    @property
    def captures(self) -> int: ...

    @property
    def unrolls(self) -> bool: ...

    def steps(self, batch: Batch, tensors: Sequence[Tensor], count: int) -> Tensor:
        """Takes ``count`` steps, moves the parameters and returns the losses.

        Args:
            batch: How arguments are made.
            tensors: What they are made from.
            count: How many steps.

        Returns:
            Losses, shape ``(count,)``, or less where a loss that is not finite stopped them.
        """
        ...

    def rewind(self, count: int) -> None:
        """Goes back behind ``count`` steps that were counted and, a loss not finite, not taken."""
        ...

    def again(self, attempt: Attempt) -> Tensor:
        """Takes those steps eagerly that were refused; returns the losses of all.

        Raises:
            ValueError: What a distribution says that refuses one of them.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Returns what a later run needs to choose as this one has."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`state_dict` returned, and forgets graphs of other parameters."""
        ...
