"""One check, of a model or of its guide, and a table of several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pyro_vae._html import Html, shown, tag
from pyro_vae.criticism.effects import Severity, severity
from pyro_vae.data.entries import figure

__all__ = ["Row", "rows_shown"]

_MOST = 40  # rows of a table in a notebook
_AT_ONCE = 10  # of them that are seen before the others are unfolded


@dataclass(frozen=True)
class Row:
    """One check.

    Attributes:
        statistic: Its name.
        where: The column of the largest effect, such as an entry of x; empty if there is but one.
        observed: The value there.
        low: Where the central 95% of the replicated values begin, there.
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
        effect: How far the observed value lies above the replicated ones, in ``effect_unit``,
            whatever the number of data; see :mod:`pyro_vae.criticism.effects`. NaN where nothing
            is replicated.
        effect_low: Where its interval of 95% begins, over data like these.
        effect_high: Where it ends.
        effect_unit: ``sd of the data`` for a mean; ``sd per observation``, of what one observation
            contributes to the statistic, for others.
        columns: Of how many it is the one of the largest effect.
        refit_low: Where the interval of 95% begins of effects that refits have: what the error of
            a fit alone may come to, of several columns its size. NaN without refits.
        refit_high: Where it ends.
        refit_p: Of an effect as far out by the error of a fit alone, before Holm's correction.
        cause: Of a check that failed, with refits: ``family`` where no fit of the family would err
            so much, ``fit`` where one may; empty otherwise.
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
    effect: float = math.nan
    effect_low: float = math.nan
    effect_high: float = math.nan
    effect_unit: str = ""
    columns: int = 1
    refit_low: float = math.nan
    refit_high: float = math.nan
    refit_p: float = math.nan
    cause: Literal["", "fit", "family"] = ""

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

    @property
    def severity(self) -> Severity:
        """The size of the effect in a word: negligible, small, moderate or large."""
        return severity(self.effect)

    @property
    def effect_text(self) -> str:
        """The effect and its interval, as people write them; empty where there is none."""
        if math.isnan(self.effect):
            return ""
        return f"{self.effect:+.2f} [{self.effect_low:.2f}, {self.effect_high:.2f}]"

    @property
    def named(self) -> str:
        """The title, how large the effect is, and its cause, as far as they are known."""
        cause = {"": "", "fit": ", as refits err", "family": ", beyond what refits err"}[self.cause]
        size = f" ({self.severity}, {self.effect_text} sd{cause})" if self.severity else ""
        return f"{self.title}{size}"

    def summary(self) -> dict[str, Any]:
        """Returns everything, ready for JSON: what is not finite is None."""
        found = asdict(self) | {"entries": list(self.entries), "shown": list(self.shown)}
        found["severity"] = self.severity
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in found.items()
        }


def rows_shown(title: str, rows: Sequence[Row], notes: Sequence[str]) -> Html:
    """Returns a table of checks as a notebook shows it: of very many, those of the smallest p.

    The first ten of them are seen at once, and the others when they are unfolded.
    """
    kept = set(sorted(range(len(rows)), key=lambda i: rows[i].p_value)[:_MOST])
    shown_rows = [row for i, row in enumerate(rows) if i in kept]
    if left := len(rows) - len(kept):
        notes = [*notes, f"{left:,} more, with larger p-values"]
    sized = any(row.severity for row in rows)
    effect = ["size", "effect, sd"] * sized
    head = ["what", "verdict", *effect, "observed", "replicates, 95%", "p", "adjusted p"]
    cells: list[list[object]] = []
    for row in shown_rows:
        verdict = "failed" if row.failed else "passed" if row.calibrated else "not judged"
        adjusted = f"{row.adjusted:.3g}" if row.calibrated else "–"
        judged = tag("strong", verdict) if row.failed else verdict
        numbers = [*row.texts, f"{row.p_value:.3g}", adjusted]
        effect = [row.severity, row.effect_text] * sized
        cells.append([row.title, judged, *effect, *numbers])
    if several := len({row.conditioned_on for row in rows}) > 1:
        head.insert(1, "given")
        for row, line in zip(shown_rows, cells, strict=True):
            line.insert(1, row.conditioned_on)
    return shown(title, head, cells, notes=notes, text=2 + several + sized, first=_AT_ONCE)
