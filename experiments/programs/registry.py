"""What a program of the catalogue is: a function from an engine to what takes its steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from pyro.optim import PyroOptim
from pyro.optim.pytorch_optimizers import Adam

__all__ = ["PROGRAMS", "Engine", "Program", "Step", "adam", "program"]

Engine: TypeAlias = Callable[..., Any]  # model, guide, optimiser, loss: pyro.infer.SVI, or ours
Step: TypeAlias = Callable[[int], Any]  # takes step number i; returns its loss, or a tuple of them


@dataclass(frozen=True)
class Program:
    """A program of the catalogue.

    Attributes:
        name: What the table calls it.
        source: The example of Pyro's, or the part of it, that it is in the manner of.
        make: Draws its data, builds its networks, and returns what takes its steps. It is seeded
            by whoever calls it.
    """

    name: str
    source: str
    make: Callable[[Engine], Step]


PROGRAMS: dict[str, Program] = {}


def program(
    name: str, source: str
) -> Callable[[Callable[[Engine], Step]], Callable[[Engine], Step]]:
    """Adds a function to the catalogue."""

    def added(make: Callable[[Engine], Step]) -> Callable[[Engine], Step]:
        if name in PROGRAMS:
            raise ValueError(f"two programs are called {name!r}")
        PROGRAMS[name] = Program(name, source, make)
        return make

    return added


def adam(lr: float = 0.01) -> PyroOptim:
    """The optimiser of most programs."""
    return Adam({"lr": lr})
