"""What several sections show alike: figures, data and their reconstructions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from pyro_vae._errors import plural
from pyro_vae._html import Html, join, table, tag
from pyro_vae.plots import _panels as panels
from pyro_vae.plots._canvas import as_svg, chart
from pyro_vae.plots._tables import made
from pyro_vae.report.findings import Findings

__all__ = ["caption", "captioned", "document", "image", "lines", "pairs", "written"]

_COLUMNS = 40  # of a table of data


def document(title: str, body: Html) -> str:
    """A page of that body, which needs nothing beside itself."""
    style = files("pyro_vae.report").joinpath("page.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        # A page without an icon of its own asks the server for one.
        tag("link", rel="icon", href="data:,"),
        tag("title", f"{title} · pyro-vae"),
        tag("style", Html(style)),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


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
    """Some observations and their reconstructions.

    Of a table one table, with a row for each column of the data; of a text one with a row for each
    line; of a sequence a panel each, where dots are data and one line along the entries is their
    reconstruction.
    """
    x, reconstructed = findings.reconstructed(index)
    if (vocabulary := findings.data.vocabulary) is not None:
        head = ("line", "reconstruction") if titles is None else ("", "line", "reconstruction")
        rows = zip(vocabulary.decode(x), vocabulary.decode(reconstructed), strict=True)
        if titles is None:
            return [table(head, [*rows], text=2)]
        named = [(title, *row) for title, row in zip(titles, rows, strict=True)]
        return [table(head, named, text=3)]
    if findings.columns:
        return [_beside(findings, index, x, reconstructed, titles)]
    charts = []
    for i in range(len(x)):
        with chart(3.6, 2.0) as (figure, axes):
            panels.line(axes, x[i], reconstructed[i])
            axes.set_title("" if titles is None else titles[i])
            charts.append(image(as_svg(figure), "An observation and its reconstruction"))
    return charts


def _beside(
    findings: Findings, index: Any, x: Tensor, reconstructed: Tensor, titles: Sequence[str] | None
) -> Html:
    """Observations as the table has them, each with what the model makes of it."""
    levels = findings.scaled.probabilities(findings.vae, findings.rows[index])
    seen, means = (each.detach().cpu().double() for each in (x, reconstructed))
    rows = []
    for each in findings.entries[:_COLUMNS]:
        cells: list[object] = [each.title]
        for i in range(len(seen)):
            value = float(seen[i, each.index])
            known = levels.get(each.index)
            mean = made(each, float(means[i, each.index]), None if known is None else known[i])
            text = "missing" if math.isnan(value) else each.write(value)
            cells.append(join(tag("b", text), f" → {mean}"))
        rows.append(cells)
    head = [f"observation {i + 1}" for i in range(len(seen))] if titles is None else titles
    return join(table(("column", *head), rows, class_="rows"), _more(findings))


def written(findings: Findings, x: Tensor) -> Html:
    """Rows ``(N, D)`` as the table of the data writes them; NaN is missing."""
    entries = findings.entries[:_COLUMNS]
    values = x.detach().cpu().double()
    rows = [
        [
            "missing" if math.isnan(value := float(row[each.index])) else each.write(value)
            for each in entries
        ]
        for row in values
    ]
    shown = table([each.title for each in entries], rows, text=0, class_="rows")
    return join(shown, _more(findings))


def _more(findings: Findings) -> Html:
    left = len(findings.entries) - _COLUMNS
    return (
        tag("p", f"{plural(left, 'more column')} {'is' if left == 1 else 'are'} not shown.")
        if left > 0
        else Html("")
    )
