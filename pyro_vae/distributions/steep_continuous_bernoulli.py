"""A continuous Bernoulli distribution that is a density whatever its mean."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import softplus

__all__ = ["SteepContinuousBernoulli"]

_SERIES = 0.25  # |logit| below which series have all digits
_UNIFORM = 1e-3  # |logit| below which a draw is that of a uniform variable, and a slope


class SteepContinuousBernoulli(TorchDistribution):
    r"""Creates a continuous Bernoulli variable by its logit, of any size.

    .. math:: p(x) = \frac{\eta}{e^\eta - 1} e^{\eta x}, \quad x \in [0, 1], \quad
        \operatorname{E} x = \frac{1}{1 - e^{-\eta}} - \frac1\eta

    That of PyTorch computes its constant from the probability, which in single precision it keeps
    1e-7 from 0 and 1. With a logit beyond 16 it is no density, its mass being below one, and its
    mean is never below 1/16, where the background of a grey image is.

    References:
        The continuous Bernoulli: fixing a pervasive error in variational autoencoders
        (Loaiza-Ganem and Cunningham, 2019), https://arxiv.org/abs/1907.06845

    Args:
        logits: Any real number, the slope of the log-density.

    Example:
        >>> d = SteepContinuousBernoulli(torch.tensor([-500.0, 0.0, 2.0]))
        >>> [round(mean, 4) for mean in d.mean.tolist()]
        [0.002, 0.5, 0.6565]
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.real}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: Any = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> SteepContinuousBernoulli:
        logits = self.logits.expand(torch.Size(batch_shape))
        return SteepContinuousBernoulli(logits, self._validate_args)

    def _steep(self) -> tuple[Tensor, Tensor]:
        """The size of the logit where it is no series' turn, else one; and whether it is."""
        size = self.logits.abs()
        near = size < _SERIES
        return torch.where(near, 1.0, size), near

    @property
    def mean(self) -> Tensor:
        """The mean."""
        size, near = self._steep()
        # Of a negative logit, which keeps the digits of a mean near 0.
        low = size.reciprocal() - torch.exp(-size) / -torch.expm1(-size)
        square = self.logits.square()
        series = 0.5 + self.logits / 12 * (1 - square / 60 * (1 - square / 42))
        return torch.where(near, series, torch.where(self.logits < 0, low, 1 - low))

    @property
    def variance(self) -> Tensor:
        """The variance."""
        size, near = self._steep()
        steep = size.reciprocal().square() - torch.exp(-size) / torch.expm1(-size).square()
        square = self.logits.square()
        series = 1 / 12 - square / 240 * (1 - square / 25.2 * (1 - square / 28.8))
        return torch.where(near, series, steep)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        size = self.logits.abs().clamp_min(_UNIFORM)
        u = torch.rand(shape, dtype=size.dtype, device=size.device)
        # Of a negative logit, by the inverse of (1 - exp(-size x)) / (1 - exp(-size)).
        low = -torch.log1p(u * torch.expm1(-size)) / size
        steep = torch.where(self.logits < 0, low, 1 - low)
        series = torch.where(self.logits < 0, u, 1 - u) + self.logits * u * (1 - u) / 2
        return torch.where(self.logits.abs() < _UNIFORM, series, steep).clamp(0, 1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        size, near = self._steep()
        # log of eta / tanh(eta / 2), the constant of the cross-entropy.
        steep = size.log() - torch.tanh(size / 2).log()
        square = self.logits.square()
        series = math.log(2) + torch.log1p(square / 12 * (1 - square / 60 * (1 - square / 42)))
        constant = torch.where(near, series, steep)
        return value * self.logits - softplus(self.logits) + constant
