"""The Concrete distribution in log space."""

from __future__ import annotations

from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch.distributions import relaxed_categorical

__all__ = ["ExpRelaxedCategorical"]


class ExpRelaxedCategorical(relaxed_categorical.ExpRelaxedCategorical, TorchDistributionMixin):
    """Creates a Concrete variable in log space, where its density stays finite.

    References:
        The Concrete Distribution: A Continuous Relaxation of Discrete Random Variables
        (Maddison et al., 2017), https://arxiv.org/abs/1611.00712, appendix C.3

    Args:
        temperature: Positive, shape ``()``.
        logits: Shape ``(*, classes)``.

    Example:
        >>> import torch
        >>> y = ExpRelaxedCategorical(torch.tensor(0.5), logits=torch.zeros(3)).rsample()
        >>> bool(torch.isclose(y.exp().sum(), torch.tensor(1.0)))
        True
    """
