"""Pictures of what criticism finds: checks, calibration, and runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae import plots
from pyro_vae._errors import expected
from pyro_vae.criticism import Calibration, Checks
from pyro_vae.criticism._entries import entries_of
from pyro_vae.data.rows import Rows, RowsLike
from pyro_vae.plots._canvas import (
    BAD,
    HELD_OUT,
    INK,
    TRAIN,
    are_images,
    figure_of,
    limits,
    show,
    tiles,
    write,
)
from pyro_vae.plots._tables import Scaled, are_columns
from pyro_vae.plots.criticism import coverage, ranks
from pyro_vae.programs import Amortized
from pyro_vae.programs.accept import as_tensor, rows_of

__all__ = ["calibration", "checks", "side_by_side"]

_TILES = 40
_NAMED = 6  # failed checks that one cell of a comparison names
_POINTS = 1000


def checks(found: Checks, path: str | Path) -> Path:
    """Draws where the observed statistics lie among those of replicates.

    Args:
        found: What :func:`pyro_vae.criticism.check` returned.
        path: The PNG to write.

    Returns:
        The path.
    """
    return write(figure_of(plots.checks(found)), path)


def calibration(found: Calibration, path: str | Path) -> Path:
    """Draws the SBC rank ECDFs, and the coverage of regions of the draws.

    Args:
        found: What :func:`pyro_vae.criticism.calibrate` returned.
        path: The PNG to write.

    Returns:
        The path.
    """
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    ranks(left, found)
    coverage(right, found)
    title = f"{found.num_failed} of {len(found.names)} quantities failed"
    figure.suptitle(f"SBC ranks among draws of {found.draws}: {title}", fontsize=11)
    return write(figure, path)


@torch.no_grad()
def side_by_side(
    runs: Mapping[str, tuple[Amortized, RowsLike]],
    path: str | Path,
    *,
    found: Mapping[str, Checks] | None = None,
) -> Path:
    """Draws runs one above the other: data, draws of x, and the checks that failed.

    Images are shown as they are. Vectors are dots in the plane of the first two principal
    components of their data, the columns of a table in standard deviations.

    Args:
        runs: For each name the model and held-out data ``(N, *event_shape)``, or rows of them.
        path: The PNG to write.
        found: Checks by the same names; where there are none the third column is left out.

    Returns:
        The path.

    Raises:
        ValueError: If there are no runs.
    """
    if not runs:
        raise expected("runs", "at least one run", runs)
    columns = 2 if found is None else 3
    figure = Figure(figsize=(3.1 * columns + 0.4, 2.5 * len(runs) + 0.4), layout="constrained")
    rows = figure.subplots(len(runs), columns, squeeze=False)
    for i, (name, (vae, x)) in enumerate(runs.items()):
        seen = rows_of(vae, x, {})
        drawn = vae.sample(len(seen[:_POINTS]), **seen[:_POINTS].conditions)
        entries = entries_of(vae, x if isinstance(x, Rows) else as_tensor(x))
        shown = (seen.x, drawn)
        if are_columns(entries, vae.event_shape):
            scaled = Scaled(seen.x, entries)
            shown = (scaled.in_deviations(seen.x), scaled.in_deviations(drawn))
        _pair([rows[i, 0], rows[i, 1]], vae, *shown)
        rows[i, 0].set_title(f"{name}: data", fontsize=10, loc="left")
        rows[i, 1].set_title("draws of x", fontsize=10, loc="left")
        if found is not None:
            _verdict(rows[i, 2], found.get(name))
    return write(figure, path)


def _pair(axes: Sequence[Axes], vae: Amortized, x: Tensor, drawn: Tensor) -> None:
    if are_images(vae.event_shape):
        black_white = limits(vae, x)
        for each, images in zip(axes, (x, drawn), strict=True):
            show(each, tiles(images[:_TILES], 8, black_white))
        return
    seen, made = (values.cpu().flatten(1).double() for values in (x[:_POINTS], drawn))
    centre = seen.mean(0)
    _, _, directions = torch.linalg.svd(seen - centre, full_matrices=False)
    plane = directions[:2].T
    placed = [(values - centre) @ plane for values in (seen, made)]
    if plane.shape[1] == 1:  # one number: spread out, to see how many there are
        placed = [torch.cat([p, torch.linspace(0, 1, len(p))[:, None]], 1) for p in placed]
    low, high = (end.tolist() for end in torch.cat(placed).aminmax(dim=0))
    for each, points, colour in zip(axes, placed, (TRAIN, HELD_OUT), strict=True):
        across, up = points.T
        each.scatter(across, up, s=6, alpha=0.6, lw=0, color=colour)
        each.set_xlim(*_widened(low[0], high[0]))
        each.set_ylim(*_widened(low[1], high[1]))
        each.set_xticks([])
        each.set_yticks([])


def _widened(low: float, high: float) -> tuple[float, float]:
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _verdict(axes: Axes, found: Checks | None) -> None:
    axes.set_axis_off()
    if found is None:
        axes.text(0, 1, "not checked", va="top", color=TRAIN, transform=axes.transAxes)
        return
    failed = [row for row in found.rows if row.failed]
    total = sum(row.calibrated for row in found.rows)
    axes.set_title(f"checks failed: {len(failed)} of {total}", fontsize=10, loc="left")
    lines = [row.title for row in failed[:_NAMED]]
    if len(failed) > _NAMED:
        lines.append(f"and {len(failed) - _NAMED} more")
    axes.text(
        0, 0.98, "\n".join(lines) or "none", va="top", fontsize=9, linespacing=1.5,
        color=BAD if failed else INK, transform=axes.transAxes,
    )  # fmt: skip
