"""Discretised mixture of logistic distributions."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

__all__ = ["DiscretizedLogistic"]


class DiscretizedLogistic(TorchDistribution):
    """Creates levels 0 to K - 1: the unit intervals that a mixture of logistic variables falls in.

    What is beyond the outermost intervals counts as the outermost level.

    Args:
        loc: Locations in levels, shape ``(*, M)``.
        scale: Positive, in levels, shape ``(*, M)``.
        logits: Of the weights, shape ``(*, M)``.
        levels: Number of levels, K.

    Example:
        >>> one = torch.ones(1)
        >>> d = DiscretizedLogistic(one, one, one, 3)
        >>> torch.stack([d.log_prob(torch.tensor(k)) for k in (0.0, 1.0, 2.0)]).exp().sum()
        tensor(1.)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.independent(constraints.real, 1),
        "scale": constraints.independent(constraints.positive, 1),
        "logits": constraints.independent(constraints.real, 1),
    }

    def __init__(
        self, loc: Tensor, scale: Tensor, logits: Tensor, levels: int, validate_args: Any = None
    ) -> None:
        self.loc, self.scale, self.logits = torch.broadcast_tensors(loc, scale, logits)
        self.levels = levels
        super().__init__(self.loc.shape[:-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """Levels 0 to K - 1."""
        return constraints.integer_interval(0, self.levels - 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiscretizedLogistic:
        new = self._get_checked_instance(DiscretizedLogistic, _instance)
        shape = (*batch_shape, self.loc.shape[-1])
        for name in ("loc", "scale", "logits"):
            setattr(new, name, getattr(self, name).expand(shape))
        new.levels = self.levels
        super(DiscretizedLogistic, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        value = value.unsqueeze(-1)
        upper, lower = (value + 0.5 - self.loc) / self.scale, (value - 0.5 - self.loc) / self.scale
        # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)), stable everywhere; at
        # either end only one of the factors is left.
        highest, lowest = value >= self.levels - 1, value <= 0
        below = torch.where(highest, 0.0, F.logsigmoid(upper))
        above = torch.where(lowest, 0.0, F.logsigmoid(-lower))
        between = torch.where(highest | lowest, 0.0, torch.log(-torch.expm1(-1 / self.scale)))
        weights = self.logits.log_softmax(-1)
        return (weights + below + above + between).logsumexp(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.loc.shape
        with torch.no_grad():
            chosen = dist.OneHotCategorical(logits=self.logits).sample(torch.Size(sample_shape))
            uniform = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            uniform = uniform.clamp(
                torch.finfo(uniform.dtype).tiny, 1 - torch.finfo(uniform.dtype).eps
            )
            drawn = self.loc + self.scale * uniform.logit()
            return (chosen * drawn).sum(-1).round().clamp(0, self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """The mean level: the sum over k of the probability of at least k."""
        weights = self.logits.softmax(-1)
        total = torch.zeros_like(self.loc[..., 0])
        for k in range(1, self.levels):
            total = total + (weights * torch.sigmoid((self.loc - k + 0.5) / self.scale)).sum(-1)
        return total
