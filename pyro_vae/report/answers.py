"""Four questions about a fitted model and their answers, for the page and for the model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyro_vae._errors import plural
from pyro_vae.criticism import Calibration, Checks
from pyro_vae.report._numbers import number, percent

__all__ = ["Answer", "answers"]

_MANY = 0.1  # of the observations with a k-hat that is too high: the estimate is a lower bound
_NAMED = 3  # failures, the largest


@dataclass(frozen=True)
class Answer:
    """A question, its answer, and what that means.

    Attributes:
        question: A sentence.
        wrong: How the answer begins if something is wrong; empty if nothing is.
        rest: How it goes on.
        meaning: What the answer is about, in a sentence or two.
    """

    question: str
    wrong: str
    rest: str
    meaning: str

    def __str__(self) -> str:
        return self.wrong + self.rest


def answers(
    summary: Mapping[str, Any],
    checks: Checks | str,
    calibration: Calibration | str,
    *,
    exact: bool,
) -> list[Answer]:
    """Returns how well a model predicts, and whether the bound, the model and the guide hold.

    Args:
        summary: That of its scores.
        checks: What it does not reproduce, or why that is not known.
        calibration: Whether its guide is the posterior, or why that is not known.
        exact: Whether log p(x) is a sum over all states.
    """
    return [
        _prediction(summary),
        _bound(summary, exact),
        _reproduction(checks),
        _guide(calibration),
    ]


def _prediction(summary: Mapping[str, Any]) -> Answer:
    value, error = number(summary["log_marginal"]), number(summary["standard_error"])
    return Answer(
        "How well does it predict?",
        "",
        f"log p(x) = {value} ± {error} nats per observation",
        "The log-density of data that the model was not fitted to, higher is better; ± is one "
        "standard error over data. Only scores of the same data compare.",
    )


def _bound(summary: Mapping[str, Any], exact: bool) -> Answer:
    question = "Is that estimate good?"
    means = (
        "log p(x) is estimated by importance weighting, from below; k-hat tells of each "
        "observation whether its weights have a variance."
    )
    if exact:
        rest = "Yes: it is exact, a sum over all states"
        return Answer(question, "", rest, "Nothing is estimated.")
    share, gap = summary["k_hat_above_threshold"], None
    if summary["log_marginal"] is not None and summary["elbo"] is not None:
        gap = summary["log_marginal"] - summary["elbo"]
    lost = f"; it lies {number(gap)} nats above the ELBO"
    if share is None:
        return Answer(question, "", f"Not known: there are too few draws for k-hat{lost}", means)
    if share > _MANY:
        wrong = f"No: k-hat is too high for {percent(share)} of the observations"
        return Answer(question, f"{wrong}, so that it is a lower bound{lost}", "", means)
    rest = f"Yes: k-hat is too high for {percent(share)} of the observations{lost}"
    return Answer(question, "", rest, means)


def _reproduction(found: Checks | str) -> Answer:
    question = "Does it reproduce the data?"
    if isinstance(found, str):
        return Answer(question, "", "Not checked", found)
    means = (
        "Checks compare held-out data with data that the model simulates. An effect is in standard "
        "deviations: below 0.2 negligible, below 0.5 small, below 0.8 moderate."
    )
    judged = [row for row in found.rows if row.calibrated]
    failed = [row for row in judged if row.failed]
    if not failed:
        rest = f"Nothing rejects it: {plural(len(judged), 'check')}, {found.headline}"
        return Answer(question, "", rest, means)
    largest = ", ".join(
        f"{row.title} ({number(row.effect)}, {row.severity})" if row.severity else row.title
        for row in failed[:_NAMED]
    )
    more = ", the largest" if len(failed) > _NAMED else ""
    wrong = f"No: {len(failed)} of {len(judged)} checks fail{more}: {largest}"
    return Answer(question, wrong, f"; {found.headline}", means)


def _guide(found: Calibration | str) -> Answer:
    question = "Is the guide the posterior?"
    if isinstance(found, str):
        return Answer(question, "", "Not checked", found)
    means = (
        "Simulation-based calibration: latents whose truth is known are ranked among draws of the "
        "guide. It is about inference, not about the data."
    )
    size = len(found.names)
    if found.num_failed == 0:
        return Answer(question, "", f"Nothing says otherwise: {size} quantities", means)
    return Answer(question, f"No: {found.num_failed} of {size} quantities fail", "", means)
