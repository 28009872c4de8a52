"""The standard normal prior."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist

from pyro_vae.priors.standard import Standard

__all__ = ["Normal"]


class Normal(Standard):
    r"""Creates a standard normal prior.

    .. math:: p(z) = \mathcal{N}(z \mid 0, I)

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014),
        https://arxiv.org/abs/1312.6114

    Args:
        dim: Number of latent dimensions.

    Raises:
        ValueError: If ``dim`` is not a positive integer.

    Example:
        >>> Normal(8)().event_shape
        torch.Size([8])
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim)

    def law(self) -> Any:
        return dist.Normal(self.loc, self.scale)
