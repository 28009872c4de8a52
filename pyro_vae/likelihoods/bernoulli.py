"""Bernoulli likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae.likelihoods.likelihood import Likelihood

__all__ = ["Bernoulli"]


class Bernoulli(Likelihood):
    r"""Creates independent Bernoulli variables, for binary data.

    .. math:: p(x \mid z) = \prod_d \pi_d^{x_d} (1 - \pi_d)^{1 - x_d},
        \quad \pi = \mathrm{sigmoid}(\mathrm{params})

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014),
        https://arxiv.org/abs/1312.6114, appendix C.1

    Args:
        event_shape: Shape of one x.

    Example:
        >>> import torch
        >>> Bernoulli((1, 8, 8))(torch.zeros(5, 1, 8, 8)).event_shape
        torch.Size([1, 8, 8])
    """

    support = constraints.boolean
    measure: Literal["counting"] = "counting"

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__(event_shape)

    def init_params(self, x_train: Tensor) -> Tensor:
        """Returns the logits of the mean, kept within 1e-3 of 0 and 1."""
        return x_train.mean(0).clamp(1e-3, 1 - 1e-3).logit()

    def forward(self, params: Tensor) -> Distribution:
        """Returns p(x|z) from logits of shape ``(*, B, *event_shape)``."""
        return dist.Bernoulli(logits=params).to_event(len(self.event_shape))
