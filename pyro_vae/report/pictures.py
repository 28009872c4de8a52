"""Pictures of a fitted model: what it draws, reconstructs and encodes, and how it was fitted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Unpack, cast

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import constraints

from pyro_vae._errors import expected, positive_integer
from pyro_vae.data import Dataset
from pyro_vae.data.dataset import SPLITS, Split
from pyro_vae.data.rows import Conditions, ConditionsLike, GivenLike, Numbers, Rows, RowsLike
from pyro_vae.distributions import same_support
from pyro_vae.programs import Amortized
from pyro_vae.programs.accept import as_tensor, rows_of
from pyro_vae.programs.weigh import observations_at_once
from pyro_vae.report import _panels as panels
from pyro_vae.report._canvas import are_images, grid, limits, show, tiles, write

__all__ = [
    "PANELS",
    "SCATTERED",
    "curves",
    "held_out",
    "latent",
    "latent_means",
    "pictures",
    "reconstructions",
    "samples",
]

PANELS = 16  # entries of a vector that are shown one by one
SCATTERED = 5000  # more dots hide each other


def pictures(
    vae: Amortized, data: Dataset, history: Mapping[str, Sequence[float]], folder: str | Path
) -> list[Path]:
    """Draws all pictures of a run: samples, reconstructions, latents and curves.

    Args:
        vae: The fitted model.
        data: What it was fitted to.
        history: That of the run.
        folder: Where to write ``samples.png``, ``reconstructions.png``, ``latent.png`` and
            ``curves.png``; must exist.

    Returns:
        The paths written.
    """
    folder = Path(folder)
    split = held_out(data)
    rows, labels, name = vae.uses(data.rows(split)), data.labels[split], f"{split} data"
    x, given = data.split(split), rows.given
    count = 64 if are_images(vae.event_shape) else 1000
    beside = rows[torch.arange(count) % len(x)].conditions
    return [
        samples(vae, folder / "samples.png", num_samples=count, reference=x, **beside),
        reconstructions(vae, x, folder / "reconstructions.png", name=name, **given),
        latent(vae, x, folder / "latent.png", color_by=labels, name=name, **given),
        curves(history, folder / "curves.png"),
    ]


def held_out(data: Dataset) -> Split:
    """Returns the split to judge by: test, or else validation, or else all there is."""
    filled: list[Split] = [split for split in SPLITS if len(data.split(split)) > 0]
    return filled[-1]


@torch.no_grad()
def samples(
    vae: Amortized,
    path: str | Path,
    *,
    num_samples: int = 64,
    reference: Numbers | None = None,
    **given: Unpack[ConditionsLike],
) -> Path:
    """Draws samples from the prior.

    Of images the means E[x|z] are shown, since independent noise in each pixel hides the shape;
    of vectors the marginals of x itself.

    Args:
        vae: The model.
        path: The PNG to write.
        num_samples: Number of draws.
        reference: Data ``(N, *event_shape)``, which set the grey scale of images and stand beside
            the marginals of vectors; NaN where they are missing.
        **given: What goes with each draw.

    Returns:
        The path.
    """
    num_samples = positive_integer("num_samples", num_samples)
    beside: Tensor | None = as_tensor(reference)
    if not are_images(vae.event_shape):
        return _marginals(vae.sample(num_samples, **given), beside, path)
    prior = vae.prior_at(cast(Conditions, given)).expand((num_samples,))
    means = vae.decode(prior.sample(), **given).mean
    columns = math.ceil(math.sqrt(num_samples))
    rows = math.ceil(num_samples / columns)
    figure = Figure(figsize=(0.7 * columns, 0.7 * rows + 0.5), layout="constrained")
    axes = figure.subplots()
    show(axes, tiles(means, columns, limits(vae, means if beside is None else beside)))
    axes.set_title("Drawn from the prior: E[x | z], z ~ p(z)", fontsize=11)
    return write(figure, path)


@torch.no_grad()
def reconstructions(
    vae: Amortized,
    x: RowsLike,
    path: str | Path,
    *,
    name: str = "data",
    **given: Unpack[GivenLike],
) -> Path:
    """Draws data above what the model makes of them, E[x|z] at z = E[z|x].

    Args:
        vae: The model.
        x: Held-out data, shape ``(N, *event_shape)``.
        path: The PNG to write.
        name: What to call the data.
        **given: What goes with them.

    Returns:
        The path.
    """
    images = are_images(vae.event_shape)
    rows = rows_of(vae, x, given)[: 30 if images else 6]
    reconstructed, mask = vae.reconstruct(rows.x, **rows.given), rows.mask
    x = rows.x if mask is None else rows.x.where(mask, math.nan)  # what is hidden is not drawn
    title = f"{name[0].upper()}{name[1:]} and reconstructions E[x | z = E[z | x]]"
    if not images:
        return _lines(x, reconstructed, path, title)
    columns = min(10, len(x))
    starts = range(0, len(x) - columns + 1, columns)
    figure = Figure(figsize=(0.75 * columns + 1, 1.55 * len(starts) + 0.5), layout="constrained")
    black_white = limits(vae, x)
    all_axes = figure.subplots(2 * len(starts), squeeze=False)[:, 0]
    for i, start in enumerate(starts):
        chosen = slice(start, start + columns)
        for axes, shown, label in (
            (all_axes[2 * i], x[chosen], "data"),
            (all_axes[2 * i + 1], reconstructed[chosen], "reconstruction"),
        ):
            show(axes, tiles(shown, columns, black_white))
            axes.text(-0.01, 0.5, label, transform=axes.transAxes, ha="right", va="center")
    figure.suptitle(title, fontsize=11)
    return write(figure, path)


@torch.no_grad()
def latent(
    vae: Amortized,
    x: RowsLike,
    path: str | Path,
    *,
    color_by: Numbers | None = None,
    name: str = "data",
    **given: Unpack[GivenLike],
) -> Path:
    """Draws where data lie in latent space.

    Real latents: the means E[z|x], in the plane of their first two principal components if they
    have more than two dimensions. One-hot latents: how often each class of each group is used,
    or which class is used for which label if there is one group.

    Args:
        vae: The model.
        x: Held-out data, shape ``(N, *event_shape)``.
        path: The PNG to write.
        color_by: Integers ``(N,)`` that colour the data; the model never saw them.
        name: What to call the data.
        **given: What goes with them.

    Returns:
        The path.
    """
    shown = rows_of(vae, x, given)[:SCATTERED]
    labels = None if color_by is None else as_tensor(color_by)[:SCATTERED].cpu()
    means = latent_means(vae, shown)
    if same_support(vae.space.support, constraints.one_hot):
        groups, classes = means.shape[1:]
        rows = groups if groups > 1 or labels is None else len(labels.unique())
        size = (max(5.5, 0.32 * classes + 2.5), min(8.0, 0.28 * rows + 1.6))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        panels.usage(axes, means, labels)
        axes.set_title(f"Use of the latent classes by {len(shown):,} {name}", fontsize=11)
    else:
        figure = Figure(figsize=(7, 5.6), layout="constrained")
        axes = figure.subplots()
        panels.scatter(axes, means, labels)
        axes.set_title(f"Latent means E[z | x] of {len(shown):,} {name}", fontsize=11)
    return write(figure, path)


def curves(history: Mapping[str, Sequence[float]], path: str | Path) -> Path:
    """Draws the ELBO and its two halves over the epochs, on training and validation data.

    Args:
        history: That of a run: ``epoch``, ``elbo``, ``reconstruction``, ``kl``, and the last three
            with ``validation_`` before them if there were validation data.
        path: The PNG to write.

    Returns:
        The path.
    """
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for axes, key in zip(figure.subplots(1, 3, sharex=True), panels.CURVES, strict=True):
        panels.curve(axes, history, key)
    return write(figure, path)


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


def _marginals(drawn: Tensor, reference: Tensor | None, path: str | Path) -> Path:
    model = drawn.cpu().flatten(1).numpy()
    data = None if reference is None else reference.cpu().flatten(1).numpy()
    dim = model.shape[1]
    figure, all_axes = grid(min(dim, PANELS), (2.6, 2.0))
    for i, axes in enumerate(all_axes):
        seen = None if data is None else data[~np.isnan(data[:, i]), i]
        panels.marginal(
            axes, model[:, i], seen if seen is not None and len(seen) else None, f"x[{i}]"
        )
    _legend_above(figure, all_axes[0])
    some = f"the first {PANELS} of {dim} entries" if dim > PANELS else "each entry"
    figure.suptitle(f"Marginal density of {some}: {len(drawn):,} draws of x", fontsize=11)
    return write(figure, path)


def _lines(x: Tensor, reconstructed: Tensor, path: str | Path, title: str) -> Path:
    figure, all_axes = grid(len(x), (3.2, 2.2))
    for i, axes in enumerate(all_axes):
        panels.line(axes, x[i], reconstructed[i])
    _legend_above(figure, all_axes[0])
    figure.suptitle(title, fontsize=11)
    return write(figure, path)


def _legend_above(figure: Figure, axes: Axes) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False)
