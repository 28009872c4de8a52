"""The contract of a prior."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from pyro_vae.part import Part

__all__ = ["Prior"]


class Prior(Part, ABC):
    """The law p(z) of one latent variable.

    Attributes:
        event_shape: Shape of one z.
        support: Where z lives. A guide must draw from the same space.
        conditional: Whether the law depends on the condition that each datum has.
        named_sites: Whether it is made of several latent variables with names of their own.
    """

    event_shape: torch.Size
    support: Constraint
    named_sites: bool = False
    conditional: bool = False

    @abstractmethod
    def forward(self) -> Any:
        """Returns p(z), a distribution of batch shape ``()`` and event shape ``event_shape``.

        A conditional law takes ``cond``, shape ``(B, cond_size)``, and has batch shape ``(B,)``.
        """

    @property
    def sites(self) -> Mapping[str, Prior]:
        """The latent variables by name, in generative order: ``z`` alone, if not composite."""
        return {"z": self}

    @property
    def decoded_shape(self) -> torch.Size:
        """Shape of what the decoder sees of one z."""
        return self.event_shape

    def decoded(self, z: Tensor) -> Tensor:
        """Returns what the decoder sees of z, shape ``(*, *decoded_shape)``."""
        return z

    def site(self, name: str, earlier: Mapping[str, Tensor], cond: Tensor | None = None) -> Any:
        """Returns the law of one site.

        Args:
            name: One of :attr:`sites`.
            earlier: Draws of the sites before it.
            cond: What each datum is conditioned on, shape ``(B, cond_size)``.
        """
        return self.given(cond)

    def parents(self, name: str) -> Sequence[str]:
        """The sites whose draws the law of one depends on: all before it, if not known better."""
        names = list(self.sites)
        return names[: names.index(name)]

    def join(self, draws: Mapping[str, Tensor]) -> Tensor:
        """Returns z, shape ``(*, *event_shape)``, of the draws of all sites."""
        return draws["z"]

    def given(self, cond: Tensor | None) -> Any:
        """Returns p(z|c) where the law is conditional, and p(z) elsewhere."""
        return self(cond) if self.conditional else self()

    def bind(self, view: Any) -> None:
        """Takes the view of the model that the law is in; most laws need none."""

    def start(self, x_train: Tensor) -> None:
        """Starts the law's own parameters from training data.

        Args:
            x_train: As the encoder sees them, standardised, shape ``(N, *event_shape of x)``.
        """
