"""What the sections of a page are about, each thing computed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pyro_vae._html import Html, tag
from pyro_vae.criticism import Calibration, Checks, calibrate, check
from pyro_vae.criticism._entries import entries_of
from pyro_vae.data import Dataset
from pyro_vae.data.entries import Entry
from pyro_vae.data.inspection import copies_of
from pyro_vae.data.rows import Rows
from pyro_vae.evaluation import Scores, evaluate
from pyro_vae.evaluation._common import variance_by_site
from pyro_vae.plots._canvas import are_images, as_png, limits, tiles
from pyro_vae.plots._tables import Scaled, are_columns
from pyro_vae.programs import Amortized
from pyro_vae.report.pictures import SCATTERED, held_out, latent_means, visible

__all__ = ["ACTIVE", "Findings"]

_SCORED = 1000  # data whose scores are looked at one by one
_CHECKED = 20  # data: `check` asks for as many
_OWN_MASKS = "Not done for a model with missingness: what is simulated would need masks of its own."
ACTIVE = 0.01  # as `evaluate` counts active units


@dataclass
class Findings:
    """What the sections of a page are about, each thing computed once."""

    vae: Amortized
    data: Dataset
    history: Mapping[str, Sequence[float]] | None
    recorded: Mapping[str, Any] | None
    settings: Mapping[str, object]
    name: str
    num_samples: int
    num_draws: int | None
    seed: int
    progress: Callable[[float], None] | None
    known_copies: int | None = None
    known_scores: Scores | None = None  # of all held-out data
    seconds: dict[str, float] = field(default_factory=dict)

    @cached_property
    def split(self) -> str:
        return held_out(self.data)

    @cached_property
    def copies(self) -> int | None:
        """How many held-out observations equal training ones; None if that is not known."""
        if self.known_copies is not None or self.split == "train" or not len(self.data.train):
            return self.known_copies
        return copies_of(self.data.rows(held_out(self.data)), self.data.rows("train"))

    @cached_property
    def given(self) -> Rows:
        """The held-out data as they came, with what goes with them."""
        return self.vae.uses(self.data.rows(held_out(self.data)))

    @cached_property
    def rows(self) -> Rows:
        """The held-out data as the model takes them, with what goes with them."""
        return self.vae.accepts(self.given, "data")

    @property
    def x(self) -> Tensor:
        """The held-out data as the model takes them; what is hidden of them is filled."""
        return self.rows.x

    def reconstructed(self, index: Any) -> tuple[Tensor, Tensor]:
        """Returns some of the data, NaN where they are hidden, and their reconstructions."""
        rows = self.rows[index]
        return visible(rows), self.vae.reconstruct(rows.x, **rows.given)

    @cached_property
    def labels(self) -> Tensor | None:
        labels = self.data.labels[held_out(self.data)]
        return None if labels is None else labels.cpu()

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """What the entries of x are called."""
        return entries_of(self.vae, self.data.axes(held_out(self.data)))

    @cached_property
    def columns(self) -> bool:
        """Whether x are rows of a table, whose columns have names and are in no order."""
        return are_columns(self.entries, self.vae.event_shape)

    @cached_property
    def scaled(self) -> Scaled:
        """The columns, in standard deviations of the held-out data from their means."""
        return Scaled(visible(self.rows), self.entries)

    @cached_property
    def images(self) -> bool:
        return are_images(self.vae.event_shape)

    @cached_property
    def black_white(self) -> tuple[float, float]:
        return limits(self.vae, self.x)

    @cached_property
    def scores(self) -> Scores:
        """Of the first held-out data."""
        if self.known_scores is not None:
            self.report(0.35)
            return self.known_scores.of_first(_SCORED)
        rows = self.given if len(self.given) <= _SCORED else self.given[:_SCORED]
        part = self.data.base_measure(held_out(self.data))
        described = {k: v for k, v in part.items() if k not in ("dim", "fingerprint")}
        return evaluate(
            self.vae, rows, num_samples=self.num_samples, seed=self.seed, base_measure=described,
            progress=lambda done: self.report(0.35 * done),
        )  # fmt: skip

    @cached_property
    def summary(self) -> Mapping[str, Any]:
        if self.recorded is not None:
            return self.recorded
        return (self.known_scores or self.scores).summary()

    @property
    def summarised(self) -> int:
        """How many data the summary is about."""
        known = self.recorded is not None or self.known_scores is not None
        return len(self.x) if known else len(self.scores.log_marginal)

    @cached_property
    def checks(self) -> Checks | str:
        """What the checks found, or why there are none."""
        if len(self.given) < _CHECKED:
            return f"There are {len(self.given)} held-out observations; checks need {_CHECKED}."
        if not self.vae.is_ignorable:
            return _OWN_MASKS
        return check(
            self.vae, self.given, num_draws=self.num_draws, seed=self.seed,
            progress=lambda done: self.report(0.35 + 0.35 * done),
        )  # fmt: skip

    @cached_property
    def calibration(self) -> Calibration | str:
        """Whether the guide is the posterior, or why that is not known."""
        if not self.vae.is_ignorable:
            return _OWN_MASKS
        return calibrate(
            self.vae,
            seed=self.seed,
            progress=lambda done: self.report(0.7 + 0.1 * done),
            **self.rows.given,
        )

    @cached_property
    def means(self) -> Tensor:
        """E[z|x] of held-out data."""
        return latent_means(self.vae, self.rows[:SCATTERED])

    @cached_property
    def variances(self) -> Tensor:
        """Over data, of the posterior mean of each latent unit."""
        sites = variance_by_site(self.means.double(), self.vae.space).values()
        return torch.cat([each.flatten() for each in sites])

    def report(self, done: float) -> None:
        if self.progress is not None:
            self.progress(done)

    def tiles(self, x: Tensor, columns: int, alt: str) -> Html:
        return tag("img", class_="tiles", src=as_png(tiles(x, columns, self.black_white)), alt=alt)
