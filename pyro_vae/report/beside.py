"""One page about several runs, side by side."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from pyro_vae._html import Html, join, table, tag
from pyro_vae._untouched import undisturbed
from pyro_vae.criticism import Checks
from pyro_vae.criticism._entries import entries_of
from pyro_vae.criticism._replicates import cycled
from pyro_vae.data.rows import Rows
from pyro_vae.evaluation import Comparison
from pyro_vae.plots._canvas import are_images, as_png, as_svg, chart, limits, tiles
from pyro_vae.plots._tables import marginal
from pyro_vae.plots.models import visible
from pyro_vae.programs import Amortized
from pyro_vae.report._elements import captioned, document, image
from pyro_vae.report._numbers import number, percent

__all__ = ["beside"]

_TILES = 40
_PANELS = 6  # entries whose marginals are drawn, a panel for each run
_DRAWS = 1000
_EFFECTS = 30  # statistics whose effects stand side by side


def beside(
    runs: Mapping[str, tuple[Amortized, Rows]],
    comparison: Comparison | None,
    checks: Mapping[str, Checks],
    *,
    refused: str = "",
    seed: int = 0,
) -> str:
    """Returns an HTML page about several runs that needs nothing beside itself.

    Args:
        runs: By name the model and the held-out data, shape ``(N, *event_shape)``.
        comparison: Of their log p(x), nats per observation; None where it is refused.
        checks: What each does not reproduce, by the same names.
        refused: Why log p(x) is not compared.
        seed: Of the draws that are shown.
    """
    parts = [("scores", "Held-out log p(x)", _scores(comparison, refused))]
    parts.append(("checks", "Does each reproduce the data?", _checks(checks)))
    parts.append(("samples", "Draws of each beside its data", _samples(runs, seed)))
    sections = [tag("section", tag("h2", title), body, id=at) for at, title, body in parts]
    lead = " and ".join([", ".join(list(runs)[:-1]), list(runs)[-1]])
    head = tag("header", tag("h1", "Runs side by side"), tag("p", lead, class_="lead"))
    return document("Runs side by side", tag("body", head, tag("main", *sections)))


def _scores(comparison: Comparison | None, refused: str) -> Html:
    if comparison is None:
        return tag("p", f"log p(x) is not compared: {refused}", class_="note warning")
    measure, first = comparison.base_measure, comparison.runs[0]
    rows = []
    for run in comparison.runs:
        best = run is first
        interval = f"{number(run.difference_low)} to {number(run.difference_high)}"
        rows.append(
            (
                f"{run.rank}. {run.name}",
                f"{number(run.log_marginal)} ± {number(run.standard_error)}",
                "–" if best else number(run.difference),
                "–" if best else f"± {number(run.difference_standard_error)}",
                "–" if best else interval,
                percent(run.k_hat_above_threshold),
            )
        )
    head = (
        "run",
        "log p(x)",
        "difference to the best",
        "± over data",
        "interval",
        "k-hat too high",
    )
    parts = [
        table(head, rows),
        tag(
            "p",
            f"Nats per observation, over the same {comparison.size:,} {measure['split']} "
            f"observations of {measure['data']}; ± is one standard error. Differences are paired, "
            "observation by observation. The interval is of the difference, 95% for all pairs of "
            "runs together, with the bias of importance weighting; runs of one rank cannot be told "
            "apart. k-hat too high: the share of observations whose weights are not to be trusted.",
        ),
        *(tag("p", note, class_="note warning") for note in comparison.notes),
    ]
    if comparison.models:
        models = [
            (
                f"{each.rank}. {each.name}",
                len(each.runs),
                number(each.log_marginal),
                number(each.spread),
                number(each.difference) if i else "–",
                number(each.difference_spread) if i else "–",
            )
            for i, each in enumerate(comparison.models)
        ]
        head = ("model", "fits", "log p(x)", "sd of fits", "difference", "± seeds")
        parts += [tag("h3", "Fits that differ in their seed alone"), table(head, models)]
    return join(*parts)


def _checks(checks: Mapping[str, Checks]) -> Html:
    said = [
        (
            name,
            f"{found.num_failed} of {sum(row.calibrated for row in found.rows)}",
            f"{found.headline[0].upper()}{found.headline[1:]}.",
        )
        for name, found in checks.items()
    ]
    # Of a statistic of several columns each run has the one of its largest effect.
    judged = {
        name: {row.statistic: row for row in reversed(found.rows) if row.calibrated}
        for name, found in checks.items()
    }
    titles = dict.fromkeys(title for rows in judged.values() for title in rows)
    largest = {
        title: max(
            np.nan_to_num(abs(rows[title].effect)) for rows in judged.values() if title in rows
        )
        for title in titles
    }
    rows = []
    for title in sorted(titles, key=lambda each: -largest[each])[:_EFFECTS]:
        cells: list[object] = [title]
        for each in judged.values():
            row = each.get(title)
            if row is None:
                cells.append("–")
                continue
            fails = tag("span", "fails ", class_="bad") if row.failed else ""
            where = tag("small", tag("br"), row.where) if row.where else ""
            cells.append(join(fails, row.effect_text.replace("-", "−"), where))
        rows.append(cells)
    left = len(titles) - len(rows)
    more = f" {left} smaller ones are not shown." if left > 0 else ""
    return join(
        table(("run", "checks failed", "classifier"), said, text=3),
        tag("h3", "Effects side by side"),
        table(("statistic", *judged), rows),
        tag(
            "p",
            "How far the data lie from what each run simulates, in standard deviations, with the "
            "interval of 95%; below 0.2 is negligible, from 0.8 large. Below it stands what it "
            f"is about; of several columns, the one of the largest effect.{more}",
        ),
    )


@torch.no_grad()
def _samples(runs: Mapping[str, tuple[Amortized, Rows]], seed: int) -> Html:
    parts = []
    for name, (vae, given) in runs.items():
        with undisturbed(vae, seed, vae.device):
            rows = vae.accepts(vae.uses(given), "data")
            drawn = vae.sample(_DRAWS, **cycled(rows.conditions, _DRAWS)).cpu()
        if are_images(vae.event_shape):
            black_white = limits(vae, rows.x)
            shown = {"data": visible(rows[:_TILES]), "draws of x": drawn[:_TILES]}
            pictures = {
                what: as_png(tiles(images, 8, black_white)) for what, images in shown.items()
            }
            panels = [
                tag("div", tag("h4", what), tag("img", class_="tiles", src=src, alt=what))
                for what, src in pictures.items()
            ]
        else:
            panels = _marginals(vae, given, visible(rows), drawn, name)
        parts += [tag("h3", name), tag("div", *panels, class_="panels")]
    caption = "Of images data and draws of x; else the held-out data, grey, and draws of x, blue."
    return captioned(tag("div", *parts), caption)


def _marginals(
    vae: Amortized, given: Rows, seen: torch.Tensor, drawn: torch.Tensor, name: str
) -> list[Html]:
    """The first entries of x: their data and their draws."""
    data, model = (each.cpu().flatten(1).double().numpy() for each in (seen, drawn))
    panels = []
    for i, entry in enumerate(entries_of(vae, given)[:_PANELS]):
        with chart(2.9, 2.1) as (figure, axes):
            own = data[:, i]
            marginal(axes, entry, model[:, i], own[~np.isnan(own)])
            panels.append(image(as_svg(figure), f"{name}: marginal of {entry.name}"))
    return panels
