"""The Student-t prior."""

from __future__ import annotations

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin

from pyro_vae._errors import expected
from pyro_vae.priors.standard import Standard

__all__ = ["StudentT"]


class StudentT(Standard):
    r"""Creates a prior of independent Student-t variables, whose heavy tails leave room far out.

    .. math:: p(z) = \prod_i \frac{\Gamma((\nu + 1) / 2)}{\Gamma(\nu / 2) \sqrt{\pi \nu}}
        \left(1 + \frac{z_i^2}{\nu}\right)^{-(\nu + 1) / 2}

    References:
        t3-Variational Autoencoder: Learning Heavy-tailed Data with Student's t and Power
        Divergence (Kim et al., 2024), https://arxiv.org/abs/2312.01133

    Args:
        dim: Number of latent dimensions.
        df: Degrees of freedom, more than 2; the fewer, the heavier the tails.

    Raises:
        ValueError: If ``dim`` is not a positive integer, or ``df`` not more than 2, where there is
            no variance.

    Example:
        >>> StudentT(8, df=3.0)().event_shape
        torch.Size([8])
    """

    def __init__(self, dim: int, df: float = 5.0) -> None:
        super().__init__(dim)
        if not df > 2:
            raise expected("df", "a number greater than 2", df)
        self.df = df

    def entries(self) -> TorchDistributionMixin:
        return dist.StudentT(self.loc.new_tensor(self.df), self.loc, self.scale)
