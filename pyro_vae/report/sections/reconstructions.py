"""Held-out data and their reconstructions."""

from __future__ import annotations

from pyro_vae._html import Html, tag
from pyro_vae.report._elements import caption, captioned, lines, pairs
from pyro_vae.report.findings import Findings

__all__ = ["section"]


def section(findings: Findings) -> Html:
    """Returns some held-out data and their reconstructions."""
    try:
        x, reconstructed = findings.reconstructed(slice(30 if findings.images else 6))
    except NotImplementedError:
        return caption("p(x | z) has no mean in closed form: reconstructions are left out.")
    if not findings.images:
        return captioned(
            tag("div", *lines(x, reconstructed), class_="panels"),
            "Dots, held-out data; line, E[x | z] at z = E[z | x]. Structure that the line passes "
            "by is left to the noise of the likelihood.",
        )
    return captioned(
        tag("div", *pairs(findings, x, reconstructed), class_="panels"),
        "Upper rows, held-out data; lower rows, E[x | z] at z = E[z | x]. Detail that is lost is "
        "either not in z or not in what the decoder can draw.",
    )
