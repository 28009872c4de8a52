"""The flow prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae._errors import unknown_name
from pyro_vae.distributions import Autoregressive, NormalizingFlow
from pyro_vae.priors.standard import Standard

__all__ = ["Flow"]

Kind = Literal["spline", "maf"]


class Flow(Standard):
    r"""Creates a prior that an invertible map carries to a standard normal distribution.

    .. math:: p(z) = \mathcal{N}(f(z) \mid 0, I) \,
        \left| \det \frac{\partial f(z)}{\partial z} \right|

    Its density takes one pass through a network for each map, as training does; a draw takes as
    many as there are dimensions. It starts near the standard normal distribution. There is no
    closed form of the divergence from it: objectives sample it.

    References:
        Neural Spline Flows (Durkan et al., 2019), https://arxiv.org/abs/1906.04032
        Masked Autoregressive Flow for Density Estimation (Papamakarios et al., 2017),
        https://arxiv.org/abs/1705.07057
        Variational Lossy Autoencoder (Chen et al., 2017), https://arxiv.org/abs/1611.02731

    Args:
        dim: Number of latent dimensions.
        kind: What maps a single entry: ``spline``, monotonic on [-5, 5], or ``maf``, affine.
        transforms: Number of maps, in alternating order of the entries.
        hidden: Widths of the hidden layers of the network of each map.

    Raises:
        ValueError: If a size is not positive, or the kind is unknown.

    Example:
        >>> Flow(8)().event_shape
        torch.Size([8])
    """

    def __init__(
        self,
        dim: int,
        kind: Kind = "spline",
        transforms: int = 2,
        hidden: Sequence[int] = (64, 64),
    ) -> None:
        super().__init__(dim)
        if kind not in get_args(Kind):
            raise unknown_name("kind", kind, get_args(Kind))
        self.flow = Autoregressive(
            dim, context=0, transforms=transforms, hidden=hidden, spline=kind == "spline"
        )

    def entries(self) -> TorchDistributionMixin:
        return dist.Normal(self.loc, self.scale)

    def forward(self, cond: Tensor | None = None) -> Distribution:
        return NormalizingFlow(super().forward(cond), self.flow().inv)
