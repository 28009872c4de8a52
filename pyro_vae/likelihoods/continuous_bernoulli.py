"""Continuous Bernoulli likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae.distributions import SteepContinuousBernoulli
from pyro_vae.likelihoods.likelihood import Likelihood

__all__ = ["ContinuousBernoulli"]

_STEEPEST = 50.0  # |logit| of a mean within 0.02 of an end
_HALVINGS = 60


class ContinuousBernoulli(Likelihood):
    r"""Creates independent continuous Bernoulli variables, for data in [0, 1] such as grey images.

    .. math:: p(x \mid z) = \prod_d C(\pi_d)\, \pi_d^{x_d} (1 - \pi_d)^{1 - x_d},
        \quad \pi = \mathrm{sigmoid}(\mathrm{params}), \quad
        C(\pi) = \frac{2 \tanh^{-1}(1 - 2 \pi)}{1 - 2 \pi}

    The cross-entropy that is often applied to grey values, made a density, whatever the logits; see
    :class:`pyro_vae.distributions.SteepContinuousBernoulli`.

    References:
        The continuous Bernoulli: fixing a pervasive error in variational autoencoders
        (Loaiza-Ganem and Cunningham, 2019), https://arxiv.org/abs/1907.06845

    Args:
        event_shape: Shape of one x.

    Example:
        >>> ContinuousBernoulli((2,))(torch.zeros(5, 2)).mean[0].tolist()
        [0.5, 0.5]
    """

    support = constraints.unit_interval
    measure: Literal["lebesgue"] = "lebesgue"

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__(event_shape)

    @torch.no_grad()
    def init_params(self, x_train: Tensor) -> Tensor:
        """Returns the logits whose mean is that of the data."""
        wanted = x_train.mean(0)
        low, high = torch.full_like(wanted, -_STEEPEST), torch.full_like(wanted, _STEEPEST)
        for _ in range(_HALVINGS):  # the mean rises with the logit
            middle = (low + high) / 2
            above = SteepContinuousBernoulli(middle).mean > wanted
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (low + high) / 2

    def forward(self, params: Tensor) -> Distribution:
        """Returns p(x|z) from logits of shape ``(*, B, *event_shape)``."""
        return SteepContinuousBernoulli(params).to_event(len(self.event_shape))
