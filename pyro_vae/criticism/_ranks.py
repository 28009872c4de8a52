"""P-values by ranks among replicates, and their correction for how many there are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["compare", "holm"]

_AT_ONCE = 2**22  # values that are ranked at once


def compare(observed: Tensor, replicated: Tensor) -> float:
    """Ranks how far out the observed values lie among all.

    One column is ranked from both ends. Of several, each data set has two scores, the deviation
    of its most deviant column, in standard deviations, and how far out its columns rank on the
    whole, and the better rank of the two is ranked again: the first finds one bad entry of x, the
    second many that are a little off. Observed and replicated are treated alike, which makes the
    last rank uniform when they are exchangeable; ties are broken at random.

    References:
        Resampling-based multiple testing (Westfall and Young, 1993), section 2.3

    Args:
        observed: Values, shape ``(S,)``.
        replicated: Values, shape ``(R, S)``.

    Returns:
        The p-value, one of 1 / (R + 1), ..., 1.

    Example:
        >>> compare(torch.tensor([50.0]), torch.arange(99.0)[:, None]) > 0.9
        True
        >>> compare(torch.tensor([0.0, 9.0]), torch.randn(999, 2))
        0.001
    """
    length = len(replicated) + 1
    deviations, extents = [], []
    # A few columns at a time: ranks take several times the memory of what is ranked.
    for some in range(0, len(observed), at_once := max(1, _AT_ONCE // length)):
        block = slice(some, some + at_once)
        pool = torch.cat([observed[None, block], replicated[:, block]]).double()
        # Of each value, how many more lie to one side of it than to the other: from 0 to R.
        outside = (_rank(pool) - _rank(-pool)).abs()
        if len(observed) > 1:
            deviation = (pool - pool.mean(0)).abs()
            scale = pool.std(0, correction=0)
            # Rounding gives a constant column a spread of its own.
            deviation = torch.where(scale > 1e-12 * pool.abs().amax(0), deviation / scale, 0.0)
            deviations.append(deviation.amax(1))
            extents.append(-torch.log1p(-outside / length).sum(1))
    if len(observed) == 1:
        score = outside[:, 0]
    else:
        extent = torch.stack(extents).sum(0) / len(observed)
        ranks = _rank(torch.stack([torch.stack(deviations).amax(0), extent], 1))
        score = ranks.amax(1) + ranks.amin(1) / length
    farther = int((score[1:] > score[0]).sum())
    ties = int((score[1:] == score[0]).sum())
    rank = farther + int(torch.randint(ties + 1, ()))
    return (1 + rank) / length


def _rank(pool: Tensor) -> Tensor:
    """For each value, how many of its column are smaller."""
    columns = pool.T.contiguous()
    return torch.searchsorted(columns.sort(1).values, columns).T.double()


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values for their number: reject those at or below the level.

    References:
        A simple sequentially rejective multiple test procedure (Holm, 1979),
        https://www.jstor.org/stable/4615733

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for done, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - done) * p_values[i]))
        adjusted[i] = largest
    return adjusted
