"""One check, of a model or of its guide, and a table of several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pyro_vae._html import Html, shown, tag
from pyro_vae.data.entries import figure

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
        entries: Names of the entries of x that it is about; empty if it is about all of them.
        title: What was asked, in words: ``mean of income``.
        unit: Of the values, where it is known: that of the column.
        shown: The observed value and both ends as a table has them: dates, levels, numbers; empty
            where nothing is known of them but the numbers.
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
    entries: tuple[str, ...] = ()
    title: str = ""
    unit: str = ""
    shown: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.title:
            where = f", {self.where}" if self.where else ""
            object.__setattr__(self, "title", f"{self.statistic}{where}")

    @property
    def texts(self) -> tuple[str, str]:
        """The observed value, and where the replicated ones are, as people write them."""
        numbers = (self.observed, self.low, self.high)
        observed, low, high = self.shown or tuple(figure(each) for each in numbers)
        unit = "°" if self.unit == "degrees" else f" {self.unit}" if self.unit else ""
        return f"{observed}{unit}", f"{low} to {high}{unit}"

    def summary(self) -> dict[str, Any]:
        """Returns everything, ready for JSON: what is not finite is None."""
        found = asdict(self) | {"entries": list(self.entries), "shown": list(self.shown)}
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in found.items()
        }


def rows_shown(title: str, rows: Sequence[Row], notes: Sequence[str]) -> Html:
    """Returns a table of checks as a notebook shows it: of very many, those of the smallest p."""
    kept = set(sorted(range(len(rows)), key=lambda i: rows[i].p_value)[:_MOST])
    shown_rows = [row for i, row in enumerate(rows) if i in kept]
    if left := len(rows) - len(kept):
        notes = [*notes, f"{left:,} more, with larger p-values"]
    head = ["what", "verdict", "observed", "replicates, 95 %", "p", "adjusted p"]
    cells: list[list[object]] = []
    for row in shown_rows:
        verdict = "failed" if row.failed else "passed" if row.calibrated else "not judged"
        adjusted = f"{row.adjusted:.3g}" if row.calibrated else "–"
        judged = tag("strong", verdict) if row.failed else verdict
        numbers = [*row.texts, f"{row.p_value:.3g}", adjusted]
        cells.append([row.title, judged, *numbers])
    if several := len({row.conditioned_on for row in rows}) > 1:
        head.insert(1, "given")
        for row, line in zip(shown_rows, cells, strict=True):
            line.insert(1, row.conditioned_on)
    return shown(title, head, cells, notes=notes, text=2 + several)
