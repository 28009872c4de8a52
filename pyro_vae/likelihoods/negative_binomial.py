"""Negative binomial likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae._errors import unknown_name
from pyro_vae.distributions import inverse_positive, positive
from pyro_vae.likelihoods.likelihood import Likelihood

__all__ = ["DispersionMode", "NegativeBinomial"]

DispersionMode = Literal["shared", "per-dimension", "predicted"]
_POISSON = 1e3  # an inverse dispersion from which on the law is a Poisson law, as good as


class NegativeBinomial(Likelihood):
    r"""Creates independent negative binomial variables, for counts more dispersed than Poisson.

    .. math:: p(x \mid z) = \prod_d \frac{\Gamma(x_d + \theta_d)}{x_d!\, \Gamma(\theta_d)}
        \left(\frac{\theta_d}{\theta_d + \mu_d}\right)^{\theta_d}
        \left(\frac{\mu_d}{\theta_d + \mu_d}\right)^{x_d}, \quad
        \operatorname{Var} x_d = \mu_d + \mu_d^2 / \theta_d

    Mean :math:`\mu` and inverse dispersion :math:`\theta` are ``softplus(raw) + 1e-4``.

    References:
        Deep generative modeling for single-cell transcriptomics (Lopez et al., 2018),
        https://doi.org/10.1038/s41592-018-0229-2

    Args:
        event_shape: Shape of one x.
        dispersion: ``shared``, one learned number; ``per-dimension``, one learned number for each
            entry; ``predicted``, given by the decoder beside the mean.

    Raises:
        ValueError: If ``dispersion`` is none of these words.

    Example:
        >>> NegativeBinomial((12,), dispersion="predicted").param_shape
        torch.Size([24])
    """

    support = constraints.nonnegative_integer
    measure: Literal["counting"] = "counting"

    def __init__(
        self, event_shape: Sequence[int], dispersion: DispersionMode = "per-dimension"
    ) -> None:
        if dispersion not in get_args(DispersionMode):
            raise unknown_name("dispersion", dispersion, get_args(DispersionMode))
        super().__init__(event_shape, num_params=2 if dispersion == "predicted" else 1)
        self.dispersion = dispersion
        if dispersion != "predicted":
            shape = self.event_shape if dispersion == "per-dimension" else ()
            self.raw_dispersion = nn.Parameter(inverse_positive(torch.ones(shape)))

    @torch.no_grad()
    def init_params(self, x_train: Tensor) -> Tensor:
        """Returns the raw means, with the raw inverse dispersions after them if predicted."""
        mean, variance = x_train.mean(0), x_train.var(0, correction=0)
        square, excess = mean.square(), variance - mean
        if self.dispersion == "shared":
            square, excess = square.sum(), excess.sum()
        theta = (square / excess.clamp_min(1e-12)).clamp(1e-3, _POISSON)
        if self.dispersion == "predicted":
            return inverse_positive(torch.cat([mean, theta]))
        self.raw_dispersion.copy_(inverse_positive(theta))
        return inverse_positive(mean)

    def forward(self, params: Tensor) -> Any:
        """Returns p(x|z) from raw means, and raw dispersions if predicted."""
        raw_mean, *raw = self.split(params)
        theta = positive(raw[0] if raw else self.raw_dispersion)
        logits = positive(raw_mean).log() - theta.log()
        return dist.NegativeBinomial(theta, logits=logits).to_event(len(self.event_shape))
