"""What criticism finds: predictive checks, ROC curves, SBC ranks and coverage."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from pyro_vae._errors import expected
from pyro_vae.criticism import Calibration, Checks, Row
from pyro_vae.criticism.two_sample import TwoSample
from pyro_vae.plots._canvas import BAD, HELD_OUT, INK, TRAIN, axes_of

__all__ = ["checks", "coverage", "intervals", "ranks", "roc", "sbc"]

_FAR = 3.0  # half widths of the interval: what lies beyond is drawn as an arrow


def checks(found: Checks, *, ax: Axes | None = None) -> Axes:
    """Draws where the observed statistics lie among those of replicates.

    Args:
        found: What :func:`pyro_vae.criticism.check` returned.
        ax: Where to draw; a figure of its own if not given.

    Returns:
        The axes: a line a judged check, in half widths of the central 95% of replicates.

    Raises:
        ValueError: If ``found`` is not the result of checks.
    """
    if not isinstance(found, Checks):
        raise expected("found", "the result of pyro_vae.criticism.check", found)
    judged = [row for row in found.rows if row.calibrated]
    ax = axes_of(ax, (5.5, 0.4 * len(judged) + 1.2))
    intervals(ax, judged)
    ax.set_title(f"{found.num_failed} of {len(judged)} checks failed", fontsize=11)
    return ax


def sbc(found: Calibration, *, ax: Axes | None = None) -> Axes:
    """Draws the ECDFs of SBC ranks less that of uniform ones, with their band.

    Args:
        found: What :func:`pyro_vae.criticism.calibrate` returned.
        ax: Where to draw; a figure of its own if not given.

    Returns:
        The axes: a line a quantity, orange where it failed; the legend names the four that failed
        by the smallest p-values.

    Raises:
        ValueError: If ``found`` is not the result of a calibration.

    References:
        Graphical test for discrete uniformity (Säilynoja et al., 2022),
        https://arxiv.org/abs/2103.10522
    """
    if not isinstance(found, Calibration):
        raise expected("found", "the result of pyro_vae.criticism.calibrate", found)
    ax = axes_of(ax, (5.0, 3.8))
    ranks(ax, found)
    return ax


def intervals(axes: Axes, rows: Sequence[Row]) -> None:
    """Observed statistics as dots, in units of the replicated interval, one line a check."""
    axes.axvspan(-1, 1, color=TRAIN, alpha=0.25, lw=0)
    axes.axvline(0, color=TRAIN, lw=0.8)
    for i, row in enumerate(rows):
        colour = BAD if row.failed else HELD_OUT
        place = _placed(row)
        axes.plot([0, place], [i, i], color=colour, lw=1)
        marker = "o" if abs(place) < _FAR else (">" if place > 0 else "<")
        axes.plot(place, i, marker, color=colour, ms=6, clip_on=False)
        # Above its line: beside it, long names would leave no space for what they name.
        weight = "bold" if row.failed else "normal"
        axes.text(-_FAR, i - 0.3, row.title, color=INK, va="center", fontsize=8.5, weight=weight)
    axes.set(xlim=(-_FAR, _FAR), ylim=(len(rows) - 0.4, -0.7), yticks=[])
    axes.set_xticks([-1, 0, 1], ["2.5%", "middle", "97.5%"])
    axes.spines[["top", "right", "left"]].set_visible(False)


def _placed(row: Row) -> float:
    """Where the observed value lies: -1 and 1 are the ends of the replicated interval."""
    half = (row.high - row.low) / 2
    away = row.observed - (row.high + row.low) / 2
    if half > 0 and math.isfinite(away):
        return float(np.clip(away / half, -_FAR, _FAR))
    return 0.0 if away == 0 or math.isnan(away) else math.copysign(_FAR, away)


def roc(axes: Axes, found: TwoSample) -> None:
    """The ROC curve of a classifier, over the diagonal of one that guesses."""
    axes.plot([0, 1], [0, 1], color=TRAIN, lw=0.8)
    colour = BAD if found.auc > found.high else HELD_OUT
    axes.plot(found.false_positive_rate, found.true_positive_rate, color=colour, lw=1.6)
    axes.set(title="Data against draws", xlabel="draws taken for data", ylabel="data recognised")
    axes.set(xlim=(0, 1), ylim=(0, 1.01))
    axes.spines[["top", "right"]].set_visible(False)


def ranks(axes: Axes, found: Calibration) -> None:
    """ECDFs of SBC ranks less that of uniform ones, with the bands that those stay within."""
    around = found.bands
    axes.fill_between(
        around.points, around.low - around.points, around.high - around.points,
        color=TRAIN, alpha=0.3, lw=0, label=f"{1 - found.level:.0%} of exact posteriors",
    )  # fmt: skip
    ends = np.concatenate([[0.0], around.points, [1.0]])
    worst = [q for q in np.argsort(found.adjusted, kind="stable")[:4] if found.failed[q]]
    # By their style, as names beside lines that lie close would cover these and each other.
    styles = dict(zip(worst, ("-", "--", ":", "-."), strict=False))
    for q, (name, curve) in enumerate(zip(found.names, found.ecdf, strict=True)):
        away = np.concatenate([[0.0], curve - around.points, [0.0]])
        if q in styles:
            axes.plot(ends, away, styles[q], color=BAD, lw=1.6, label=name, zorder=3)
        else:
            colour = BAD if found.failed[q] else HELD_OUT
            axes.plot(ends, away, color=colour, lw=0.9, alpha=0.4 if worst else 0.8)
    axes.set(title="SBC rank ECDF", xlabel="rank, as a share", ylabel="ECDF − uniform")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, frameon=False)


def coverage(axes: Axes, found: Calibration) -> None:
    """How often regions hold the true value, against how often they should."""
    regions = found.coverage
    axes.plot([0, 1], [0, 1], color=TRAIN, lw=0.8)
    axes.fill_between(regions.nominal, regions.low, regions.high, color=TRAIN, alpha=0.3, lw=0)
    for i, (name, actual) in enumerate(zip(regions.names, regions.actual, strict=True)):
        label = name if i == 0 else ("each latent" if i == 1 else None)
        width, alpha = (1.8, 1.0) if i == 0 else (0.8, 0.6)
        axes.plot(regions.nominal, actual, color=HELD_OUT, label=label, lw=width, alpha=alpha)
    axes.set(
        title="Coverage", xlabel="stated probability", ylabel="share that holds the true value"
    )
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", frameon=False)
