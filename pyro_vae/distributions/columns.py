"""Columns of a table, each group with a distribution of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vae._errors import expected

__all__ = ["ColumnSupport", "Columns"]


class ColumnSupport(constraints.Constraint):
    """Where each column of a table lives.

    It is discrete only if all columns are: what is stored must hold any of them.

    Args:
        supports: One for each group of columns, of single entries.
        sizes: How many columns there are in each group.

    Example:
        >>> support = ColumnSupport([constraints.boolean, constraints.real], [1, 2])
        >>> support.check(torch.tensor([0.5, 0.5, -1.0]))
        tensor([False,  True,  True])
    """

    event_dim = 0

    def __init__(self, supports: Sequence[constraints.Constraint], sizes: Sequence[int]) -> None:
        self.supports, self.sizes = list(supports), list(sizes)
        self.is_discrete = all(support.is_discrete for support in supports)
        super().__init__()

    def __repr__(self) -> str:
        return f"ColumnSupport({', '.join(map(str, self.each()))})"

    def each(self) -> list[constraints.Constraint]:
        """Returns the support of each column."""
        pairs = zip(self.supports, self.sizes, strict=True)
        return [support for support, size in pairs for _ in range(size)]

    def check(self, value: Tensor) -> Tensor:
        """Returns for each entry of a table ``(*, D)`` whether it is in its support."""
        parts = zip(self.supports, value.split(self.sizes, -1), strict=True)
        return torch.cat([support.check(part) for support, part in parts], -1)


class Columns(TorchDistribution):
    """Creates independent variables side by side, each group with a distribution of its own.

    Its last batch dimension are the columns, so that ``.to_event(1)`` makes rows of a table.

    Args:
        distributions: Distributions of single entries, batch shapes ``(*, D_k)``.

    Example:
        >>> import pyro.distributions as dist
        >>> table = Columns([dist.Normal(torch.zeros(2), 1.0), dist.Poisson(torch.ones(1))])
        >>> table.batch_shape, table.to_event(1).event_shape
        (torch.Size([3]), torch.Size([3]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, distributions: Sequence[Any], validate_args: Any = None) -> None:
        batch = torch.broadcast_shapes(*(d.batch_shape[:-1] for d in distributions))
        self.sizes = [d.batch_shape[-1] for d in distributions]
        pairs = zip(distributions, self.sizes, strict=True)
        self.distributions = [d.expand(torch.Size((*batch, size))) for d, size in pairs]
        super().__init__(torch.Size((*batch, sum(self.sizes))), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """Where each column lives."""
        return ColumnSupport([d.support for d in self.distributions], self.sizes)

    @property
    def mean(self) -> Tensor:
        """The mean of each column."""
        return torch.cat([d.mean for d in self.distributions], -1)

    @property
    def variance(self) -> Tensor:
        """The variance of each column."""
        return torch.cat([d.variance for d in self.distributions], -1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Columns:
        new = self._get_checked_instance(Columns, _instance)
        if torch.Size(batch_shape)[-1:] != self.batch_shape[-1:]:
            raise expected("batch_shape", f"{sum(self.sizes)} columns", torch.Size(batch_shape))
        new.sizes = self.sizes
        pairs = zip(self.distributions, self.sizes, strict=True)
        new.distributions = [d.expand(torch.Size((*batch_shape[:-1], size))) for d, size in pairs]
        super(Columns, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        pairs = zip(self.distributions, value.split(self.sizes, -1), strict=True)
        return torch.cat([d.log_prob(part) for d, part in pairs], -1)

    @property
    def has_rsample(self) -> bool:
        """Whether the draws of all columns pass gradients."""
        return all(d.has_rsample for d in self.distributions)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape)
        return torch.cat([d.sample(shape) for d in self.distributions], -1)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape)
        return torch.cat([d.rsample(shape) for d in self.distributions], -1)
