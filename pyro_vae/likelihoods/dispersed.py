"""What likelihoods of counts with a learned dispersion have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae._errors import unknown_name
from pyro_vae.distributions import inverse_positive, positive
from pyro_vae.likelihoods.counts import Counts

__all__ = ["Dispersed", "DispersionMode", "inverse_dispersion", "negative_binomial"]

DispersionMode = Literal["shared", "per-dimension", "predicted"]
_POISSON = 1e3  # an inverse dispersion from which on the counts are practically Poisson


class Dispersed(Counts):
    """Negative binomial variables, each with a mean and an inverse dispersion, and what adds to it.

    Args:
        event_shape: Shape of one x.
        dispersion: ``shared``, one learned number; ``per-dimension``, one learned number for each
            entry; ``predicted``, given by the decoder as its last parameter.
        num_params: Parameters of an entry besides a predicted dispersion.
        size_factor: Whether each observation has one, given as the covariate ``size_factor``.

    Raises:
        ValueError: If ``dispersion`` is none of these words.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        dispersion: DispersionMode,
        num_params: int,
        size_factor: bool = False,
    ) -> None:
        if dispersion not in get_args(DispersionMode):
            raise unknown_name("dispersion", dispersion, get_args(DispersionMode))
        super().__init__(event_shape, num_params + (dispersion == "predicted"), size_factor)
        self.dispersion = dispersion
        if dispersion != "predicted":
            shape = self.event_shape if dispersion == "per-dimension" else ()
            self.raw_dispersion = nn.Parameter(inverse_positive(torch.ones(shape)))

    def fit_dispersion(self, square: Tensor, excess: Tensor) -> Tensor:
        """Returns :func:`inverse_dispersion`, one for all if it is shared."""
        return inverse_dispersion(square, excess, pooled=self.dispersion == "shared")

    @torch.no_grad()
    def start_at(self, params: Sequence[Tensor], theta: Tensor) -> Tensor:
        """Stacks parameters, and puts the inverse dispersion where it belongs."""
        if self.dispersion == "predicted":
            return torch.cat([*params, inverse_positive(theta)])
        self.raw_dispersion.copy_(inverse_positive(theta))
        return torch.cat(list(params))

    def counts(
        self, raw_mean: Tensor, raw: Sequence[Tensor], size_factor: Tensor | None = None
    ) -> TorchDistributionMixin:
        """Returns the negative binomial distribution, batch shape that of the mean."""
        theta = positive(raw[0] if raw else self.raw_dispersion)
        return negative_binomial(self.sized(positive(raw_mean), size_factor), theta)


def negative_binomial(mean: Tensor, theta: Tensor) -> TorchDistributionMixin:
    """Returns the distribution with variance ``mean + mean**2 / theta``."""
    return dist.NegativeBinomial(theta, logits=mean.log() - theta.log())


def inverse_dispersion(square: Tensor, excess: Tensor, *, pooled: bool = False) -> Tensor:
    """Returns the inverse dispersion whose variance exceeds the mean by so much.

    Args:
        square: The squared mean, or the mean of several.
        excess: The variance less the mean, or the mean of several.
        pooled: Whether there is one for all entries.
    """
    if pooled:
        square, excess = square.sum(), excess.sum()
    return (square / excess.clamp_min(1e-12)).clamp(1e-3, _POISSON)
