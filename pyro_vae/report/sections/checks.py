"""Predictive checks against held-out data."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pyro_vae._errors import plural
from pyro_vae._html import Html, join, table, tag
from pyro_vae.criticism import Row
from pyro_vae.plots._canvas import as_svg, chart
from pyro_vae.plots.criticism import intervals
from pyro_vae.report._elements import captioned, image
from pyro_vae.report._numbers import p_value
from pyro_vae.report.findings import Findings

__all__ = ["section"]


def section(findings: Findings) -> Html:
    """Returns the verdict of the predictive checks, a picture and tables of them."""
    found = findings.checks
    if isinstance(found, str):
        return tag("p", found, class_="note")
    judged = [row for row in found.rows if row.calibrated]
    shown = [row for row in found.rows if not row.calibrated]
    failed = [row for row in judged if row.failed]
    verdict = (
        f"{len(failed)} of {len(judged)} checks fail, at a chance of {found.level:.0%} that a true "
        f"model fails any. Each compares {found.num_data:,} {findings.split} observations with "
        f"{found.num_draws:,} data sets that the model simulates."
    )
    headline = tag("b", f"{found.headline[0].upper()}{found.headline[1:]}.")
    parts = [tag("p", headline, " ", verdict, class_="note warning" if failed else "note")]
    if failed:
        points = [tag("li", tag("b", row.named), f": {row.advice}") for row in failed]
        parts.append(tag("ul", *points))
    with chart(4.8, 0.38 * len(judged) + 0.5) as (figure, axes):
        intervals(axes, judged)
        picture = image(as_svg(figure), "Observed statistics among replicated ones")
    parts.append(
        captioned(
            picture,
            "Where the data lie among what the model simulates: grey, the middle 95% of simulated "
            "data sets; a dot, the data observed; an arrow, far outside. Orange ones reject the "
            "model. Of a statistic of many entries the one farthest out is shown, which lies "
            "outside the grey more often than one in twenty; the p-values in the table allow for "
            "that.",
        )
    )
    parts.append(_table_of_checks(judged))
    parts.append(
        tag(
            "p",
            "Effect: how far the observed value lies from simulated ones, in standard deviations: "
            "of the data for a mean, of what one observation contributes for another statistic. "
            "Chance explains a large p; a small effect is small however many data prove it: below "
            "0.2 negligible, below 0.5 small, below 0.8 moderate (Cohen, 1988).",
            class_="note",
        )
    )
    if shown:
        parts.append(
            tag(
                "details",
                tag(
                    "summary",
                    f"{plural(len(shown), 'check')} shown and not judged",
                ),
                tag(
                    "p",
                    "Where z ~ q(z|x) was drawn given the data that are compared with, even a true "
                    "model's p-values gather around one half. What is odd there is odd; what "
                    "looks well proves nothing.",
                ),
                *(
                    tag("p", f"{what}: not in the verdict, {why}.")
                    for what, why in found.unjudged.items()
                ),
                _table_of_checks(shown),
            )
        )
    for what, why in found.skipped.items():
        parts.append(tag("p", f"Not checked, {what}: {why}", class_="note"))
    return join(*parts)


def _table_of_checks(rows: Sequence[Row]) -> Html:
    cells = []
    for row in rows:
        verdict: object = "–" if math.isnan(row.adjusted) else "passes"
        cells.append(
            (
                row.title,
                tag("span", "fails", class_="bad") if row.failed else verdict,
                row.severity,
                row.effect_text,
                p_value(row.p_value),
                p_value(row.adjusted),
                *row.texts,
                row.conditioned_on,
            )
        )
    head = ("statistic", "verdict", "size", "effect, 95%", "p", "p, Holm", "observed",
            "simulated, 95%", "replicates")  # fmt: skip
    return table(head, cells, text=3)
