"""What is minimised, and how: programs, loss, optimiser, and the arithmetic of a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import pyro
import pyro.infer
import torch
from pyro import poutine
from pyro.infer.util import zero_grads
from torch import Tensor

from pyro_vae.engine.graph import values_stay_tensors
from pyro_vae.engine.optim import Optim
from pyro_vae.objectives import Objective

__all__ = ["Precision", "Problem", "Program", "clipping"]

Program: TypeAlias = Callable[..., Any]
Precision: TypeAlias = Literal["float32", "tf32", "bfloat16"]


@dataclass
class Problem:
    """What every engine takes steps of.

    Attributes:
        model: A Pyro program.
        guide: A Pyro program with the same arguments.
        loss: An ELBO, or a function of model, guide and their arguments.
        optim: What moves the parameters.
        clip_norm: Norm to which longer gradients, of all parameters together, are scaled down.
        skip: Whether steps of a loss that is not finite are left out, rather than the end.
        precision: Of matrix products.
        device: Where the tensors of the last call were.
    """

    model: Program
    guide: Program
    loss: pyro.infer.ELBO | Program
    optim: Optim
    clip_norm: float | None = None
    skip: bool = False
    precision: Precision = "float32"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def gradients(self, args: Any, kwargs: Any) -> tuple[float, list[Tensor]]:
        """Returns the loss and the parameters met, whose gradients it leaves with them."""
        with poutine.trace(param_only=True) as met, self._reduced():
            if isinstance(self.loss, pyro.infer.ELBO):
                loss = self.loss.loss_and_grads(self.model, self.guide, *args, **kwargs)
            else:
                loss = self.loss(self.model, self.guide, *args, **kwargs)
                if loss.requires_grad:
                    loss.backward()
        sites = met.trace.nodes.values()
        return float(loss), list({site["value"].unconstrained(): None for site in sites})

    def differentiable_loss(self, args: Any, kwargs: Any) -> Tensor:
        """Returns the loss as a tensor that stays one, as a graph needs it, shape ``()``."""
        with values_stay_tensors(), self._reduced():
            if isinstance(self.loss, pyro.infer.ELBO):
                return self.loss.differentiable_loss(self.model, self.guide, *args, **kwargs)
            return self.loss(self.model, self.guide, *args, **kwargs)

    def step(self, loss: float, params: list[Tensor]) -> float:
        """Takes a step if all is finite, and returns the loss, NaN for a gradient's sake."""
        grads = [param.grad for param in params if param.grad is not None]
        if self.clip_norm is not None and math.isfinite(loss):
            norm, scale = clipping(grads, self.clip_norm)
            for grad in grads:
                grad.mul_(scale)
            loss = loss if bool(norm.isfinite()) else math.nan
        # Stock SVI leaves zeros as gradients, with which momentum goes on; a graph leaves none.
        idle = [p for p in params if p.grad is None and p.requires_grad and self.optim.has_moved(p)]
        for param in idle:
            param.grad = torch.zeros_like(param)
        if math.isfinite(loss):
            self.optim.step(params)
        elif params and isinstance(self.loss, Objective):
            self.loss.step.sub_(1)  # counted with the gradients, and not taken
        for param in idle:
            param.grad = None
        zero_grads(params)
        return loss

    @contextmanager
    def _reduced(self) -> Iterator[None]:
        if self.precision != "bfloat16":
            yield  # whatever autocast there is around the step is left as it is
            return
        with torch.autocast(self.device.type, torch.bfloat16):
            yield


def clipping(grads: Sequence[Tensor], largest: float) -> tuple[Tensor, Tensor]:
    """Returns the norm of all gradients together, and what to multiply each with."""
    norm = torch.nn.utils.get_total_norm(grads, foreach=False)
    return norm, (largest / (norm + 1e-6)).clamp_max(1.0)
