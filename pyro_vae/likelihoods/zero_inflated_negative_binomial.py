"""Zero-inflated negative binomial likelihood."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.distributions import ZeroInflated, inverse_positive
from pyro_vae.likelihoods.dispersed import Dispersed, DispersionMode
from pyro_vae.likelihoods.likelihood import thinned

__all__ = ["ZeroInflatedNegativeBinomial"]

_ROUNDS = 200


class ZeroInflatedNegativeBinomial(Dispersed):
    r"""Creates negative binomial variables of which some are zero for another reason.

    .. math:: p(x \mid z) = \prod_d \left(\pi_d \, [x_d = 0] + (1 - \pi_d) \,
        \mathrm{NB}(x_d \mid \mu_d, \theta_d)\right)

    Mean :math:`\mu` and inverse dispersion :math:`\theta` of the negative binomial are
    ``softplus(raw) + 1e-4``, as in :class:`NegativeBinomial`; the decoder also gives the logit of
    :math:`\pi`, the probability of an additional zero. With ``size_factor``, the mean is
    :math:`s \mu` for an observation of size factor s, and the encoder sees x / s.

    References:
        Deep generative modeling for single-cell transcriptomics (Lopez et al., 2018),
        https://doi.org/10.1038/s41592-018-0229-2

    Args:
        event_shape: Shape of one x.
        dispersion: ``shared``, one learned number; ``per-dimension``, one learned number for each
            entry; ``predicted``, given by the decoder.
        size_factor: Whether each observation has one, given as the covariate ``size_factor``.

    Raises:
        ValueError: If ``dispersion`` is none of these words.

    Example:
        >>> ZeroInflatedNegativeBinomial((12,)).param_shape
        torch.Size([24])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        dispersion: DispersionMode = "per-dimension",
        size_factor: bool = False,
    ) -> None:
        super().__init__(event_shape, dispersion, num_params=2, size_factor=size_factor)

    @torch.no_grad()
    def init_params(self, x_train: Tensor, size_factor: Tensor | None = None) -> Tensor:
        """Returns raw means, logits of additional zeros, and raw dispersions if predicted.

        By expectation-maximisation, the negative binomial fitted by its moments. With size factors
        each observation has a probability of its own to be an additional zero, and a thousand
        observations are enough.

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
        total, crossed, second = (
            each.mean(0) for each in (x_train, sizes * x_train, x_train.square())
        )
        added = zeros / 2
        for _ in range(_ROUNDS):
            # Additional zeros add nothing to sums over x: those are of the rest.
            kept, gate = (1 - added).clamp_min(1e-3), added.mean(0)
            inner = total / (kept * sizes).mean(0)
            square = inner.square() * (kept * sizes.square()).mean(0)
            theta = self.fit_dispersion(square, second - 2 * inner * crossed + square - total)
            at_zero = (1 - gate) * (theta / (theta + sizes * inner)).pow(theta)
            added = zeros * gate / (gate + at_zero).clamp_min(1e-12)
        logits = added.mean(0).clamp(1e-3, 1 - 1e-3).logit()
        return self.start_at([inverse_positive(inner), logits], theta)

    def forward(self, params: Tensor, size_factor: Tensor | None = None) -> Distribution:
        """Returns p(x|z) from raw means, logits of zeros, and raw dispersions if predicted.

        Args:
            params: What the decoder returned, shape ``(*, B, *param_shape)``.
            size_factor: Of each observation, shape ``(B,)``; 1 if not given.
        """
        raw_mean, gate, *raw = self.split(params)
        d = ZeroInflated(self.counts(raw_mean, raw, size_factor), gate_logits=gate)
        return d.to_event(len(self.event_shape))
