"""A stack of bits, by asymmetric numeral systems: what was put onto it last is taken first."""

from __future__ import annotations

import hashlib
from types import ModuleType
from typing import Any

import numpy as np

from pyro_vae._errors import expected

__all__ = ["Stack", "coder", "initial_bits"]

_SEED = b"pyro-vae"


class Stack:
    """Creates a stack of bits.

    Each symbol has a probability of at least 2^-24, and they add up to exactly one: whatever is
    put onto the stack comes back, however improbable it was.

    References:
        Asymmetric numeral systems: entropy coding combining speed of Huffman coding with
        compression rate of arithmetic coding (Duda, 2013), https://arxiv.org/abs/1311.2540

    Args:
        words: What is on it, 32-bit words, of which the last is not zero.
    """

    def __init__(self, words: np.ndarray) -> None:
        stream = coder().stream
        self._ans = stream.stack.AnsCoder(np.ascontiguousarray(words, dtype=np.uint32))
        self._table = stream.model.Categorical(perfect=False)
        self._binary = stream.model.Bernoulli(perfect=False)
        self._uniform = stream.model.Uniform

    def push(self, symbols: np.ndarray, chances: np.ndarray) -> None:
        """Puts symbols 0 to K - 1 onto the stack.

        Args:
            symbols: Shape ``(n,)``.
            chances: What their probabilities are proportional to, shape ``(n, K)``.
        """
        self._ans.encode_reverse(_symbols(symbols), self._table, _doubles(chances))

    def pop(self, chances: np.ndarray) -> np.ndarray:
        """Takes symbols from the stack, shape ``(n,)``: the inverse of :meth:`push`."""
        return _numbers(self._ans.decode(self._table, _doubles(chances)))

    def push_binary(self, symbols: np.ndarray, chances: np.ndarray) -> None:
        """Puts zeros and ones onto the stack, of which ``chances`` are the probabilities of one."""
        self._ans.encode_reverse(_symbols(symbols), self._binary, _doubles(chances))

    def pop_binary(self, chances: np.ndarray) -> np.ndarray:
        """Takes zeros and ones from the stack: the inverse of :meth:`push_binary`."""
        return _numbers(self._ans.decode(self._binary, _doubles(chances)))

    def push_uniform(self, symbols: np.ndarray, size: int) -> None:
        """Puts symbols that are alike in probability onto the stack, 0 to ``size`` - 1."""
        self._ans.encode_reverse(_symbols(symbols), self._uniform(size))

    def pop_uniform(self, count: int, size: int) -> np.ndarray:
        """Takes ``count`` symbols from the stack: the inverse of :meth:`push_uniform`."""
        return _numbers(self._ans.decode(self._uniform(size), count))

    def __len__(self) -> int:
        """Returns how many words there are on the stack."""
        return int(self._ans.num_words())

    def words(self) -> np.ndarray:
        """Returns what is on the stack, 32-bit words."""
        found: np.ndarray = self._ans.get_compressed()
        return found


def coder() -> ModuleType:
    """Returns the package that has the coder.

    Raises:
        ValueError: If it is not installed.
    """
    try:
        import constriction
    except ModuleNotFoundError:
        what = "constriction, by pip install 'pyro-vae[compression]'"
        raise expected("compression", what, None) from None
    found: ModuleType = constriction
    return found


def initial_bits(count: int) -> np.ndarray:
    """Returns random 32-bit words, the same everywhere, of which the last is not zero."""
    found = np.frombuffer(hashlib.shake_256(_SEED).digest(4 * count), dtype="<u4").copy()
    found[-1] |= 1
    return found.astype(np.uint32)


def _symbols(numbers: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(numbers, dtype=np.int32)


def _doubles(chances: np.ndarray) -> np.ndarray:
    """Returns what the coder makes 24 bits of: float32 has no more, and its sums round to zero."""
    return np.ascontiguousarray(chances, dtype=np.float64)


def _numbers(symbols: Any) -> np.ndarray:
    return np.asarray(symbols, dtype=np.int64)
