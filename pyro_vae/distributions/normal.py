"""Normal distributions: from features, mixtures of many, and a divergence that torch lacks."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import Independent
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.kl import register_kl

from pyro_vae.distributions.positive_parameters import positive

__all__ = ["NormalMixture", "are_diagonal", "diagonal_normal", "log_probs_of_each", "mixture"]


def diagonal_normal(features: Tensor) -> Distribution:
    """Returns N(loc, diag scale^2) of features ``(*, 2 * dim)``: loc, then raw scale."""
    loc, raw = features.chunk(2, -1)
    return dist.Normal(loc, positive(raw)).to_event(1)


def are_diagonal(components: Distribution) -> bool:
    """Returns whether these are K normal distributions of a vector with independent entries."""
    return (
        isinstance(components, torch.distributions.Independent)
        and type(components.base_dist) in (torch.distributions.Normal, dist.Normal)
        and len(components.batch_shape) == len(components.event_shape) == 1
    )


def log_probs_of_each(components: Any, value: Tensor) -> Tensor:
    r"""Returns the log-density of each value under each of K normal distributions.

    By products of matrices, which cost a fraction of the differences of all pairs:

    .. math::
        \sum_d \frac{(z_d - \mu_{kd})^2}{\sigma_{kd}^2}
        = \sum_d \frac{z_d^2}{\sigma_{kd}^2} - 2 z_d \frac{\mu_{kd}}{\sigma_{kd}^2}
        + \frac{\mu_{kd}^2}{\sigma_{kd}^2}

    The terms of the right-hand side cancel where scales are small beside the distances of the
    means, so that they are in float64, with the mean of the means subtracted: scales a millionth
    of those distances lose 1e-3 nats, and others less.

    Args:
        components: Distributions for which :func:`are_diagonal` is true.
        value: Shape ``(*, D)``.

    Returns:
        Shape ``(*, K)``, of the type that a difference of values and means has.
    """
    loc, scale = components.base_dist.loc, components.base_dist.scale
    if value.device.type == "mps":  # which has no float64
        return components.log_prob(value.unsqueeze(-2))
    dtype = torch.promote_types(value.dtype, loc.dtype)
    center = loc.detach().double().mean(0)
    z, loc, scale = value.double() - center, loc.double() - center, scale.double()
    precision = scale.square().reciprocal()
    natural = loc * precision
    squares = torch.cat([z.square(), z], -1) @ torch.cat([precision, -2 * natural], -1).mT
    constant = (loc * natural).sum(-1) + loc.shape[-1] * math.log(2 * math.pi)
    return (-0.5 * (squares + constant) - scale.log().sum(-1)).to(dtype)


class NormalMixture(dist.MixtureSameFamily):
    """A mixture of normal distributions with independent entries; its density is by products.

    Args:
        mixture_distribution: Categorical distribution of the component, no batch shape.
        component_distribution: Distributions for which :func:`are_diagonal` is true.
    """

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        expanded = super().expand(batch_shape, _instance)
        # The components are the same for each element of a batch, and stay K.
        expanded._shared = self._of_all
        return expanded

    @property
    def _of_all(self) -> tuple[Any, Any]:
        own = (self._mixture_distribution, self._component_distribution)
        return self.__dict__.get("_shared", own)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        weights, components = self._of_all
        log_weights = torch.log_softmax(weights.logits, -1)
        total = (log_probs_of_each(components, value) + log_weights).logsumexp(-1)
        return total.expand(torch.broadcast_shapes(total.shape, self.batch_shape))


def mixture(weights: Distribution, components: Distribution) -> Distribution:
    """Returns a mixture, of normal distributions the one whose density is by products.

    Args:
        weights: Categorical distribution over K components.
        components: Batch shape ``(K,)``.
    """
    kind = NormalMixture if are_diagonal(components) else dist.MixtureSameFamily
    return kind(weights, components)


@register_kl(torch.distributions.MultivariateNormal, Independent)
@register_kl(torch.distributions.LowRankMultivariateNormal, Independent)
def _kl_normal_independent(p: Any, q: Independent) -> Tensor:
    """The divergence of any normal distribution from independent ones, which torch lacks."""
    base = q.base_dist
    if not isinstance(base, torch.distributions.Normal) or q.event_shape != p.event_shape:
        raise NotImplementedError
    size = p.event_shape.numel()
    log_det = 2 * p.entropy() - size * (1 + math.log(2 * math.pi))
    squares = (p.variance + (p.mean - base.loc).square()) / base.variance
    return ((squares + base.variance.log()).sum(-1) - size - log_det) / 2
