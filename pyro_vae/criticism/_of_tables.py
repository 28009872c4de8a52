"""Statistics of the columns of a table, of which it is known what they hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.criticism import _measures as measures
from pyro_vae.criticism._measures import Reads, Statistic
from pyro_vae.data.entries import Entry

__all__ = ["WORDS", "Expanded", "of_table"]

WORDS = 12  # levels of a column of words that are looked at one by one


def of_table(
    support: constraints.Constraint, reference: Tensor, entries: Sequence[Entry]
) -> tuple[Statistic, ...]:
    """Statistics of the columns of a table; see :func:`default_statistics`."""
    shape = reference.shape[1:]
    table = Expanded(reference, entries)
    names, of = table.names, tuple((each,) for each in table.of)
    numeric = table.numeric
    own: dict[str, Any] = {
        "columns": tuple(each.name for each in numeric), "of": tuple((each,) for each in numeric)
    }  # fmt: skip
    logs = support is constraints.positive
    seen = measures.of_logs if logs else measures.as_they_are
    means = tuple(
        f"share of {name}" if each.shares else f"mean of {_coded(each)}"
        for name, each in zip(names, table.of, strict=True)
    )
    reads = tuple[Reads, ...]("" if each.shares else "value" for each in table.of)
    chosen = [Statistic("mean", lambda x: measures.mean(table(x)), names, of, reads, means)]
    if numeric:
        counts = support is constraints.nonnegative_integer
        if counts:
            chosen.append(Statistic("dispersion", table.of_numbers(measures.dispersion), **own))
        else:
            units: Reads = "" if logs else "spread"
            spread = table.of_numbers(measures.spread)
            moments = {
                "spread": Statistic("spread", seen(spread), **own, reads=(units,) * len(numeric)),
                "skewness": Statistic("skewness", seen(table.of_numbers(measures.skewness)), **own),
            }
            log = "log " if logs else ""
            chosen += [
                replace(each, titles=tuple(f"{name} of {log}{_coded(e)}" for e in numeric))
                for name, each in moments.items()
            ]
            chosen.append(Statistic("tails", seen(table.of_numbers(measures.kurtosis))))
        if zero := [each for each in numeric if _has_zero(each)]:
            named = tuple(each.name for each in zero)
            about = tuple((each,) for each in zero)
            titles = tuple(f"share of zeros in {name}" for name in named)
            zeros = _at([each.index for each in zero], measures.zeros)
            chosen.append(Statistic("zeros", zeros, named, about, titles=titles))
        at_numbers = [each.index for each in numeric]
        few = reference[:, at_numbers]
        size = few.shape[1:]
        marginals, extremes = measures.marginals(few, size, numeric), measures.extremes(few, size)
        chosen += [
            replace(each, function=_at(at_numbers, each.function)) for each in (marginals, extremes)
        ]
    if len(entries) > 1:
        function = measures.correlations(torch.Size([len(names)]), names, table.of)
        chosen.append(replace(function, function=_after(table, seen(function.function))))
        if all(each.kind == "count" for each in entries):
            chosen.append(measures.totals(reference, shape))
    scale = table(reference[None])[0].std(0).clamp_min(1e-12)
    distances: Callable[[Tensor], Tensor] = seen(measures.distances)
    if not logs:
        distances = _after(lambda x: table(x) / scale, measures.distances)
    chosen.append(measures.nearest(distances))
    return tuple(chosen)


class Expanded:
    """The columns of a table as statistics see them: of words without an order, one a level.

    Attributes:
        of: The entry that each is of.
        names: Of each: that of the entry, or ``city = Berlin``.
        places: The level that each stands for; None for a column as it is.
        numeric: The entries that are as they are.

    Args:
        reference: Values of x, shape ``(N, D)``, among which the commonest levels are sought; not
            needed where none has more than twelve.
        entries: The entries of x, or some of them, which alone are seen then.
    """

    def __init__(self, reference: Tensor | None, entries: Sequence[Entry]) -> None:
        self.numeric = [each for each in entries if not each.shares]
        self.of: list[Entry] = []
        names: list[str] = []
        self._take: list[tuple[int, int | None]] = []
        for each in entries:
            places: list[int | None] = [None]
            if each.shares and len(each.levels) == 2:
                names.append(f"{each.name} = {each.levels[1]}")
                places = [1]
            elif each.shares:
                places = [*range(len(each.levels))]
                if len(places) > WORDS:
                    assert reference is not None  # as its docstring demands
                    places = _commonest(reference[:, each.index], len(places))
                names += [
                    f"{each.name} = {each.levels[place]}" for place in places if place is not None
                ]
            else:
                names.append(each.name)
            self.of += [each] * len(places)
            self._take += [(each.index, place) for place in places]
        self.names = tuple(names)
        self.places = tuple(place for _, place in self._take)
        self._plain = all(place is None for place in self.places)
        self._index = [index for index, _ in self._take]

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the columns of ``x``, shape ``(*, N, D)``."""
        if self._plain:
            if self._index == [*range(x.shape[-1])]:
                return x
            return x.index_select(-1, torch.tensor(self._index, device=x.device))
        return torch.stack([_level(x[..., index], place) for index, place in self._take], -1)

    def of_numbers(self, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Gives a function those columns whose values are in an order."""
        return _at([each.index for each in self.numeric], function)


def _level(values: Tensor, place: int | None) -> Tensor:
    """A column, or whether it is at a level; NaN where it is hidden."""
    if place is None:
        return values
    return torch.where(values.isnan(), values, (values == place).to(values.dtype))


def _commonest(places: Tensor, size: int) -> list[int | None]:
    """The levels of a column of words, the commonest alone where there are very many."""
    shares = torch.bincount(places[~places.isnan()].long().cpu(), minlength=size)
    return sorted(shares.argsort(descending=True, stable=True)[:WORDS].tolist())


def _coded(entry: Entry) -> str:
    """What an entry is called of whose levels a mean is taken."""
    if not entry.words:
        return entry.name
    return f"{entry.name} (0 {entry.levels[0]} to {len(entry.levels) - 1} {entry.levels[-1]})"


def _has_zero(entry: Entry) -> bool:
    """Whether zero is a value of an entry like others, and x has it as it is."""
    field = entry.field
    return entry.kind in ("number", "count") and (field is None or not field.offset)


def _at(index: list[int], function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Gives a function some of the columns alone."""
    return lambda x: function(x[..., index])


def _after(
    first: Callable[[Tensor], Tensor], second: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    return lambda x: second(first(x))
