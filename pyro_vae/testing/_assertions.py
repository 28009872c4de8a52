"""Assertions of the contracts, with a message that names what is broken."""

from __future__ import annotations

from torch import Tensor

__all__ = ["all_true", "close", "require"]


def require(condition: bool, message: str) -> None:
    """Raises ``AssertionError`` with a message unless a condition holds, under ``-O`` too."""
    if not condition:
        raise AssertionError(message)


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Whether two tensors differ by at most a tolerance, absolute, in every entry."""
    return bool((a - b).abs().max() <= tolerance)


def all_true(flags: Tensor) -> bool:
    """Whether all flags are true."""
    return bool(flags.all())
