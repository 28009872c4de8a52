"""Samples from the prior beside held-out data."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyro_vae._html import Html, join, table, tag
from pyro_vae.criticism._replicates import cycled, draw_prior, prior_of
from pyro_vae.data.text import Vocabulary
from pyro_vae.plots import _panels as panels
from pyro_vae.plots._canvas import as_svg, blank, chart
from pyro_vae.plots._tables import marginal
from pyro_vae.plots.pairs import associations, correlations, draw_pair
from pyro_vae.report._elements import captioned, image, written
from pyro_vae.report.findings import Findings
from pyro_vae.report.pictures import PANELS, visible

__all__ = ["section"]

_NAMES = 30  # columns whose names can be read beside each other
_PAIRS = 6
_ROWS = 6  # of data, and of draws, that are written out
_LINES = 20  # of a text, and that the model writes
_CORRELATED = 60  # entries whose correlations can be distinguished in a picture


def section(findings: Findings) -> Html:
    """Returns draws beside data: images, or marginals and correlations of vectors."""
    vae, x = findings.vae, findings.x
    if findings.images:
        count = min(64, len(x))
        given = findings.rows[:count].conditions
        z = draw_prior(prior_of(vae, given), 1, count)[0]
        decoded = vae.decode(z, **given)
        shown = {
            "Held-out data": x[:count],
            "E[x | z], z ~ p(z)": decoded.mean,
            "x ~ p(x | z)": decoded.sample(),
        }
        grids = [
            tag("div", tag("h3", what), findings.tiles(images, 8, what))
            for what, images in shown.items()
        ]
        return captioned(
            tag("div", *grids, class_="panels"),
            "Do the draws show every kind of observation, as often as the data do? Blends of two "
            "kinds come from places that the prior reaches and no observation does. The mean is "
            "smooth; a draw of x adds the noise of the likelihood, and is what compares with data.",
        )
    if findings.data.vocabulary is not None:
        return _lines(findings, findings.data.vocabulary)
    count = max(1000, min(len(x), 4000))
    conditions = cycled(findings.rows.conditions, count)
    drawn = vae.sample(count, **conditions).cpu().flatten(1).double().numpy()
    seen = visible(findings.rows).cpu().flatten(1).double().numpy()
    dim = seen.shape[1]
    charts = []
    for i, entry in enumerate(findings.entries[:PANELS]):
        with chart(2.9, 2.1) as (figure, axes):
            marginal(axes, entry, drawn[:, i], seen[~np.isnan(seen[:, i]), i])
            charts.append(image(as_svg(figure), f"Marginal of {entry.name}"))
    what = "column" if findings.columns else "entry of x"
    some = f"The first {PANELS} of {dim}, each" if dim > PANELS else "Each"
    parts = _rows(findings, drawn[:_ROWS]) if findings.columns else []
    parts.append(
        captioned(
            tag("div", *charts, class_="panels medium"),
            f"{some} {what}: grey, the held-out data; blue, {len(drawn):,} draws of the model. "
            "Where the blue line leaves the grey shape, or a blue bar a grey one, the model puts "
            "too much or too little there; look at the tails and at zero first.",
        )
    )
    if findings.columns and dim >= 2:
        parts.append(_pairs(findings, torch.from_numpy(drawn)))
    if 2 <= dim <= _CORRELATED:
        parts.append(_correlations(findings, seen, drawn))
    return join(*parts)


def _lines(findings: Findings, vocabulary: Vocabulary) -> Html:
    """Lines of the data, and as many that the model writes."""
    seen = findings.rows[:_LINES]
    drawn = findings.vae.sample(len(seen), **seen.conditions)
    rows = zip(vocabulary.decode(seen.x), vocabulary.decode(drawn), strict=True)
    return captioned(
        table(("held-out data", "x ~ p(x | z), z ~ p(z)"), [*rows], text=2),
        "Lines of the data, and beside them lines that the model writes; one has nothing to do "
        "with the other. Are the words words, and do they go together as those of the data do?",
    )


def _rows(findings: Findings, drawn: np.ndarray) -> list[Html]:
    """The first rows of the data, and as many draws, as the table writes them."""
    shown = {
        f"Rows of the {findings.split} data": visible(findings.rows[:_ROWS]),
        "Rows that the model draws, x ~ p(x | z), z ~ p(z)": torch.from_numpy(drawn),
    }
    return [
        tag("div", tag("h3", title), written(findings, rows.flatten(1)))
        for title, rows in shown.items()
    ]


def _pairs(findings: Findings, drawn: Tensor) -> Html:
    """The columns that go together most."""
    reference, charts = findings.scaled.reference, []
    for first, second, _ in associations(reference, findings.entries, _PAIRS):
        with blank(5.4, 2.6) as figure:
            draw_pair(figure, first, second, reference, drawn[: len(reference)])
            charts.append(image(as_svg(figure), f"{first.name} and {second.name}"))
    return captioned(
        tag("div", *charts, class_="panels wide"),
        "The pairs of columns that are associated most in the held-out data: grey, the data; blue, "
        "draws of the model. At each word: the median, the quartiles (thick), and the 5th and 95th "
        "percentiles (thin). In tables of shares each column adds up to 100%.",
    )


def _correlations(findings: Findings, seen: np.ndarray, drawn: np.ndarray) -> Html:
    charts, names, what = [], list[str](), "entries"
    if findings.columns:
        what = "columns"
        expanded = findings.scaled.expanded
        names = list(expanded.names)
        seen = expanded(torch.from_numpy(seen)).numpy()
        drawn = expanded(torch.from_numpy(drawn)).numpy()
        if len(names) > _NAMES:
            names = []
    both = {"Held-out data": correlations(seen), "Draws of the model": correlations(drawn)}
    both["Model less data"] = both["Draws of the model"] - both["Held-out data"]
    for title, matrix in both.items():
        with chart(*((4.4, 4.0) if names else (3.4, 2.8))) as (figure, axes):
            panels.correlation(axes, matrix, title, names)
            charts.append(image(as_svg(figure), f"Correlations: {title}"))
    return captioned(
        tag("div", *charts, class_="panels wide" if names else "panels"),
        f"Correlations between {what}. What is left of them in the model less data, beyond noise, "
        "is dependence that the model misses: z has too few dimensions, or the likelihood, "
        "independent given z, cannot carry it.",
    )
