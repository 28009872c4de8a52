"""The normal prior."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import nn

from pyro_vae.distributions import inverse_positive, positive
from pyro_vae.priors.standard import Standard

__all__ = ["Normal"]


class Normal(Standard):
    r"""Creates a normal prior, standard or with a mean and a scale for each dimension.

    .. math:: p(z) = \mathcal{N}(z \mid \mu, \mathrm{diag}\,\sigma^2),
        \quad \mu = 0, \; \sigma = 1 \text{ where not learned}

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014),
        https://arxiv.org/abs/1312.6114

    Args:
        dim: Number of latent dimensions.
        learned: Whether mean and scale are learned with the model, from 0 and 1.

    Raises:
        ValueError: If ``dim`` is not a positive integer.

    Example:
        >>> Normal(8)().event_shape
        torch.Size([8])
    """

    def __init__(self, dim: int, learned: bool = False) -> None:
        super().__init__(dim)
        self.learned = learned
        if learned:
            del self.loc, self.scale
            self.loc = nn.Parameter(torch.zeros(dim))
            self.raw_scale = nn.Parameter(inverse_positive(torch.ones(dim)))

    def entries(self) -> TorchDistributionMixin:
        return dist.Normal(self.loc, positive(self.raw_scale) if self.learned else self.scale)
