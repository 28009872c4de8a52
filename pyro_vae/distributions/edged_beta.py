"""A beta distribution that is finite at both ends."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["EdgedBeta"]


class EdgedBeta(dist.Beta):
    """Creates a beta variable whose mass within ``EDGE`` of either end is spread evenly there.

    The density of a beta variable is infinite or zero at 0 and 1, where measured proportions often
    are; this one is finite everywhere, and a beta density but for the outermost millionths. Their
    mass is known to a relative error of about ``EDGE``.

    Args:
        concentration1: Positive, the power of x and more.
        concentration0: Positive, the power of 1 - x.

    Example:
        >>> d = EdgedBeta(torch.tensor(0.5), torch.tensor(2.0))
        >>> bool(d.log_prob(torch.tensor(0.0)).isfinite())
        True
    """

    EDGE = 1e-6

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        within = value.clamp(self.EDGE, 1 - self.EDGE)
        log_prob = super().log_prob(within)
        # Near 0 the density goes as x to the power a - 1, of which the mean is 1 / a of the end.
        log_prob = log_prob - torch.where(value < self.EDGE, self.concentration1.log(), 0.0)
        return log_prob - torch.where(value > 1 - self.EDGE, self.concentration0.log(), 0.0)
