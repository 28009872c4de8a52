"""Variables in units of their own: shifted and scaled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints

__all__ = ["InUnits", "by_entries", "robust_units_of", "units_of"]

_QUARTILES = 1.349  # standard deviations between those of a normal variable
_QUARTILES_OF = 10_000  # observations, about, which are enough
_AT_ONCE = 2**24  # entries of data, of which nobody minds a second array
_TEMPORARIES = 8  # of more, pieces that are so many times smaller


class InUnits(TorchDistribution):
    r"""Creates :math:`x = m + s u` of a variable u that has a known distribution.

    .. math:: \log p(x) = \log p_u\left(\frac{x - m}{s}\right) - \log s

    Whatever the units of x, what is computed is of the size of u: nothing overflows, and the
    floor of a scale is one of u. Torch's transformed distributions have no moments.

    Args:
        base: The distribution of u, of single entries, batch shape ``(*, *event_shape)``.
        loc: What is 0 in these units, m, of ``event_shape``.
        scale: What is 1 in them, s, likewise; positive.

    Example:
        >>> import pyro.distributions as dist
        >>> d = InUnits(dist.Normal(torch.zeros(3), 1.0), torch.ones(3), torch.full((3,), 2.0))
        >>> d.mean, d.stddev
        (tensor([1., 1., 1.]), tensor([2., 2., 2.]))
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, base: TorchDistributionMixin, loc: Tensor, scale: Tensor) -> None:
        self.base: Any = base
        self.unit_loc, self.unit_scale = _in_full(loc), _in_full(scale)
        super().__init__(self.base.batch_shape, self.base.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:
        return bool(self.base.has_rsample)

    @property
    def support(self) -> constraints.Constraint:
        """That of u: all of the real line, or of its positive half where ``loc`` is 0."""
        support: constraints.Constraint = self.base.support
        return support

    @property
    def loc(self) -> Tensor:
        """The location of x, where u is a real variable that has one."""
        return self._from(self._real().loc)

    @property
    def scale(self) -> Tensor:
        """The scale of x, where u is a real variable that has one."""
        scale: Tensor = self._real().scale
        return self.unit_scale * scale

    @property
    def mean(self) -> Tensor:
        return self._from(self.base.mean)

    @property
    def mode(self) -> Tensor:
        return self._from(self.base.mode)

    @property
    def variance(self) -> Tensor:
        variance: Tensor = self.base.variance
        return variance * self.unit_scale.square()

    @property
    def stddev(self) -> Tensor:
        stddev: Tensor = self.base.stddev
        return stddev * self.unit_scale

    def expand(self, batch_shape: Any, _instance: Any = None) -> InUnits:
        new: InUnits = self._get_checked_instance(InUnits, _instance)
        base = self.base.expand(torch.Size(batch_shape))
        InUnits.__init__(new, base, self.unit_loc, self.unit_scale)
        return new

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            x = self._from(self.base.sample(torch.Size(sample_shape)))
        # A positive number that the unit has made too small is one all the same.
        return x.clamp_min(torch.finfo(x.dtype).tiny) if self.support is constraints.positive else x

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self._from(self.base.rsample(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        log_prob: Tensor = self.base.log_prob(self._to(value))
        return log_prob - self.unit_scale.log()

    def cdf(self, value: Tensor) -> Tensor:
        cdf: Tensor = self.base.cdf(self._to(value))
        return cdf

    def icdf(self, value: Tensor) -> Tensor:
        return self._from(self.base.icdf(value))

    def entropy(self) -> Tensor:
        entropy: Tensor = self.base.entropy()
        return entropy + self.unit_scale.log()

    def _real(self) -> Any:
        if self.base.support is not constraints.real:
            raise AttributeError(f"{type(self.base).__name__} has parameters of another kind")
        return self.base

    def _to(self, x: Tensor) -> Tensor:
        return (_in_full(x) - self.unit_loc) / self.unit_scale

    def _from(self, u: Tensor) -> Tensor:
        return self.unit_loc + self.unit_scale * u


def _in_full(x: Tensor) -> Tensor:
    """Lifts half precision: a density needs more digits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def robust_units_of(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the median, and the standard deviation of a normal variable of that quartile range.

    They are those of most of the data, whatever a few outliers are; otherwise as :func:`units_of`,
    whose scale is taken where the quartiles agree.
    """
    ordered = x[:: max(1, len(x) // _QUARTILES_OF)].sort(0).values
    size = len(ordered)
    lower, loc, upper = (ordered[(size - 1) * i // 4] for i in (1, 2, 3))
    scale = (upper - lower) / _QUARTILES
    if scale.ndim > 1:
        scale = scale.mean().expand_as(scale)
    return loc, torch.where(scale > 0, scale, units_of(x)[1])


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(0), x.std(0, correction=0)


def by_entries(
    function: Callable[..., tuple[Tensor, ...]], x: Tensor, *each: Tensor
) -> tuple[Tensor, ...]:
    """Returns what a function makes of data entry by entry, of many data of some entries at a time.

    So it needs no second array of the size of the data.

    Args:
        function: From data ``(N, *event_shape)`` and tensors of ``event_shape`` to such tensors.
        x: The data.
        each: The tensors.

    Example:
        >>> by_entries(lambda x, low: (x.mean(0) - low,), torch.eye(2), torch.ones(2))
        (tensor([-0.5000, -0.5000]),)
    """
    if x.numel() <= _AT_ONCE:
        return function(x, *each)
    flat = [x.flatten(1), *(value.flatten()[None] for value in each)]
    step = max(1, _AT_ONCE // (_TEMPORARIES * len(x)))
    whole: tuple[Tensor, ...] = ()
    for i, part in enumerate(zip(*(value.split(step, 1) for value in flat), strict=True)):
        found = function(part[0], *(value[0] for value in part[1:]))
        # Into one place: small tensors that stay would lie where the next large one has no room.
        whole = whole or tuple(value.new_empty(flat[0].shape[1]) for value in found)
        for value, entries in zip(found, whole, strict=True):
            entries[i * step : i * step + len(value)] = value
        del found
    return tuple(entries.reshape(x.shape[1:]) for entries in whole)


def units_of(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean and the standard deviation of data, which are their units.

    Entries of vectors each have their own; those of images, which share a unit, one common scale,
    so that pixels that hardly vary stay quiet. An entry that never varies has no scale of its own:
    its size is taken, or 1 if it is zero.

    Args:
        x: Data, shape ``(N, *event_shape)``.

    Returns:
        Two tensors of ``event_shape``.
    """
    low, high = x.amin(0), x.amax(0)
    width = high - low
    varies = width > 0
    # Of data between 0 and 1, no square overflows or vanishes, and a constant is exactly one.
    per = torch.where(varies, width, torch.ones_like(width))
    mean, std = by_entries(lambda x, low, per: _moments((x - low) / per), x, low, per)
    loc = torch.where(varies, low + width * mean, low)
    scale = width * std
    if scale.ndim > 1:
        largest = scale.amax()
        share = scale / torch.where(largest > 0, largest, torch.ones_like(largest))
        scale = (largest * share.square().mean().sqrt()).expand_as(scale)
    size = low.abs()
    size = torch.where(size > 0, size, torch.ones_like(size))
    return loc, torch.where(scale > 0, scale, size)
