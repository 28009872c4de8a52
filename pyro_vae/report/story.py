"""The page about a fitted model: what it reports, and in what order."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from pyro_vae._errors import expected, positive_integer
from pyro_vae._html import Html, tag
from pyro_vae._untouched import undisturbed
from pyro_vae.data import Dataset
from pyro_vae.evaluation import Scores
from pyro_vae.evaluation._common import check_arguments
from pyro_vae.programs import Amortized
from pyro_vae.report._elements import document
from pyro_vae.report.findings import Findings
from pyro_vae.report.sections import (
    calibration,
    checks,
    classifier,
    curves,
    fitted,
    latent,
    reconstructions,
    samples,
    scores,
    timings,
    traversals,
)
from pyro_vae.report.sections.header import header

__all__ = ["page"]

# Anchor, title and content of each; what has no content is left out.
_SECTIONS: Sequence[tuple[str, str, Callable[[Findings], Html | None]]] = (
    ("fitted", "What was fitted", fitted.section),
    ("curves", "How it was fitted", curves.section),
    ("scores", "Held-out scores", scores.section),
    ("samples", "Samples from the prior", samples.section),
    ("reconstructions", "Reconstructions", reconstructions.section),
    ("latent", "Latent space", latent.section),
    ("traversals", "Latent traversals and interpolations", traversals.section),
    ("checks", "Predictive checks", checks.section),
    ("classifier", "Classifier two-sample test", classifier.section),
    ("calibration", "Posterior calibration (SBC)", calibration.section),
    ("timings", "Timings", timings.section),
)


def page(
    vae: Amortized,
    data: Dataset,
    *,
    history: Mapping[str, Sequence[float]] | None = None,
    summary: Mapping[str, Any] | None = None,
    scores: Scores | None = None,
    settings: Mapping[str, object] | None = None,
    name: str | None = None,
    num_samples: int = 1000,
    num_draws: int | None = None,
    copies: int | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> str:
    """Returns an HTML page about a fitted model that needs nothing beside itself.

    Pictures are part of it, and it fetches nothing. Whatever comes from outside, names above all,
    is escaped. The model and the caller's random state stay as they were.

    Args:
        vae: The fitted model.
        data: What it was fitted to; the last split that is not empty is what it is judged by.
        history: That of the run.
        summary: That of its scores on all of that split; of those given or computed if not given.
        scores: Scores of all of that split, of which the first 1,000 are shown one by one; computed
            on these if not given.
        settings: What else to report of the fit, by name: the objective, epochs, seed, engine.
        name: Of the run; that of the data if not given.
        num_samples: Importance samples for each observation.
        num_draws: Replicated data sets of the checks; as many as they need if not given.
        copies: How many of the observations that it is judged by equal training ones; counted if
            not given and `data` has those.
        seed: Of all draws.
        progress: Called now and then with the fraction that is done.

    Returns:
        The page.

    Raises:
        ValueError: If the data do not suit the model, or an option is not what it should be.

    Example:
        >>> import pyro_vae as pv
        >>> data = pv.data.load(torch.rand(50, 3))
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Normal((3,)))
        >>> page(vae, data, num_samples=20).startswith("<!doctype html>")
        True
    """
    seed = check_arguments(vae, seed)
    num_samples = positive_integer("num_samples", num_samples)
    findings = Findings(
        vae,
        data,
        history,
        summary,
        settings or {},
        name or data.name,
        num_samples,
        num_draws,
        seed,
        progress,
        copies,
        scores,
    )
    if scores is not None and len(scores.log_marginal) != len(findings.given):
        what = f"scores of {len(findings.given)} observations, the {findings.split} data"
        raise expected("scores", what, len(scores.log_marginal))
    with undisturbed(vae, seed, vae.device), torch.no_grad():
        return _document(findings)


def _document(findings: Findings) -> str:
    shown: list[tuple[str, str, Html]] = []
    for i, (anchor, title, make) in enumerate(_SECTIONS):
        began = time.perf_counter()
        body = make(findings)
        findings.seconds[title] = time.perf_counter() - began
        findings.report(0.8 + 0.2 * (i + 1) / len(_SECTIONS))
        if body is not None:
            shown.append((anchor, title, body))
    links = [tag("li", tag("a", title, href=f"#{anchor}")) for anchor, title, _ in shown]
    parts = [tag("section", tag("h2", title), body, id=anchor) for anchor, title, body in shown]
    body = tag(
        "body", header(findings), tag("nav", tag("ul", *links), aria_label="Sections"),
        tag("main", *parts),
    )  # fmt: skip
    return document(findings.name, body)
