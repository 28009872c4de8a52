"""What every picture shares: colours, tiles of images, panels, and the formats they end in."""

from __future__ import annotations

import base64
import io
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import torch
from matplotlib import get_backend, is_interactive, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter
from torch import Tensor
from torch.distributions import constraints

from pyro_vae._errors import expected
from pyro_vae._terminal import shown_lines
from pyro_vae.checkpoint import write_bytes
from pyro_vae.programs import Amortized

__all__ = [
    "BAD",
    "CLASSES",
    "HELD_OUT",
    "INK",
    "TRAIN",
    "are_images",
    "as_png",
    "as_svg",
    "axes_of",
    "blank",
    "canvas_of",
    "chart",
    "figure_of",
    "grid",
    "limits",
    "show",
    "tiles",
    "write",
]

# Of Okabe and Ito (2008, https://jfly.uni-koeln.de/color/): people who confuse red and green tell
# them apart.
TRAIN, HELD_OUT, BAD = "#999999", "#0072B2", "#D55E00"
CLASSES = (HELD_OUT, "#E69F00", "#009E73", "#CC79A7", "#56B4E9", BAD, "#F0E442", "#000000")
INK = "#1f2328"
_DPI = 150
_GAP = 0.82  # grey between images, or white strokes would run into each other
# Text stays text, in the fonts of the page; widths are computed with the widest of them.
_PAGE_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "pyro-vae",
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#8a8f98",
    "axes.labelcolor": "#3d444d",
    "xtick.color": "#59636e",
    "ytick.color": "#59636e",
    "text.color": "#1f2328",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def are_images(event_shape: Sequence[int]) -> bool:
    """Whether data of that shape are shown as pictures: ``(1 or 3, H, W)``."""
    return len(event_shape) == 3 and event_shape[0] in (1, 3) and min(event_shape[1:]) > 1


def limits(vae: Amortized, reference: Tensor) -> tuple[float, float]:
    """What is black and what is white."""
    if vae.x_support is constraints.boolean:
        return 0.0, 1.0
    seen = reference[~reference.isnan()]
    return (seen.min().item(), seen.max().item()) if len(seen) else (0.0, 1.0)


def tiles(images: Tensor, columns: int, black_white: tuple[float, float]) -> np.ndarray:
    """Images ``(N, C, H, W)`` as one, of shape ``(height, width, 3)`` with values in [0, 1].

    What is missing, NaN, is as grey as the gaps between images.
    """
    low, high = black_white
    images = ((images.cpu() - low) / max(high - low, 1e-12)).clamp(0, 1).nan_to_num(_GAP)
    n, _, height, width = images.shape
    gap = max(1, height // 14)
    rows = math.ceil(n / columns)
    size = rows * (height + gap) - gap, columns * (width + gap) - gap
    canvas = torch.full((3, *size), _GAP)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    return canvas.permute(1, 2, 0).numpy()


def show(axes: Axes, pixels: np.ndarray) -> None:
    """Shows pixels as they are, without a frame."""
    axes.imshow(pixels, interpolation="nearest")
    axes.set_axis_off()


def _new(size: tuple[float, float]) -> Figure:
    """A new figure of a size in inches: of pyplot where that shows figures, as in a notebook.

    Elsewhere pyplot does not know the figure, and hence does not keep it.
    """
    # A notebook's backend is known from the start, and interactive only once pyplot is imported.
    if is_interactive() or "inline" in str(get_backend(auto_select=False)):
        from matplotlib import pyplot

        return pyplot.figure(figsize=size, layout="constrained")
    return Figure(figsize=size, layout="constrained")


def axes_of(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The axes given, or those of a new figure of a size in inches."""
    if ax is None:
        return _new(size).subplots()
    if not isinstance(ax, Axes):
        raise expected("ax", "matplotlib Axes, or None", ax)
    return ax


def canvas_of(figure: Figure | SubFigure | None, size: tuple[float, float]) -> Figure | SubFigure:
    """The figure given, or a new one of a size in inches."""
    if figure is None:
        return _new(size)
    if not isinstance(figure, Figure | SubFigure):
        raise expected("figure", "a matplotlib Figure or SubFigure, or None", figure)
    return figure


def figure_of(axes: Axes | Sequence[Axes]) -> Figure:
    """The figure that axes are in."""
    found = (axes if isinstance(axes, Axes) else axes[0]).get_figure(root=True)
    if found is None:
        raise expected("axes", "axes in a figure", axes)
    return found


def grid(
    count: int, figsize: tuple[float, float], figure: Figure | SubFigure | None = None
) -> tuple[Figure | SubFigure, list[Axes]]:
    """A figure of ``count`` panels, each of a size in inches, at most four in a row."""
    columns = 3 if count in (5, 6, 9) else min(4, count)
    rows = math.ceil(count / columns)
    size = (max(5.5, figsize[0] * columns), figsize[1] * rows + 0.6)
    figure = canvas_of(figure, size)
    panels = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for unused in panels[count:]:
        unused.set_axis_off()
    return figure, panels[:count]


def write(figure: Figure, path: str | Path) -> Path:
    """Writes a figure as a PNG file; a notebook does not show it besides."""
    content = _drawn(figure, format="png")
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close(figure)
    write_bytes(Path(path), content)
    return Path(path)


@contextmanager
def blank(width: float, height: float) -> Iterator[Figure]:
    """An empty figure in the style of the page, of a size in inches."""
    with rc_context(_PAGE_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


@contextmanager
def chart(width: float = 3.6, height: float = 2.5) -> Iterator[tuple[Figure, Axes]]:
    """A figure of one panel in the style of the page, of a size in inches."""
    with blank(width, height) as figure:
        yield figure, figure.subplots()


def as_svg(figure: Figure) -> str:
    """A figure as the address of an image that holds it; call it inside :func:`chart`."""
    content = _drawn(figure, format="svg", transparent=True, metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(content).decode()}"


def _drawn(figure: Figure, **options: Any) -> bytes:
    """A figure as a file, in which names are text: ``$`` begins no formula in them.

    What is no letter is written out, as XML does not take it; what the font lacks is a box.
    """
    content = io.BytesIO()
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        for axes in figure.findobj(Axes):
            for axis in (axes.xaxis, axes.yaxis):
                if isinstance(labels := axis.get_major_formatter(), FixedFormatter):
                    labels.seq = [shown_lines(label) for label in labels.seq]
        for text in figure.findobj(Text):
            text.set_text(shown_lines(text.get_text()))
            text.set_parse_math(False)
        figure.savefig(content, dpi=_DPI, **options)
    return content.getvalue()


def as_png(pixels: np.ndarray) -> str:
    """Pixels ``(height, width, 3)`` in [0, 1] as the address of an image that holds them."""
    content = io.BytesIO()
    matplotlib.image.imsave(content, pixels, format="png")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
