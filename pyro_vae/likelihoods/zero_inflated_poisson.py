"""Zero-inflated Poisson likelihood."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.distributions import ZeroInflated, inverse_positive, positive
from pyro_vae.likelihoods.counts import Counts
from pyro_vae.likelihoods.likelihood import thinned

__all__ = ["ZeroInflatedPoisson"]

_ROUNDS = 200


class ZeroInflatedPoisson(Counts):
    r"""Creates Poisson variables of which some are zero for another reason.

    .. math:: p(x \mid z) = \prod_d \left(\pi_d \, [x_d = 0] + (1 - \pi_d) \,
        \mathrm{Poisson}(x_d \mid s \lambda_d)\right)

    The rate :math:`\lambda` is ``softplus(raw) + 1e-4``; the decoder also gives the logit of
    :math:`\pi`, the probability of an additional zero. The size factor s of an observation is 1
    unless ``size_factor`` is set, as in :class:`Poisson`.

    References:
        Zero-Inflated Poisson Regression, with an Application to Defects in Manufacturing
        (Lambert, 1992), https://doi.org/10.2307/1269547

    Args:
        event_shape: Shape of one x.
        size_factor: Whether each observation has one, given as the covariate ``size_factor``.

    Example:
        >>> ZeroInflatedPoisson((12,)).param_shape
        torch.Size([24])
    """

    def __init__(self, event_shape: Sequence[int], size_factor: bool = False) -> None:
        super().__init__(event_shape, num_params=2, size_factor=size_factor)

    @torch.no_grad()
    def init_params(self, x_train: Tensor, size_factor: Tensor | None = None) -> Tensor:
        """Returns raw rates and logits of additional zeros, by expectation-maximisation.

        With size factors each observation has a probability of its own to be an additional zero,
        and a thousand observations are enough.

        Args:
            x_train: Counts, shape ``(N, *event_shape)``.
            size_factor: Of each observation, shape ``(N,)``; 1 if not given.
        """
        sizes = self.sizes(x_train, size_factor)
        if size_factor is not None:
            x_train, sizes = thinned(x_train), thinned(sizes)
        zeros = (x_train == 0).to(x_train)
        if size_factor is None:
            zeros = zeros.mean(0, keepdim=True)
        total, added = x_train.mean(0), zeros / 2
        for _ in range(_ROUNDS):
            # Additional zeros add nothing to the sum over x: that is of the rest.
            rate = total / ((1 - added).clamp_min(1e-3) * sizes).mean(0)
            gate = added.mean(0)
            at_zero = (1 - gate) * (-sizes * rate).exp()
            added = zeros * gate / (gate + at_zero).clamp_min(1e-12)
        logits = added.mean(0).clamp(1e-3, 1 - 1e-3).logit()
        return torch.cat([inverse_positive(rate), logits])

    def forward(self, params: Tensor, size_factor: Tensor | None = None) -> Distribution:
        """Returns p(x|z) from raw rates and logits of zeros, shape ``(*, B, *param_shape)``.

        Args:
            params: What the decoder returned, shape ``(*, B, *param_shape)``.
            size_factor: Of each observation, shape ``(B,)``; 1 if not given.
        """
        raw_rate, gate = self.split(params)
        rate = self.sized(positive(raw_rate), size_factor)
        d = ZeroInflated(dist.Poisson(rate), gate_logits=gate)
        return d.to_event(len(self.event_shape))
