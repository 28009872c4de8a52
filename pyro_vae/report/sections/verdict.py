"""The box at the top of the page: four questions and their answers."""

from __future__ import annotations

from pyro_vae._html import Html, join, tag
from pyro_vae.report._numbers import number, percent
from pyro_vae.report.findings import Findings

__all__ = ["verdict"]

_MANY = 0.1  # of the observations with a k-hat that is too high: the estimate is a lower bound
_NAMED = 3  # failures, the largest


def verdict(findings: Findings) -> Html:
    """Returns how well the model predicts, and whether the bound, the model and the guide hold."""
    answers = [
        ("How well does it predict?", *_prediction(findings)),
        ("Is that estimate good?", *_bound(findings)),
        ("Does it reproduce the data?", *_reproduction(findings)),
        ("Is the guide the posterior?", *_guide(findings)),
    ]
    return tag(
        "dl",
        *(
            tag("div", tag("dt", question), tag("dd", tag("b", answer), tag("small", meaning)))
            for question, answer, meaning in answers
        ),
        class_="verdict",
    )


def _prediction(findings: Findings) -> tuple[str | Html, str]:
    summary = findings.summary
    return (
        f"log p(x) = {number(summary['log_marginal'])} ± {number(summary['standard_error'])} "
        "nats per observation",
        "The log-density of data that the model was not fitted to, higher is better; ± is one "
        "standard error over data. Only scores of the same data compare.",
    )


def _bound(findings: Findings) -> tuple[str | Html, str]:
    summary = findings.summary
    means = (
        "log p(x) is estimated by importance weighting, from below; k-hat tells of each "
        "observation whether its weights have a variance."
    )
    if findings.scores.is_exact:
        return "Yes: it is exact, a sum over all states", "Nothing is estimated."
    share, gap = summary["k_hat_above_threshold"], None
    if summary["log_marginal"] is not None and summary["elbo"] is not None:
        gap = summary["log_marginal"] - summary["elbo"]
    lost = f"; it lies {number(gap)} nats above the ELBO"
    if share is None:
        return f"Not known: there are too few draws for k-hat{lost}", means
    if share > _MANY:
        wrong = f"No: k-hat is too high for {percent(share)} of the observations"
        return tag("span", f"{wrong}, so that it is a lower bound{lost}", class_="bad"), means
    return f"Yes: k-hat is too high for {percent(share)} of the observations{lost}", means


def _reproduction(findings: Findings) -> tuple[str | Html, str]:
    found = findings.checks
    means = (
        "Checks compare held-out data with data that the model simulates. An effect is in standard "
        "deviations: below 0.2 negligible, below 0.5 small, below 0.8 moderate."
    )
    if isinstance(found, str):
        return "Not checked", found
    judged = [row for row in found.rows if row.calibrated]
    failed = [row for row in judged if row.failed]
    if not failed:
        return f"Nothing rejects it: {len(judged)} checks, {found.headline}", means
    largest = ", ".join(
        f"{row.title} ({number(row.effect)}, {row.severity})" if row.severity else row.title
        for row in failed[:_NAMED]
    )
    more = ", the largest" if len(failed) > _NAMED else ""
    wrong = tag(
        "span", f"No: {len(failed)} of {len(judged)} checks fail{more}: {largest}", class_="bad"
    )
    return join(wrong, f"; {found.headline}"), means


def _guide(findings: Findings) -> tuple[str | Html, str]:
    found = findings.calibration
    means = (
        "Simulation-based calibration: latents whose truth is known are ranked among draws of the "
        "guide. It is about inference, not about the data."
    )
    if isinstance(found, str):
        return "Not checked", found
    size = len(found.names)
    if found.num_failed == 0:
        return f"Nothing says otherwise: {size} quantities", means
    return tag("span", f"No: {found.num_failed} of {size} quantities fail", class_="bad"), means
