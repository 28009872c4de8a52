"""The entries of an observation as people know them: their names, words, dates and units."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pyro_vae.data.axes import Axes
from pyro_vae.data.schema import Field, Schema

__all__ = ["Entry", "counted", "described", "figure"]

EntryKind = Literal["number", "count", "level", "date", "angle"]


@dataclass(frozen=True)
class Entry:
    """What an entry of x is called, and how its values are written.

    Args:
        name: Of the column, or ``x[3]`` where it has none.
        index: Which entry of the flattened x it is.
        kind: What it is drawn as: numbers and counts, levels, dates, angles.
        levels: What the levels 0, 1, ... are called.
        ordered: Whether its levels are in an order.
        unit: What its numbers are measured in, if that is known.
        field: The column of the table that it is, whose numbers x may hold encoded.

    Example:
        >>> mood = Entry.of(Field("mood", "ordinal", levels=("low", "mid", "high")), 0)
        >>> mood.title, mood.text(1.0)
        ('mood', 'mid')
    """

    name: str
    index: int = 0
    kind: EntryKind = "number"
    levels: tuple[str, ...] = ()
    ordered: bool = False
    unit: str = ""
    field: Field | None = None

    @classmethod
    def of(cls, field: Field, index: int) -> Entry:
        """Returns the entry that a column of a table is."""
        own = cls(field.name, index, field=field)
        if field.kind in ("category", "ordinal", "binary") and (field.levels or _binary(field)):
            levels = tuple(map(str, field.levels)) or ("0", "1")
            return replace(own, kind="level", levels=levels, ordered=field.kind == "ordinal")
        if field.kind == "time" and field.unit:
            return replace(own, kind="date")
        if field.kind == "angle":
            return replace(own, kind="angle", unit=field.unit)
        unit = "" if field.kind == "time" else field.unit
        return replace(own, kind="count" if field.kind == "count" else "number", unit=unit)

    @property
    def named(self) -> bool:
        """Whether it is called anything but its place."""
        return not self.name.startswith("x[")

    @property
    def title(self) -> str:
        """Its name and its unit, as an axis has them."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name

    @property
    def words(self) -> bool:
        """Whether its levels are words, or truth values, that have no numbers."""
        return self.kind == "level" and not _all_numbers(self.levels)

    @property
    def shares(self) -> bool:
        """Whether a mean of it says nothing but how often its levels are there."""
        return self.kind == "level" and not self.ordered

    def numbers(self, x: np.ndarray, *, wrapped: bool = True) -> np.ndarray:
        """Returns values of x as the table has them: in its unit; dates as days since 1970.

        Levels stay places, from 0.

        Args:
            x: Values, of any shape.
            wrapped: Whether angles are put on their circle, which differences of them are not on.
        """
        if self.field is None or self.kind == "level":
            return x
        if self.kind == "angle":
            turned = x * self._degrees
            if not wrapped:
                return turned
            turn = 2 * math.pi * self._degrees
            return (turned - self.field.start) % turn + self.field.start
        return x + self.field.offset

    def between(self, place: float) -> float:
        """Returns a mean of places of levels as one of these levels, where they are numbers."""
        if self.words:
            return place
        levels = [float(level) for level in self.levels]
        return float(np.interp(place, range(len(levels)), levels))

    def spread(self, value: float) -> float:
        """Returns a difference of values of x in the unit of the table."""
        if self.kind == "level" and len(self.levels) > 1:
            return (
                value
                * (self.between(len(self.levels) - 1) - self.between(0))
                / (len(self.levels) - 1)
            )
        return value * self._degrees if self.kind == "angle" else value

    def text(self, number: float) -> str:
        """Writes a number of :meth:`numbers` as the table would, without its unit."""
        if math.isnan(number):
            return "–"
        if self.kind == "date":
            assert self.field is not None
            unit: Literal["D", "s"] = "D" if self.field.unit == "D" else "s"
            moment = np.datetime64(round(number * 86_400), "s")
            return str(moment.astype(f"datetime64[{unit}]")).replace("T", " ")
        if self.kind == "level":
            return self.levels[min(max(round(number), 0), len(self.levels) - 1)]
        grouped = self.field is None or self.field.kind != "time"  # a year is no amount
        return figure(number, 4, grouped=grouped)

    def write(self, value: float) -> str:
        """Writes a value of x as the table would, without its unit."""
        return self.text(float(self.numbers(np.asarray(value))))

    @property
    def _degrees(self) -> float:
        """What an angle of 1 in x is in the unit of the table."""
        return 180 / math.pi if self.unit == "degrees" else 1.0


def described(event_shape: Sequence[int], axes: Axes) -> tuple[Entry, ...]:
    """Returns the entries of x by what is known of a tensor of observations.

    Args:
        event_shape: Of one observation.
        axes: What its dimensions, or the columns of its table, are called.
    """
    size = math.prod(event_shape)
    names: Sequence[str] = axes.names
    if len(event_shape) == 1 and not names and axes.dims:
        names = [str(label) for label in axes.coords.get(axes.dims[0], ())]
    if len(event_shape) != 1 or len(names) != size or len(set(names)) != size:
        return tuple(Entry(name, i) for i, name in enumerate(counted(event_shape)))
    schema = axes.schema or Schema(())
    return tuple(
        Entry.of(schema[name], i) if name in schema else Entry(name, i)
        for i, name in enumerate(names)
    )


def counted(event_shape: Sequence[int]) -> tuple[str, ...]:
    """Returns what the entries of x are called where they have no names.

    Example:
        >>> counted((1, 2))
        ('x[0, 0]', 'x[0, 1]')
    """
    indices = itertools.product(*map(range, event_shape))
    return tuple(f"x[{', '.join(map(str, index))}]" for index in indices)


def figure(value: float, digits: int = 3, *, grouped: bool = True) -> str:
    """Writes a number to so many significant digits, whole ones in full.

    Example:
        >>> figure(16812.4), figure(0.12345), figure(2.0), figure(3.1e9)
        ('16,812', '0.123', '2', '3.1e+09')
    """
    size = abs(value)
    if size != 0 and not 1e-3 <= size < 1e8:
        return f"{value:.{digits}g}"
    decimals = 0 if size == 0 else max(0, digits - 1 - math.floor(math.log10(size)))
    text = f"{value:,.{decimals}f}" if grouped else f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _binary(field: Field) -> bool:
    return field.kind == "binary"


def _all_numbers(levels: Sequence[str]) -> bool:
    return all(level.lstrip("-").replace(".", "", 1).isdigit() for level in levels)
