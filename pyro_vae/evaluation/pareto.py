"""How heavy the tail of importance weights is, all data at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["SHORTEST_TAIL", "k_hat", "k_hat_threshold", "smooth_tail", "tail_length"]

SHORTEST_TAIL = 6  # of fewer weights the lowest quarter is none


def tail_length(num_samples: int) -> int:
    """Returns how many of the largest weights make the tail: min(S / 5, 3 sqrt(S))."""
    return int(min(num_samples / 5, 3 * math.sqrt(num_samples)))


def k_hat(largest: Tensor) -> Tensor:
    """Fits a generalised Pareto distribution to a tail of weights and returns its shape.

    The profile posterior mean of Zhang and Stephens, drawn towards one half as if by ten more
    weights. It is NaN where the tail is too short, or where it has no spread to speak of, as with
    the exact posterior as the guide; it is infinite where a few weights are so large that the rest
    vanish beside them.

    References:
        A New and Efficient Estimation Method for the Generalized Pareto Distribution
        (Zhang and Stephens, 2009), https://doi.org/10.1198/tech.2009.08017
        Pareto Smoothed Importance Sampling (Vehtari et al., 2024),
        https://arxiv.org/abs/1507.02646

    Args:
        largest: The ``tail_length(S) + 1`` largest of S log weights, largest first, one column a
            observation, shape ``(M + 1, B)``, float64.

    Returns:
        Shape parameters, shape ``(B,)``.

    Example:
        >>> uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
        >>> weights = uniform.pow(-0.5)  # a Pareto distribution of shape one half
        >>> round(k_hat(weights[: tail_length(1000) + 1, None].log()).item(), 1)
        0.5
    """
    return _fit(largest)[0]


def smooth_tail(largest: Tensor) -> Tensor:
    """Replaces a tail of weights by the expected order statistics of its fit.

    None becomes larger than the largest there was. Where nothing could be fitted, the weights stay.

    References:
        Pareto Smoothed Importance Sampling (Vehtari et al., 2024),
        https://arxiv.org/abs/1507.02646

    Args:
        largest: As :func:`k_hat` takes them, shape ``(M + 1, B)``.

    Returns:
        Log weights in the place of the M largest, largest first, shape ``(M, B)``.

    Example:
        >>> uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
        >>> tail = uniform.pow(-0.5)[: tail_length(1000) + 1, None].log()
        >>> bool((smooth_tail(tail) - tail[:-1]).abs().median() < 0.01)  # it already was Pareto
        True
    """
    k, scale = _fit(largest)
    size = len(largest) - 1
    upper = (torch.arange(size, dtype=largest.dtype) + 0.5) / size  # probability of a larger one
    excess = torch.expm1(-k * upper.log()[:, None]) / k
    excess = torch.where(k == 0, -upper.log()[:, None], excess)
    cutoff = (largest[-1] - largest[0]).exp()
    smoothed = (cutoff + scale * excess).clamp_max(1).log() + largest[0]
    return torch.where(k.isfinite() & (scale > 0), smoothed, largest[:-1])


def _fit(largest: Tensor) -> tuple[Tensor, Tensor]:
    """Returns shape and scale, the scale beside a largest weight of one."""
    size = len(largest) - 1
    if size < SHORTEST_TAIL:
        unfit = largest.new_full((largest.shape[1],), math.nan)
        return unfit, unfit
    quartile = size - int(size / 4 + 0.5)  # the lowest quarter of the tail lies below it
    weights = (largest - largest[0]).exp()
    excess = (weights[:-1] - weights[-1]).T.contiguous()

    grid = 30 + int(math.sqrt(size))
    steps = 1 - (grid / (torch.arange(grid, dtype=excess.dtype) + 0.5)).sqrt()
    b = 1 / excess[:, :1] + steps / (3 * excess[:, quartile, None])
    # One grid point at a time: all at once would need grid times the memory of the tail.
    k = torch.stack([_shape(column, excess) for column in b.unbind(1)], 1)
    posterior = (size * ((-b / k).log() - k - 1)).softmax(1)
    mean = (b * posterior).sum(1)
    likeliest = _shape(mean, excess)
    fitted = (size * likeliest + 10 * 0.5) / (size + 10)

    underflown = largest[0] - largest[quartile] > -math.log(torch.finfo(largest.dtype).tiny)
    unfit = torch.where(underflown, math.inf, math.nan)
    return torch.where(fitted.isfinite(), fitted, unfit), -likeliest / mean


def _shape(b: Tensor, excess: Tensor) -> Tensor:
    return (-b[:, None] * excess).log1p().mean(1)


def k_hat_threshold(num_samples: int) -> float:
    """Returns the shape above which an estimate is not to be trusted: min(1 - 1 / log10 S, 0.7).

    References:
        Pareto Smoothed Importance Sampling (Vehtari et al., 2024),
        https://arxiv.org/abs/1507.02646

    Example:
        >>> round(k_hat_threshold(100), 2), k_hat_threshold(10_000)
        (0.5, 0.7)
    """
    return min(1 - 1 / math.log10(max(num_samples, 2)), 0.7)
