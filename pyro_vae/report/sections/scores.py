"""Held-out log p(x), the ELBO and the importance weights, observation by observation."""

from __future__ import annotations

import numpy as np
import torch

from pyro_vae._html import Html, join, table, tag
from pyro_vae.plots import _panels as panels
from pyro_vae.plots._canvas import as_svg, chart
from pyro_vae.report._elements import captioned, image, lines, pairs
from pyro_vae.report._numbers import number, percent
from pyro_vae.report.findings import Findings

__all__ = ["section"]


def section(findings: Findings) -> Html:
    """Returns the table of scores, their histograms, and the extremes among the data."""
    summary, scores = findings.summary, findings.scores
    measure = summary["base_measure"]
    known = np.isfinite(scores.k_hat)
    rows = [
        (f"log p(x), summed over {summary['num_samples']:,} states" if scores.is_exact
         else f"log p(x), {summary['num_samples']:,} importance samples",
         number(summary["log_marginal"]), number(summary["standard_error"]),
         number(summary["mcse"], 3)),
        *((title, number(summary[key]), "", "") for key, title in (
            ("elbo", "ELBO"), ("reconstruction", "reconstruction E[log p(x | z)]"),
            ("kl", "KL(q(z | x) || p(z))"))),
    ]  # fmt: skip
    parts = [
        table(("nats per observation", "mean", "± over data", "± Monte Carlo"), rows),
        tag(
            "p",
            f"Means over {findings.summarised:,} {measure['split']} observations of "
            f"{measure['data']}. The error over data is how far other data of the same "
            "kind might lie; the Monte Carlo error, how far another seed. Only scores of the "
            "same data and base measure compare.",
        ),
    ]
    if known.any():
        # Of the very draws that the picture shows: those of the summary may have been others.
        share, threshold = float(scores.unreliable.mean()), scores.k_hat_threshold
        if share > 0:
            parts.append(
                tag(
                    "p",
                    f"k-hat is above {threshold:.2f} for {percent(share)} of the "
                    "observations. There the guide is too narrow or in the wrong place: log p(x) "
                    "is likely to be too low, and its Monte Carlo error too small to be trusted. A "
                    "richer guide, a defensive proposal or more samples help.",
                    class_="note warning" if share > 0.1 else "note",
                )
            )
    charts = []
    with chart() as (figure, axes):
        panels.log_marginals(axes, scores.log_marginal)
        charts.append(image(as_svg(figure), "Histogram of log p(x) over data"))
    if known.any():
        with chart() as (figure, axes):
            panels.k_hats(axes, scores.k_hat, scores.k_hat_threshold)
            charts.append(image(as_svg(figure), "Histogram of k-hat"))
    gap = scores.log_marginal - scores.elbo
    with chart() as (figure, axes):
        panels.gaps(axes, scores.log_marginal, gap, scores.unreliable)
        charts.append(image(as_svg(figure), "Gap of the guide against log p(x)"))
    size = len(scores.log_marginal)
    some = (
        f"The first {size:,} of {len(findings.x):,}" if size < len(findings.x) else f"All {size:,}"
    )
    parts.append(
        captioned(
            tag("div", *charts, class_="panels"),
            f"{some} {findings.split} observations, one by one. A long tail on the left of "
            "log p(x) holds observations unlike those that the model was fitted to; they are "
            "shown below. The gap is what the guide loses, log p(x) less ELBO: high dots are "
            "observations whose posterior it misses, orange ones those whose k-hat is too high.",
        )
    )
    return join(*parts, _extremes(findings))


def _extremes(findings: Findings) -> Html:
    """The data that the model finds least and most likely, of masked ones by observed entry."""
    log_marginal, mask = findings.scores.log_marginal, findings.rows.mask
    unit, note, digits = "log p(x)", "", 1
    if mask is not None and not mask[: len(log_marginal)].all():
        # The sum over fewer entries is nearer to zero, whatever they are.
        counts = mask[: len(log_marginal)].flatten(1).sum(1).clamp(min=1).cpu().numpy()
        log_marginal = log_marginal / counts
        unit, digits = "log p(x) an observed entry", 2
        note = " They are ranked by nats an observed entry, as some lack entries."
    order = np.argsort(log_marginal)
    count = min(10 if findings.images else 3, len(order) // 2)
    if count == 0:
        return Html("")
    parts = []
    for title, chosen in (("Least likely", order[:count]), ("Most likely", order[::-1][:count])):
        index = torch.as_tensor(chosen.copy()).to(findings.x.device)
        first, last = (number(log_marginal[i], digits) for i in (chosen[0], chosen[-1]))
        if findings.images:
            shown = pairs(findings, *findings.reconstructed(index))
            parts.append(tag("div", tag("h3", f"{title}: {unit} {first} to {last}"), *shown))
        else:
            titles = [f"{title}: {unit} {number(log_marginal[i], digits)}" for i in chosen]
            parts.extend(lines(findings, index, titles))
    return captioned(
        tag(
            "div",
            *parts,
            class_=None if findings.columns else "panels wide" if findings.images else "panels",
        ),
        "The observations that the model finds least and most likely, with their reconstructions. "
        f"Among the least likely look for mistakes in the data before you blame the model.{note}",
    )
