"""Poisson likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.distributions import inverse_positive, positive
from pyro_vae.likelihoods.likelihood import Likelihood

__all__ = ["Poisson"]


class Poisson(Likelihood):
    r"""Creates independent Poisson variables, for counts.

    .. math:: p(x \mid z) = \prod_d \frac{\lambda_d^{x_d} e^{-\lambda_d}}{x_d!},
        \quad \lambda = \mathrm{softplus}(\mathrm{params}) + 10^{-4}

    References:
        Deep exponential families (Ranganath et al., 2015), https://arxiv.org/abs/1411.2581

    Args:
        event_shape: Shape of one x.

    Example:
        >>> import torch
        >>> Poisson((12,))(torch.zeros(5, 12)).batch_shape
        torch.Size([5])
    """

    support = constraints.nonnegative_integer
    measure: Literal["counting"] = "counting"

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__(event_shape)

    def init_params(self, x_train: Tensor) -> Tensor:
        """Returns the raw rates of the mean counts."""
        return inverse_positive(x_train.mean(0))

    def forward(self, params: Tensor) -> Any:
        """Returns p(x|z) from raw rates of shape ``(*, B, *event_shape)``."""
        return dist.Poisson(positive(params)).to_event(len(self.event_shape))
