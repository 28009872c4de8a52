"""Scores at draws of global latents, averaged into those of the program that has them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import logsumexp

from pyro_vae._errors import plural
from pyro_vae.evaluation.scores import Scores, jackknife_error

__all__ = ["averaged", "log_mean"]


def log_mean(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the logarithm of the mean over draws, and its standard error by the jackknife.

    Of few draws, that of the delta method is too small where one of them weighs most.

    References:
        The Jackknife, the Bootstrap and Other Resampling Plans (Efron, 1982),
        https://doi.org/10.1137/1.9781611970319

    Args:
        columns: Logarithms, shape ``(S, N)``.

    Returns:
        Shape ``(N,)`` each; the error of a single draw is NaN.

    Example:
        >>> mean, error = log_mean(np.log([[1.0], [3.0]]))
        >>> float(np.exp(mean[0])).__round__(3), float(error[0]).__round__(3)
        (2.0, 0.549)
    """
    return logsumexp(columns, 0) - math.log(len(columns)), jackknife_error(_without_each(columns))


def _without_each(columns: np.ndarray) -> np.ndarray:
    """Returns the logarithms of the means over all draws but one, shape ``(S, N)``."""
    count = len(columns)
    if count == 1:
        return np.full(columns.shape, math.nan)
    kept = ~np.eye(count, dtype=bool)
    return np.stack([logsumexp(columns[row], 0) for row in kept]) - math.log(count - 1)


def averaged(scores: Sequence[Scores]) -> Scores:
    """Returns the scores of a program from those at each draw of its global latents.

    k-hat and the effective number of draws are those of one draw, and the worst of them are kept.

    Args:
        scores: Of the same data, with other random numbers each.
    """
    first = scores[0]

    def table(name: str) -> np.ndarray:
        return np.stack([getattr(each, name) for each in scores])

    columns = table("log_marginal")
    without = _without_each(columns)
    mcse = jackknife_error(without)
    exact = all(each.is_exact for each in scores)
    k_hat = table("k_hat")
    unknown = np.isnan(k_hat)
    worst = np.where(unknown, -math.inf, k_hat).max(0)
    estimated = f"averaged over {plural(len(scores), 'draw')} of the global latents"
    return Scores(
        log_marginal=logsumexp(columns, 0) - math.log(len(columns)),
        mcse=mcse,
        reconstruction=table("reconstruction").mean(0),
        kl=table("kl").mean(0),
        k_hat=np.where(unknown.all(0), math.nan, worst),
        # Where each is a sum over states there are no weights that could be too few.
        ess=np.full_like(mcse, math.inf) if exact else table("ess").min(0),
        log_marginal_tenth=log_mean(table("log_marginal_tenth"))[0],
        active_units=round(sum(each.active_units for each in scores) / len(scores)),
        num_samples=first.num_samples,
        estimator=f"{first.estimator}; {estimated}, k-hat the worst of these",
        kl_estimator=first.kl_estimator,
        base_measure=first.base_measure,
        mean_without_draw=without.mean(1),
    )
