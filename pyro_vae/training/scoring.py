"""Which epoch is best, by which score, and when there has been none for long enough."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae._errors import expected, is_number
from pyro_vae._untouched import undisturbed
from pyro_vae.data.rows import Rows
from pyro_vae.engine.by_rows import Again
from pyro_vae.objectives.importance import Importance
from pyro_vae.programs import Amortized
from pyro_vae.programs.streamed import StreamedRows
from pyro_vae.training.averaging import Averaging, copied
from pyro_vae.training.monitor import bound, chosen_by, monitor
from pyro_vae.training.recipe import Monitor
from pyro_vae.training.scales import Scales, Unscaled

__all__ = ["AVERAGED", "Best", "Scoring"]

AVERAGED = "averaged_"  # before the scores of averaged weights
_OWN = "score"  # of a function of the user's
_SEED = 20180803  # the same draws at each epoch


class Best(NamedTuple):
    """The epoch of the best score, that score, and the weights then."""

    epoch: int
    bound: float
    weights: dict[str, Tensor]


class Scoring:
    """Creates what scores the weights at the end of an epoch, and tells which are best.

    Args:
        vae: The model.
        objective: What is minimised.
        rows: Training rows on which the ELBO is followed.
        held_out: Validation rows, if any.
        asked: The score that the best epoch has the greatest of; None for the bound on validation
            rows.
    """

    def __init__(
        self,
        vae: Amortized,
        objective: object,
        rows: Rows,
        held_out: Rows | StreamedRows | None,
        asked: Monitor | None,
    ) -> None:
        self.vae, self.objective, self.rows, self.held_out = vae, objective, rows, held_out
        self._again = Again(), Again(), Again()
        self.function = asked if callable(asked) else None
        self.name: str = chosen_by(vae, objective) if asked is None else _OWN
        if isinstance(asked, str):
            self.name = asked
        if self.name == "validation_bound" and not isinstance(objective, Importance):
            what = "a score of this objective, which is no bound of several draws"
            raise expected("monitor", what, self.name)

    @property
    def chooses(self) -> bool:
        """Whether there are data for the score that the best epoch is chosen by."""
        return self.held_out is not None or not self.name.startswith("validation_")

    def line(self) -> dict[str, float]:
        """Returns what there is to say of the weights as they are, by name."""
        return self._on_training_rows() | self._held_out() | self._own()

    def averaged(self, average: Averaging, scales: Scales | Unscaled) -> tuple[Any, ...]:
        """Returns the same of averaged weights, and these, with scales at their optimum for them.

        Of training rows there is what the best epoch is chosen by, if it is that.
        """
        with average.applied():
            scales.fit()
            line = self._held_out() | self._own()
            if self.name in ("elbo", "reconstruction"):
                line |= {self.name: self._on_training_rows()[self.name]}
            return {f"{AVERAGED}{name}": value for name, value in line.items()}, copied(self.vae)

    def better(self, best: Best | None, line: Mapping[str, float], prefix: str = "") -> bool:
        """Returns whether a line of the history has a better score than the best."""
        score = line.get(prefix + self.name, -math.inf)
        return score > (-math.inf if best is None else best.bound)

    def _on_training_rows(self) -> dict[str, float]:
        return monitor(self.vae, self.objective, self.rows, self._again[0])

    def _held_out(self) -> dict[str, float]:
        if self.held_out is None:
            return {}
        line = monitor(self.vae, self.objective, self.held_out, self._again[1], "validation_")
        if self.name == "validation_bound":
            assert isinstance(self.objective, Importance)
            line[self.name] = bound(self.vae, self.objective, self.held_out, self._again[2])
        return line

    def _own(self) -> dict[str, float]:
        if self.function is None:
            return {}
        with undisturbed(self.vae, _SEED, self.vae.device), torch.no_grad():
            value = self.function(self.vae)
        value = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        if not is_number(value):
            raise expected("monitor", "a function from the model to a number", value)
        return {_OWN: float(value)}
