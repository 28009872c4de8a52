"""The Laplace prior."""

from __future__ import annotations

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin

from pyro_vae.priors.standard import Standard

__all__ = ["Laplace"]


class Laplace(Standard):
    r"""Creates a prior of independent Laplace variables, which favours a few large entries.

    .. math:: p(z) = \prod_i \tfrac12 e^{-|z_i|}

    References:
        Emergence of simple-cell receptive field properties by learning a sparse code for natural
        images (Olshausen and Field, 1996), https://doi.org/10.1038/381607a0

    Args:
        dim: Number of latent dimensions.

    Raises:
        ValueError: If ``dim`` is not a positive integer.

    Example:
        >>> Laplace(8)().event_shape
        torch.Size([8])
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim)

    def entries(self) -> TorchDistributionMixin:
        return dist.Laplace(self.loc, self.scale)
