"""Why a program cannot be one graph."""

from __future__ import annotations

__all__ = ["NotCapturable", "NotReparameterised", "ReadsBack"]


class NotCapturable(Exception):
    """Why a program cannot be one graph, in one line."""


class ReadsBack(NotCapturable):
    """The program makes a number of a tensor, which it can only do while it runs."""


class NotReparameterised(NotCapturable):
    """A latent site whose draws are no differentiable function of the parameters.

    Args:
        site: The name of the site.
        distribution: The name of its class.
    """

    def __init__(self, site: str, distribution: str) -> None:
        super().__init__(f"site `{site}` ({distribution}) cannot be reparameterised")
