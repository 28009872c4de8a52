"""Test statistics: what is asked of a data set, simulated or observed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Unpack

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae._errors import expected, positive_integer
from pyro_vae.criticism._replicates import cycled, simulate
from pyro_vae.data.rows import GivenLike
from pyro_vae.distributions import AngleSupport
from pyro_vae.programs import Amortized

__all__ = ["Statistic", "default_statistics", "entries", "kurtosis"]

_LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)  # where marginals are compared
_EXTREME = 0.005  # of the model's own draws lie beyond each end
_PAIRS = 2000  # of entries whose correlation is looked at; more add nothing to a maximum but noise
_ROWS = 150  # data among which neighbours are sought: the cost is quadratic


@dataclass(frozen=True)
class Statistic:
    """A named function of whole data sets.

    However many columns it has it is one test, of the column that deviates most: so the number of
    tests does not grow with the dimension of the data.

    Attributes:
        name: What a table calls it.
        function: From data sets ``(R, N, *event_shape)`` to values ``(R, S)``, or ``(R,)``.
        columns: Names of the S columns; they are numbered where there are none.

    Example:
        >>> spread = Statistic("range", lambda x: x.amax(-2) - x.amin(-2))
        >>> spread(torch.zeros(7, 100, 3)).shape
        torch.Size([7, 3])
    """

    name: str
    function: Callable[[Tensor], Tensor]
    columns: tuple[str, ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the values, ``(R, S)``, of data sets ``(R, N, *event_shape)``.

        Raises:
            ValueError: If they have another shape, or one is not finite.
        """
        values = self.function(x)
        if not isinstance(values, Tensor) or values.shape[:1] != x.shape[:1] or values.ndim > 2:
            what = f"values of shape ({len(x)}, S), a row for each data set"
            raise expected(f"statistics: {self.name}", what, values)
        if not values.isfinite().all():
            raise expected(f"statistics: {self.name}", "finite values", f"{values.flatten()}")
        return values.reshape(len(x), -1)

    def column(self, index: int, of: int) -> str:
        """Names a column; empty where there is only one without a name."""
        if self.columns:
            return self.columns[index]
        return f"[{index}]" if of > 1 else ""


@torch.no_grad()
def default_statistics(
    vae: Amortized, *, size: int = 2000, **given: Unpack[GivenLike]
) -> tuple[Statistic, ...]:
    """Chooses statistics by the support of the likelihood.

    Binary data: means, correlations, neighbours, totals, distances. Counts also: dispersion,
    zeros, marginals and extremes. Real data also: spread, skewness and tails in place of
    dispersion; of positive data these, correlations and distances are those of logarithms, and
    there are no zeros. Angles: their mean direction and how they spread about it, marginals, and
    correlations and distances on the circle. Thresholds are quantiles of the model's own draws, so
    that they do not depend on the data that are judged.

    Args:
        vae: The model.
        size: Draws that the thresholds come from.
        **given: What goes with the data that are judged: draws are given the same.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Poisson((4,)))
        >>> [statistic.name for statistic in default_statistics(vae)][:4]
        ['mean', 'dispersion', 'zeros', 'marginals']
    """
    support, event_shape = vae.x_support, vae.event_shape
    size, everything = positive_integer("size", size), vae.like(given)
    reference = simulate(vae, 1, size, cycled(everything, size))[0].flatten(1)
    if isinstance(support, AngleSupport):
        return _of_angles(reference, event_shape)
    names = entries(event_shape)
    seen = _of_logs if support is constraints.positive else _as_they_are
    chosen = [Statistic("mean", _flat(_mean, event_shape), names)]
    if support is not constraints.boolean:
        if support is constraints.nonnegative_integer:
            chosen.append(Statistic("dispersion", _flat(_dispersion, event_shape), names))
        else:
            chosen.append(Statistic("spread", seen(_flat(_spread, event_shape)), names))
            chosen.append(Statistic("skewness", seen(_flat(_skewness, event_shape)), names))
            chosen.append(Statistic("tails", seen(_flat(kurtosis, event_shape))))
        if support is not constraints.positive:
            chosen.append(Statistic("zeros", _flat(_zeros, event_shape), names))
        chosen.append(_marginals(reference, event_shape))
        chosen.append(_extremes(reference, event_shape))
    if len(names) > 1:
        chosen.append(replace(each := _correlations(event_shape), function=seen(each.function)))
        if max(event_shape[-2:]) > 1:
            chosen.append(replace(each := _neighbours(event_shape), function=seen(each.function)))
        chosen.append(_totals(reference, event_shape))
    distances = seen(_flat(_distances, event_shape))
    chosen.append(Statistic("distances", distances, ("mean", "spread")))
    return tuple(chosen)


