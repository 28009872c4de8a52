"""Categorical distribution over numbers."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["Levels"]


class Levels(dist.Categorical):
    """Creates a categorical variable whose classes are numbers, so that it has a mean.

    Draws have the dtype of the logits.

    Args:
        probs: Shape ``(*, K)``; or
        logits: Shape ``(*, K)``.

    Example:
        >>> Levels(probs=torch.tensor([0.5, 0.0, 0.5])).mean
        tensor(1.)
    """

    @property
    def mean(self) -> Tensor:
        """The mean level."""
        return (self.probs * self._levels()).sum(-1)

    @property
    def variance(self) -> Tensor:
        """The variance of the level."""
        return (self.probs * self._levels().square()).sum(-1) - self.mean.square()

    def _levels(self) -> Tensor:
        return torch.arange(self._num_events, device=self._param.device, dtype=self._param.dtype)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return super().sample(torch.Size(sample_shape)).to(self._param.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return super().log_prob(value.long())
