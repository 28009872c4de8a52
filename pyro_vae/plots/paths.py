"""Paths through latent space: one unit at a time, or from one observation to another."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.criticism._entries import entries_of
from pyro_vae.data.rows import Numbers, RowsLike
from pyro_vae.plots import _panels as panels
from pyro_vae.plots._canvas import are_images, canvas_of, grid, limits, show, tiles
from pyro_vae.plots._paths import interpolations, traversed
from pyro_vae.plots._tables import Scaled, are_columns, farthest, lines_height, moved
from pyro_vae.plots.models import visible
from pyro_vae.programs import VAE
from pyro_vae.programs.accept import as_tensor, rows_of

__all__ = ["interpolation", "traversal"]


def traversal(
    vae: VAE,
    x: RowsLike,
    units: Numbers,
    *,
    steps: int = 7,
    reach: float = 3.0,
    reference: RowsLike | None = None,
    figure: Figure | SubFigure | None = None,
) -> list[Axes]:
    """Draws E[x|z] as one latent unit moves at a time, the others staying at E[z|x].

    Args:
        vae: The model, with one latent variable, a vector or one-hot.
        x: Where to start, shape ``(*event_shape)``; or one row, with what goes with it.
        units: Indices of latent units, shape ``(U,)``.
        steps: Positions of a real unit; a discrete one takes each of its values.
        reach: How far a real unit goes, in standard deviations of the prior.
        reference: Of a table, data such as ``data.test``, shape ``(N, *event_shape)``, that name
            its columns: each is then a line of its own, in standard deviations of these data from
            their mean.
        figure: Where to draw; one of its own if not given.

    Returns:
        The axes, one a unit.

    Raises:
        ValueError: If latents are neither vectors nor one-hot.

    References:
        beta-VAE (Higgins et al., 2017), https://openreview.net/forum?id=Sy2fzU9gl
    """
    decoded = traversed(vae, x, units, steps=steps, reach=reach)
    names = [f"z{int(unit)}" for unit in as_tensor(units)]
    lines = _of_columns(vae, decoded, reference)
    axes = _paths(vae, decoded.mean, names, "coolwarm", figure, lines)
    axes[0].figure.suptitle("E[x | z] as one latent unit moves at a time", fontsize=11)
    return axes


def interpolation(
    vae: VAE,
    first: RowsLike,
    second: RowsLike,
    *,
    steps: int = 8,
    figure: Figure | SubFigure | None = None,
) -> list[Axes]:
    """Draws E[x|z] on the way from observations to others through latent space.

    Args:
        vae: The model, with one latent variable, a vector or one-hot.
        first: Where to start, shape ``(P, *event_shape)``; or rows, with what goes with them.
        second: Where to end, of the same shape.
        steps: Positions on the way, both ends included.
        figure: Where to draw; one of its own if not given.

    Returns:
        The axes, one a pair.

    Raises:
        ValueError: If latents are neither vectors nor one-hot.
    """
    means = interpolations(vae, first, second, steps=steps)
    names = [str(i + 1) for i in range(len(means))]
    axes = _paths(vae, means, names, "viridis", figure)
    axes[0].figure.suptitle("E[x | z] on the way from one observation to another", fontsize=11)
    return axes


def _of_columns(
    vae: VAE, decoded: Distribution, reference: RowsLike | None
) -> tuple[Scaled, Tensor] | None:
    """Returns E[x|z] in standard deviations of data, ``(U, S, lines)``, where x is of a table."""
    if reference is None:
        return None
    rows = rows_of(vae, as_tensor(reference), {})
    entries = entries_of(vae, reference)
    if not are_columns(entries, vae.event_shape):
        return None
    scaled = Scaled(visible(rows), entries)
    levels = scaled.of_levels(decoded, rows.x[0])
    return scaled, scaled.expectations(decoded.mean, levels)


def _paths(
    vae: VAE,
    means: Tensor,
    names: Sequence[str],
    cmap: str,
    figure: Figure | SubFigure | None,
    lines: tuple[Scaled, Tensor] | None = None,
) -> list[Axes]:
    count, steps = means.shape[:2]
    if lines is not None:
        scaled, places = lines
        across = scaled.expanded.names
        _, axes = grid(count, (3.8, lines_height(len(across))), figure)
        for ax, name, path in zip(axes, names, places, strict=True):
            moved(ax, across, path, range(steps), cmap, farthest(places))
            ax.set_title(name)
        return axes
    if not are_images(vae.event_shape):
        _, axes = grid(count, (3.0, 2.3), figure)
        for ax, name, path in zip(axes, names, means, strict=True):
            panels.family(ax, path, range(steps), cmap)
            ax.set_title(name)
        return axes
    size = (0.7 * steps + 0.6, 0.75 * count + 0.5)
    axes = canvas_of(figure, size).subplots(count, squeeze=False)[:, 0].tolist()
    for ax, name, path in zip(axes, names, means, strict=True):
        show(ax, tiles(path, steps, limits(vae, means)))
        ax.text(-0.01, 0.5, name, transform=ax.transAxes, ha="right", va="center")
    return axes
