"""The contract of a guide."""

from __future__ import annotations

from abc import ABC, abstractmethod
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
    """

    event_shape: torch.Size
    param_shape: torch.Size
    support: Constraint

    @abstractmethod
    def forward(self, features: Tensor) -> Any:
        """Returns q(z|x).

        Args:
            features: What the encoder returned, shape ``(*, B, *param_shape)``.

        Returns:
            A distribution of batch shape ``(*, B)`` and event shape ``event_shape``.
        """
