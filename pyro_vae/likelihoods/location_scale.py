"""What likelihoods with a location and a scale have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae._errors import expected
from pyro_vae.distributions import InUnits, inverse_positive, positive, units_of
from pyro_vae.likelihoods.likelihood import Likelihood

__all__ = ["LocationScale", "ScaleMode", "weighted_mean"]

ScaleMode = Literal["shared", "per-dimension", "predicted"]


def weighted_mean(values: Tensor, weights: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Returns a mean over ``dims``; 0 where all weights are."""
    total = weights.sum(dims)
    return (weights * values).sum(dims) / torch.where(total > 0, total, torch.ones_like(total))


class LocationScale(Likelihood):
    r"""Independent real variables, each with a location and a scale.

    Subclasses choose the family by :meth:`distribution`. Locations and learned scales are in units
    of the training data, once :meth:`take_units` has taken those: results do not depend on the
    units that data come in,

    .. math:: \log p(a x + b) = \log p(x) - \sum_d \log a_d

    A scale is ``softplus(raw) + 1e-4`` of these.

    Args:
        event_shape: Shape of one x.
        scale: A fixed number, in the units of the data; ``shared``, one learned number;
            ``per-dimension``, one learned number for each entry; ``predicted``, given by the
            decoder beside the location; None is ``per-dimension`` for vectors and ``shared`` for
            images.

    Raises:
        ValueError: If ``scale`` is neither a positive number nor one of these words.
    """

    support = constraints.real
    measure: Literal["lebesgue"] = "lebesgue"

    unit_loc: Tensor
    unit_scale: Tensor

    def __init__(self, event_shape: Sequence[int], scale: float | ScaleMode | None = None) -> None:
        if scale is None:
            # Of one entry they are the same, but for the shape that older files have.
            is_table = len(event_shape) == 1 and event_shape[0] > 1
            scale = "per-dimension" if is_table else "shared"
        fixed = isinstance(scale, int | float) and not isinstance(scale, bool) and scale > 0
        if not fixed and scale not in get_args(ScaleMode):
            words = ", ".join(get_args(ScaleMode))
            raise expected("scale", f"a positive number or one of {words}", scale)
        super().__init__(event_shape, num_params=2 if scale == "predicted" else 1)
        self.scale = scale
        # It is rebuilt as it is, whatever the default will be.
        self._arguments = self._arguments | {"scale": scale}
        self.register_buffer("unit_loc", torch.zeros(self.event_shape))
        self.register_buffer("unit_scale", torch.ones(self.event_shape))
        if scale in ("shared", "per-dimension"):
            shape = self.event_shape if scale == "per-dimension" else ()
            self.raw_scale = nn.Parameter(inverse_positive(torch.ones(shape)))

    @abstractmethod
    def distribution(self, loc: Tensor, scale: Tensor) -> TorchDistributionMixin:
        """Returns the distribution of single entries, batch shape that of ``loc``."""

    @abstractmethod
    def fit_marginal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns locations and scales that fit data ``(N, *event_shape)`` entry by entry."""

    @torch.no_grad()
    def take_units(self, x_train: Tensor) -> Tensor:
        loc, scale = units_of(x_train)
        self.unit_loc.copy_(loc)
        self.unit_scale.copy_(scale)
        return torch.ones_like(loc, dtype=torch.bool)

    def to_units(self, x: Tensor) -> Tensor:
        return (x - self.unit_loc) / self.unit_scale

    def from_units(self, u: Tensor) -> Tensor:
        return self.unit_loc + self.unit_scale * u

    @abstractmethod
    def spread(self, residuals: Tensor, weights: Tensor, dims: tuple[int, ...]) -> Tensor:
        """Returns the maximum-likelihood scale of residuals, reduced over ``dims``.

        Args:
            residuals: Shape ``(M, *event_shape)``.
            weights: Not negative, likewise; where they add up to 0 anything will do.
            dims: The first dimension, or all.
        """

    @property
    def fits_scale(self) -> bool:
        return hasattr(self, "raw_scale") and self.raw_scale.requires_grad

    @torch.no_grad()
    def fit_scale(
        self, x: Tensor, params: Tensor, mask: Tensor | None = None, weights: Tensor | None = None
    ) -> None:
        if not hasattr(self, "raw_scale"):
            raise expected("scale", "shared or per-dimension, to be fitted", self.scale)
        residuals = self.to_units(x) - params
        each = torch.ones_like(residuals) if mask is None else mask.to(residuals) + 0 * params
        if weights is not None:
            each = each * weights.reshape(*weights.shape, *[1] * len(self.event_shape))
        each = each.reshape(-1, *self.event_shape)
        dims = tuple(range(each.ndim)) if self.raw_scale.ndim == 0 else (0,)
        scale = self.spread(residuals.reshape(each.shape), each, dims)
        observed = each.sum(dims) > 0
        self.raw_scale.copy_(torch.where(observed, inverse_positive(scale), self.raw_scale))

    def pooled(self, scale: Tensor) -> Tensor:
        """Returns the one scale that stands for those of all entries."""
        return scale.mean()

    @torch.no_grad()
    def init_params(self, x_train: Tensor) -> Tensor:
        """Returns the locations, with the raw scales after them if predicted: in its units."""
        loc, scale = self.fit_marginal(self.to_units(x_train))
        if self.scale == "shared":
            self.raw_scale.copy_(inverse_positive(self.pooled(scale)))
        elif self.scale == "per-dimension":
            self.raw_scale.copy_(inverse_positive(scale))
        elif self.scale == "predicted":
            return torch.cat([loc, inverse_positive(scale)])
        return loc

    def forward(self, params: Tensor) -> Distribution:
        """Returns p(x|z) from locations, and raw scales if predicted, ``(*, B, *param_shape)``."""
        loc, *raw = self.split(params)
        if raw:
            scale = positive(raw[0])
        elif hasattr(self, "raw_scale"):
            scale = positive(self.raw_scale)
        else:
            scale = loc.new_tensor(self.scale) / self.unit_scale
        in_units = self.distribution(loc, scale)
        return InUnits(in_units, self.unit_loc, self.unit_scale).to_event(len(self.event_shape))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        if f"{prefix}unit_loc" not in state_dict:
            # A model of before works in the units of the data, and is written as it was.
            self.register_buffer("unit_loc", torch.zeros_like(self.unit_loc), persistent=False)
            self.register_buffer("unit_scale", torch.ones_like(self.unit_scale), persistent=False)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
