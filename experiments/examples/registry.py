"""What an example is: a pair of plain Pyro programs, data for it, and a case with a known p(x)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.data import Rows

__all__ = ["EXAMPLES", "Case", "Example", "beside", "example", "mlp", "positive"]

Exact = Callable[[pv.Program, Rows], Tensor]


@dataclass(frozen=True)
class Case:
    """A program and its data.

    Attributes:
        program: The pair, not fitted yet.
        train: What it is fitted to.
        held_out: What it is judged by.
        options: Of the fit.
        exact: From the program, at a draw of its global latents if it has some, and rows, to log
            p(x) of each, shape ``(N,)``, without draws; None where nobody knows it.
        averaged: The same over the posterior of the global latents given the training data.
    """

    program: pv.Program
    train: Rows
    held_out: Rows
    options: Mapping[str, Any] = field(default_factory=dict)
    exact: Exact | None = None
    averaged: Exact | None = None


@dataclass(frozen=True)
class Example:
    """An example.

    Attributes:
        name: By which its results are called.
        title: What the table calls it.
        known: What makes log p(x) of the special case known.
        make: Returns the example.
        special: Returns the special case, whose log p(x) is known.
    """

    name: str
    title: str
    known: str
    make: Callable[[], Case]
    special: Callable[[], Case]


EXAMPLES: dict[str, Example] = {}


def example(name: str, title: str, known: str, make: Any, special: Any) -> None:
    """Adds an example; both functions are called right after the generators are seeded."""
    EXAMPLES[name] = Example(name, title, known, make, special)


def mlp(inputs: int, outputs: int, hidden: int = 32) -> nn.Sequential:
    """A network with one hidden layer."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs))


def positive(raw: Tensor) -> Tensor:
    """A scale from any number."""
    return torch.nn.functional.softplus(raw) + 1e-3


def beside(*parts: Tensor) -> Tensor:
    """Vectors of batch shapes that broadcast, as those of enumerated sites do, as one."""
    shape = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*shape, part.shape[-1]) for part in parts], -1)
