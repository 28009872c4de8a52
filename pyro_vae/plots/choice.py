"""A picture of a cross-validated choice: held-out log p(x) against what was varied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from pyro_vae._errors import expected, shortened
from pyro_vae.plots._canvas import BAD, HELD_OUT, TRAIN, axes_of

__all__ = ["choice"]

_MANY = 15  # settings, as a search has them


def choice(summary: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Draws the difference of each setting to the best, with its errors, and each seed as a dot.

    Bars are one standard error of the paired difference: thick over data, thin over folds. The
    best has none, since differences are to it.

    Args:
        summary: That of a :class:`pyro_vae.selection.Selection`, or what was written of it.
        ax: Where to draw; a figure of its own if not given.

    Returns:
        The axes.

    Raises:
        ValueError: If there is no candidate.
    """
    if not isinstance(summary, Mapping) or not summary.get("candidates"):
        raise expected("summary", "that of a Selection, with candidates", summary)
    candidates = summary["candidates"]
    names = list(candidates[0]["arguments"])
    values = [each["arguments"][names[0]] for each in candidates]
    numeric = len(names) == 1 and all(_is_number(value) for value in values)
    where = np.asarray(values if numeric else range(len(values)), dtype=float)
    longest = max(len(_label(each)) for each in candidates)
    many = len(candidates) > _MANY
    width = max(5.5, 1.6 + (0.2 if many else 0.75) * len(candidates))
    if numeric:
        axes = axes_of(ax, (min(width, 10.0), 4.2))
    else:  # of many the names stand upright
        axes = axes_of(ax, (width, 4.2 + 0.06 * longest * many))
    best = max(each["log_marginal"] for each in candidates)
    for x, each in zip(where, candidates, strict=True):
        _candidate(axes, x, each, best, chosen=each["arguments"] == summary["chosen"])
    if numeric:
        axes.plot(*_sorted(where, candidates), color=TRAIN, lw=1, zorder=1)
        _scale(axes, where)
    else:
        axes.set_xticks(where, [_label(each) for each in candidates])
        if many:
            axes.tick_params(axis="x", labelrotation=90, labelsize=7)
        elif longest * len(candidates) > 70:
            axes.tick_params(axis="x", labelrotation=30)
        axes.set_xlim(where[0] - 0.5, where[-1] + 0.5)
    axes.set_xlabel(", ".join(names))
    axes.set_ylabel("log p(x) - that of the best, nats per observation")
    axes.axhline(0, color=TRAIN, lw=0.8, ls=":", zorder=0)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(
        f"{summary['base_measure']['data'] or 'data'}: {summary['folds']} folds, best "
        f"log p(x) {best:.2f}\nring: smallest model within one standard error\n"
        "bars: its error over data (thick) and over folds (thin); dots: seeds",
        fontsize=9,
    )
    return axes


def _candidate(axes: Axes, x: float, each: Mapping[str, Any], best: float, *, chosen: bool) -> None:
    y = each["difference"]
    for error, weight in (("fold_error", 1.2), ("standard_error", 4)):
        half = each[f"difference_{error}"] or 0.0
        axes.plot([x, x], [y - half, y + half], color=HELD_OUT, lw=weight, zorder=2, alpha=0.7)
    axes.plot(x, y, "o", color=HELD_OUT, ms=6, zorder=3)
    if chosen:
        axes.plot(x, y, "o", mfc="none", mec=BAD, mew=1.8, ms=14, zorder=4)
    if len(each["seed_means"]) > 1:
        for mean in each["seed_means"]:
            axes.plot(x, mean - best, ".", color="black", ms=5, zorder=5)


def _sorted(
    where: np.ndarray, candidates: Sequence[Mapping[str, Any]]
) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(where)
    return where[order], np.asarray([each["difference"] for each in candidates])[order]


def _scale(axes: Axes, where: np.ndarray) -> None:
    """Marks the values that were tried; logarithmic where they grow by factors."""
    if where.min() > 0 and where.max() / where.min() >= 8:
        axes.set_xscale("log")
    if len(where) <= _MANY:
        axes.xaxis.set_major_locator(FixedLocator(where.tolist()))
    elif axes.get_xscale() == "log":  # the numbers themselves would lie on one another
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _label(candidate: Mapping[str, Any]) -> str:
    return ", ".join(shortened(value) for value in candidate["arguments"].values())
