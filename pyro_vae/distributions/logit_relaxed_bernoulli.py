"""The binary Concrete distribution, of log-odds."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import relaxed_bernoulli
from torch.distributions.utils import clamp_probs

__all__ = ["LogitRelaxedBernoulli"]


class LogitRelaxedBernoulli(relaxed_bernoulli.LogitRelaxedBernoulli, TorchDistributionMixin):
    """Creates the log-odds of a binary Concrete variable, where its density stays finite.

    They are logistic variables, scaled. Draws depend on the log-odds themselves where those of
    torch depend on a probability, which is rounded to one of few numbers near 0 and 1.

    References:
        The Concrete Distribution: A Continuous Relaxation of Discrete Random Variables
        (Maddison et al., 2017), https://arxiv.org/abs/1611.00712, appendix B

    Args:
        temperature: Positive, shape ``()``.
        logits: Log-odds.

    Example:
        >>> LogitRelaxedBernoulli(torch.tensor(0.5), logits=torch.zeros(3)).rsample().shape
        torch.Size([3])
    """

    has_rsample = True  # torch does not declare it

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        uniform = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        uniform = clamp_probs(uniform)
        return (self.logits + uniform.log() - torch.log1p(-uniform)) / self.temperature

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        # Torch's own takes the exponential of this, which overflows.
        odds = self.logits - value * self.temperature
        return self.temperature.log() + F.logsigmoid(odds) + F.logsigmoid(-odds)
