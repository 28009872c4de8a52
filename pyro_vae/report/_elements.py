"""What several sections show alike: figures, data and their reconstructions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_vae._html import Html, tag
from pyro_vae.plots import _panels as panels
from pyro_vae.plots._canvas import as_svg, chart
from pyro_vae.plots._tables import lines_height, observed
from pyro_vae.report.findings import Findings

__all__ = ["caption", "captioned", "image", "lines", "pairs"]


def image(address: str, alt: str) -> Html:
    """An image at an address, with what stands for it where it cannot be seen."""
    return tag("img", src=address, alt=alt)


def captioned(content: Html, caption: str) -> Html:
    """A figure with its caption below."""
    return tag("figure", content, tag("figcaption", caption))


def caption(text: str) -> Html:
    """A caption of what stands before it."""
    return tag("figure", tag("figcaption", text))


def pairs(findings: Findings, x: Tensor, reconstructed: Tensor) -> list[Html]:
    """Rows of images ``(N, C, H, W)``, each above a row of their reconstructions."""
    columns = min(10, len(x))
    return [
        tag(
            "div",
            findings.tiles(
                torch.cat([x[start : start + columns], reconstructed[start : start + columns]]),
                columns,
                "Data above their reconstructions",
            ),
        )
        for start in range(0, len(x) - columns + 1, columns)
    ]


def lines(findings: Findings, index: Any, titles: Sequence[str] | None = None) -> list[Html]:
    """Panels of some observations and their reconstructions, dots and lines.

    Of a table a line for each column, named; of a sequence one line along its entries.
    """
    x, reconstructed = findings.reconstructed(index)
    levels: dict[int, Tensor] = {}
    if findings.columns:
        levels = findings.scaled.probabilities(findings.vae, findings.rows[index])
    size = (5.6, lines_height(len(findings.entries))) if findings.columns else (3.6, 2.0)
    charts = []
    for i in range(len(x)):
        with chart(*size) as (figure, axes):
            if findings.columns:
                own = {at: each[i] for at, each in levels.items()}
                observed(axes, findings.scaled, x[i], reconstructed[i], own)
            else:
                panels.line(axes, x[i], reconstructed[i])
            axes.set_title("" if titles is None else titles[i])
            charts.append(image(as_svg(figure), "An observation and its reconstruction"))
    return charts
