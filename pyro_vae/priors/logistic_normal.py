"""The logistic-normal prior, which stands for a Dirichlet distribution."""

from __future__ import annotations

import math

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin

from pyro_vae._errors import expected, is_number
from pyro_vae.priors.standard import Standard

__all__ = ["LogisticNormal"]


class LogisticNormal(Standard):
    r"""Creates a prior of log-proportions, whose softmax is nearly a symmetric Dirichlet.

    .. math:: p(z) = \mathcal{N}(z \mid 0, \sigma^2 I), \quad
        \sigma^2 = \tfrac1\alpha \left(1 - \tfrac1K\right), \quad
        \mathrm{softmax}(z) \approx \mathrm{Dirichlet}(\alpha, \dots, \alpha)

    This is the Laplace approximation of the Dirichlet distribution in the softmax basis: with
    z itself on all real vectors it goes with any guide of these, and a decoder such as
    :class:`pyro_vae.networks.TopicDecoder` takes the softmax.

    References:
        Choice of Basis for Laplace Approximation (MacKay, 1998),
        https://doi.org/10.1023/A:1007558615313
        Autoencoding Variational Inference for Topic Models (Srivastava and Sutton, 2017),
        https://arxiv.org/abs/1703.01488

    Args:
        dim: Number of proportions, K: topics, say.
        concentration: That of each of them, α: below 1 a few proportions are large, above they
            are alike.

    Raises:
        ValueError: If ``dim`` is not an integer of at least 2, or ``concentration`` not positive.

    Example:
        >>> round(float(LogisticNormal(50, concentration=0.5)().variance[0]), 2)
        1.96
    """

    def __init__(self, dim: int, concentration: float = 1.0) -> None:
        super().__init__(dim)
        if dim < 2:
            raise expected("dim", "at least 2, since one proportion is always 1", dim)
        if not (is_number(concentration) and 0 < concentration < math.inf):
            raise expected("concentration", "a positive number", concentration)
        self.concentration = concentration
        self.scale.mul_(math.sqrt((1 - 1 / dim) / concentration))

    def entries(self) -> TorchDistributionMixin:
        return dist.Normal(self.loc, self.scale)
