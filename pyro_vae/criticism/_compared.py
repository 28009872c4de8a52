"""Statistics of what is observed among those of replicates: a row for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.criticism._measures import Statistic
from pyro_vae.criticism._ranks import compare
from pyro_vae.criticism.effects import Spread, effects_of
from pyro_vae.criticism.row import Row

__all__ = ["Found", "rows_of", "values"]

_INTERVAL = (0.025, 0.975)


@dataclass(frozen=True)
class Found:
    """Statistics of what is observed.

    Attributes:
        values: A table ``(1, S)`` for each.
        spreads: How each varies over data like them.
        dtype: Of what they were computed from, and rounded to.
    """

    values: Sequence[Tensor]
    spreads: Sequence[Spread]
    dtype: torch.dtype


def values(statistics: Iterable[Statistic], x: Tensor) -> list[Tensor]:
    """Returns one table ``(R, S)`` a statistic, in float64 on the CPU."""
    return [statistic(x).cpu().double() for statistic in statistics]


def rows_of(
    statistics: Sequence[Statistic],
    found: Found,
    replicated: Sequence[Sequence[Tensor]],
    conditioned_on: str,
    *,
    calibrated: bool,
    note: str = "",
) -> Iterator[Row]:
    """Compares each statistic.

    Args:
        statistics: What was asked.
        found: Its values, of what is observed.
        replicated: Chunks of replicates; in each a table ``(R, S)`` for each statistic.
        conditioned_on: What the z of the replicates were drawn from.
        calibrated: Whether a true model makes p uniform.
        note: Why the rows are not to be trusted.
    """
    columns = zip(*replicated, strict=True)
    observed = zip(found.values, found.spreads, strict=True)
    rounding = 4 * torch.finfo(found.dtype).eps
    for statistic, (one, spread), chunks in zip(statistics, observed, columns, strict=True):
        many = torch.cat(chunks)
        p_value = compare(one[0], many)
        effects = effects_of(one[0], many, spread, rounding)
        worst = effects.worst
        ends = many[:, worst].quantile(many.new_tensor(_INTERVAL)).tolist()
        numbers, unit, shown = statistic.in_units(worst, [one[0, worst].item(), *ends])
        yield Row(
            statistic=statistic.name,
            where=statistic.column(worst, one.shape[1]),
            observed=numbers[0],
            low=numbers[1],
            high=numbers[2],
            p_value=p_value,
            conditioned_on=conditioned_on,
            calibrated=calibrated,
            note=note,
            entries=tuple(each.name for each in statistic.about(worst)),
            title=statistic.title(worst),
            unit=unit,
            shown=shown,
            effect=effects.size[worst].item(),
            effect_low=effects.low[worst].item(),
            effect_high=effects.high[worst].item(),
            effect_unit="sd of the data" if statistic.name == "mean" else "sd per observation",
            columns=one.shape[1],
        )
