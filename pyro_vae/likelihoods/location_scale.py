"""What likelihoods with a location and a scale have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae._errors import expected
from pyro_vae.distributions import inverse_positive, units_of
from pyro_vae.distributions.in_units import by_entries
from pyro_vae.likelihoods.in_units import LikelihoodInUnits
from pyro_vae.likelihoods.likelihood import a_shape

__all__ = ["LocationScale", "ScaleMode"]

ScaleMode = Literal["shared", "per-channel", "per-dimension", "predicted"]


class LocationScale(LikelihoodInUnits):
    r"""Independent real variables, each with a location and a scale.

    Subclasses choose the family by :meth:`distribution`. Locations and learned scales are in units
    of the training data, mean and standard deviation: a scale is ``softplus(raw) + 1e-4`` of these.

    Args:
        event_shape: Shape of one x.
        scale: A fixed number, in the units of the data; ``shared``, one learned number;
            ``per-dimension``, one learned number for each entry; ``per-channel``, one for each
            channel of series ``(C, T)`` or images ``(C, H, W)``, which then has a unit of its own,
            too; ``predicted``, given by the decoder beside the location; None is
            ``per-dimension`` for vectors and ``shared`` for images.

    Raises:
        ValueError: If ``scale`` is neither a positive number nor one of these words.
    """

    support = constraints.real
    measure: Literal["lebesgue"] = "lebesgue"
    raw_spread_name = "raw_scale"

    def __init__(self, event_shape: Sequence[int], scale: float | ScaleMode | None = None) -> None:
        if scale is None:
            # Of one entry they are the same, but for the shape that older files have.
            is_table = len(a_shape(event_shape)) == 1 and event_shape[0] > 1
            scale = "per-dimension" if is_table else "shared"
        fixed = isinstance(scale, int | float) and not isinstance(scale, bool) and scale > 0
        if not fixed and scale not in get_args(ScaleMode):
            words = ", ".join(get_args(ScaleMode))
            raise expected("scale", f"a positive number or one of {words}", scale)
        super().__init__(event_shape, num_params=2 if scale == "predicted" else 1)
        self.scale = scale
        # It is rebuilt as it is, whatever the default will be.
        if "scale" in self._arguments:
            self._arguments = self._arguments | {"scale": scale}
        if scale in ("shared", "per-channel", "per-dimension"):
            each = self.event_shape if scale == "per-dimension" else torch.Size(())
            shape = self._channels if scale == "per-channel" else each
            self.raw_scale = nn.Parameter(inverse_positive(torch.ones(shape)))

    @abstractmethod
    def distribution(self, loc: Tensor, scale: Tensor) -> TorchDistributionMixin:
        """Returns the distribution of single entries, batch shape that of ``loc``.

        Args:
            loc: Locations, in units of the training data, shape ``(*, B, *event_shape)``.
            scale: Scales in the same units, of a shape that broadcasts with it.
        """

    @abstractmethod
    def fit_marginal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns locations and scales that fit data entry by entry, of shape ``event_shape`` each.

        Args:
            x: Data, shape ``(N, *event_shape)``.
        """

    @torch.no_grad()
    def take_units(self, x_train: Tensor) -> Tensor:
        self.keep_units(*self.by_channels(units_of, x_train))
        return torch.ones_like(self.unit_loc, dtype=torch.bool)

    def standardized(self, inputs: Tensor) -> Tensor:
        return self.to_units(inputs).to(inputs)

    def by_channels(
        self, units: Callable[[Tensor], tuple[Tensor, Tensor]], x_train: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the units of data, those of each channel by itself if each has a scale.

        Args:
            units: From data to their units, location and scale.
            x_train: Data, shape ``(N, *event_shape)``.
        """
        if self.scale != "per-channel" or x_train.ndim == 2:  # each entry has its own, or all
            return units(x_train)
        found = [units(each) for each in x_train.split(1, 1)]
        return torch.cat([loc for loc, _ in found]), torch.cat([scale for _, scale in found])

    @property
    def _channels(self) -> torch.Size:
        """The shape of one number a channel."""
        return torch.Size((self.event_shape[0], *[1] * (len(self.event_shape) - 1)))

    def residuals(self, x: Tensor, params: Tensor) -> Tensor:
        return self.to_units(x) - params

    def pooled(self, scale: Tensor) -> Tensor:
        """Returns the one scale, of shape ``()``, that stands for those of all entries.

        Args:
            scale: Those, of shape ``event_shape``.
        """
        return scale.mean()

    def _marginal(self, x: Tensor, unit_loc: Tensor, unit_scale: Tensor) -> tuple[Tensor, Tensor]:
        return self.fit_marginal((x - unit_loc) / unit_scale)

    @torch.no_grad()
    def init_params(self, x_train: Tensor) -> Tensor:
        """Returns the locations, with the raw scales after them if predicted: in its units."""
        units = self.unit_loc.to(x_train.device), self.unit_scale.to(x_train.device)
        loc, scale = by_entries(self._marginal, x_train, *units)
        if self.scale == "shared":
            self.raw_scale.copy_(inverse_positive(self.pooled(scale)))
        elif self.scale == "per-channel":
            pooled = torch.stack([self.pooled(each) for each in scale])
            self.raw_scale.copy_(inverse_positive(pooled.reshape(self._channels)))
        elif self.scale == "per-dimension":
            self.raw_scale.copy_(inverse_positive(scale))
        elif self.scale == "predicted":
            return torch.cat([loc, inverse_positive(scale)])
        return loc

    def forward(self, params: Tensor) -> Distribution:
        """Returns p(x|z) from locations, and raw scales if predicted, ``(*, B, *param_shape)``."""
        loc, *raw = self.split(params)
        scale = self.spread_of(raw)
        if scale is None:
            scale = loc.new_tensor(self.scale) / self.unit_scale.to(loc.dtype)
        return self.of_data(self.distribution(loc, scale))
