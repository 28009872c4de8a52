"""Power spherical distribution: directions around one of them."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions.kl import register_kl

from pyro_vae.distributions.spherical_uniform import SphericalUniform, uniform_direction

__all__ = ["PowerSpherical"]


class PowerSpherical(TorchDistribution):
    r"""Creates directions around one of them: the power spherical distribution.

    .. math:: p(x) \propto (1 + \mu^\top x)^\kappa

    References:
        The Power Spherical distribution (De Cao and Aziz, 2020), https://arxiv.org/abs/2006.04437

    Args:
        loc: The direction, a unit vector, shape ``(*, dim)``.
        concentration: Positive, how close draws are to it, shape ``(*,)``.

    Example:
        >>> d = PowerSpherical(torch.tensor([0.0, 0.0, 1.0]), torch.tensor(8.0))
        >>> d.mean
        tensor([0.0000, 0.0000, 0.8000])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": dist.constraints.sphere,
        "concentration": dist.constraints.positive,
    }
    support = dist.constraints.sphere
    has_rsample = True

    def __init__(self, loc: Tensor, concentration: Tensor, validate_args: Any = None) -> None:
        batch_shape = torch.broadcast_shapes(loc.shape[:-1], concentration.shape)
        self.loc = loc.expand(*batch_shape, -1)
        self.concentration = concentration.expand(batch_shape)
        super().__init__(batch_shape, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> PowerSpherical:
        loc = self.loc.expand(*batch_shape, -1)
        new = PowerSpherical(loc, self.concentration.expand(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def _alpha(self) -> Tensor:
        """Of the beta distribution of (1 + cos) / 2; the other parameter is ``_beta``."""
        return self._beta + self.concentration

    @property
    def _beta(self) -> float:
        return (self.event_shape[0] - 1) / 2

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        sample_shape = torch.Size(sample_shape)
        shape = self._extended_shape(sample_shape)
        alpha = self._alpha.expand(shape[:-1])
        # Both shares are drawn, since one minus the other is zero where they are far apart.
        shares = dist.Dirichlet(
            torch.stack([alpha, torch.full_like(alpha, self._beta)], -1), validate_args=False
        ).rsample()
        near, far = shares.clamp_min(torch.finfo(shares.dtype).tiny).unbind(-1)
        # The first axis, or its opposite, whichever is farther from `loc`, is reflected onto it:
        # the reflection is then well defined everywhere, and smooth but on an equator.
        loc = self.loc.expand(shape)
        sign = torch.where(loc[..., 0] > 0, -1.0, 1.0)
        cosine, sine = near - far, 2 * (near * far).sqrt()
        around = sine[..., None] * uniform_direction(loc[..., 1:])
        drawn = torch.cat([(sign * cosine)[..., None], around], -1)
        normal = torch.cat([(sign - loc[..., 0])[..., None], -loc[..., 1:]], -1)
        along = (normal * drawn).sum(-1) / normal.square().sum(-1)
        return drawn - 2 * along[..., None] * normal

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        # (1 + cos) / 2 of unit vectors, which rounding cannot make negative.
        share = (value + self.loc).square().sum(-1) / 4
        share = share.clamp_min(torch.finfo(share.dtype).tiny)
        return self.concentration * share.log() - self._log_normalizer()

    def _log_normalizer(self) -> Tensor:
        """Of the power of (1 + cos) / 2, whose mean power keeps digits that a power of 2 takes."""
        beta = self._beta
        constant = 2 * beta * math.log(2) + beta * math.log(math.pi)
        return constant + self._alpha.lgamma() - (self._alpha + beta).lgamma()

    def entropy(self) -> Tensor:
        log_share = self._alpha.digamma() - (self._alpha + self._beta).digamma()
        return self._log_normalizer() - self.concentration * log_share

    @property
    def mean(self) -> Tensor:
        """The mean vector, inside the sphere."""
        return (self.concentration / (self._alpha + self._beta))[..., None] * self.loc

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate."""
        total = self._alpha + self._beta
        length = self.concentration / total
        square = length.square() + 4 * self._alpha * self._beta / (total.square() * (total + 1))
        along, length, square = self.loc.square(), length[..., None], square[..., None]
        across = (1 - square) / (2 * self._beta)
        return along * (square - length.square()) + (1 - along) * across


@register_kl(PowerSpherical, SphericalUniform)
def _kl_power_spherical_uniform(p: PowerSpherical, q: SphericalUniform) -> Tensor:
    return q.entropy() - p.entropy()
