"""Latent traversals and interpolations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pyro.distributions.constraints import sphere
from torch import Tensor
from torch.distributions import constraints

from pyro_vae._html import Html, join, tag
from pyro_vae.distributions import same_support
from pyro_vae.plots import _panels as panels
from pyro_vae.plots._canvas import as_svg, chart
from pyro_vae.plots._panels import class_name
from pyro_vae.plots._paths import interpolated, traversed
from pyro_vae.plots._tables import farthest, lines_height, moved
from pyro_vae.programs import VAE
from pyro_vae.report._elements import caption, image
from pyro_vae.report.findings import ACTIVE, Findings

__all__ = ["section"]

_UNITS = 12  # latent units that are traversed
_PAIRS = 6
_REACH = 3.0


def section(findings: Findings) -> Html | None:
    """Returns traversals of single units and interpolations between data.

    None of a program that is no VAE, which has no decoder to move z through, where z is neither
    one vector nor one-hot, and of a text, whose levels are no heights to be drawn.
    """
    vae = findings.vae
    if findings.data.vocabulary is not None:
        return None
    kinds = (constraints.real_vector, constraints.one_hot, constraints.boolean, sphere)
    if not isinstance(vae, VAE) or not any(same_support(vae.space.support, kind) for kind in kinds):
        return None
    drawn = [*_traversals(findings, vae), *_interpolations(findings, vae)]
    return join(*drawn) if drawn else None


def _traversals(findings: Findings, vae: VAE) -> list[Html]:
    support = vae.space.support
    order = findings.variances.argsort(descending=True)
    units = order[findings.variances[order] > ACTIVE][:_UNITS]
    if len(units) == 0:
        return []
    # The observation in the middle: as typical as any.
    middle = findings.scores.log_marginal.argsort()[len(findings.scores.log_marginal) // 2]
    decoded = traversed(vae, findings.rows[middle : middle + 1], units, reach=_REACH)
    span = _REACH * np.linspace(-1, 1, decoded.batch_shape[1])
    titles = [f"z{unit}" for unit in units.tolist()]
    some = "Each latent unit"
    if len(units) < len(order):
        some = f"Each of the {len(units)} units that vary most over data"
    coloured = "" if findings.images else ", from blue to red"
    if same_support(support, constraints.one_hot):
        what = "takes each of its classes in turn"
    elif support.is_discrete:
        what = "is 0 and then 1"
    elif same_support(support, sphere):
        what = f"moves along the sphere from one of its poles to the other{coloured}"
    else:
        what = f"moves from −{_REACH:g} to {_REACH:g} standard deviations of the prior{coloured}"
    cmap = "tab10" if support.is_discrete else "coolwarm"
    return [
        tag("h3", "Traversals: one latent unit at a time"),
        _paths(findings, decoded.mean, _scaled(findings, decoded), titles, list(span), cmap),
        caption(
            f"{some} {what}, the others staying where the observation of median log p(x) has them. "
            "A row without change is a unit that does nothing here; a row that changes one thing "
            "only has found a factor of the data."
        ),
    ]


def _interpolations(findings: Findings, vae: VAE) -> list[Html]:
    x, support = findings.x, vae.space.support
    pairs = _pairs(findings)
    if len(pairs) == 0:
        return []
    ends = (findings.rows[pairs[:, i]] for i in (0, 1))
    decoded = interpolated(vae, *ends)
    path = decoded.mean.transpose(0, 1)
    shown = "E[x | z], from dark to bright,"
    if findings.images:
        first, second = (x[pairs[:, i], None] for i in (0, 1))
        path = torch.cat([first, path, second], 1)
        shown = "The outermost are held-out data themselves, between them E[x | z]"
    titles = [""] * len(pairs)
    if findings.labels is not None:
        names = findings.data.classes
        named = [
            [class_name(each, names) for each in pair] for pair in findings.labels[pairs].tolist()
        ]
        titles = [f"{a}→{b}" for a, b in named]
    if support.is_discrete:
        moves = "while z changes one latent variable after another."
    elif same_support(support, sphere):
        moves = "while z moves along an arc of the sphere."
    else:
        moves = "while z moves along a straight line."
    return [
        tag("h3", "Interpolations: from one observation to another"),
        _paths(
            findings,
            path,
            _scaled(findings, decoded, 1),
            titles,
            list(range(path.shape[1])),
            "viridis",
        ),
        caption(
            f"{shown} {moves} Every step should look like an observation; a blur half way is a "
            "hole in latent space."
        ),
    ]


def _scaled(findings: Findings, decoded: Any, across: int = 0) -> Tensor | None:
    """E[x|z] along paths as columns of a table are drawn, ``(paths, S, lines)``; else None."""
    if not findings.columns:
        return None
    levels = findings.scaled.of_levels(decoded, findings.x[0])
    lines = findings.scaled.expectations(decoded.mean, levels)
    return lines.transpose(0, across)


def _paths(
    findings: Findings,
    means: Tensor,
    lines: Tensor | None,
    titles: Sequence[str],
    positions: list[float],
    cmap: str,
) -> Html:
    """Each path a strip of images, or a panel of lines; of a table, a line a column."""
    if findings.images:
        strips = [
            tag("div", tag("span", title), findings.tiles(row, len(row), title), class_="strip")
            for title, row in zip(titles, means, strict=True)
        ]
        return tag("div", *strips, class_="panels wide")
    charts, names = [], findings.scaled.expanded.names if lines is not None else ()
    for i, (title, row) in enumerate(zip(titles, means, strict=True)):
        size = (3.6, 2.0) if lines is None else (3.8, lines_height(len(names)))
        with chart(*size) as (figure, axes):
            if lines is None:
                panels.family(axes, row, positions, cmap)
            else:
                moved(axes, names, lines[i], positions, cmap, farthest(lines))
            axes.set_title(title)
            charts.append(image(as_svg(figure), f"E[x | z] along {title}"))
    return tag("div", *charts, class_="panels")


def _pairs(findings: Findings) -> Tensor:
    """Indices of pairs of held-out data, of different labels where there are labels."""
    count = len(findings.x)
    pairs: list[tuple[int, int]] = []
    after = 0
    while len(pairs) < _PAIRS and after + 1 < count:
        second = after + 1
        if findings.labels is not None:
            others = (findings.labels[second:] != findings.labels[after]).nonzero()
            if len(others) == 0:
                break
            second += int(others[0])
        pairs.append((after, second))
        after = second + 1
    return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)
