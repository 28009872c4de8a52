"""Poisson likelihood."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.distributions import inverse_positive, positive
from pyro_vae.likelihoods.counts import Counts

__all__ = ["Poisson"]


class Poisson(Counts):
    r"""Creates independent Poisson variables, for counts.

    .. math:: p(x \mid z) = \prod_d \frac{\lambda_d^{x_d} e^{-\lambda_d}}{x_d!},
        \quad \lambda = s \, (\mathrm{softplus}(\mathrm{params}) + 10^{-4})

    The size factor s of an observation, known and positive, is 1 unless ``size_factor`` is set: an
    exposure, an observed time, a depth of sequencing. The encoder then sees x / s.

    References:
        Deep exponential families (Ranganath et al., 2015), https://arxiv.org/abs/1411.2581

    Args:
        event_shape: Shape of one x.
        size_factor: Whether each observation has one, given as the covariate ``size_factor``.

    Example:
        >>> import torch
        >>> Poisson((12,))(torch.zeros(5, 12)).batch_shape
        torch.Size([5])
        >>> Poisson((2,), size_factor=True)(
        ...     torch.zeros(2, 2), size_factor=torch.tensor([1.0, 3.0])
        ... ).mean
        tensor([[0.6932, 0.6932],
                [2.0797, 2.0797]])
    """

    def __init__(self, event_shape: Sequence[int], size_factor: bool = False) -> None:
        super().__init__(event_shape, size_factor=size_factor)

    def init_params(self, x_train: Tensor, size_factor: Tensor | None = None) -> Tensor:
        """Returns the raw rates that are likeliest: all counts over all size factors.

        Args:
            x_train: Counts, shape ``(N, *event_shape)``.
            size_factor: Of each observation, shape ``(N,)``; 1 if not given.
        """
        return inverse_positive(x_train.mean(0) / self.sizes(x_train, size_factor).mean(0))

    def forward(self, params: Tensor, size_factor: Tensor | None = None) -> Distribution:
        """Returns p(x|z) from raw rates of shape ``(*, B, *event_shape)``.

        Args:
            params: What the decoder returned, shape ``(*, B, *param_shape)``.
            size_factor: Of each observation, shape ``(B,)``; 1 if not given.
        """
        rate = self.sized(positive(params), size_factor)
        return dist.Poisson(rate).to_event(len(self.event_shape))
