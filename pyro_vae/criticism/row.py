"""One check, of a model or of its guide, and a table of several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pyro_vae._html import Html, shown, tag

__all__ = ["Row", "rows_shown"]

_MOST = 40  # rows of a table in a notebook


@dataclass(frozen=True)
class Row:
    """One check.

    Attributes:
        statistic: Its name.
        where: The column that deviates most, such as an entry of x; empty if there is but one.
        observed: The value there.
        low: Where the central 95 % of the replicated values begin, there.
        high: Where they end.
        p_value: Two-sided, over all columns; that of the classifier for an area above one half.
        adjusted: The same after Holm's correction; NaN where it is not in the verdict.
        conditioned_on: What the z of the replicates were drawn from.
        calibrated: Whether the p-value is uniform under a true model; the verdict rests on these.
        failed: Whether it rejects the model.
        advice: What to swap then, one sentence.
        note: Why it is not to be trusted, if it is not.
    """

    statistic: str
    where: str
    observed: float
    low: float
    high: float
    p_value: float
    conditioned_on: str
    calibrated: bool
    adjusted: float = math.nan
    failed: bool = False
    advice: str = ""
    note: str = ""

    def summary(self) -> dict[str, Any]:
        """Returns everything, ready for JSON: what is not finite is None."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }


def rows_shown(title: str, rows: Sequence[Row], notes: Sequence[str]) -> Html:
    """Returns a table of checks as a notebook shows it: of very many, those of the smallest p."""
    kept = set(sorted(range(len(rows)), key=lambda i: rows[i].p_value)[:_MOST])
    shown_rows = [row for i, row in enumerate(rows) if i in kept]
    if left := len(rows) - len(kept):
        notes = [*notes, f"{left:,} more, with larger p-values"]
    head = ["statistic", "where", "verdict", "observed", "replicates, 95 %", "p", "adjusted p"]
    cells: list[list[object]] = []
    for row in shown_rows:
        verdict = "failed" if row.failed else "passed" if row.calibrated else "not judged"
        ends = f"{row.low:.3g} to {row.high:.3g}"
        adjusted = f"{row.adjusted:.3g}" if row.calibrated else "–"
        judged = tag("strong", verdict) if row.failed else verdict
        numbers = [f"{row.observed:.3g}", ends, f"{row.p_value:.3g}", adjusted]
        cells.append([row.statistic, row.where, judged, *numbers])
    if several := len({row.conditioned_on for row in rows}) > 1:
        head.insert(2, "given")
        for row, line in zip(shown_rows, cells, strict=True):
            line.insert(2, row.conditioned_on)
    return shown(title, head, cells, notes=notes, text=3 + several)
