"""What likelihoods of positive data have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae._errors import expected, is_number
from pyro_vae.distributions import inverse_positive
from pyro_vae.likelihoods.in_units import LikelihoodInUnits

__all__ = ["Positive", "SpreadMode"]

SpreadMode = Literal["shared", "per-dimension", "predicted"]


class Positive(LikelihoodInUnits):
    """Independent positive variables, each with a location on a log scale and a relative spread.

    The decoder gives the logarithm of a location, so that data may extend over many magnitudes, and
    the encoder sees log x: both in units of the mean of the training data, entry by entry.
    Subclasses choose the family by :meth:`distribution`, and a fit to logarithms by
    :meth:`fit_logs`. Learned spreads are ``softplus(raw) + 1e-4``: they have no unit.

    Args:
        event_shape: Shape of one x.
        argument: What the subclass calls the spread.
        spread: A fixed number; ``shared``, one learned number; ``per-dimension``, one learned
            number for each entry; ``predicted``, given by the decoder beside the location.

    Raises:
        ValueError: If ``spread`` is neither a positive number nor one of these words.
    """

    support = constraints.positive
    measure: Literal["lebesgue"] = "lebesgue"
    raw_spread_name = "raw_spread"

    def __init__(
        self, event_shape: Sequence[int], argument: str, spread: float | SpreadMode
    ) -> None:
        words = get_args(SpreadMode)
        if spread not in words and not (is_number(spread) and float(spread) > 0):
            raise expected(argument, f"a positive number or one of {', '.join(words)}", spread)
        super().__init__(event_shape, num_params=2 if spread == "predicted" else 1)
        self.spread = spread
        if spread in ("shared", "per-dimension"):
            shape = self.event_shape if spread == "per-dimension" else ()
            self.raw_spread = nn.Parameter(inverse_positive(torch.ones(shape)))

    @abstractmethod
    def distribution(self, loc: Tensor, spread: Tensor) -> TorchDistributionMixin:
        """Returns the distribution of single entries, batch shape that of ``loc``.

        Args:
            loc: Logarithms of a location, shape ``(*, B, *event_shape)``.
            spread: Relative spreads, of a shape that broadcasts with it.
        """

    @abstractmethod
    def fit_logs(self, log_x: Tensor, *, pooled: bool) -> tuple[Tensor, Tensor]:
        """Returns locations and spreads that fit log x, shape ``(N, *event_shape)``.

        Args:
            log_x: Logarithms of data, shape ``(N, *event_shape)``.
            pooled: Whether there is one spread for all entries, of shape ``()``.
        """

    def encoder_input(self, x: Tensor, **covariates: Tensor) -> Tensor:
        """Returns the logarithms of x."""
        return self.to_units(x).log()

    @torch.no_grad()
    def take_units(self, x_train: Tensor) -> Tensor:
        largest = x_train.amax(0)  # of which a mean neither overflows nor vanishes
        self.keep_units(torch.zeros_like(largest), largest * (x_train / largest).mean(0))
        return super().take_units(x_train)

    def residuals(self, x: Tensor, params: Tensor) -> Tensor:
        return self.to_units(x).log() - params

    @torch.no_grad()
    def init_params(self, x_train: Tensor) -> Tensor:
        """Returns the locations, with the raw spreads after them if predicted."""
        loc, spread = self.fit_logs(self.to_units(x_train).log(), pooled=self.spread == "shared")
        if self.spread == "predicted":
            return torch.cat([loc, inverse_positive(spread)])
        if hasattr(self, "raw_spread"):
            self.raw_spread.copy_(inverse_positive(spread))
        return loc

    def forward(self, params: Tensor) -> Distribution:
        """Returns p(x|z) from locations, and raw spreads if predicted, ``(*, B, *param_shape)``."""
        loc, *raw = self.split(params)
        spread = self.spread_of(raw)
        if spread is None:
            spread = loc.new_tensor(self.spread)
        return self.of_data(self.distribution(loc, spread))