def _of_angles(reference: Tensor, event_shape: torch.Size) -> tuple[Statistic, ...]:
    """Statistics that do not depend on where the circle is cut open, but for the marginals."""
    names = entries(event_shape)
    ends = tuple(f"{function} {name}" for function in ("cos", "sin") for name in names)

    def vectors(x: Tensor) -> Tensor:
        return torch.cat([x.cos(), x.sin()], -1)

    def spread(x: Tensor) -> Tensor:
        return 1 - torch.hypot(x.cos().mean(-2), x.sin().mean(-2))

    def turned(x: Tensor) -> Tensor:
        """Sines of the angles from their mean direction."""
        x = x.flatten(x.ndim - len(event_shape))
        middle = torch.atan2(x.sin().mean(-2, keepdim=True), x.cos().mean(-2, keepdim=True))
        return (x - middle).sin().reshape(*x.shape[:-1], *event_shape)

    chosen = [
        Statistic("mean", _flat(lambda x: vectors(x).mean(-2), event_shape), ends),
        Statistic("spread", _flat(spread, event_shape), names),
        _marginals(reference, event_shape),
    ]
    if len(names) > 1:
        correlations = _correlations(event_shape)
        chosen.append(replace(correlations, function=lambda x: correlations.function(turned(x))))
    distances = _flat(lambda x: _distances(vectors(x)), event_shape)
    return (*chosen, Statistic("distances", distances, ("mean", "spread")))


def entries(event_shape: Sequence[int]) -> tuple[str, ...]:
    """Names of the entries of one x."""
    indices = itertools.product(*map(range, event_shape))
    return tuple(f"x[{', '.join(map(str, index))}]" for index in indices)


def _flat(
    function: Callable[[Tensor], Tensor], event_shape: torch.Size
) -> Callable[[Tensor], Tensor]:
    """Gives a function of ``(*, N, D)`` data of any event shape."""
    return lambda x: function(x.flatten(x.ndim - len(event_shape)))


