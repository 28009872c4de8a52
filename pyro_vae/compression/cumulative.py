"""Distribution functions of whole numbers, and how such numbers are coded: digit by digit.

A digit in base 16 has 16 probabilities, differences of a distribution function: 16 bits of a number
are 4 tables of 16 entries in place of one of 65,536.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pyro_vae.compression.stack import Stack

__all__ = ["BASE", "LONGEST", "Cumulative"]

BASE = 16
LONGEST = 12  # digits of a number without a bound; all of them have a place in float64
_NONE = 1e-290  # a mass below which ratios are no numbers

Function = Callable[..., tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Cumulative:
    """Probabilities of being below, and of not being below, of n whole numbers from 0 on.

    Both are asked for: where one is nearly 1, its differences have no digits left, and those of the
    other have all.

    Attributes:
        function: From edges e, shape ``(n, K)``, and the parameters, each with a dimension for the
            edges after its first, to P(X < e) and P(X >= e).
        parameters: Shape ``(n,)`` or ``(n, M)`` each.
    """

    function: Function
    parameters: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.parameters[0])

    def take(self, which: np.ndarray) -> Cumulative:
        """Returns those of some numbers, by their places."""
        return replace(self, parameters=tuple(each[which] for each in self.parameters))

    def chances(self, edges: np.ndarray) -> np.ndarray:
        """Returns what probabilities between edges ``(n, K + 1)`` are proportional to, ``(n, K)``.

        Where there is no mass that float64 has numbers for, all are alike.
        """
        below, above = self.function(edges, *(each[:, None] for each in self.parameters))
        masses = np.where(below[:, 1:] < 0.5, np.diff(below), -np.diff(above))
        masses = np.maximum(np.nan_to_num(masses), 0.0)
        most = masses.max(1, keepdims=True)
        return np.where(most > _NONE, masses / np.maximum(most, _NONE), 1.0)

    def push(self, stack: Stack, numbers: np.ndarray, digits: int) -> None:
        """Puts numbers below 16 to the power of ``digits`` onto the stack, shape ``(n,)``."""
        for place in range(digits):
            step = BASE**place
            first = numbers // (step * BASE) * (step * BASE)
            stack.push(numbers // step % BASE, self._of_digit(first, step))

    def pop(self, stack: Stack, digits: int) -> np.ndarray:
        """Takes numbers from the stack, shape ``(n,)``: the inverse of :meth:`push`."""
        numbers = np.zeros(len(self), np.int64)
        for place in reversed(range(digits)):
            numbers += stack.pop(self._of_digit(numbers, BASE**place)) * BASE**place
        return numbers

    def push_any(self, stack: Stack, numbers: np.ndarray) -> None:
        """Puts numbers below 16^12 onto the stack, shape ``(n,)``: first how long each is.

        So no table is longer than a small number needs, and none is left out, however improbable.
        """
        digits = 1 + sum((numbers >= BASE**place).astype(np.int64) for place in range(1, LONGEST))
        for length in reversed(range(1, LONGEST + 1)):
            if len(which := np.flatnonzero(digits == length)):
                self.take(which)._longer(length).push(stack, numbers[which], length)
        stack.push(digits - 1, self._of_length())

    def pop_any(self, stack: Stack) -> np.ndarray:
        """Takes numbers from the stack, shape ``(n,)``: the inverse of :meth:`push_any`."""
        digits = stack.pop(self._of_length()) + 1
        numbers = np.zeros(len(self), np.int64)
        for length in range(1, LONGEST + 1):
            if len(which := np.flatnonzero(digits == length)):
                numbers[which] = self.take(which)._longer(length).pop(stack, length)
        return numbers

    def _of_digit(self, first: np.ndarray, step: int) -> np.ndarray:
        return self.chances(first[:, None] + step * np.arange(BASE + 1))

    def _of_length(self) -> np.ndarray:
        edges = np.array([0, *(BASE**place for place in range(1, LONGEST + 1))])
        return self.chances(np.broadcast_to(edges, (len(self), LONGEST + 1)))

    def _longer(self, length: int) -> Cumulative:
        """Returns those of numbers that are known to have so many digits, not fewer."""
        least = 0 if length == 1 else BASE ** (length - 1)

        def function(edges: np.ndarray, *parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            # Below the least there is nothing: an edge there is as the least itself.
            return self.function(np.maximum(edges, least), *parameters)

        return replace(self, function=function)
