"""Why a program cannot be one graph, and what is wrong with one that has been made."""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "GraphMismatch",
    "NotCapturable",
    "NotReparameterised",
    "NotWorthwhile",
    "ReadsBack",
    "Stopping",
]


class NotCapturable(Exception):
    """Why a program cannot be one graph, in one line."""


class NotWorthwhile(NotCapturable):
    """To compile it would take longer than it saves, so that there is nothing to be warned of."""


class Stopping(NotCapturable):
    """The run was asked to stop while it was compiled: nothing is wrong with the program."""


class ReadsBack(NotCapturable):
    """The program makes a number of a tensor, which it can only do while it runs."""


class GraphMismatch(RuntimeError):
    """A step of a graph that is not the step of the programs themselves.

    Args:
        message: What differs, and by how much.

    Attributes:
        name: The parameter that differs; None where it is the loss alone.
        compiled: What the graph made of it.
        eager: What it is by the programs, with the same random numbers.
        path: The file that has what reproduces it, for ``torch.load``; None if none was written.
    """

    def __init__(
        self, message: str, name: str | None, compiled: float, eager: float, path: Path | None
    ) -> None:
        super().__init__(message)
        self.name = name
        self.compiled = compiled
        self.eager = eager
        self.path = path


class NotReparameterised(NotCapturable):
    """A latent site whose draws are no differentiable function of the parameters.

    Args:
        site: The name of the site.
        distribution: The name of its class.
    """

    def __init__(self, site: str, distribution: str) -> None:
        super().__init__(f"site `{site}` ({distribution}) cannot be reparameterised")