def _of_logs(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Gives a function of data that of their logarithms."""
    return lambda x: function(x.log())


def _as_they_are(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return function


def _mean(x: Tensor) -> Tensor:
    return x.mean(-2)


def _spread(x: Tensor) -> Tensor:
    return x.std(-2)


def _zeros(x: Tensor) -> Tensor:
    return (x == 0).to(x.dtype).mean(-2)


def _dispersion(x: Tensor) -> Tensor:
    """Variance over mean, which is 1 for a Poisson distribution; 1 where nothing was counted."""
    mean = x.mean(-2)
    return torch.where(mean > 0, x.var(-2) / mean, 1.0)


def _standardized(x: Tensor) -> Tensor:
    """Columns of mean 0 and variance 1; a constant one is 0."""
    centered = x - x.mean(-2, keepdim=True)
    scale = centered.square().mean(-2, keepdim=True).sqrt()
    # What rounding leaves of a constant is no spread.
    floor = torch.finfo(x.dtype).eps * 8 * x.abs().amax(-2, keepdim=True)
    return torch.where(scale > floor, centered / scale, 0.0)


def _skewness(x: Tensor) -> Tensor:
    return _standardized(x).pow(3).mean(-2)


def kurtosis(x: Tensor) -> Tensor:
    """The fourth standardised moment, averaged over entries: 3 for normal ones."""
    return _standardized(x).pow(4).mean(-2).mean(-1, keepdim=True)


def _quantiles(reference: Tensor, levels: Sequence[float]) -> Tensor:
    """Thresholds for each column, shape ``(levels, D)``."""
    ordered = reference.sort(0).values
    return torch.stack([ordered[round(level * (len(ordered) - 1))] for level in levels])


def _below(x: Tensor, thresholds: Tensor) -> Tensor:
    """Shares at or below each threshold, ``(*, levels * D)``."""
    return torch.cat([(x <= each).to(x.dtype).mean(-2) for each in thresholds], -1)


def _marginals(reference: Tensor, event_shape: torch.Size) -> Statistic:
    thresholds = _quantiles(reference, _LEVELS)
    columns = [
        f"{name} <= {value:.3g}"
        for row in thresholds.tolist()
        for name, value in zip(entries(event_shape), row, strict=True)
    ]
    function = _flat(lambda x: _below(x, thresholds), event_shape)
    return Statistic("marginals", function, tuple(columns))


def _extremes(reference: Tensor, event_shape: torch.Size) -> Statistic:
    low, high = _quantiles(reference, (_EXTREME, 1 - _EXTREME))

    def function(x: Tensor) -> Tensor:
        beyond = [(x < low).to(x.dtype), (x > high).to(x.dtype)]
        return torch.stack([each.mean((-2, -1)) for each in beyond], -1)

    columns = ("share below the model's", "share above the model's")
    return Statistic("extremes", _flat(function, event_shape), columns)


def _correlations(event_shape: torch.Size) -> Statistic:
    """Correlations of pairs of entries; of many pairs a fixed choice."""
    size = event_shape.numel()
    pairs = torch.combinations(torch.arange(size)) if size < 1000 else None
    generator = torch.Generator().manual_seed(0)
    if pairs is None:
        first = torch.randint(size, (_PAIRS,), generator=generator)
        second = (first + torch.randint(1, size, (_PAIRS,), generator=generator)) % size
        pairs = torch.stack([first, second], 1)
    elif len(pairs) > _PAIRS:
        pairs = pairs[torch.randperm(len(pairs), generator=generator)[:_PAIRS]]
    left, right = pairs.unbind(1)

    def function(x: Tensor) -> Tensor:
        standard = _standardized(x)
        if size**2 <= 4 * _PAIRS:  # a matrix product is faster than gathering
            matrix = standard.mT @ standard / x.shape[-2]
            return matrix[..., left.to(x.device), right.to(x.device)]
        products = [(one[:, left.to(x.device)] * one[:, right.to(x.device)]) for one in standard]
        return torch.stack([each.mean(0) for each in products])

    names = entries(event_shape)
    columns = tuple(f"{names[i]}, {names[j]}" for i, j in pairs.tolist())
    return Statistic("correlation", _flat(function, event_shape), columns)


def _neighbours(event_shape: torch.Size) -> Statistic:
    """Correlation of entries side by side, averaged over the entries."""
    axes = range(max(0, len(event_shape) - 2), len(event_shape))
    long = [axis for axis in axes if event_shape[axis] > 1]

    def function(x: Tensor) -> Tensor:
        batch = x.ndim - len(event_shape)
        standard = _standardized(x.flatten(batch)).reshape(x.shape)
        found = []
        for axis in long:
            size = event_shape[axis]
            left = standard.narrow(batch + axis, 0, size - 1)
            right = standard.narrow(batch + axis, 1, size - 1)
            found.append((left * right).flatten(batch - 1).mean(-1))
        return torch.stack(found, -1)

    columns = tuple(f"axis {axis}" for axis in long) if len(event_shape) > 1 else ()
    return Statistic("neighbours", function, columns)


def _totals(reference: Tensor, event_shape: torch.Size) -> Statistic:
    """The sum over the entries of an observation: it spreads where entries vary together."""
    thresholds = _quantiles(reference.sum(-1, keepdim=True), _LEVELS)

    def function(x: Tensor) -> Tensor:
        total = x.sum(-1, keepdim=True)
        return torch.cat([total.std(-2), _below(total, thresholds)], -1)

    columns = ("spread", *(f"share <= {value:.3g}" for value in thresholds[:, 0].tolist()))
    return Statistic("totals", _flat(function, event_shape), columns)


def _distances(x: Tensor) -> Tensor:
    """Mean and spread of the distance to the nearest other observation."""
    x = x[..., :_ROWS, :]
    distance = torch.cdist(x, x)
    distance.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
    nearest = distance.amin(-1)
    return torch.stack([nearest.mean(-1), nearest.std(-1)], -1)
