"""The box at the top of the page: four questions and their answers."""

from __future__ import annotations

from pyro_vae._html import Html, join, tag
from pyro_vae.report.answers import Answer, answers
from pyro_vae.report.findings import Findings

__all__ = ["verdict"]


def verdict(findings: Findings) -> Html:
    """Returns how well the model predicts, and whether the bound, the model and the guide hold."""
    exact = findings.scores.is_exact  # before the checks, as progress is reported
    found = answers(findings.summary, findings.checks, findings.calibration, exact=exact)
    return tag("dl", *map(_shown, found), class_="verdict")


def _shown(each: Answer) -> Html:
    wrong = tag("span", each.wrong, class_="bad") if each.wrong else ""
    answer = tag("b", join(wrong, each.rest))
    return tag("div", tag("dt", each.question), tag("dd", answer, tag("small", each.meaning)))
