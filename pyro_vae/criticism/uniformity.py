"""Are these numbers uniform? One test, and the bands around an ECDF that it amounts to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import bdtr, bdtrc
from scipy.stats import poisson

from pyro_vae._errors import expected

__all__ = ["Bands", "Coverage", "Uniformity", "bands", "ecdf", "how_uneven", "uniformity"]

_CLEAR = 2.0  # standard errors by which numbers are off before it is named how
_TOLERANCE = 1e-6  # of the logarithm of a critical value
_TIE = 1 + 1e-9  # tails that agree but for rounding, such as those of a point and of its mirror


@dataclass(frozen=True, eq=False)
class Uniformity:
    """What :func:`uniformity` returns, one entry a column.

    Attributes:
        p_value: Shape ``(Q,)``; uniform, but for steps, when the numbers are.
        point: Where the ECDF is farthest out for its binomial distribution, shape ``(Q,)``.
        ecdf: Its value there, shape ``(Q,)``.
    """

    p_value: np.ndarray
    point: np.ndarray
    ecdf: np.ndarray


@dataclass(frozen=True, eq=False)
class Bands:
    """Bands that the whole ECDF of uniform numbers stays within, with a stated probability.

    Attributes:
        points: Where the ECDF is looked at, shape ``(K - 1,)``.
        low: Least value there, shape ``(K - 1,)``.
        high: Greatest value there, shape ``(K - 1,)``.
    """

    points: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, eq=False)
class Coverage:
    """How often regions hold the truth that should hold it with a stated probability.

    Attributes:
        names: Of the regions: ``highest density``, the set of z where a density is above a
            threshold, then the central interval of each continuous latent; C in all.
        nominal: The stated probabilities, shape ``(K - 1,)``.
        actual: Shares of simulations whose truth is inside, shape ``(C, K - 1)``.
        low: Where ``actual`` stays above all along if the posterior is exact, with probability
            ``1 - level`` together with ``high``, shape ``(K - 1,)``.
        high: Where it stays below, shape ``(K - 1,)``.
    """

    names: tuple[str, ...]
    nominal: np.ndarray
    actual: np.ndarray
    low: np.ndarray
    high: np.ndarray


def uniformity(values: np.ndarray, num_bins: int = 100) -> Uniformity:
    r"""Tests whether numbers are independent and uniform on (0, 1), one column at a time.

    The ECDF is looked at where ``num_bins`` equal bins meet. Its least likely value there,

    .. math:: \gamma = 2 \min_k \min\{F_k(R_k), \; 1 - F_k(R_k - 1)\}, \quad
        F_k = \mathrm{Binomial}(N, k / K),

    where R_k numbers lie below k / K, is small when the numbers are too low or too high, gather
    around one half, or avoid it. Its p-value is exact: a sum over all paths of the ECDF.

    References:
        Graphical test for discrete uniformity and its applications in goodness-of-fit evaluation
        and multiple sample comparison (Säilynoja, Bürkner and Vehtari, 2022),
        https://doi.org/10.1007/s11222-022-10090-6

    Args:
        values: Numbers in [0, 1), shape ``(N, Q)``.
        num_bins: K, at least two.

    Returns:
        The p-values, and where each ECDF is farthest out.

    Raises:
        ValueError: If a number is outside [0, 1).

    Example:
        >>> even = (np.arange(200) + 0.5) / 200
        >>> uniformity(np.stack([even, 0.3 + 0.4 * even], 1)).p_value.round(3) + 0.0
        array([1., 0.])
    """
    counts = _counts(values, num_bins)
    size = len(values)
    below, above = _tails(size, num_bins)
    rows = np.arange(num_bins - 1)
    tails = np.minimum(below[rows, counts], above[rows, counts])
    worst = tails.argmin(1)
    p_values = [_p_value(2 * float(tail.min()), size, num_bins) for tail in tails]
    farthest = counts[np.arange(len(counts)), worst] / size
    return Uniformity(np.asarray(p_values), (worst + 1) / num_bins, farthest)


def ecdf(values: np.ndarray, num_bins: int = 100) -> np.ndarray:
    """Returns the ECDF of each column where bins meet, as the bands have it.

    Args:
        values: Numbers in [0, 1), shape ``(N, Q)``.
        num_bins: K.

    Returns:
        Shares below each point, shape ``(Q, K - 1)``.

    Raises:
        ValueError: If a number is outside [0, 1).

    Example:
        >>> ecdf(np.array([[0.1], [0.6], [0.7], [0.8]]), num_bins=4)
        array([[0.25, 0.25, 0.75]])
    """
    return _counts(values, num_bins) / len(values)


def how_uneven(values: np.ndarray) -> str:
    """Names how numbers on (0, 1) are off: ``high``, ``low``, ``outer``, ``inner`` or ``uneven``.

    Args:
        values: Shape ``(N,)``.

    Example:
        >>> how_uneven(np.linspace(0.4, 0.6, 100))
        'inner'
    """
    shift = (values.mean() - 0.5) * math.sqrt(12 * len(values))
    spread = (values.var() - 1 / 12) * math.sqrt(180 * len(values))
    if max(abs(shift), abs(spread)) < _CLEAR:
        return "uneven"
    if abs(shift) >= abs(spread):
        return "high" if shift > 0 else "low"
    return "outer" if spread > 0 else "inner"


@lru_cache(maxsize=64)
def bands(size: int, level: float = 0.05, num_bins: int = 100) -> Bands:
    """Returns the bands outside which :func:`uniformity` has p-values at or below a level.

    Args:
        size: How many numbers, N.
        level: Probability that the ECDF of uniform numbers leaves the bands, at most.
        num_bins: The ECDF is looked at where this many equal bins meet.

    Example:
        >>> band = bands(500)
        >>> float(band.low[49]), float(band.high[49])
        (0.434, 0.566)
    """
    if not 0 < level < 1:
        raise expected("level", "a number between 0 and 1", level)
    least, most = np.log(level / num_bins) - 1, 0.0
    while most - least > _TOLERANCE:
        middle = (least + most) / 2
        if _p_value(float(np.exp(middle)), size, num_bins) <= level:
            least = middle
        else:
            most = middle
    low, high = _bounds(float(np.exp(least)), size, num_bins)
    return Bands(np.arange(1, num_bins) / num_bins, low / size, high / size)


def _counts(values: np.ndarray, num_bins: int) -> np.ndarray:
    """How many numbers of each column lie below each point."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not ((values >= 0) & (values < 1)).all():
        raise expected("values", "numbers in [0, 1), shape (N, Q)", values)
    bins = np.minimum((values * num_bins).astype(np.int64), num_bins - 1)
    counts = [np.bincount(column, minlength=num_bins).cumsum()[:-1] for column in bins.T]
    return np.asarray(counts, dtype=np.int64).reshape(-1, num_bins - 1)


