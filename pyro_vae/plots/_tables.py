"""Panels of tables: each column by its name, in its unit, with its words and its dates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator
from torch import Tensor

from pyro_vae.criticism._of_tables import Expanded
from pyro_vae.data.entries import Entry, figure
from pyro_vae.data.rows import Rows
from pyro_vae.distributions import by_entry
from pyro_vae.plots._canvas import HELD_OUT, INK, TRAIN
from pyro_vae.programs import Amortized

__all__ = [
    "Scaled",
    "are_columns",
    "axis_of",
    "farthest",
    "lines_height",
    "made",
    "marginal",
    "moved",
    "observed",
]

_BINS = 30
_BARS = 10  # levels that have a bar of their own
_LONG = 16  # letters of all words below a panel that do not run into each other
_FAR = 3.0  # standard deviations: what lies beyond is drawn at the edge
_ROWS = 30  # columns of a table whose names can be read beside each other
_ASKED = 40  # levels whose probabilities are worth computing
_WIDE = 20.0  # times its median, the largest value of a column whose axis is logarithmic


def are_columns(entries: Sequence[Entry], event_shape: Sequence[int]) -> bool:
    """Whether x are the columns of a table, which are in no order, rather than a sequence."""
    return len(event_shape) == 1 and any(each.named for each in entries)


def lines_height(count: int) -> float:
    """The height in inches of a panel with so many lines."""
    return 0.21 * min(count, _ROWS) + 0.85


def marginal(axes: Axes, entry: Entry, drawn: np.ndarray, reference: np.ndarray | None) -> None:
    """How often an entry of x has which values: bars of levels, histograms of anything else.

    The data are grey; the model is a line around its own, or a bar beside.

    Args:
        axes: Where to draw.
        entry: What is drawn.
        drawn: Draws of the model, as x has them, shape ``(S,)``.
        reference: Data, shape ``(N,)``, none of them NaN; None if there are none.
    """
    shown = {"model": (entry.numbers(drawn), HELD_OUT)}
    if reference is not None and len(reference):
        shown = {"data": (entry.numbers(reference), TRAIN)} | shown
    axes.spines[["top", "right"]].set_visible(False)
    if entry.kind == "level" and len(entry.levels) <= 4 * _BARS:
        _bars(axes, entry, shown)
        return
    values = [each for each, _ in shown.values()]
    edges = _edges(entry, values)
    for label, (numbers, colour) in shown.items():
        weights = np.full(len(numbers), 1 / max(1, len(numbers)))
        heights, _ = np.histogram(numbers, edges, weights=weights)
        axes.stairs(heights, edges, fill=label == "data", color=colour, label=label, lw=1.5)
    axes.set_ylabel("share of rows")
    axes.set_ylim(0)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axis_of(axes.xaxis, entry)
    if _logarithmic(entry, values):
        axes.set_xscale("log")
    else:
        axes.set_xlim(edges[0], edges[-1])


def axis_of(axis: Axis, entry: Entry) -> None:
    """Gives an axis the name and the unit of an entry, and ticks as the table writes its values."""
    axis.set_label_text(entry.title)
    if entry.kind == "date":
        locator = AutoDateLocator(minticks=2, maxticks=5)
        axis.set_major_locator(locator)
        axis.set_major_formatter(ConciseDateFormatter(locator))
    elif entry.kind == "level":
        words = [_short(each) for each in entry.levels]
        turned = isinstance(axis, XAxis) and sum(map(len, words)) > 2 * _LONG
        axis.set_ticks(range(len(words)), words, rotation=30 if turned else 0)
    elif entry.unit == "degrees":
        axis.set_major_locator(MultipleLocator(90))
    else:
        axis.set_major_locator(MaxNLocator(3, integer=entry.kind == "count"))
        if entry.field is None or entry.field.kind != "time":
            axis.set_major_formatter(FuncFormatter(lambda value, _: figure(value, 4)))


def _edges(entry: Entry, values: Sequence[np.ndarray]) -> np.ndarray:
    """Edges of bins that hold the values, but for the farthest of the model's."""
    every = np.concatenate(values)
    low, high = float(values[0].min()), float(values[0].max())
    if len(values) > 1:
        low = min(low, float(np.quantile(values[1], 0.002)))
        high = max(high, float(np.quantile(values[1], 0.998)))
    count = min(_BINS, math.ceil(3 * min(map(len, values)) ** (1 / 3)))
    if entry.kind == "angle" and entry.field is not None:
        turn = 360.0 if entry.unit == "degrees" else 2 * math.pi
        return np.linspace(entry.field.start, entry.field.start + turn, 24 + 1)
    if entry.kind in ("count", "level") or bool(np.all(every == np.round(every))):
        # Each bin takes in as many integers as any other.
        width = max(1, math.ceil((high - low + 1) / count))
        return np.arange(math.floor(low) - 0.5, high + 0.5 + width, width)
    if _logarithmic(entry, values):
        return np.geomspace(low, high, count + 1)
    return np.linspace(low, high if high > low else low + 1, count + 1)


