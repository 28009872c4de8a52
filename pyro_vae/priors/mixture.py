"""The mixture prior."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae._errors import positive_integer
from pyro_vae.distributions import inverse_positive, mixture, positive
from pyro_vae.priors.prior import Prior

__all__ = ["Mixture"]


class Mixture(Prior):
    r"""Creates a mixture of normal distributions, learned with the model.

    .. math:: p(z) = \sum_{m=1}^{M} \pi_m \, \mathcal{N}(z \mid \mu_m, \mathrm{diag}\,\sigma_m^2)

    The means start as draws of a standard normal distribution, the scales at 1 and the weights
    equal. There is no closed form of the divergence from it: objectives sample it.

    References:
        Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders
        (Dilokthanakul et al., 2016), https://arxiv.org/abs/1611.02648

    Args:
        dim: Number of latent dimensions.
        components: Number of normal distributions, M.

    Raises:
        ValueError: If either is not a positive integer.

    Example:
        >>> Mixture(8, components=5)().event_shape
        torch.Size([8])
    """

    support = constraints.real_vector
    logits: Tensor

    def __init__(self, dim: int, components: int = 10) -> None:
        super().__init__()
        self.event_shape = torch.Size([positive_integer("dim", dim)])
        shape = (positive_integer("components", components), dim)
        if components > 1:
            self.logits = nn.Parameter(torch.zeros(components))
        else:  # the weight of a single component is no parameter
            self.register_buffer("logits", torch.zeros(1), persistent=False)
        self.loc = nn.Parameter(torch.randn(shape))
        self.raw_scale = nn.Parameter(inverse_positive(torch.ones(shape)))

    def forward(self, cond: Tensor | None = None) -> Distribution:
        """Returns p(z), event shape ``(dim,)``."""
        components = dist.Normal(self.loc, positive(self.raw_scale)).to_event(1)
        return mixture(dist.Categorical(logits=self.logits), components)
