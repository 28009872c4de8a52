"""Zero inflation by a logit."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

__all__ = ["ZeroInflated"]


class ZeroInflated(dist.ZeroInflatedDistribution):
    """Creates a variable that is zero for another reason, too, with a probability kept as a logit.

    Pyro's own switches to a rounded probability once its mean or a draw was computed: then its
    density is not finite where the logit is large, and it cannot be expanded.

    Args:
        base_dist: The distribution without the additional zeros.
        gate_logits: Of the additional zeros.

    Example:
        >>> import torch
        >>> d = ZeroInflated(dist.Poisson(torch.tensor(1.0)), gate_logits=torch.tensor(80.0))
        >>> d.mean, d.expand((2,)).log_prob(torch.tensor(3.0))
        (tensor(0.), tensor([-82.7918, -82.7918]))
    """

    @property
    def gate(self) -> Tensor:
        """The probability of an additional zero."""
        return self.gate_logits.sigmoid()