def _logarithmic(entry: Entry, values: Sequence[np.ndarray]) -> bool:
    """Whether most of a column of amounts would lie in one bin of equal width."""
    if entry.kind != "number" or min(float(each.min()) for each in values) <= 0:
        return False
    return bool(values[0].max() > _WIDE * np.median(values[0]))


def _bars(axes: Axes, entry: Entry, shown: dict[str, tuple[np.ndarray, str]]) -> None:
    """A bar for each level, those of data and model side by side; the rarest together."""
    size = len(entry.levels)
    first = next(iter(shown.values()))[0]
    shares = {
        label: np.bincount(numbers.round().astype(int).clip(0, size - 1), minlength=size)
        / max(1, len(numbers))
        for label, (numbers, _) in shown.items()
    }
    kept, names = list(range(size)), [_short(level) for level in entry.levels]
    if size > _BARS:
        often = np.bincount(first.round().astype(int).clip(0, size - 1), minlength=size)
        kept = sorted(np.argsort(-often, kind="stable")[: _BARS - 1].tolist())
        names = [names[i] for i in kept] + [f"{size - len(kept)} others"]
        shares = {
            label: np.append(each[kept], each.sum() - each[kept].sum())
            for label, each in shares.items()
        }
    lying = sum(map(len, names)) > _LONG
    thick = 0.8 / len(shares)
    for i, (label, each) in enumerate(shares.items()):
        places = np.arange(len(names)) + (i - (len(shares) - 1) / 2) * thick
        draw = axes.barh if lying else axes.bar
        draw(places, each, thick, color=shown[label][1], label=label)
    if lying:
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set(xlabel="share of rows", ylabel=entry.title)
        axes.xaxis.set_major_locator(MaxNLocator(3))
    else:
        axes.set_xticks(range(len(names)), names)
        axes.set(xlabel=entry.title, ylabel="share of rows")
        axes.yaxis.set_major_locator(MaxNLocator(3))


def _short(text: str) -> str:
    return text if len(text) <= 14 else f"{text[:13]}…"


class Scaled:
    """Columns of a table in standard deviations of the data from their mean, one a line.

    Args:
        reference: Data that these are of, shape ``(N, D)``, NaN where they are hidden.
        entries: The entries of x.
    """

    def __init__(self, reference: Tensor, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)
        reference = reference.detach().cpu().double().flatten(1)
        self.middles = {
            each.index: torch.atan2(
                reference[:, each.index].sin().nanmean(), reference[:, each.index].cos().nanmean()
            )
            for each in entries
            if each.kind == "angle"
        }
        self.reference = self._turned(reference)
        self.centre, self.scale = self._moments(self.reference)
        self.expanded = Expanded(self.reference, self.entries)
        self.of_expanded = self._moments(self.expanded(self.reference))

    @staticmethod
    def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
        centre = x.nanmean(0)
        scale = (x - centre).square().nanmean(0).sqrt()
        return centre, torch.where(scale > 0, scale, 1.0)

    def places(self, x: Tensor) -> Tensor:
        """Returns values of x, ``(*, D)``, in standard deviations of the data from their mean."""
        return (self._turned(x.detach().cpu().double()) - self.centre) / self.scale

    def in_deviations(self, x: Tensor) -> Tensor:
        """Returns the columns of x, of words one a level, in standard deviations of the data."""
        centre, scale = self.of_expanded
        return (self.expanded(self._turned(x.detach().cpu().double())) - centre) / scale

    def _turned(self, x: Tensor) -> Tensor:
        """Puts angles on the half circles around the mean direction of the data."""
        for index, middle in self.middles.items():
            own = x[..., index] - middle
            x = x.clone()
            x[..., index] = middle + torch.atan2(own.sin(), own.cos())
        return x

    @torch.no_grad()
    def probabilities(self, vae: Amortized, rows: Rows) -> dict[int, Tensor]:
        """Returns p(level | z = E[z|x]) of entries whose levels have no order, ``(N, K)`` each."""
        z = vae.encode(rows.x, **rows.given).mean
        return self.of_levels(vae.decode(z, **rows.conditions), rows.x[0])

    def of_levels(self, decoded: Any, x: Tensor) -> dict[int, Tensor]:
        """Returns p(level | z) of entries whose levels have no order, ``(*, K)`` each.

        Args:
            decoded: p(x|z), of batch shape ``(*,)``.
            x: Any observation, shape ``(D,)``: its other entries make no difference.
        """
        d = by_entry(decoded, 1)
        found: dict[int, Tensor] = {}
        if d is None:
            return found
        for each in self.entries:
            if each.shares and len(each.levels) <= _ASKED:
                asked = x.expand(d.batch_shape).clone()
                log_probs = []
                for place in range(len(each.levels)):
                    asked[..., each.index] = place
                    log_probs.append(d.log_prob(asked)[..., each.index])
                found[each.index] = torch.stack(log_probs, -1).exp().cpu()
        return found

    def expectations(self, means: Tensor, levels: dict[int, Tensor]) -> Tensor:
        """Returns E[x|z] with levels by their probabilities, scaled: shape ``(*, lines)``."""
        columns = []
        for each, place in zip(self.expanded.of, self.expanded.places, strict=True):
            known = levels.get(each.index)
            one = self._turned(means.cpu().double())[..., each.index]
            columns.append(one if place is None or known is None else known[..., place].double())
        centre, scale = self.of_expanded
        return (torch.stack(columns, -1) - centre) / scale


