"""Simulation-based calibration of the guide."""

from __future__ import annotations

from pyro_vae._html import Html, join, table, tag
from pyro_vae.plots._canvas import as_svg, chart
from pyro_vae.plots.criticism import coverage, ranks
from pyro_vae.report._elements import captioned, image
from pyro_vae.report._numbers import p_value
from pyro_vae.report.findings import Findings

__all__ = ["section"]


def section(findings: Findings) -> Html:
    """Returns the ranks and coverage of the guide's draws, with a verdict."""
    found = findings.calibration
    if isinstance(found, str):
        return tag("p", found, class_="note")
    failed = found.num_failed
    parts = [
        tag(
            "p",
            f"{failed} of {len(found.names)} quantities fail. {len(found.ranks):,} times z and x "
            f"were drawn from the model, and z was ranked among {found.num_draws} draws of the "
            "guide given x. Were the guide the posterior, every rank would be as likely as any "
            "other. No data are needed: this is about inference, not about the model.",
            class_="note warning" if failed else "note",
        )
    ]
    if failed:
        parts.append(tag("ul", *(tag("li", sentence) for sentence in found.advice)))
    charts = []
    for draw, alt in ((ranks, "SBC rank ECDFs with bands"), (coverage, "Coverage curves")):
        with chart(4.4, 3.1) as (figure, axes):
            draw(axes, found)
            charts.append(image(as_svg(figure), alt))
    parts.append(
        captioned(
            tag("div", *charts, class_="panels wide"),
            "SBC rank ECDF: a line that leaves the grey band rejects the guide. An S "
            "shape is a guide of the wrong width, a hump one that is off to a side. Coverage: "
            "below the diagonal, regions of the guide hold the true value less often than they "
            "state: it is too narrow.",
        )
    )
    rows = [
        (
            tag("code", name),
            p_value(float(p)),
            p_value(float(adjusted)),
            tag("span", "fails", class_="bad") if fails else "passes",
        )
        for name, p, adjusted, fails in zip(
            found.names, found.p_values, found.adjusted, found.failed, strict=True
        )
    ]
    listed = table(("quantity ranked", "p", "p, Holm", "verdict"), rows)
    return join(*parts, tag("details", tag("summary", "Every quantity"), listed))