@lru_cache(maxsize=4)
def _tails(size: int, num_bins: int) -> tuple[np.ndarray, np.ndarray]:
    """P(R <= r) and P(R >= r) for each point, one a row, and each count r."""
    points = np.arange(1, num_bins)[:, None] / num_bins
    counts = np.arange(size + 1)
    at_least = np.ones((num_bins - 1, size + 1))
    at_least[:, 1:] = bdtrc(counts[:-1], size, points)
    return bdtr(counts, size, points), at_least


def _bounds(gamma: float, size: int, num_bins: int) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest count at each point whose tails both exceed gamma / 2."""
    below, above = _tails(size, num_bins)
    return (2 * below <= gamma * _TIE).sum(1), (2 * above > gamma * _TIE).sum(1) - 1


def _p_value(gamma: float, size: int, num_bins: int) -> float:
    """The probability that the statistic of uniform numbers is at most ``gamma``.

    Counts in bins are independent Poisson variables given their sum, so that a step from one point
    to the next is the same convolution everywhere.
    """
    low, high = _bounds(gamma, size, num_bins)
    step = poisson.pmf(np.arange(size + 1), size / num_bins)
    mass, start = np.ones(1), 0  # of the paths so far that stayed inside, by count
    for least, most in zip(low.tolist(), high.tolist(), strict=True):
        if most < least or most < start:
            return 1.0
        mass = np.convolve(mass, step[: most - start + 1])[least - start : most - start + 1]
        start = least
    inside = mass @ step[size - start - np.arange(len(mass))] / poisson.pmf(size, size)
    # Where the sum is all rounding, the tail of one point and those of all are bounds.
    return float(np.clip(1 - inside, gamma / 2, min(1.0, (num_bins - 1) * gamma)))
