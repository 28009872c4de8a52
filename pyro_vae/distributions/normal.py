"""Normal distributions: independent ones from features, and a divergence that torch lacks."""

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

__all__ = ["diagonal_normal"]


def diagonal_normal(features: Tensor) -> Distribution:
    """Returns N(loc, diag scale^2) of features ``(*, 2 * dim)``: loc, then raw scale."""
    loc, raw = features.chunk(2, -1)
    return dist.Normal(loc, positive(raw)).to_event(1)


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
