"""log p(x) of new observations where a program has latent variables that all of them share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pyro_vae._errors import positive_integer
from pyro_vae.data.rows import RowsLike
from pyro_vae.evaluation.averaging import log_mean
from pyro_vae.evaluation.importance import evaluate
from pyro_vae.evaluation.scores import Scores
from pyro_vae.programs import Amortized

__all__ = ["OverGlobals", "evaluate_globals"]


@dataclass(frozen=True, eq=False)
class OverGlobals:
    """Scores of new observations, averaged over draws of the global latents, in nats.

    Attributes:
        log_marginal: log p(x), the mean over q(globals) of p(x | globals), shape ``(N,)``.
        mcse: Its error over these draws, by the jackknife, shape ``(N,)``; NaN for a single one. It
            includes what the importance weights of each draw add. All observations share the draws:
            the error of their mean is that of :func:`pyro_vae.evaluate`, in its ``summary()``.
        by_draw: The scores at each draw, whose k-hat and ESS are of that draw.
    """

    log_marginal: np.ndarray
    mcse: np.ndarray
    by_draw: tuple[Scores, ...]


def evaluate_globals(
    program: Amortized, x: RowsLike, *, num_globals: int = 20, seed: int = 0, **options: Any
) -> OverGlobals:
    r"""Scores held-out data under a program with global latents.

    .. math:: \log p(x_i) = \log \frac1S \sum_s \hat p(x_i \mid w_s), \quad w_s \sim q(w)

    Each :math:`\hat p` is that of :func:`pyro_vae.evaluate`, which gives their average, too; here
    are the scores at each draw beside it.

    References:
        The Jackknife, the Bootstrap and Other Resampling Plans (Efron, 1982),
        https://doi.org/10.1137/1.9781611970319

    Args:
        program: The program; one without global latents is its only draw.
        x: Data, as :func:`pyro_vae.evaluate` takes them.
        num_globals: Draws of the global latents, S.
        seed: Of all draws.
        **options: Those of :func:`pyro_vae.evaluate`.

    Returns:
        The scores, with their errors.
    """
    fixed = program.fixed(positive_integer("num_globals", num_globals), seed)
    # With random numbers of its own each: the jackknife then sees the error of weights, too.
    scores = tuple(
        evaluate(each, x, seed=(seed + s) % 2**32, **options) for s, each in enumerate(fixed)
    )
    mean, errors = log_mean(np.stack([each.log_marginal for each in scores]))
    return OverGlobals(mean, errors, scores)
