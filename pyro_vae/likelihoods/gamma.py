"""Gamma likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_vae.distributions import MeanGamma
from pyro_vae.likelihoods.in_units import weighted_mean
from pyro_vae.likelihoods.positive import Positive, SpreadMode

__all__ = ["Gamma"]

_ROUNDS = 8  # of Newton's method, which doubles the digits in each
_LEAST = 1e-12  # of log mean less mean log: variation of a millionth


class Gamma(Positive):
    r"""Creates independent gamma variables, for positive data such as amounts and durations.

    .. math:: p(x \mid z) = \prod_d \frac{1}{\Gamma(\alpha_d)\, x_d}
        \left(\frac{\alpha_d x_d}{\mu_d}\right)^{\alpha_d} e^{-\alpha_d x_d / \mu_d}, \quad
        \mu_d = e^{\mathrm{params}_d}, \quad \alpha_d = 1 / \phi_d, \quad
        \operatorname{Var} x_d = \phi_d \mu_d^2

    The decoder gives the logarithm of the mean, as in generalised linear models, and the encoder
    sees log x. The square root of a learned dispersion :math:`\phi`, which is the coefficient of
    variation, is ``softplus(raw) + 1e-4``. A dispersion of 1 makes exponential variables.

    References:
        Generalized Linear Models (Nelder and Wedderburn, 1972), https://doi.org/10.2307/2344614

    Args:
        event_shape: Shape of one x.
        dispersion: A fixed number; ``shared``, one learned number; ``per-dimension``, one learned
            number for each entry; ``predicted``, given by the decoder beside the mean.

    Raises:
        ValueError: If ``dispersion`` is neither a positive number nor one of these words.

    Example:
        >>> import torch
        >>> d = Gamma((2,), dispersion=0.25)(torch.full((2,), 7.0).log())
        >>> d.mean, d.stddev
        (tensor([7.0000, 7.0000]), tensor([3.5000, 3.5000]))
    """

    def __init__(
        self, event_shape: Sequence[int], dispersion: float | SpreadMode = "per-dimension"
    ) -> None:
        super().__init__(event_shape, "dispersion", dispersion)
        if not isinstance(self.spread, str):
            self.spread = math.sqrt(self.spread)

    def distribution(self, loc: Tensor, spread: Tensor) -> TorchDistributionMixin:
        return MeanGamma(loc, spread)

    def fit_spread(self, residuals: Tensor, weights: Tensor, dims: tuple[int, ...]) -> Tensor:
        exact = residuals.cpu().double()  # which not every device has
        excess = weighted_mean(exact.expm1() - exact, weights.cpu(), dims)
        return _variation(excess).to(residuals)

    def fit_logs(self, log_x: Tensor, *, pooled: bool) -> tuple[Tensor, Tensor]:
        r"""Returns log means and coefficients of variation of the largest likelihood.

        It solves :math:`\log \alpha - \psi(\alpha) = \log \bar x - \overline{\log x}`.

        References:
            Estimating a Gamma distribution (Minka, 2002),
            https://tminka.github.io/papers/minka-gamma.pdf
        """
        logs = log_x.cpu().double()  # which not every device has
        loc = logs.logsumexp(0) - math.log(len(logs))
        wanted = loc - logs.mean(0)
        variation = _variation(wanted.mean() if pooled else wanted)
        return loc.to(log_x), variation.to(log_x)


def _variation(wanted: Tensor) -> Tensor:
    r"""Solves :math:`\log \alpha - \psi(\alpha)` = ``wanted`` for :math:`\alpha^{-1/2}`."""
    wanted = wanted.clamp_min(_LEAST)
    shape = (3 - wanted + ((wanted - 3).square() + 24 * wanted).sqrt()) / (12 * wanted)
    for _ in range(_ROUNDS):
        off = shape.log() - shape.digamma() - wanted
        slope = shape.square() * (shape.reciprocal() - shape.polygamma(1))
        shape = (shape.reciprocal() + off / slope).reciprocal()
    return shape.rsqrt()
