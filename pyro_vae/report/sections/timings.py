"""How long the fit and each section took."""

from __future__ import annotations

from pyro_vae._html import Html, table
from pyro_vae.report.findings import Findings

__all__ = ["section"]


def section(findings: Findings) -> Html:
    """Returns a table of times."""
    rows = [(f"this page: {title.lower()}", f"{s:.1f} s") for title, s in findings.seconds.items()]
    if findings.history and "seconds" in findings.history:
        seconds, epochs = findings.history["seconds"][-1], len(findings.history["epoch"])
        rows = [("fit", f"{seconds:,.1f} s"), ("an epoch", f"{seconds / epochs:,.3f} s"), *rows]
    return table(("what", "time"), rows)
