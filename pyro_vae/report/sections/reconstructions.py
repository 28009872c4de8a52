"""Held-out data and their reconstructions."""

from __future__ import annotations

from pyro_vae._html import Html, tag
from pyro_vae.report._elements import caption, captioned, lines, pairs
from pyro_vae.report.findings import Findings

__all__ = ["section"]


def section(findings: Findings) -> Html:
    """Returns some held-out data and their reconstructions."""
    try:
        return _reconstructions(findings)
    except NotImplementedError:
        return caption("p(x | z) has no mean in closed form: reconstructions are left out.")


def _reconstructions(findings: Findings) -> Html:
    if findings.columns:
        return captioned(
            tag("div", *lines(findings, slice(6))),
            "Bold, the held-out data as the table has them; after each arrow E[x | z] at "
            "z = E[z | x], of words the most probable one with its probability. What stays at the "
            "mean of its column is left to the noise of the likelihood.",
        )
    if findings.data.vocabulary is not None:
        return captioned(
            tag("div", *lines(findings, slice(12))),
            "Held-out lines, and the likeliest line at z = E[z | x], symbol by symbol. What a "
            "reconstruction has in common with its line is in z; the rest is the language model's.",
        )
    if not findings.images:
        return captioned(
            tag("div", *lines(findings, slice(6)), class_="panels"),
            "Dots, held-out data; line, E[x | z] at z = E[z | x]. Structure that the line passes "
            "by is left to the noise of the likelihood.",
        )
    x, reconstructed = findings.reconstructed(slice(30))
    return captioned(
        tag("div", *pairs(findings, x, reconstructed), class_="panels"),
        "Upper rows, held-out data; lower rows, E[x | z] at z = E[z | x]. Detail that is lost is "
        "either not in z or not in what the decoder can draw.",
    )
