"""What likelihoods that work in units of the training data have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae._errors import expected
from pyro_vae.distributions import InUnits, inverse_positive
from pyro_vae.likelihoods.likelihood import Likelihood

__all__ = ["LikelihoodInUnits", "weighted_mean"]


class LikelihoodInUnits(Likelihood):
    r"""Independent entries in units of the training data, with spreads that may be learned.

    Once :meth:`take_units` has taken them, results do not depend on the units that data come in,

    .. math:: \log p(a x + b) = \log p(x) - \sum_d \log a_d

    Args:
        event_shape: Shape of one x.
        num_params: Parameters the decoder gives for each entry of x.
    """

    unit_loc: Tensor
    unit_scale: Tensor
    raw_spread_name: str  # of the parameter that is the learned spread, where there is one

    def __init__(self, event_shape: Sequence[int], num_params: int) -> None:
        super().__init__(event_shape, num_params)
        self.register_buffer("unit_loc", torch.zeros(self.event_shape))
        self.register_buffer("unit_scale", torch.ones(self.event_shape))

    @abstractmethod
    def residuals(self, x: Tensor, params: Tensor) -> Tensor:
        """Returns what a spread is the spread of, shape ``(*, N, *event_shape)``."""

    @abstractmethod
    def fit_spread(self, residuals: Tensor, weights: Tensor, dims: tuple[int, ...]) -> Tensor:
        """Returns the maximum-likelihood spread of residuals, reduced over ``dims``.

        Args:
            residuals: Shape ``(M, *event_shape)``.
            weights: Not negative, likewise; where they add up to 0 anything will do.
            dims: The first dimension, or all.
        """

    def to_units(self, x: Tensor) -> Tensor:
        return (x - self.unit_loc) / self.unit_scale

    def from_units(self, u: Tensor) -> Tensor:
        return self.unit_loc + self.unit_scale * u

    def of_data(self, in_units: TorchDistributionMixin) -> Distribution:
        """Returns the distribution of x, of that of its entries in these units."""
        d = InUnits(in_units, self.unit_loc, self.unit_scale)
        return d.to_event(len(self.event_shape))

    @property
    def _raw(self) -> nn.Parameter | None:
        return getattr(self, self.raw_spread_name, None)

    @property
    def fits_scale(self) -> bool:
        return self._raw is not None and self._raw.requires_grad

    @torch.no_grad()
    def fit_scale(
        self, x: Tensor, params: Tensor, mask: Tensor | None = None, weights: Tensor | None = None
    ) -> None:
        if self._raw is None:
            name = self.raw_spread_name.removeprefix("raw_")
            raise expected(name, "shared or per-dimension, to be fitted", getattr(self, name))
        residuals = self.residuals(x, params)
        each = torch.ones_like(residuals)
        if mask is not None:
            each = each * mask
        if weights is not None:
            each = each * weights.reshape(*weights.shape, *[1] * len(self.event_shape))
        each = each.reshape(-1, *self.event_shape)
        dims = tuple(range(each.ndim)) if self._raw.ndim == 0 else (0,)
        spread = self.fit_spread(residuals.reshape(each.shape), each, dims)
        observed = each.sum(dims) > 0
        self._raw.copy_(torch.where(observed, inverse_positive(spread), self._raw))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        if f"{prefix}unit_loc" not in state_dict:
            # A model of before works in the units of the data, and is written as it was.
            self.register_buffer("unit_loc", torch.zeros_like(self.unit_loc), persistent=False)
            self.register_buffer("unit_scale", torch.ones_like(self.unit_scale), persistent=False)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def weighted_mean(values: Tensor, weights: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Returns a mean over ``dims``; 0 where all weights are."""
    total = weights.sum(dims)
    return (weights * values).sum(dims) / torch.where(total > 0, total, torch.ones_like(total))
