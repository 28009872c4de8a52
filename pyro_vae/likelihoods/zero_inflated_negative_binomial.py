"""Zero-inflated negative binomial likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_vae.distributions import ZeroInflated, inverse_positive
from pyro_vae.likelihoods.dispersed import Dispersed, DispersionMode

__all__ = ["ZeroInflatedNegativeBinomial"]

_ROUNDS = 200


class ZeroInflatedNegativeBinomial(Dispersed):
    r"""Creates negative binomial variables of which some are zero for another reason.

    .. math:: p(x \mid z) = \prod_d \left(\pi_d \, [x_d = 0] + (1 - \pi_d) \,
        \mathrm{NB}(x_d \mid \mu_d, \theta_d)\right)

    Mean :math:`\mu` and inverse dispersion :math:`\theta` of the negative binomial are
    ``softplus(raw) + 1e-4``, as in :class:`NegativeBinomial`; the decoder also gives the logit of
    :math:`\pi`, the probability of an additional zero.

    References:
        Deep generative modeling for single-cell transcriptomics (Lopez et al., 2018),
        https://doi.org/10.1038/s41592-018-0229-2

    Args:
        event_shape: Shape of one x.
        dispersion: ``shared``, one learned number; ``per-dimension``, one learned number for each
            entry; ``predicted``, given by the decoder.

    Raises:
        ValueError: If ``dispersion`` is none of these words.

    Example:
        >>> ZeroInflatedNegativeBinomial((12,)).param_shape
        torch.Size([24])
    """

    def __init__(
        self, event_shape: Sequence[int], dispersion: DispersionMode = "per-dimension"
    ) -> None:
        super().__init__(event_shape, dispersion, num_params=2)

    @torch.no_grad()
    def init_params(self, x_train: Tensor) -> Tensor:
        """Returns raw means, logits of additional zeros, and raw dispersions if predicted.

        By expectation-maximisation, the negative binomial fitted by its moments.
        """
        zeros, mean, second = (
            each.mean(0) for each in ((x_train == 0).to(x_train), x_train, x_train.square())
        )
        gate = zeros / 2
        for _ in range(_ROUNDS):
            kept = (1 - gate).clamp_min(1e-3)
            # Additional zeros add nothing to the sums: the moments of the rest are theirs.
            inner = mean / kept
            theta = self.fit_dispersion(inner, second / kept - inner.square())
            at_zero = kept * (theta / (theta + inner)).pow(theta)
            gate = zeros * gate / (gate + at_zero).clamp_min(1e-12)
        logits = gate.clamp(1e-3, 1 - 1e-3).logit()
        return self.start_at([inverse_positive(inner), logits], theta)

    def forward(self, params: Tensor) -> Any:
        """Returns p(x|z) from raw means, logits of zeros, and raw dispersions if predicted."""
        raw_mean, gate, *raw = self.split(params)
        law = ZeroInflated(self.counts(raw_mean, raw), gate_logits=gate)
        return law.to_event(len(self.event_shape))
