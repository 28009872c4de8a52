"""The contract of a guide."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from pyro_vae.part import Part

__all__ = ["Guide"]


class Guide(Part, ABC):
    """The family q(z|x) that an encoder amortises.

    Attributes:
        event_shape: Shape of one z.
        param_shape: What the encoder must end in.
        support: Where z lives.
        named_sites: Whether it is made of several latent variables with names of their own.
    """

    event_shape: torch.Size
    param_shape: torch.Size
    support: Constraint
    named_sites: bool = False

    @abstractmethod
    def forward(self, features: Tensor) -> Any:
        """Returns q(z|x).

        Args:
            features: What the encoder returned, shape ``(*, B, *param_shape)``.

        Returns:
            A distribution of batch shape ``(*, B)`` and event shape ``event_shape``.
        """

    @property
    def sites(self) -> Mapping[str, Guide]:
        """The latent variables by name, in the prior's order: ``z`` alone, if not composite."""
        return {"z": self}

    @property
    def order(self) -> Sequence[str]:
        """The names of the sites in the order in which they are drawn."""
        return list(self.sites)

    def site(self, name: str, features: Tensor, earlier: Mapping[str, Tensor]) -> Any:
        """Returns the law of one site.

        Args:
            name: One of :attr:`sites`.
            features: What the encoder returned, shape ``(*, B, *param_shape)``.
            earlier: Draws of the sites before it.
        """
        return self(features)

    def join(self, draws: Mapping[str, Tensor]) -> Tensor:
        """Returns z, shape ``(*, *event_shape)``, of the draws of all sites."""
        return draws["z"]

    def bind(self, view: Any) -> None:
        """Takes the view of the model that the family is in; most families need none."""

    def refine(self, features: Tensor, log_joint: Callable[[Tensor], Tensor]) -> Tensor:
        """Returns better features than the encoder's; most families leave them as they are.

        Args:
            features: What the encoder returned, shape ``(*, B, *param_shape)``.
            log_joint: From z, shape ``(*, B, *event_shape)``, to log p(x, z), shape ``(*, B)``.
        """
        return features
