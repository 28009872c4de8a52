"""Dirichlet likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae._errors import expected
from pyro_vae.distributions import (
    CompositionSupport,
    EdgedDirichlet,
    inverse_positive,
    positive,
)
from pyro_vae.likelihoods.likelihood import Likelihood, a_shape, several_entries, thinned

__all__ = ["Dirichlet"]

_ROUNDS = 200
_MOST = 1e5  # for the sum of concentrations to start at: shares known to three digits


class Dirichlet(Likelihood):
    r"""Creates compositions: shares that add up to 1, such as those of minerals or of species.

    .. math:: p(x \mid z) = \frac{\Gamma(\sum_d \alpha_d)}{\prod_d \Gamma(\alpha_d)}
        \prod_d x_d^{\alpha_d - 1}, \quad
        \alpha = \mathrm{softplus}(\mathrm{params}) + 10^{-4}

    The density is one of all shares but one, whichever. The mass of shares below 1e-6 is spread
    evenly there, so that the density of an exact 0 is finite; see
    :class:`pyro_vae.distributions.EdgedDirichlet`. Counts become shares when a row is divided by
    its sum, but :class:`Multinomial` knows how many there were.

    References:
        Estimating a Dirichlet distribution (Minka, 2000),
        https://tminka.github.io/papers/dirichlet/minka-dirichlet.pdf

    Args:
        event_shape: Shape of one x: the number of shares.

    Raises:
        ValueError: If there are fewer than two shares, or more than one dimension.

    Example:
        >>> import torch
        >>> Dirichlet((4,))(torch.zeros(3, 4)).mean[0].tolist()
        [0.25, 0.25, 0.25, 0.25]
    """

    support = CompositionSupport()
    measure: Literal["lebesgue"] = "lebesgue"
    remedy = "amounts become shares when each row is divided by its sum"

    def __init__(self, event_shape: Sequence[int]) -> None:
        if len(a_shape(event_shape)) != 1:
            raise expected("event_shape", "one dimension, the shares", tuple(event_shape))
        super().__init__(several_entries(event_shape))

    @torch.no_grad()
    def init_params(self, x_train: Tensor) -> Tensor:
        """Returns the raw concentrations of the largest likelihood, by Minka's fixed point."""
        x = thinned(x_train).cpu().double()  # which not every device has
        logs = x.clamp_min(EdgedDirichlet.EDGE).log().mean(0)
        mean, square = x.mean(0).clamp_min(1e-6), x.square().mean(0)
        each = (mean - square) / (square - mean.square()).clamp_min(1e-12)
        alpha = mean / mean.sum() * each.median().clamp(0.1, _MOST)
        for _ in range(_ROUNDS):
            alpha = _inverse_digamma(alpha.sum().digamma() + logs)
            alpha = alpha * (_MOST / alpha.sum()).clamp_max(1.0)
        return inverse_positive(alpha).to(x_train)

    def forward(self, params: Tensor) -> Distribution:
        """Returns p(x|z) from raw concentrations of shape ``(*, B, D)``."""
        return EdgedDirichlet(positive(params))


def _inverse_digamma(value: Tensor) -> Tensor:
    """Returns where the digamma function has a value, by Newton's method (Minka, appendix C)."""
    at_one = value.new_ones(()).digamma()
    x = torch.where(value >= -2.22, value.exp() + 0.5, -1 / (value - at_one))
    for _ in range(5):
        x = x - (x.digamma() - value) / x.polygamma(1)
    return x