def observed(
    axes: Axes,
    scaled: Scaled,
    x: Tensor,
    reconstructed: Tensor,
    levels: dict[int, Tensor] | None = None,
) -> None:
    """One observation and its reconstruction: a line a column, where both are among the data.

    At the right both stand as the table writes them.

    Args:
        axes: Where to draw.
        scaled: The columns.
        x: The observation, shape ``(D,)``, NaN where it is hidden.
        reconstructed: E[x|z], of the same shape.
        levels: Probabilities of levels without an order, ``(K,)`` each.
    """
    entries = scaled.entries[:_ROWS]
    across = axes.get_yaxis_transform()
    x, reconstructed = (each.detach().cpu().double() for each in (x, reconstructed))
    placed = [scaled.places(each).clamp(-_FAR, _FAR) for each in (x, reconstructed)]
    for i, each in enumerate(entries):
        here = [float(one[each.index]) for one in placed]
        seen = not math.isnan(here[0])
        if not (each.shares and len(each.levels) > 2):
            if seen:
                axes.plot(here, [i, i], color=TRAIN, lw=1, zorder=1)
                axes.plot(here[0], i, "o", color=TRAIN, ms=7, zorder=2, label=_once(i, "data"))
            axes.plot(here[1], i, "o", color=HELD_OUT, ms=4, zorder=3, label=_once(i, "E[x | z]"))
        known = (levels or {}).get(each.index)
        shown = made(each, float(reconstructed[each.index]), known)
        text = f"{each.write(float(x[each.index])) if seen else 'missing'} → {shown}"
        axes.text(1.02, i, text, transform=across, va="center", fontsize=7.5, color=INK)
    axes.text(1.02, -0.9, "data → E[x | z]", transform=across, fontsize=7.5, color=TRAIN)
    axes.axvline(0, color=TRAIN, lw=0.8, ls=":", zorder=0)
    axes.set(xlim=(-_FAR - 0.3, _FAR + 0.3), ylim=(len(entries) - 0.4, -0.6))
    axes.set_yticks(range(len(entries)), [_named(each) for each in entries], fontsize=8)
    axes.set_xlabel("standard deviations of the data from their mean")
    axes.xaxis.set_major_locator(MultipleLocator(2))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def farthest(lines: Tensor) -> float:
    """Where panels of lines, of shape ``(*, lines)``, end that are to compare; 1 at least."""
    return max(1.0, float(lines.abs().max().clamp(max=_FAR)))


def moved(
    axes: Axes,
    names: Sequence[str],
    lines: Tensor,
    positions: Sequence[float],
    cmap: str,
    reach: float,
) -> None:
    """How the columns move along a path: a line a column, a dot a step, coloured by position.

    Args:
        axes: Where to draw.
        names: Of the lines.
        lines: Scaled expectations, shape ``(S, lines)``.
        positions: Along the path, S of them.
        cmap: What colours them.
        reach: Where the panel ends.
    """
    kept = list(range(len(names)))
    if len(names) > _ROWS:
        extent = lines.amax(0) - lines.amin(0)
        kept = sorted(extent.argsort(descending=True)[:_ROWS].tolist())
    low, high = min(positions), max(positions)
    shades = [(each - low) / (high - low) if high > low else 0.5 for each in positions]
    colours = [colormaps[cmap](0.04 + 0.92 * shade) for shade in shades]
    for i, line in enumerate(kept):
        places = lines[:, line].clamp(-_FAR, _FAR).tolist()
        axes.plot([min(places), max(places)], [i, i], color=TRAIN, lw=1, zorder=1)
        axes.scatter(places, [i] * len(places), c=colours, s=20, lw=0, zorder=2)
    axes.axvline(0, color=TRAIN, lw=0.8, ls=":", zorder=0)
    axes.set(xlim=(-1.08 * reach, 1.08 * reach), ylim=(len(kept) - 0.4, -0.6))
    axes.set_yticks(range(len(kept)), [_cut(names[line]) for line in kept], fontsize=8)
    axes.set_xlabel("standard deviations of the data")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _once(i: int, label: str) -> str:
    return label if i == 0 else "_"


def _named(entry: Entry) -> str:
    return _cut(entry.title)


def _cut(text: str) -> str:
    return text if len(text) <= 26 else f"{text[:25]}…"


def made(entry: Entry, mean: float, probabilities: Tensor | None) -> str:
    """What a reconstruction is, as the table writes it: of levels, the most probable one."""
    if probabilities is not None:
        place = int(probabilities.argmax())
        return f"{_short(entry.levels[place])} ({float(probabilities[place]):.0%})"
    if entry.kind == "level" and not entry.words:
        return figure(entry.between(mean))
    return entry.write(mean)
