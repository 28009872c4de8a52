"""Categorical variables, uniform or of learned probabilities."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae._errors import positive_integer
from pyro_vae.distributions import GroupedOneHotCategorical
from pyro_vae.priors.prior import Prior

__all__ = ["Categorical"]


class Categorical(Prior):
    r"""Creates a prior over groups of one-hot categorical variables.

    .. math:: p(z) = \prod_{g=1}^{G} \mathrm{Categorical}(z_g \mid \pi_g)

    References:
        Categorical Reparameterization with Gumbel-Softmax (Jang et al., 2017),
        https://arxiv.org/abs/1611.01144

    Args:
        groups: Number of variables, G.
        classes: Number of classes of each, K.
        learned: Whether the probabilities :math:`\pi_g` are learned with the model, from 1/K each;
            uniform otherwise.

    Raises:
        ValueError: If either is not a positive integer.

    Example:
        >>> Categorical(20, 10)().event_shape
        torch.Size([20, 10])
    """

    support = constraints.one_hot
    logits: Tensor

    def __init__(self, groups: int, classes: int, learned: bool = False) -> None:
        super().__init__()
        shape = (positive_integer("groups", groups), positive_integer("classes", classes))
        self.event_shape = torch.Size(shape)
        if learned:
            self.logits = nn.Parameter(torch.zeros(shape))
        else:
            self.register_buffer("logits", torch.zeros(shape), persistent=False)

    def forward(self, cond: Tensor | None = None) -> Distribution:
        """Returns p(z), one-hot, event shape ``(groups, classes)``."""
        return GroupedOneHotCategorical(dist.OneHotCategorical(logits=self.logits), 1)
