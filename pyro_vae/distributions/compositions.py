"""Compositions: their support, and a Dirichlet distribution that is finite at its edges."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Dirichlet
from torch import Tensor
from torch.distributions import constraints

__all__ = ["CompositionSupport", "EdgedDirichlet"]

_ROUNDED = 1e-4  # by which a sum of shares may be off


class CompositionSupport(constraints.Constraint):
    """Shares, none of which is negative, that add up to 1, but for what rounding leaves: 1e-4.

    Example:
        >>> CompositionSupport().check(torch.tensor([[0.5, 0.5], [0.5, 0.6]]))
        tensor([[ True,  True],
                [False, False]])
    """

    is_discrete = False
    event_dim = 0

    def __repr__(self) -> str:
        return "Composition(shares that add up to 1)"

    def check(self, value: Tensor) -> Tensor:
        """Returns for each entry whether it is a share in a row that adds up to 1."""
        off = (value.sum(-1, keepdim=True) - 1).abs()
        return (value >= 0) & (off <= _ROUNDED)


class EdgedDirichlet(Dirichlet):
    """Creates a Dirichlet variable whose mass within ``EDGE`` of 0 is spread evenly there.

    The density of a Dirichlet variable is infinite or zero where a share is 0, as measured ones
    often are; this one is finite everywhere, and a Dirichlet density but for shares of less than a
    millionth. Their mass is known to a relative error of about ``EDGE``. What the base measure
    counts is volume in all shares but one.

    Args:
        concentration: Positive, shape ``(*, D)``.

    Example:
        >>> d = EdgedDirichlet(torch.tensor([0.5, 2.0, 1.0]))
        >>> bool(d.log_prob(torch.tensor([0.0, 0.4, 0.6])).isfinite())
        True
    """

    EDGE = 1e-6

    @property
    def support(self) -> constraints.Constraint:
        """Shares that add up to 1."""
        return CompositionSupport()

    def expand(self, batch_shape: Any, _instance: Any = None) -> EdgedDirichlet:
        return super().expand(batch_shape, self._get_checked_instance(EdgedDirichlet, _instance))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        alpha = self.concentration
        # Near 0 the density goes as x to the power a - 1, of which the mean is 1 / a of the end.
        at_edge = torch.where(value < self.EDGE, alpha.log(), 0.0)
        powers = (alpha - 1) * value.clamp_min(self.EDGE).log() - at_edge - alpha.lgamma()
        return powers.sum(-1) + alpha.sum(-1).lgamma()
