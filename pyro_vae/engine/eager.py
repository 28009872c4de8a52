"""The eager engine: it runs the Pyro programs as they are, step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_vae.engine.problem import Loss, Problem, is_finite
from pyro_vae.engine.protocol import Attempt, Batch

__all__ = ["EagerEngine"]


class EagerEngine:
    """Creates the engine that runs the programs as stock SVI does.

    Args:
        problem: What to take steps of.
    """

    name: Literal["eager"] = "eager"
    masks = False
    attempt = None
    captures = 0
    unrolls = True

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.random: Tensor | None = None

    def steps(
        self,
        batch: Batch,
        tensors: Sequence[Tensor],
        count: int,
        taken: Sequence[Loss] = (),
    ) -> Tensor:
        """Takes ``count`` steps; ``taken`` are the losses of those of them that have been taken."""
        losses: list[Loss] = list(taken)
        self.random = None
        for number in range(len(losses), count):
            args, kwargs = batch.arguments(tensors, number)
            if self._problem.device.type == "cpu":
                self.random = torch.get_rng_state()
            try:
                loss, params = self._problem.gradients(args, kwargs)
            except ValueError as error:
                # A distribution refuses parameters that are not finite before there is a loss.
                if self._problem.on_nonfinite == "ignore" or "invalid values" not in str(error):
                    raise
                loss, params = math.nan, []
            losses.append(self._problem.step(loss, params))
            if self._problem.on_nonfinite == "raise" and not is_finite(losses[-1]):
                break
        return _exactly(losses)

    def rewind(self, count: int) -> None:
        """Has nothing to take back: what is not finite was neither taken nor counted."""

    def again(self, attempt: Attempt) -> Tensor:
        raise AssertionError("its steps are refused by their own errors")

    def state_dict(self) -> dict[str, Any]:
        return {"worthwhile": None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Has chosen nothing."""


def _exactly(losses: list[Loss]) -> Tensor:
    """Returns losses in single precision, or in double where that alone has them in full."""
    exact = torch.tensor(losses, dtype=torch.float64)
    single = exact.float()
    return single if bool(((single == exact) | exact.isnan()).all()) else exact
