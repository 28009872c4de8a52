"""The ELBO and its two terms over the epochs."""

from __future__ import annotations

from pyro_vae._html import Html, tag
from pyro_vae.plots import _panels as panels
from pyro_vae.plots._canvas import as_svg, chart
from pyro_vae.report._elements import captioned, image
from pyro_vae.report._numbers import number
from pyro_vae.report.findings import Findings

__all__ = ["section"]


def section(findings: Findings) -> Html | None:
    """Returns the curves of the fit; None where there is no history."""
    history = findings.history
    if not history:
        return None
    charts = []
    for key, title in panels.CURVES.items():
        with chart() as (figure, axes):
            panels.curve(axes, history, key)
            charts.append(image(as_svg(figure), f"{title} over the epochs"))
    gap = ""
    if "validation_elbo" in history:
        best = panels.best_epoch(history)
        ahead = history["elbo"][best] - history["validation_elbo"][best]
        gap = (
            f" By validation data the best epoch is {history['epoch'][best]:g} of "
            f"{history['epoch'][-1]:g}; there the ELBO of training data was {number(abs(ahead))} "
            f"nats {'below' if ahead < 0 else 'above'} that of validation data."
        )
    return captioned(
        tag("div", *charts, class_="panels"),
        "The ELBO is its reconstruction less its KL. Where the blue line turns down while the grey "
        "one goes on rising, the model overfits: more dropout, weight decay or data help. A line "
        f"still rising at its end wants more epochs. A KL near zero means that z is not used.{gap}",
    )
