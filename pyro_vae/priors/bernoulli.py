"""The prior of many binary variables."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae._errors import positive_integer
from pyro_vae.distributions import JointBernoulli
from pyro_vae.priors.prior import Prior

__all__ = ["Bernoulli"]


class Bernoulli(Prior):
    r"""Creates a prior of independent binary variables.

    .. math:: p(z) = \prod_{i=1}^{d} \mathrm{Bernoulli}(z_i \mid \pi_i)

    References:
        The Concrete Distribution: A Continuous Relaxation of Discrete Random Variables
        (Maddison et al., 2017), https://arxiv.org/abs/1611.00712

    Args:
        dim: Number of binary variables, d.
        learned: Whether the probabilities :math:`\pi_i` are learned with the model, from one half.

    Raises:
        ValueError: If ``dim`` is not a positive integer.

    Example:
        >>> Bernoulli(3)().enumerate_support().shape
        torch.Size([8, 3])
    """

    support = constraints.boolean
    logits: Tensor

    def __init__(self, dim: int, learned: bool = False) -> None:
        super().__init__()
        self.event_shape = torch.Size([positive_integer("dim", dim)])
        if learned:
            self.logits = nn.Parameter(torch.zeros(dim))
        else:
            self.register_buffer("logits", torch.zeros(dim), persistent=False)

    def forward(self, cond: Tensor | None = None) -> Distribution:
        """Returns p(z), zeros and ones, event shape ``(dim,)``."""
        return JointBernoulli(dist.Bernoulli(logits=self.logits), 1)
