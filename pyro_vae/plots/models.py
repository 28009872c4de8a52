"""What a fitted model draws, reconstructs and encodes, and how it was fitted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Unpack, cast

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from torch import Tensor
from torch.distributions import constraints

from pyro_vae._errors import expected, plural, positive_integer
from pyro_vae.criticism._entries import entries_of
from pyro_vae.data.entries import Entry
from pyro_vae.data.rows import Conditions, ConditionsLike, GivenLike, Numbers, Rows, RowsLike
from pyro_vae.data.schema import Schema
from pyro_vae.distributions import same_support
from pyro_vae.plots import _panels as panels
from pyro_vae.plots._canvas import are_images, axes_of, canvas_of, grid, limits, show, tiles
from pyro_vae.plots._tables import Scaled, are_columns, lines_height, marginal, observed
from pyro_vae.programs import Amortized
from pyro_vae.programs.accept import as_tensor, rows_of
from pyro_vae.programs.weigh import observations_at_once

__all__ = ["history", "latent", "latent_means", "reconstructions", "samples", "visible"]

PANELS = 16  # entries of a vector that are shown one by one
SCATTERED = 5000  # more dots hide each other


@torch.no_grad()
def samples(
    vae: Amortized,
    *,
    num_samples: int = 64,
    reference: Numbers | None = None,
    columns: Schema | Sequence[str] | None = None,
    figure: Figure | SubFigure | None = None,
    **given: Unpack[ConditionsLike],
) -> list[Axes]:
    """Draws samples from the prior.

    Of images the means E[x|z] are shown, since independent noise in each pixel hides the shape;
    of vectors the marginals of x itself: histograms of numbers and dates, bars of words.

    Args:
        vae: The model.
        num_samples: Number of draws.
        reference: Data ``(N, *event_shape)``, which set the grey scale of images and stand beside
            the marginals of vectors; NaN where they are missing.
        columns: What the columns of x are, or their names; as the reference has them if not given.
        figure: Where to draw; one of its own if not given.
        **given: What goes with each draw (:class:`~pyro_vae.data.Conditions`).

    Returns:
        The axes: one of images, or one an entry of x.

    Raises:
        ValueError: If ``num_samples`` is not a positive integer.
    """
    num_samples = positive_integer("num_samples", num_samples)
    beside: Tensor | None = as_tensor(reference)
    if not are_images(vae.event_shape):
        entries = entries_of(vae, beside if columns is None else columns)
        return _marginals(vae.sample(num_samples, **given), beside, entries, figure)
    prior = vae.prior_at(cast(Conditions, given)).expand((num_samples,))
    means = vae.decode(prior.sample(), **given).mean
    across = math.ceil(math.sqrt(num_samples))
    rows = math.ceil(num_samples / across)
    axes = canvas_of(figure, (0.7 * across, 0.7 * rows + 0.5)).subplots()
    show(axes, tiles(means, across, limits(vae, means if beside is None else beside)))
    axes.set_title("Drawn from the prior: E[x | z], z ~ p(z)", fontsize=11)
    return [axes]


@torch.no_grad()
def reconstructions(
    vae: Amortized,
    x: RowsLike,
    *,
    name: str = "data",
    columns: Schema | Sequence[str] | None = None,
    figure: Figure | SubFigure | None = None,
    **given: Unpack[GivenLike],
) -> list[Axes]:
    """Draws data above what the model makes of them, E[x|z] at z = E[z|x].

    Of a table each column has a line, on which the data and the reconstruction are dots.

    Args:
        vae: The model.
        x: Held-out data, shape ``(N, *event_shape)``.
        name: What to call the data.
        columns: What the columns of x are, or their names; as the data have them if not given.
        figure: Where to draw; one of its own if not given.
        **given: What goes with them (:class:`~pyro_vae.data.Given`).

    Returns:
        The axes: of images data and reconstructions in turn, else one an observation.
    """
    x = x if isinstance(x, Rows) else as_tensor(x)
    every = rows_of(vae, x, given)
    entries = entries_of(vae, x if columns is None else columns)
    images = are_images(vae.event_shape)
    rows = every[: 30 if images else 6]
    reconstructed = vae.reconstruct(rows.x, **rows.given)
    x = visible(rows)
    title = f"{name[0].upper()}{name[1:]} and reconstructions E[x | z = E[z | x]]"
    if are_columns(entries, vae.event_shape):
        scaled = Scaled(visible(every), entries)
        levels = scaled.probabilities(vae, rows)
        return _observed(scaled, x, reconstructed, levels, figure, title)
    if not images:
        return _lines(x, reconstructed, figure, title)
    across = min(10, len(x))
    starts = range(0, len(x) - across + 1, across)
    figure = canvas_of(figure, (0.75 * across + 1, 1.55 * len(starts) + 0.5))
    black_white = limits(vae, x)
    all_axes = figure.subplots(2 * len(starts), squeeze=False)[:, 0].tolist()
    for i, start in enumerate(starts):
        chosen = slice(start, start + across)
        for axes, shown, label in (
            (all_axes[2 * i], x[chosen], "data"),
            (all_axes[2 * i + 1], reconstructed[chosen], "reconstruction"),
        ):
            show(axes, tiles(shown, across, black_white))
            axes.text(-0.01, 0.5, label, transform=axes.transAxes, ha="right", va="center")
    figure.suptitle(title, fontsize=11)
    return all_axes


@torch.no_grad()
def latent(
    vae: Amortized,
    x: RowsLike,
    *,
    color_by: Numbers | None = None,
    classes: Sequence[str] = (),
    name: str = "data",
    ax: Axes | None = None,
    **given: Unpack[GivenLike],
) -> Axes:
    """Draws where data lie in latent space.

    Real latents: the means E[z|x], in the plane of their first two principal components if they
    have more than two dimensions. One-hot latents: how often each class of each group is used,
    or which class is used for which label if there is one group.

    Args:
        vae: The model.
        x: Held-out data, shape ``(N, *event_shape)``.
        color_by: Integers ``(N,)`` that colour the data; the model never saw them.
        classes: What the integers 0, 1, ... are called, if they have names.
        name: What to call the data.
        ax: Where to draw; a figure of its own if not given.
        **given: What goes with them (:class:`~pyro_vae.data.Given`).

    Returns:
        The axes.
    """
    shown = rows_of(vae, x, given)[:SCATTERED]
    labels = None if color_by is None else as_tensor(color_by)[:SCATTERED].cpu()
    means = latent_means(vae, shown)
    if same_support(vae.space.support, constraints.one_hot):
        groups, states = means.shape[1:]
        rows = groups if groups > 1 or labels is None else len(labels.unique())
        size = (max(5.5, 0.32 * states + 2.5), min(8.0, 0.28 * rows + 1.6))
        axes = axes_of(ax, size)
        panels.usage(axes, means, labels, classes)
        axes.set_title(f"Use of the latent classes by {len(shown):,} {name}", fontsize=11)
    else:
        axes = axes_of(ax, (7, 5.6))
        panels.scatter(axes, means, labels, classes)
        axes.set_title(f"Latent means E[z | x] of {len(shown):,} {name}", fontsize=11)
    return axes


def history(
    values: Mapping[str, Sequence[float]], *, figure: Figure | SubFigure | None = None
) -> list[Axes]:
    """Draws the ELBO and its two halves over the epochs, on training and validation data.

    Args:
        values: ``run.history``: ``epoch``, ``elbo``, ``reconstruction``, ``kl``, and the last three
            with ``validation_`` before them if there were validation data.
        figure: Where to draw; one of its own if not given.

    Returns:
        Three axes, in nats per observation.

    Raises:
        ValueError: If a list is missing.
    """
    lacking = [key for key in ("epoch", *panels.CURVES) if key not in values]
    if lacking:
        raise expected("values", f"the history of a run, with {', '.join(lacking)}", values)
    all_axes: list[Axes] = canvas_of(figure, (10, 3.2)).subplots(1, 3, sharex=True).tolist()
    for axes, key in zip(all_axes, panels.CURVES, strict=True):
        panels.curve(axes, values, key)
    return all_axes


def latent_means(vae: Amortized, rows: Rows) -> Tensor:
    """Returns E[z|x] of rows that the model accepted, ``(N, *prior.event_shape)``, on the CPU.

    Raises:
        ValueError: If latents are neither vectors nor one-hot.
    """
    one_hot = same_support(vae.space.support, constraints.one_hot)
    if not one_hot and len(vae.space.event_shape) != 1:
        raise expected("vae", "vectors or one-hot latents", vae.space.event_shape)
    batches = rows.batches(observations_at_once(vae, rows.x))
    return torch.cat([vae.encode(batch.x, **batch.given).mean for batch in batches]).cpu()


def visible(rows: Rows) -> Tensor:
    """Returns x of rows, NaN where it is hidden: that is not drawn."""
    return rows.x if rows.mask is None else rows.x.where(rows.mask, math.nan)


def _marginals(
    drawn: Tensor,
    reference: Tensor | None,
    entries: Sequence[Entry],
    figure: Figure | SubFigure | None,
) -> list[Axes]:
    model = drawn.cpu().flatten(1).double().numpy()
    data = None if reference is None else reference.cpu().flatten(1).double().numpy()
    dim = model.shape[1]
    figure, all_axes = grid(min(dim, PANELS), (3.0, 2.3), figure)
    for i, axes in enumerate(all_axes):
        seen = None if data is None else data[~np.isnan(data[:, i]), i]
        marginal(axes, entries[i], model[:, i], seen)
    _legend_above(figure, all_axes[0])
    what = "column" if are_columns(entries, drawn.shape[1:]) else "entry"
    some = f"the first {PANELS} of {dim} {what}s" if dim > PANELS else f"each {what}"
    some = some.replace("entrys", "entries")
    figure.suptitle(
        f"Marginal distribution of {some}: {plural(len(drawn), 'draw')} of x", fontsize=11
    )
    return all_axes


def _observed(
    scaled: Scaled,
    x: Tensor,
    reconstructed: Tensor,
    levels: dict[int, Tensor],
    figure: Figure | SubFigure | None,
    title: str,
) -> list[Axes]:
    rows = math.ceil(len(x) / 2)
    size = (12, lines_height(len(scaled.entries)) * rows + 0.5)
    figure = canvas_of(figure, size)
    all_axes = figure.subplots(rows, 2, squeeze=False).flatten().tolist()
    for unused in all_axes[len(x) :]:
        unused.set_axis_off()
    for i, axes in enumerate(all_axes[: len(x)]):
        own = {index: each[i] for index, each in levels.items()}
        observed(axes, scaled, x[i], reconstructed[i], own)
    _legend_above(figure, all_axes[0])
    figure.suptitle(title, fontsize=11)
    return all_axes[: len(x)]


def _lines(
    x: Tensor, reconstructed: Tensor, figure: Figure | SubFigure | None, title: str
) -> list[Axes]:
    figure, all_axes = grid(len(x), (3.2, 2.2), figure)
    for i, axes in enumerate(all_axes):
        panels.line(axes, x[i], reconstructed[i])
    _legend_above(figure, all_axes[0])
    figure.suptitle(title, fontsize=11)
    return all_axes


def _legend_above(figure: Figure | SubFigure, axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", frameon=False)
