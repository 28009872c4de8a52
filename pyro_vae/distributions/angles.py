"""Angles: their support, and a von Mises distribution by its natural parameters."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, VonMises
from torch import Tensor
from torch.distributions import constraints

__all__ = ["AngleSupport", "NaturalVonMises"]

_ROUNDED = 1e-5  # by which an end may be beyond
_LEAST = 1e-6  # of the concentration, whose direction would have no gradient at 0


class AngleSupport(constraints.interval):
    """Angles in radians, from -π to π, both ends of which are the same angle.

    An end may be rounded to four digits, as 3.1416 is.

    Example:
        >>> AngleSupport().check(torch.tensor([-3.0, 4.0]))
        tensor([ True, False])
    """

    def __init__(self) -> None:
        super().__init__(-math.pi - _ROUNDED, math.pi + _ROUNDED)

    def __repr__(self) -> str:
        return "Angle(from -π to π radians)"


class NaturalVonMises(TorchDistribution):
    r"""Creates a von Mises variable: an angle in radians, from -π to π.

    .. math:: p(x) \propto \exp(a \cos x + b \sin x), \quad
        \kappa = \sqrt{a^2 + b^2}, \quad \mu = \operatorname{atan2}(b, a)

    The parameters may be any real numbers, and the density is smooth in them, where that of a
    location jumps from π to -π.

    Args:
        cosine: The natural parameter a.
        sine: The natural parameter b, of the same shape.

    Example:
        >>> d = NaturalVonMises(torch.tensor(0.0), torch.tensor(5.0))
        >>> round(float(d.mean), 4), round(float(d.concentration), 4)
        (1.5708, 5.0)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "cosine": constraints.real,
        "sine": constraints.real,
    }
    support = AngleSupport()

    def __init__(self, cosine: Tensor, sine: Tensor, validate_args: Any = None) -> None:
        self.cosine, self.sine = torch.broadcast_tensors(cosine, sine)
        super().__init__(self.cosine.shape, validate_args=validate_args)

    @property
    def concentration(self) -> Tensor:
        """The concentration κ."""
        return (self.cosine.square() + self.sine.square() + _LEAST**2).sqrt()

    @property
    def mean(self) -> Tensor:
        """The mean direction, an angle."""
        return torch.atan2(self.sine, self.cosine)

    @property
    def variance(self) -> Tensor:
        """The circular variance: one less the length of the mean of unit vectors."""
        kappa = self.concentration
        return 1 - torch.special.i1e(kappa) / torch.special.i0e(kappa)

    def expand(self, batch_shape: Any, _instance: Any = None) -> NaturalVonMises:
        shape = torch.Size(batch_shape)
        cosine, sine = self.cosine.expand(shape), self.sine.expand(shape)
        return NaturalVonMises(cosine, sine, self._validate_args)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        drawn = VonMises(self.mean, self.concentration).sample(torch.Size(sample_shape))
        return drawn.clamp(-math.pi, math.pi)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        kappa = self.concentration
        # The Bessel function divided by e**kappa, which would overflow.
        log_normalizer = kappa + torch.special.i0e(kappa).log() + math.log(2 * math.pi)
        return self.cosine * value.cos() + self.sine * value.sin() - log_normalizer
