"""The pairs of columns that go together most, in the data and in draws of the model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Unpack

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from pyro_vae._errors import expected
from pyro_vae.criticism._entries import entries_of
from pyro_vae.criticism._of_tables import Expanded
from pyro_vae.data.entries import Entry
from pyro_vae.data.rows import ConditionsLike, Numbers
from pyro_vae.data.schema import Schema
from pyro_vae.plots._canvas import HELD_OUT, TRAIN, canvas_of
from pyro_vae.plots._tables import axis_of
from pyro_vae.programs import Amortized
from pyro_vae.programs.accept import as_tensor

__all__ = ["associations", "correlations", "draw_pair", "pairs"]

_DOTS = 500  # more hide each other
_OFTEN = 3  # pairs that one column is in
_FEW = 8  # levels that have room beside each other


def associations(
    reference: Tensor, entries: Sequence[Entry], count: int
) -> list[tuple[Entry, Entry, float]]:
    """Returns the pairs of entries that are associated most in data, and how much.

    Of two columns the association is the largest absolute correlation, of levels without an order
    that of any of them; each pair is judged by the rows that have both.

    Args:
        reference: Data, shape ``(N, D)``, NaN where they are hidden.
        entries: The entries of x.
        count: How many pairs there are to be; a column is in three of them at most.
    """
    expanded = Expanded(reference, entries)
    matrix = np.abs(correlations(expanded(reference.cpu().double()).numpy()))
    strength: dict[tuple[int, int], float] = {}
    at = [each.index for each in expanded.of]
    for i, j in combinations(range(len(at)), 2):
        if at[i] != at[j] and np.isfinite(matrix[i, j]):
            pair = at[i], at[j]
            strength[pair] = max(strength.get(pair, 0.0), float(matrix[i, j]))
    chosen: list[tuple[Entry, Entry, float]] = []
    used: dict[int, int] = {}
    for pair in sorted(strength, key=lambda each: -strength[each]):
        if len(chosen) == count:
            break
        if any(used.get(each, 0) == _OFTEN for each in pair) or not all(
            len(entries[each].levels) <= _FEW for each in pair
        ):
            continue
        for each in pair:
            used[each] = used.get(each, 0) + 1
        chosen.append((entries[pair[0]], entries[pair[1]], strength[pair]))
    return chosen


def correlations(x: np.ndarray) -> np.ndarray:
    """Returns correlations of columns, of each pair by the rows that have both.

    Args:
        x: Shape ``(N, D)``, NaN where an entry is hidden.

    Returns:
        Shape ``(D, D)``; NaN where a column does not vary.
    """
    seen = (~np.isnan(x)).astype(np.float64)
    count = seen.sum(0).clip(1)
    centred = np.where(seen > 0, x - np.nansum(x, 0) / count, 0.0)
    both = seen.T @ seen
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = centred.T @ seen / both  # of the one column, where the other is there, too
        variance = np.square(centred).T @ seen / both - mean**2
        covariance = centred.T @ centred / both - mean * mean.T
        # What rounding leaves of a constant is no variance.
        variance[variance < 1e-12 * np.square(centred).max(0)[:, None]] = np.nan
        found: np.ndarray = (covariance / np.sqrt(variance * variance.T)).clip(-1, 1)
    return found


@torch.no_grad()
def pairs(
    vae: Amortized,
    reference: Numbers,
    *,
    count: int = 6,
    columns: Schema | Sequence[str] | None = None,
    figure: Figure | SubFigure | None = None,
    **given: Unpack[ConditionsLike],
) -> list[Axes]:
    """Draws the pairs of columns that are associated most in data, and the same of draws of x.

    Two columns of numbers are dots, data and model side by side; of numbers and words the median of
    each level, its quartiles and its 5th and 95th percentiles; of two columns of words the share of
    each level of one at each of the other.

    Args:
        vae: The model.
        reference: Data, shape ``(N, D)``; NaN where they are missing.
        count: Pairs, at most.
        columns: What the columns are; as the data know them if not given.
        figure: Where to draw; one of its own if not given.
        **given: What goes with each observation (:class:`~pyro_vae.data.Conditions`).

    Returns:
        The axes, of each pair one or two.

    Raises:
        ValueError: If these are no data, or have fewer than two columns.
    """
    x = as_tensor(reference, "reference")
    if not isinstance(x, Tensor):
        raise expected("reference", "data in memory, shape (N, D)", x)
    entries = entries_of(vae, x) if columns is None else entries_of(vae, columns)
    if len(vae.event_shape) != 1 or vae.event_shape[0] < 2:
        raise expected("reference", "data of two columns or more", x)
    drawn = vae.sample(len(x), **given).cpu()
    found = associations(x, entries, count)
    rows = max(1, -(-len(found) // 2))
    figure = canvas_of(figure, (11, 2.9 * rows + 0.4))
    panels = figure.subfigures(rows, 2, squeeze=False).flatten().tolist()
    for panel, (first, second, _) in zip(panels, found, strict=False):
        draw_pair(panel, first, second, x.cpu(), drawn)
    figure.suptitle("Columns most associated in the data, and draws of the model", fontsize=11)
    return [axes for panel in panels for axes in panel.axes]


def draw_pair(
    figure: Figure | SubFigure, first: Entry, second: Entry, reference: Tensor, drawn: Tensor
) -> None:
    """Draws two columns of data and of draws.

    Args:
        figure: Where to draw.
        first: A column.
        second: Another.
        reference: Data, shape ``(N, D)``, NaN where they are hidden.
        drawn: Draws, shape ``(S, D)``.
    """
    both = [_complete(each, first, second) for each in (reference, drawn)]
    levels = [each.kind == "level" for each in (first, second)]
    if all(levels):
        _shares(figure, first, second, both)
    elif any(levels):
        swapped = not levels[0]
        across, up = (second, first) if swapped else (first, second)
        _intervals(figure.subplots(), across, up, [p[::-1] if swapped else p for p in both])
    else:
        _dots(figure, first, second, both)


def _complete(x: Tensor, first: Entry, second: Entry) -> tuple[np.ndarray, np.ndarray]:
    """Values of two columns, of the rows that have both, as the table has them."""
    pair = x[:, [first.index, second.index]].double().numpy()
    pair = pair[~np.isnan(pair).any(1)]
    return first.numbers(pair[:, 0]), second.numbers(pair[:, 1])


def _dots(
    figure: Figure | SubFigure, first: Entry, second: Entry,
    both: Sequence[tuple[np.ndarray, np.ndarray]],
) -> None:  # fmt: skip
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    named = zip(panels, both, ("data", "model"), (TRAIN, HELD_OUT), strict=True)
    for axes, (across, up), label, colour in named:
        chosen = slice(None, None, max(1, len(across) // _DOTS))
        size = min(28.0, max(9.0, 2000 / max(1, len(across))))
        axes.scatter(across[chosen], up[chosen], s=size, alpha=0.75, lw=0, color=colour,
                     rasterized=True)  # fmt: skip
        axes.set_title(label, loc="left")
        axis_of(axes.xaxis, first)
        axes.spines[["top", "right"]].set_visible(False)
    axis_of(panels[0].yaxis, second)
    for of, entry, low_high in ((0, first, panels[0].set_xlim), (1, second, panels[0].set_ylim)):
        if entry.kind != "angle":
            low_high(*_limits([pair[of] for pair in both]))


def _limits(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """Ends that hold the data, and all but the farthest of the draws."""
    low = min(values[0].min(), np.quantile(values[1], 0.005))
    high = max(values[0].max(), np.quantile(values[1], 0.995))
    margin = 0.04 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def _intervals(
    axes: Axes, across: Entry, up: Entry, both: Sequence[tuple[np.ndarray, np.ndarray]]
) -> None:
    """Of each level median, quartiles, and the 5th and 95th percentiles."""
    named = zip(both, ("data", "model"), (TRAIN, HELD_OUT), (-0.12, 0.12), strict=True)
    for (places, numbers), label, colour, aside in named:
        found = [(level, numbers[places.round() == level]) for level in range(len(across.levels))]
        drawn = [(level, own) for level, own in found if len(own) > 0]
        for i, (level, own) in enumerate(drawn):
            low, lower, middle, upper, high = np.quantile(own, (0.05, 0.25, 0.5, 0.75, 0.95))
            where = level + aside
            axes.plot([where, where], [low, high], color=colour, lw=1)
            axes.plot([where, where], [lower, upper], color=colour, lw=4, solid_capstyle="butt")
            axes.plot(where, middle, "o", color="white", mec=colour, mew=1.5, ms=5,
                      label=label if i == 0 else "_")  # fmt: skip
    axis_of(axes.xaxis, across)
    axis_of(axes.yaxis, up)
    axes.set_xlim(-0.6, len(across.levels) - 0.4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)


def _shares(
    figure: Figure | SubFigure, first: Entry, second: Entry,
    both: Sequence[tuple[np.ndarray, np.ndarray]],
) -> None:  # fmt: skip
    """The share of each level of the second column at each level of the first."""
    panels = figure.subplots(1, 2, sharey=True)
    shape = len(second.levels), len(first.levels)
    for axes, (across, up), label in zip(panels, both, ("data", "model"), strict=True):
        counts = np.zeros(shape)
        np.add.at(counts, (up.round().astype(int), across.round().astype(int)), 1)
        shares = counts / np.maximum(counts.sum(0), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (i, j), share in np.ndenumerate(shares):
            colour = "white" if share > 0.6 else "black"
            axes.text(j, i, f"{share:.0%}", ha="center", va="center", fontsize=8, color=colour)
        axes.set_title(f"{label}: shares of {second.name}", loc="left")
        axis_of(axes.xaxis, first)
    axis_of(panels[0].yaxis, second)
