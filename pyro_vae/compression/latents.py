"""Latents on a grid: bins that a distribution makes alike in probability, taken by another."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri
from torch import distributions as of_torch

from pyro_vae._errors import expected
from pyro_vae.compression.cumulative import BASE, Cumulative, Function
from pyro_vae.compression.stack import Stack

__all__ = ["BINS", "Entries", "Grid", "entries_of"]

_DIGITS = 4
BINS = BASE**_DIGITS
"""Bins of an entry. They are narrow far out, too, where a posterior may be; more cost nothing."""


@dataclass(frozen=True)
class Entries:
    """Distributions of the entries of n latents, each given those before it.

    Attributes:
        family: ``normal`` or ``laplace``.
        loc: Shape ``(n, d)``.
        scale: Shape ``(n, d)``.
        lower: Of dependent entries what the standardised deviations of those before move the
            location by, below the diagonal, shape ``(n, d, d)``.
    """

    family: str
    loc: np.ndarray
    scale: np.ndarray
    lower: np.ndarray | None = None

    def first(self, size: int) -> Entries:
        """Returns those of the first latents."""
        lower = None if self.lower is None else self.lower[:size]
        return Entries(self.family, self.loc[:size], self.scale[:size], lower)


@dataclass(frozen=True)
class Grid:
    """The bins of the entries of n latents: equal masses of these distributions.

    Attributes:
        family: ``normal`` or ``laplace``.
        loc: Shape ``(n, d)``.
        scale: Shape ``(n, d)``.
    """

    family: str
    loc: np.ndarray
    scale: np.ndarray

    def points(self, bins: np.ndarray) -> np.ndarray:
        """Returns the medians of bins, shape ``(n, d)``."""
        return self.loc + self.scale * _quantiles(self.family)[1][bins]

    def push(self, stack: Stack, bins: np.ndarray, by: Entries) -> None:
        """Puts bins onto a stack, shape ``(n, d)``, by distributions of the entries."""
        if by.lower is None:
            self._cumulative(by).push(stack, bins.reshape(-1), _DIGITS)
            return
        locs = np.empty_like(by.loc)
        deviations = np.zeros_like(by.loc)
        points = self.points(bins)
        for i in range(by.loc.shape[1]):
            locs[:, i] = by.loc[:, i] + (by.lower[:, i] * deviations).sum(1)
            deviations[:, i] = (points[:, i] - locs[:, i]) / by.scale[:, i]
        for i in reversed(range(by.loc.shape[1])):
            self._cumulative(by, locs, i).push(stack, bins[:, i], _DIGITS)

    def pop(self, stack: Stack, by: Entries) -> np.ndarray:
        """Takes bins from a stack, shape ``(n, d)``: the inverse of :meth:`push`."""
        if by.lower is None:
            return self._cumulative(by).pop(stack, _DIGITS).reshape(by.loc.shape)
        bins = np.zeros(by.loc.shape, np.int64)
        locs, deviations = np.empty_like(by.loc), np.zeros_like(by.loc)
        for i in range(by.loc.shape[1]):
            locs[:, i] = by.loc[:, i] + (by.lower[:, i] * deviations).sum(1)
            bins[:, i] = self._cumulative(by, locs, i).pop(stack, _DIGITS)
            deviations[:, i] = (self.points(bins)[:, i] - locs[:, i]) / by.scale[:, i]
        return bins

    def push_alike(self, stack: Stack, bins: np.ndarray) -> None:
        """Puts bins onto a stack, shape ``(n, d)``, by the distributions that the grid is of."""
        stack.push_uniform(bins.reshape(-1), BINS)

    def pop_alike(self, stack: Stack) -> np.ndarray:
        """Takes bins from a stack, shape ``(n, d)``: the inverse of :meth:`push_alike`."""
        return stack.pop_uniform(self.loc.size, BINS).reshape(self.loc.shape)

    def _cumulative(
        self, by: Entries, locs: np.ndarray | None = None, column: int | None = None
    ) -> Cumulative:
        """Returns the distribution functions of bins; of one column where it is given."""
        loc = by.loc if locs is None else locs
        every = (loc, by.scale, self.loc, self.scale)
        each = (values if column is None else values[:, column] for values in every)
        return Cumulative(_of_bins(self.family, by.family), tuple(v.reshape(-1) for v in each))


def entries_of(distribution: Any, size: int, argument: str, part: object) -> Entries:
    """Returns the distributions of entries of a latent, each given those before it.

    Args:
        distribution: Of batch shape ``()`` or ``(size,)``.
        size: How many latents, n.
        argument: What to call the part in an error: ``prior`` or ``guide``.
        part: The part whose distribution it is.

    Raises:
        ValueError: If they are none that have a distribution function.
    """
    lower = None
    base = getattr(distribution, "base_dist", distribution)
    if isinstance(distribution, of_torch.MultivariateNormal):
        family, loc, lower = "normal", distribution.loc, distribution.scale_tril
        scale = lower.diagonal(dim1=-2, dim2=-1)
    elif type(base).__name__ in ("Normal", "Laplace") and isinstance(
        base, of_torch.Normal | of_torch.Laplace
    ):
        family, loc, scale = type(base).__name__.lower(), base.loc, base.scale
    else:
        what = "one whose entries have a distribution function, each given those before: Normal, "
        what += "Laplace, FullNormal or Hierarchy"
        raise expected(argument, what, type(part).__name__)
    d = loc.shape[-1]
    locs, scales = (np.array(each.double().expand(size, d).numpy()) for each in (loc, scale))
    if lower is None:
        return Entries(family, locs, scales)
    below = np.array(lower.double().tril(-1).expand(size, d, d).numpy())
    return Entries(family, locs, scales, below)


@cache
def _quantiles(family: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the edges of bins of equal mass, and their medians, of a standard variable."""
    inverse = ndtri if family == "normal" else _laplace_inverse
    places = np.arange(BINS + 1) / BINS
    return inverse(places), inverse(places[:-1] + 0.5 / BINS)


def _laplace_inverse(p: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.where(p < 0.5, np.log(2 * p), -np.log(2 * (1 - p)))


def _laplace_below(at: np.ndarray) -> np.ndarray:
    tail = 0.5 * np.exp(-np.abs(at))
    return np.where(at < 0, tail, 1 - tail)


def _of_bins(grid: str, by: str) -> Function:
    """Returns the distribution function of bins of one family under another."""
    edges, _ = _quantiles(grid)
    below = ndtr if by == "normal" else _laplace_below

    def function(
        bins: np.ndarray,
        loc: np.ndarray,
        scale: np.ndarray,
        grid_loc: np.ndarray,
        grid_scale: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        at = (grid_loc + grid_scale * edges[bins] - loc) / scale
        return below(at), below(-at)

    return function
