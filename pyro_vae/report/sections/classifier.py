"""A classifier that distinguishes draws of the model from data."""

from __future__ import annotations

import torch

from pyro_vae._html import Html, tag
from pyro_vae.plots._canvas import as_svg, chart
from pyro_vae.plots.criticism import roc
from pyro_vae.report._elements import captioned, image, lines, pairs
from pyro_vae.report.findings import Findings

__all__ = ["section"]


def section(findings: Findings) -> Html | None:
    """Returns how well a classifier does, and the data that it is surest of; None unchecked."""
    if isinstance(findings.checks, str):
        return None
    found = findings.checks.classifier
    with chart(3.6, 3.2) as (figure, axes):
        roc(axes, found)
        curve = image(as_svg(figure), "ROC of the classifier")
    count = 10 if findings.images else 3
    index = torch.as_tensor(found.index[:count].copy()).to(findings.x.device)
    parts = [
        captioned(
            curve,
            "A classifier learned to distinguish draws of x from data, and was tested on others: "
            f"the area under its curve is {found.auc:.3f} (95% interval {found.auc_low:.3f} to "
            f"{found.auc_high:.3f}), by chance {found.low:.3f} to {found.high:.3f}. "
            "On the diagonal draws and data look alike; the higher the curve, the better it is.",
        )
    ]
    caption = (
        "The observations least like draws of the model, with their reconstructions: what "
        "they have in common is what the model lacks."
    )
    if findings.images:
        shown = tag("div", *pairs(findings, *findings.reconstructed(index)))
    else:
        shown = tag("div", *lines(findings, index))
    beside = None if findings.columns else "panels wide"
    return tag("div", *parts, captioned(shown, caption), class_=beside)
