"""Multinomial distribution with a random or known total."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

__all__ = ["TotalMultinomial", "TotalSupport"]


class TotalSupport(constraints.Constraint):
    """Counts that add up to a given total.

    Args:
        total: The total.
        event_dim: Over how many dimensions they are added.

    Example:
        >>> TotalSupport(5, 1).check(torch.tensor([[2.0, 3.0], [2.0, 2.0]]))
        tensor([[ True,  True],
                [False, False]])
    """

    is_discrete = True
    event_dim = 0

    def __init__(self, total: int, event_dim: int) -> None:
        self.lower_bound, self.upper_bound, self.dims = 0, total, event_dim
        super().__init__()

    def __repr__(self) -> str:
        return f"TotalSupport({self.upper_bound})"

    def check(self, value: Tensor) -> Tensor:
        """Returns for each entry whether it is a count of an observation with this total."""
        total = value.sum(list(range(-self.dims, 0)), keepdim=True)
        return (value >= 0) & (value % 1 == 0) & (total == self.upper_bound)


class TotalMultinomial(TorchDistribution):
    r"""Creates counts that share a random total.

    .. math:: p(x) = p(n) \, \frac{n!}{\prod_d x_d!} \prod_d \pi_d^{x_d}, \quad n = \sum_d x_d

    Args:
        total: The distribution of the total, batch shape ``()``; or a number, if it is known.
        logits: Of the probabilities, shape ``(*, *event_shape)``, normalised over the event.
        event_dim: Dimensions of the event.

    Example:
        >>> d = TotalMultinomial(10, torch.zeros(4), 1)
        >>> d.mean, d.sample().sum()
        (tensor([2.5000, 2.5000, 2.5000, 2.5000]), tensor(10.))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self, total: Any, logits: Tensor, event_dim: int, validate_args: Any = None
    ) -> None:
        batch, event = logits.shape[:-event_dim], logits.shape[-event_dim:]
        self.total = total
        self.log_probs = logits.flatten(-event_dim).log_softmax(-1)
        super().__init__(batch, event, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """Counts, of the known total if there is one."""
        known = isinstance(self.total, int)
        dims = len(self.event_shape)
        base = TotalSupport(self.total, dims) if known else constraints.nonnegative_integer
        return constraints.independent(base, dims)

    @property
    def mean(self) -> Tensor:
        """The mean counts."""
        total = self.total if isinstance(self.total, int) else self.total.mean
        return (total * self.log_probs.exp()).reshape(self.batch_shape + self.event_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> TotalMultinomial:
        new = self._get_checked_instance(TotalMultinomial, _instance)
        new.total = self.total
        new.log_probs = self.log_probs.expand((*batch_shape, -1))
        shape = torch.Size(batch_shape), self.event_shape
        super(TotalMultinomial, new).__init__(*shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        value = value.flatten(value.ndim - len(self.event_shape))
        total = value.sum(-1)
        ways = (total + 1).lgamma() - (value + 1).lgamma().sum(-1)
        shared = ways + (value * self.log_probs).sum(-1)
        if isinstance(self.total, int):
            return torch.where(total == self.total, shared, -math.inf)
        return shared + self.total.log_prob(total)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            if isinstance(self.total, int):
                counts = self.log_probs.new_full((*shape, 1), self.total)
            else:
                counts = self.total.expand(shape).sample().to(self.log_probs)[..., None]
            # The share of one half of the entries is binomial given their total, and so is that of
            # a half of the half: as many draws as entries, in few steps.
            size = self.log_probs.shape[-1]
            padding = (0, (1 << (size - 1).bit_length()) - size)
            levels = [F.pad(self.log_probs, padding, value=-math.inf)]
            while levels[-1].shape[-1] > 1:
                levels.append(levels[-1].unflatten(-1, (-1, 2)).logsumexp(-1))
            for halves in reversed(levels[:-1]):
                left, right = halves.unflatten(-1, (-1, 2)).unbind(-1)
                share = (left - right).sigmoid().nan_to_num(0.0).expand(counts.shape)
                first = torch.binomial(counts, share)
                counts = torch.stack([first, counts - first], -1).flatten(-2)
            return counts[..., :size].reshape(shape + self.event_shape)
