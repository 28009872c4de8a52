"""What likelihoods that work in units of the training data have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae._errors import expected
from pyro_vae.distributions import InUnits, inverse_positive, positive
from pyro_vae.likelihoods.likelihood import Likelihood

__all__ = ["LikelihoodInUnits", "weighted_mean", "work_as_before"]


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

    def fit_spread(self, residuals: Tensor, weights: Tensor, dims: tuple[int, ...]) -> Tensor:
        """Returns the maximum-likelihood spread of residuals, reduced over ``dims``.

        Args:
            residuals: Shape ``(M, *event_shape)``.
            weights: Not negative, of the same shape; where they add up to 0 anything will do.
            dims: The first dimension, those of a channel beside it, or all.

        Raises:
            ValueError: If there is no closed form, as where a subclass gives none.
        """
        raise expected("likelihood", "one whose spread has a closed form", self)

    def to_units(self, x: Tensor) -> Tensor:
        return (x - self.unit_loc) / self.unit_scale

    def from_units(self, u: Tensor) -> Tensor:
        return self.unit_loc + self.unit_scale * u

    def of_data(self, in_units: TorchDistributionMixin) -> Distribution:
        """Returns the distribution of x, of that of its entries in these units."""
        d = InUnits(in_units, self.unit_loc, self.unit_scale)
        return d.to_event(len(self.event_shape))

    def spread_of(self, raw: Sequence[Tensor]) -> Tensor | None:
        """Returns the spread of entries that the decoder gives, or that is learned; None if fixed.

        Args:
            raw: What the decoder gave for it, in a sequence that is empty if it gives none.
        """
        found = raw[0] if raw else self._raw
        return None if found is None else positive(found)

    @property
    def _raw(self) -> nn.Parameter | None:
        return getattr(self, self.raw_spread_name, None)

    @property
    def fits_scale(self) -> bool:
        has_form = type(self).fit_spread is not LikelihoodInUnits.fit_spread
        return has_form and self._raw is not None and self._raw.requires_grad

    @torch.no_grad()
    def fit_scale(
        self, x: Tensor, params: Tensor, mask: Tensor | None = None, weights: Tensor | None = None
    ) -> None:
        if self._raw is None:
            name = self.raw_spread_name.removeprefix("raw_")
            what = "shared, per-channel or per-dimension, to be fitted"
            raise expected(name, what, getattr(self, name))
        residuals = self.residuals(x, params)
        each = torch.ones_like(residuals)
        if mask is not None:
            each = each * mask
        if weights is not None:
            each = each * weights.reshape(*weights.shape, *[1] * len(self.event_shape))
        each = each.reshape(-1, *self.event_shape)
        shape = self._raw.shape or (1,) * len(self.event_shape)
        inner = (i for i, size in enumerate(shape, 1) if size == 1)  # one number for all of these
        dims = (0, *inner)
        spread = self.fit_spread(residuals.reshape(each.shape), each, dims)
        spread, total = (value.reshape(self._raw.shape) for value in (spread, each.sum(dims)))
        self._raw.copy_(torch.where(total > 0, inverse_positive(spread), self._raw))

    def keep_units(self, loc: Tensor, scale: Tensor, *, persistent: bool = True) -> None:
        """Sets the units.

        Args:
            loc: What is 0 in them, shape ``event_shape``.
            scale: What is 1 in them.
            persistent: Whether they are part of the state, as they are not of models of before.
        """
        self.register_buffer("unit_loc", loc.to(self.unit_loc), persistent=persistent)
        self.register_buffer("unit_scale", scale.to(self.unit_scale), persistent=persistent)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        kept = self.unit_loc, self.unit_scale
        if f"{prefix}unit_loc" in state_dict:
            self.keep_units(*kept)
        elif "unit_loc" not in self._non_persistent_buffers_set:
            # A state without units says nothing of them: those of now remain.
            state_dict |= {f"{prefix}unit_loc": kept[0], f"{prefix}unit_scale": kept[1]}
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def work_as_before(vae: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Has a fitted model whose state knows no units work in those of the data, as it did.

    It is then written as it was, without units.

    Args:
        vae: The model that is to take over the state.
        state: Its state.
    """
    if not bool(state.get("initialized", False)):
        return
    for name, module in vae.named_modules():
        if isinstance(module, LikelihoodInUnits) and f"{name}.unit_loc" not in state:
            zero = torch.zeros_like(module.unit_loc)
            module.keep_units(zero, zero + 1, persistent=False)


def weighted_mean(values: Tensor, weights: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Returns a mean over ``dims``; 0 where all weights are."""
    total = weights.sum(dims)
    return (weights * values).sum(dims) / torch.where(total > 0, total, torch.ones_like(total))
