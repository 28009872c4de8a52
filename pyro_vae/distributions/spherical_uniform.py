"""Uniform distribution on the unit sphere of any dimension."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

__all__ = ["SphericalUniform"]


class SphericalUniform(TorchDistribution):
    """Creates directions, all equally likely: the uniform distribution on the unit sphere.

    Args:
        loc: Of any value: only shape, ``(*, dim)``, dtype and device matter.

    Example:
        >>> d = SphericalUniform(torch.zeros(3))
        >>> torch.isclose(d.log_prob(d.sample()).exp(), torch.tensor(0.25 / math.pi))
        tensor(True)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": dist.constraints.real_vector}
    support = dist.constraints.sphere
    has_rsample = True

    def __init__(self, loc: Tensor, validate_args: Any = None) -> None:
        self.loc = loc
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> SphericalUniform:
        new = SphericalUniform(self.loc.expand(*batch_shape, -1), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return uniform_direction(self.loc.expand(self._extended_shape(torch.Size(sample_shape))))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return -self.entropy() + torch.zeros_like(value[..., 0])

    def entropy(self) -> Tensor:
        """The logarithm of the area of the sphere."""
        half = self.event_shape[0] / 2
        area = math.log(2) + half * math.log(math.pi) - math.lgamma(half)
        return self.loc.new_full(self.batch_shape, area)

    @property
    def mean(self) -> Tensor:
        """The centre of the sphere."""
        return torch.zeros_like(self.loc)

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate."""
        return torch.full_like(self.loc, 1 / self.event_shape[0])


def uniform_direction(like: Tensor) -> Tensor:
    """Unit vectors of that shape, all directions alike."""
    normal = torch.randn(like.shape, dtype=like.dtype, device=like.device)
    tiny = torch.finfo(normal.dtype).tiny
    return normal / normal.norm(dim=-1, keepdim=True).clamp_min(tiny)
