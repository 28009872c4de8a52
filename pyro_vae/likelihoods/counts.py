"""What likelihoods of counts have in common: the size factor of an observation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor
from torch.distributions import constraints

from pyro_vae._errors import expected
from pyro_vae.distributions import SCALE_FLOOR
from pyro_vae.likelihoods.likelihood import Likelihood

__all__ = ["Counts"]

_MOST = 100.0  # for a mean size factor, or its inverse: beyond, raw rates are hard to learn


class Counts(Likelihood):
    """Counts, whose mean a size factor multiplies: exposure, sequencing depth, observed time.

    A size factor is known and positive, one an observation. The encoder sees counts divided by it.

    Args:
        event_shape: Shape of one x.
        num_params: Parameters the decoder gives for each entry of x.
        size_factor: Whether each observation has one, the covariate ``size_factor``.
    """

    support: constraints.Constraint = constraints.nonnegative_integer
    measure: Literal["counting"] = "counting"

    def __init__(
        self, event_shape: Sequence[int], num_params: int = 1, size_factor: bool = False
    ) -> None:
        if not isinstance(size_factor, bool):
            what = "True or False (the numbers themselves are `covariates`)"
            raise expected("size_factor", what, size_factor)
        super().__init__(event_shape, num_params)
        self.size_factor = size_factor
        if size_factor:
            self.covariates = ("size_factor",)

    def sized(self, mean: Tensor, size_factor: Tensor | None) -> Tensor:
        """Returns means ``(*, B, *event_shape)`` times size factors, shape ``(B,)``.

        Raises:
            ValueError: If size factors are missing, or the likelihood has none.
        """
        if (size_factor is not None) != self.size_factor:
            absent = "None for a likelihood without size factors"
            what = "one an observation" if self.size_factor else absent
            raise expected("size_factor", what, size_factor)
        return mean if size_factor is None else mean * self._aligned(size_factor)

    def encoder_input(self, x: Tensor, **covariates: Tensor) -> Tensor:
        """Returns counts divided by their size factors, shape ``(*, *event_shape)``."""
        return x / self._aligned(covariates["size_factor"]) if self.size_factor else x

    def sizes(self, x_train: Tensor, size_factor: Tensor | None) -> Tensor:
        """Returns the size factors of training data so that they multiply x; one 1 without them.

        Raises:
            ValueError: If their mean is far from 1, for which rates have no precision.
        """
        if size_factor is None:
            return x_train.new_ones(1, *(1 for _ in self.event_shape))
        if not 1 / _MOST <= (mean := float(size_factor.mean())) <= _MOST:
            what = f"a mean near 1 (divide by it: rates have a floor of {SCALE_FLOOR:g})"
            raise expected("size_factor", what, round(mean, 4))
        return self._aligned(size_factor)

    def _aligned(self, size_factor: Tensor) -> Tensor:
        return size_factor.reshape(*size_factor.shape, *(1 for _ in self.event_shape))
