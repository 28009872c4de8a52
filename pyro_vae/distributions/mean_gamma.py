"""A gamma distribution by its mean and its dispersion."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import Gamma, TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

__all__ = ["MeanGamma"]

_SERIES = 50.0  # shapes from which on Stirling's series has all digits
_LINEAR = 30.0  # log x less log mean, from which on the exponential is continued as a line


class MeanGamma(TorchDistribution):
    r"""Creates a gamma variable with a given mean and coefficient of variation.

    .. math:: x = \mu g, \quad g \sim \mathrm{Gamma}(\alpha, \alpha), \quad \alpha = c^{-2}, \quad
        \operatorname{Var} x = c^2 \mu^2

    The density is computed from log x less log mean, so that it has its digits whatever the unit of
    x, and however small the variation; and it is finite whatever the mean. Above a mean times
    :math:`e^{30}`, where no mass is, its logarithm falls in proportion to log x rather than to x.

    Args:
        log_mean: The logarithm of the mean.
        variation: The coefficient of variation c, positive.

    Example:
        >>> d = MeanGamma(torch.tensor(7.0).log(), torch.tensor(0.5))
        >>> round(float(d.mean), 4), round(float(d.variance), 4)
        (7.0, 12.25)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "log_mean": constraints.real,
        "variation": constraints.positive,
    }
    support = constraints.positive
    has_rsample = True

    def __init__(self, log_mean: Tensor, variation: Tensor, validate_args: Any = None) -> None:
        self.log_mean, self.variation = broadcast_all(log_mean, variation)
        super().__init__(self.log_mean.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.log_mean.exp()

    @property
    def variance(self) -> Tensor:
        """The variance."""
        return (self.mean * self.variation).square()

    def expand(self, batch_shape: Any, _instance: Any = None) -> MeanGamma:
        shape = torch.Size(batch_shape)
        return MeanGamma(
            self.log_mean.expand(shape), self.variation.expand(shape), self._validate_args
        )

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self.variation.square().reciprocal()
        of_mean_one = Gamma(shape, shape).rsample(torch.Size(sample_shape))
        numbers = torch.finfo(of_mean_one.dtype)
        # What is drawn is a positive number in any case, as the support demands.
        return (of_mean_one * self.log_mean.exp()).clamp(numbers.tiny, numbers.max)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        log_value = value.log()
        ratio, shape = log_value - self.log_mean, self.variation.square().reciprocal()
        near = ratio.clamp_max(_LINEAR)
        # e**t - 1 - t, continued as a line: what is far above the mean has a finite density.
        beyond = (ratio - _LINEAR).clamp_min(0) * math.expm1(_LINEAR)
        excess = near.expm1() - near + beyond
        return _log_peak(shape) - shape * excess - log_value


def _log_peak(shape: Tensor) -> Tensor:
    """The logarithm of the density of log x at log mean."""
    large, small = shape.clamp_min(_SERIES), shape.clamp_max(_SERIES)
    inverse = large.reciprocal()
    series = inverse * (1 / 12 - inverse.square() * (1 / 360 - inverse.square() / 1260))
    by_series = 0.5 * (large.log() - math.log(2 * math.pi)) - series
    return torch.where(shape > _SERIES, by_series, small * small.log() - small - small.lgamma())
