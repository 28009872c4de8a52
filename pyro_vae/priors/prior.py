"""The contract of a prior."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch.distributions.constraints import Constraint

from pyro_vae.part import Part

__all__ = ["Prior"]


class Prior(Part, ABC):
    """The law p(z) of one latent variable.

    Attributes:
        event_shape: Shape of one z.
        support: Where z lives. A guide must draw from the same space.
    """

    event_shape: torch.Size
    support: Constraint

    @abstractmethod
    def forward(self) -> Any:
        """Returns p(z), a distribution of batch shape ``()`` and event shape ``event_shape``."""
