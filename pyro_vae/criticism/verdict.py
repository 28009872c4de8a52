"""What checks come to: one verdict, its severity and its cause."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import xarray

from pyro_vae._errors import plural
from pyro_vae.criticism._ranks import holm
from pyro_vae.criticism.advice import advise
from pyro_vae.criticism.refitted import fit_error
from pyro_vae.criticism.row import Row, rows_shown
from pyro_vae.criticism.two_sample import TwoSample
from pyro_vae.data.entries import Entry
from pyro_vae.programs import Amortized

__all__ = ["Checks", "judged"]

_VARIABLES = (
    "observed", "low", "high", "p_value", "adjusted", "failed", "calibrated", "effect",
    "effect_low", "effect_high", "severity", "refit_low", "refit_high", "refit_p", "cause",
)  # fmt: skip


_SIGNED = ("correlation", "neighbours")  # whose advice is about how strong they are


@dataclass(frozen=True, repr=False)
class Checks:
    """What :func:`pyro_vae.criticism.check` returns.

    A p-value says whether chance explains what is observed, and falls as data grow; the effect
    size of a row says how far off the model is, and its ``severity`` says so in a word.

    Attributes:
        rows: The checks, those of the verdict first, in the order of their effects.
        level: Probability of any false alarm, at most.
        num_draws: Replicated data sets behind each p-value.
        num_data: Data in each.
        latent: Units of the latent space and which collapsed, see
            :func:`pyro_vae.criticism.latent.collapsed_units`.
        classifier: How well a classifier separates replicates from data; ``index`` counts in ``x``.
        skipped: What could not be checked, and why.
        base_measure: Which data these are.
        refits: How many refits to simulated data tell the error of the fit from that of the family.
    """

    rows: tuple[Row, ...]
    level: float
    num_draws: int
    num_data: int
    latent: dict[str, Any]
    classifier: TwoSample
    skipped: dict[str, str]
    base_measure: dict[str, Any]
    refits: int = 0

    @property
    def num_failed(self) -> int:
        """How many checks reject the model."""
        return sum(row.failed for row in self.rows)

    @property
    def num_family(self) -> int:
        """How many checks reject the model for more than refits err; none without refits."""
        return sum(row.cause == "family" for row in self.rows)

    @property
    def unjudged(self) -> dict[str, str]:
        """Why rows are not in the verdict that would be: by statistic, or by all that z is given.

        Those of z ~ q(z|x) never are.
        """
        found: dict[str, str] = {}
        for row in self.rows:
            if row.note:
                given = [each for each in self.rows if each.conditioned_on == row.conditioned_on]
                alone = not all(each.note for each in given)
                found[row.statistic if alone else row.conditioned_on] = row.note
        return found

    @property
    def headline(self) -> str:
        """How well a classifier tells draws from data, in a sentence, or why that says little."""
        found = self.classifier
        able = "tells" if found.auc_low > 0.5 else "cannot tell"
        area = f"AUC {found.auc:.2f} [{found.auc_low:.2f}, {found.auc_high:.2f}]"
        if "classifier" in self.unjudged:
            return f"rows share a draw, so that a classifier is shown and not judged: {area}"
        return f"a classifier {able} draws from data: {area}"

    def summary(self) -> dict[str, Any]:
        """Returns everything, ready for JSON: what is not finite is None."""
        return {
            "headline": self.headline,
            "num_failed": self.num_failed,
            "num_family": self.num_family if self.refits else None,
            "refits": self.refits,
            "num_checks": sum(row.calibrated for row in self.rows),
            "level": self.level,
            "num_draws": self.num_draws,
            "num_data": self.num_data,
            "rows": [row.summary() for row in self.rows],
            "latent": self.latent,
            "classifier": self.classifier.summary(),
            "skipped": self.skipped,
            "base_measure": self.base_measure,
        }

    def to_datatree(self) -> xarray.DataTree:
        """Returns the rows as variables of group ``checks``, along dimension ``check``.

        They are the numbers of :class:`pyro_vae.criticism.Row`, ``severity`` and ``cause`` by the
        same names; coordinates ``check`` and ``conditioned_on`` are the titles of the rows and what
        the z of their replicates were drawn from.

        Example:
            >>> import torch, pyro_vae as pv
            >>> likelihood = pv.likelihoods.Bernoulli((4,))
            >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), likelihood)
            >>> tree = pv.criticism.check(vae, torch.ones(50, 4)).to_datatree()
            >>> checks = tree["checks"].to_dataset()
            >>> bool((abs(checks["effect"][checks["failed"]]) > 0.2).any())
            True
        """
        values = {name: ("check", [getattr(row, name) for row in self.rows]) for name in _VARIABLES}
        coords = {
            "check": [row.title for row in self.rows],
            "conditioned_on": ("check", [row.conditioned_on for row in self.rows]),
        }
        attrs = {
            "headline": self.headline, "level": self.level, "num_draws": self.num_draws,
            "num_data": self.num_data, "refits": self.refits,
        }  # fmt: skip
        checks = xarray.Dataset(values, coords, attrs)
        return xarray.DataTree.from_dict({"checks": checks})

    def __repr__(self) -> str:
        failed = [f"  {row.named}: {row.advice}" for row in self.rows if row.failed]
        verdict = f"{self.num_failed} of {sum(row.calibrated for row in self.rows)} failed"
        if self.refits:
            verdict += f", {self.num_family} of them beyond what refits err,"
        return "\n".join([f"Checks({verdict} at {self.level:g}; {self.headline})", *failed])

    def _repr_html_(self) -> str:
        title, *advice = repr(self).splitlines()
        data = plural(self.num_data, "observation")
        size = f"{data}, {self.num_draws:,} simulated data sets of as many"
        missed = [f"{what}: not in the verdict, {why}" for what, why in self.unjudged.items()]
        missed += [f"not checked: {what}: {why}" for what, why in self.skipped.items()]
        return rows_shown(title, self.rows, [*advice, size, *missed])


def judged(
    vae: Amortized,
    rows: Sequence[Row],
    entries: Sequence[Entry],
    level: float,
    refits: Sequence[Sequence[float]] = (),
) -> tuple[Row, ...]:
    """Corrects the rows of the verdict for their number, and gives advice on those that fail.

    Args:
        vae: The model.
        rows: The checks.
        entries: The entries of x.
        level: Probability of any false alarm.
        refits: Of each refit the effects of the same rows, in the same order, or of the first of
            them.

    Returns:
        Those of the verdict first, in the order of their effects.
    """
    tried = [i for i, row in enumerate(rows) if row.calibrated]
    known = {each.name: each for each in entries if each.named}
    found = []
    for i, adjusted in zip(tried, holm([rows[i].p_value for i in tried]), strict=True):
        row, failed = rows[i], adjusted <= level
        observed, centre = row.observed, (row.low + row.high) / 2
        if row.statistic.removeprefix("residual ") in _SIGNED:  # -0.9 is more than 0, not less
            observed, centre = abs(observed), abs(centre)
        higher = observed > centre
        about = [known[name] for name in row.entries if name in known]
        advice = advise(vae, row.statistic, higher, about) if failed else ""
        found.append(replace(row, adjusted=adjusted, failed=failed, advice=advice))
    if refits:
        effects = [[each[i] for each in refits] for i in tried]
        found = _with_causes(found, effects, level)
    others = (row for row in rows if not row.calibrated)
    return (*_by_effect(found), *_by_effect(others))


def _with_causes(
    rows: Sequence[Row], effects: Sequence[Sequence[float]], level: float
) -> list[Row]:
    """Adds to rows of the verdict what the effects of refits say of each."""
    errors = [
        fit_error(row.effect, each, columns=row.columns)
        for row, each in zip(rows, effects, strict=True)
    ]
    told = []
    adjusted = holm([error.p_value for error in errors])
    for row, error, p_value in zip(rows, errors, adjusted, strict=True):
        cause: Literal["", "fit", "family"] = "family" if p_value <= level else "fit"
        told.append(
            replace(
                row, refit_low=error.low, refit_high=error.high, refit_p=error.p_value,
                cause=cause if row.failed else "",
            )
        )  # fmt: skip
    return told


def _by_effect(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: -abs(row.effect))
