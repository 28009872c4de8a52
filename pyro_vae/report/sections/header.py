"""The head of the page: what the model is called, and its figures at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyro_vae._errors import plural
from pyro_vae._html import Html, tag
from pyro_vae.report._numbers import number, percent
from pyro_vae.report.findings import Findings
from pyro_vae.report.sections.verdict import verdict

__all__ = ["header"]


def header(findings: Findings) -> Html:
    """Returns the name of the run, what it was fitted to, the verdict, and its main figures."""
    summary = findings.summary
    name, size = findings.data.name, len(findings.data.train)
    lead = (
        f"Fitted to {plural(size, 'training observation')} of {name}; judged by "
        f"{plural(len(findings.x), f'{findings.split} observation')}, {_role_of_split(findings)}."
        if size > 0
        else f"Judged by {plural(len(findings.x), 'observation')} of {name}, "
        f"{_seen_before(findings)}."
    )
    if known := conditions(findings):
        lead += (
            f" With each observation the model is given {known}: scores, draws and checks are "
            "given the same."
        )
    figures = [
        ("log p(x), nats per observation", number(summary["log_marginal"]),
         f"± {number(summary['standard_error'])} over data"),
        ("ELBO, nats per observation", number(summary["elbo"]),
         f"{number(_difference(summary))} below log p(x)"),
        ("active latent units", f"{summary['active_units']} of {len(findings.variances)}",
         "variance of E[z | x] over data > 0.01"),
        ("checks failed", *_failures(findings)),
        ("k-hat too high", percent(summary["k_hat_above_threshold"]),
         f"of observations; median {number(summary['k_hat_median'])}"),
    ]  # fmt: skip
    if "bits_per_dim" in summary:
        figures.insert(1, ("bits per dimension", number(summary["bits_per_dim"], 3), ""))
    strip = [
        tag("div", tag("dt", what), tag("dd", value, tag("small", note)))
        for what, value, note in figures
    ]
    return tag(
        "header", tag("h1", findings.name), tag("p", lead, class_="lead"),
        verdict(findings), tag("dl", *strip, class_="figures"),
    )  # fmt: skip


def conditions(findings: Findings) -> str:
    """Returns what the model is given of each observation, in words; empty where it is x alone."""
    given, words = findings.rows.given, []
    if (cond := given.get("cond")) is not None:
        names = [each.name for each in findings.data.columns]
        size = cond.shape[-1]
        words += names or [f"a condition of {size} {'entry' if size == 1 else 'entries'}"]
    covariates = given.get("covariates") or {}
    words += ["a size factor"] * ("size_factor" in covariates)
    words += [f"the covariate {name}" for name in covariates if name != "size_factor"]
    words += ["which entries are observed"] * ("mask" in given)
    words += ["some labels"] * ("labels" in given)
    *first, last = words or [""]
    return f"{', '.join(first)} and {last}" if first else last


def _difference(summary: Mapping[str, Any]) -> float | None:
    above, below = summary["log_marginal"], summary["elbo"]
    return None if above is None or below is None else above - below


def _failures(findings: Findings) -> tuple[str, str]:
    if isinstance(findings.checks, str):
        return "–", "too few observations"
    total = sum(row.calibrated for row in findings.checks.rows)
    return f"{findings.checks.num_failed} of {total}", "predictive, against held-out data"


def _role_of_split(findings: Findings) -> str:
    return {
        "test": _seen_before(findings),
        "validation": "which chose its best epoch",
        "train": "which are the same, since there are no others",
    }[findings.split]


def _seen_before(findings: Findings) -> str:
    """What is known of whether observations that it was not fitted to equal some that it was."""
    count = findings.copies
    if count is None:
        return "which were not compared with what it was fitted to"
    if count == 0:
        return "which it never saw"
    does = "equals a training observation" if count == 1 else "equal training observations"
    return f"of which {count:,} {does}"
