"""Negative binomial likelihood."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.distributions import inverse_positive
from pyro_vae.likelihoods.dispersed import Dispersed, DispersionMode

__all__ = ["NegativeBinomial"]


class NegativeBinomial(Dispersed):
    r"""Creates independent negative binomial variables, for counts more dispersed than Poisson.

    .. math:: p(x \mid z) = \prod_d \frac{\Gamma(x_d + \theta_d)}{x_d!\, \Gamma(\theta_d)}
        \left(\frac{\theta_d}{\theta_d + \mu_d}\right)^{\theta_d}
        \left(\frac{\mu_d}{\theta_d + \mu_d}\right)^{x_d}, \quad
        \operatorname{Var} x_d = \mu_d + \mu_d^2 / \theta_d

    Mean :math:`\mu` and inverse dispersion :math:`\theta` are ``softplus(raw) + 1e-4``. With
    ``size_factor``, the mean is :math:`s \mu` for an observation of size factor s, such as the
    depth at which a cell was sequenced, and the encoder sees x / s.

    References:
        Deep generative modeling for single-cell transcriptomics (Lopez et al., 2018),
        https://doi.org/10.1038/s41592-018-0229-2

    Args:
        event_shape: Shape of one x.
        dispersion: ``shared``, one learned number; ``per-dimension``, one learned number for each
            entry; ``predicted``, given by the decoder beside the mean.
        size_factor: Whether each observation has one, given as the covariate ``size_factor``.

    Raises:
        ValueError: If ``dispersion`` is none of these words.

    Example:
        >>> NegativeBinomial((12,), dispersion="predicted").param_shape
        torch.Size([24])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        dispersion: DispersionMode = "per-dimension",
        size_factor: bool = False,
    ) -> None:
        super().__init__(event_shape, dispersion, num_params=1, size_factor=size_factor)

    @torch.no_grad()
    def init_params(self, x_train: Tensor, size_factor: Tensor | None = None) -> Tensor:
        """Returns the raw means, with the raw inverse dispersions after them if predicted.

        Args:
            x_train: Counts, shape ``(N, *event_shape)``.
            size_factor: Of each observation, shape ``(N,)``; 1 if not given.
        """
        sizes = self.sizes(x_train, size_factor)
        mean = x_train.mean(0) / sizes.mean(0)
        excess = (x_train - sizes * mean).square().mean(0) - x_train.mean(0)
        theta = self.fit_dispersion(sizes.square().mean(0) * mean.square(), excess)
        return self.start_at([inverse_positive(mean)], theta)

    def forward(self, params: Tensor, size_factor: Tensor | None = None) -> Distribution:
        """Returns p(x|z) from raw means, and raw dispersions if predicted.

        Args:
            params: What the decoder returned, shape ``(*, B, *param_shape)``.
            size_factor: Of each observation, shape ``(B,)``; 1 if not given.
        """
        raw_mean, *raw = self.split(params)
        return self.counts(raw_mean, raw, size_factor).to_event(len(self.event_shape))
