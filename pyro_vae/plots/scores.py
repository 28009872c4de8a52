"""Numbers about a fixed model: k-hat, and sweeps of rate and distortion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from pyro_vae._errors import expected
from pyro_vae.evaluation import RateDistortion, Scores
from pyro_vae.plots import _panels as panels
from pyro_vae.plots._canvas import HELD_OUT, TRAIN, axes_of

__all__ = ["khat", "rate_distortion"]


def khat(scores: Scores, *, ax: Axes | None = None) -> Axes:
    """Draws how many observations have which k-hat, what is above the threshold in orange.

    Args:
        scores: What :func:`pyro_vae.evaluate` returned.
        ax: Where to draw; a figure of its own if not given.

    Returns:
        The axes: a histogram whose bars count observations.

    Raises:
        ValueError: If no k-hat is known, as of exact scores.

    References:
        Pareto smoothed importance sampling (Vehtari et al., 2024),
        https://jmlr.org/papers/v25/19-556.html
    """
    if not isinstance(scores, Scores) or not np.isfinite(scores.k_hat).any():
        raise expected("scores", "scores that have a k-hat, of importance samples", scores)
    ax = axes_of(ax, (5.0, 3.6))
    panels.k_hats(ax, scores.k_hat, scores.k_hat_threshold)
    return ax


def rate_distortion(
    found: Sequence[RateDistortion], *, names: Sequence[str] = (), ax: Axes | None = None
) -> Axes:
    """Draws the distortion of models against their rate, with standard errors over data.

    Args:
        found: What :func:`pyro_vae.evaluation.rate_distortion` returned of each model, in the
            order in which a line joins them.
        names: What to call each, such as ``β = 2``.
        ax: Where to draw; a figure of its own if not given.

    Returns:
        The axes, in nats per observation; on the dotted line the ELBO is that of the best.

    Raises:
        ValueError: If there are no models, or not as many names.

    References:
        Fixing a broken ELBO (Alemi et al., 2018), https://arxiv.org/abs/1711.00464
    """
    if not found or not all(isinstance(each, RateDistortion) for each in found):
        raise expected("found", "results of evaluation.rate_distortion, at least one", found)
    if names and len(names) != len(found):
        raise expected("names", f"{len(found)} names, one a model", names)
    ax = axes_of(ax, (5.4, 4.2))
    rates, distortions = ([getattr(each, key) for each in found] for key in ("rate", "distortion"))
    across, up = ([float(each.mean()) for each in values] for values in (rates, distortions))
    errors = [
        [float(each.std(ddof=1) / len(each) ** 0.5) for each in values]
        for values in (rates, distortions)
    ]
    ax.errorbar(across, up, xerr=errors[0], yerr=errors[1], fmt="o-", color=HELD_OUT, ms=5, lw=1.3)
    for name, x, y in zip(names, across, up, strict=False):
        ax.annotate(name, (x, y), xytext=(7, 6), textcoords="offset points", fontsize=9)
    best = min(x + y for x, y in zip(across, up, strict=True))
    ends = np.asarray([min(across), max(across)])
    ax.plot(ends, best - ends, ":", color=TRAIN, label=f"best ELBO, {-best:.1f}")
    ax.set(xlabel="rate KL(q(z | x) || p(z)), nats per observation")
    ax.set(ylabel="distortion −E[log p(x | z)], nats per observation")
    ax.set_title(f"Rate and distortion of {len(found)} models", fontsize=11)
    ax.margins(x=0.15)
    ax.legend(frameon=False)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
