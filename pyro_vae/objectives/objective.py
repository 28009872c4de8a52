"""What every objective is to Pyro and to `fit`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import pyro.infer
import torch
from torch import Tensor

__all__ = ["Objective"]


class Objective(pyro.infer.ELBO, ABC):
    """A loss over traces that stays in tensors, so that a step can be captured as one graph.

    Schedules are computed from ``step``, a tensor that counts optimiser steps. Whoever takes the
    step advances it; stock ``SVI`` does so through :meth:`loss_and_grads`.

    Attributes:
        step: Optimiser steps taken so far, shape ``()``.
        is_bound: Whether minus the loss is a lower bound of log p(x) in expectation.
    """

    step: Tensor
    max_plate_nesting: float
    is_bound: bool = True

    def __init__(self, num_particles: int = 1, **kwargs: Any) -> None:
        super().__init__(num_particles=num_particles, **kwargs)
        self.step = torch.zeros(())

    @abstractmethod
    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Returns the loss summed over the batch, shape ``()``, nats."""

    def advance(self) -> None:
        """Counts one optimiser step."""
        self.step.add_(1)

    @torch.no_grad()
    def loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> float:
        """Returns the loss as a number, without gradients and without counting a step."""
        return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> float:
        """Returns the loss as a number, adds its gradients to the parameters, counts a step."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        self.advance()
        return loss.item()
