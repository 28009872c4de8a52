"""Where data lie in latent space, and which units vary."""

from __future__ import annotations

from torch.distributions import constraints

from pyro_vae._html import Html, tag
from pyro_vae.distributions import same_support
from pyro_vae.plots import _panels as panels
from pyro_vae.plots._canvas import as_svg, chart
from pyro_vae.report._elements import captioned, image
from pyro_vae.report.findings import ACTIVE, Findings

__all__ = ["section"]


def section(findings: Findings) -> Html:
    """Returns a map of latent means and the variance of each unit, or the use of classes."""
    means = findings.means
    labels = None if findings.labels is None else findings.labels[: len(means)]
    size = f"{len(means):,} {findings.split} observations"
    if same_support(findings.vae.space.support, constraints.one_hot):
        rows = means.shape[1] if means.shape[1] > 1 or labels is None else len(labels.unique())
        width = min(9.0, max(3.6, 0.3 * means.shape[2] + 2))
        with chart(width, min(8.0, max(2.0, 0.26 * rows + 0.9))) as (figure, axes):
            panels.usage(axes, means, labels, findings.data.classes)
            picture = image(as_svg(figure), "How often each latent class is used")
        return captioned(
            picture,
            f"How often {size} use each class of each latent variable. Columns that stay white are "
            "classes never used; a row that is all one colour carries nothing about x.",
        )
    with chart(4.7, 4.4) as (figure, axes):
        panels.scatter(axes, means, labels, findings.data.classes, beside=False)
        latent = image(as_svg(figure), "Map of latent means")
    with chart() as (figure, axes):
        panels.spread(axes, findings.variances, ACTIVE)
        variance = image(as_svg(figure), "Variance of the posterior mean of each latent unit")
    coloured = " Colours are labels, which the model never saw." if labels is not None else ""
    plane = " in the plane of their first two principal components" if means.shape[1] > 2 else ""
    idle = int((findings.variances <= ACTIVE).sum())
    collapsed = (
        f" {idle} of {len(findings.variances)} units have collapsed."
        if idle
        else " Here none has collapsed."
    )
    return tag(
        "div",
        captioned(
            latent,
            f"E[z | x] of {size}{plane}.{coloured} Groups that keep apart are what z has learned; "
            "gaps between them are where samples turn into blends.",
        ),
        captioned(
            variance,
            "A unit below the dashed line has the same posterior for every observation: it has "
            f"collapsed onto the prior, and the decoder ignores it.{collapsed}",
        ),
        class_="panels wide",
    )
