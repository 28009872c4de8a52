"""What a fit started with, and where it is between two steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from pyro_vae.engine import Position
from pyro_vae.training.recipe import Recipe
from pyro_vae.training.scoring import Best

__all__ = ["Start", "State"]


class Start(NamedTuple):
    """What a run started with.

    Attributes:
        random: The state of the generators.
        settings: What it is known again by.
        asked: The arguments of the fit.
        order: Places of the training rows on which the ELBO is followed; None until drawn.
    """

    random: Mapping[str, Any]
    settings: Mapping[str, Any]
    asked: Mapping[str, Any]
    order: Tensor | None


@dataclass
class State:
    """Where a fit is between two steps, besides what model, optimiser and generators are.

    Attributes:
        epoch: The epoch that goes on, counted from 1.
        position: Where its pass is; None between two epochs.
        history: What there is to say of the epochs that are over, by name.
        best: The best epoch so far, where there is a score.
        averaged: The best epoch of averaged weights, likewise.
        seconds: Time that earlier processes took.
    """

    epoch: int = 1
    position: Position | None = None
    history: dict[str, list[float]] = field(default_factory=dict)
    best: Best | None = None
    averaged: Best | None = None
    seconds: float = 0.0

    def record(self, line: Mapping[str, float]) -> None:
        """Ends an epoch with its line of the history; what it has not is NaN."""
        behind = len(self.history.get("epoch", ()))
        for key in dict.fromkeys((*self.history, *line)):
            column = self.history.setdefault(key, [math.nan] * behind)
            column.append(line.get(key, math.nan))
        self.epoch += 1
        self.position = None

    def watched(self, recipe: Recipe) -> Best | None:
        """Returns the best epoch of the weights that the model is to end with."""
        return self.averaged if recipe.restored == "average" else self.best

    def is_over(self, recipe: Recipe) -> bool:
        """Returns whether all epochs, or enough of them, are behind."""
        if self.epoch > recipe.epochs:
            return True
        best = self.watched(recipe)
        if recipe.patience is None or best is None:
            return False
        scored = (self.epoch - 1) // recipe.monitor_every * recipe.monitor_every
        return scored - best.epoch >= recipe.patience
