"""`from_frame`: a table, as pandas has it, as numbers with a schema."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae._errors import expected, plural, unknown_name
from pyro_vae.data.cells import Cells, Where, cells_of
from pyro_vae.data.encoding import Unseen, all_numbers, beside, encoded, labels_of
from pyro_vae.data.fields import described, is_nameless, kind_of, of_counts
from pyro_vae.data.inference import Found
from pyro_vae.data.raw import MISSING, Raw, as_values
from pyro_vae.data.schema import Field, Role, Schema, SchemaLike, overrides

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["NUMBERS", "Table", "as_table", "from_frame", "is_frame"]

_TOGETHER = 16  # columns that are written to rows at once: of these, a line of the cache
NUMBERS = "numbers"
"""In place of a schema: each column of x is the numbers that it holds, and nothing is inferred."""

_ROLE_OF: Mapping[str, Role] = {
    "cond": "condition",
    "size_factor": "size factor",
    "covariates": "covariate",
    "split": "group",
    "time": "time",
}


_OPTION_OF: Mapping[Role, str] = {role: option for option, role in _ROLE_OF.items()}


def _check_taken(name: str, role: Role) -> None:
    """Refuses a role that a schema gives a column, and that nobody has asked to be used."""
    if role == "weight":
        raise expected(f"schema: {name}", "another role, as no objective takes weights", role)
    if role not in ("", "label", "group", "time"):
        what = f"`{_OPTION_OF[role]}` to name the column, too, as that is its role"
        raise expected(f"schema: {name}", what, role)


def _in_frame(row: int, position: int) -> tuple[str, object]:
    return f"row {row}, column {position + 1}", math.nan


def _cell(frame: pd.DataFrame, row: int, position: int) -> object:
    """A cell as Python has it, whose value an error shows."""
    cell = frame.iloc[row, position]
    return cell.item() if isinstance(cell, np.generic) else cell


@dataclass
class Table:
    """A table as a reader found it.

    Args:
        frame: Its columns.
        named: Whether these have names of their own.
        notes: What was decided while reading.
        where: Finds where an entry was written, and how.
    """

    frame: pd.DataFrame
    named: bool = True
    notes: tuple[str, ...] = ()
    where: Where = field(default=_in_frame)

    @property
    def names(self) -> list[str]:
        """What its columns are called, no two alike; counted where they have no names."""
        given = [str(name) for name in self.frame.columns]
        if not self.named:
            return [f"column {i + 1}" for i in range(len(given))]
        return _unique(given, [])

    def reordered(self, names: Sequence[str]) -> Table:
        """Returns the table of some columns, in another order; empty ones where it has none.

        Args:
            names: Of its columns, and of others.
        """
        import pandas as pd

        own = {name: position for position, name in enumerate(self.names)}
        empty = pd.Series(np.full(len(self.frame), np.nan), index=self.frame.index)
        columns = [self.frame.iloc[:, own[n]] if n in own else empty for n in names]
        frame = pd.concat(columns, axis=1).set_axis(list(names), axis=1)

        def where(row: int, position: int) -> tuple[str, object]:
            at = own[names[position]]
            if self.where is not _in_frame:
                return self.where(row, at)
            return f"{_in_frame(row, at)[0]} ({names[position]})", _cell(self.frame, row, at)

        return replace(self, frame=frame, named=True, where=where)


def is_frame(data: object) -> bool:
    """Returns whether it is a table of pandas, which is not imported to see that it is none."""
    return type(data).__module__.startswith("pandas") and hasattr(data, "columns")


def from_frame(
    data: pd.DataFrame | Table,
    *,
    schema: SchemaLike = None,
    kinds: str | Mapping[str, str] | None = None,
    drop: str | Sequence[str] = "",
    label: str | None = None,
    wanted: Mapping[str, Sequence[str]] | None = None,
    words: Sequence[Sequence[str]] = (),
    missing: bool = False,
    always: bool = False,
    unseen: Unseen = "refuse",
    keep: bool = True,
) -> Raw:
    """Returns what a table holds: x, what lies beside it, labels, and the schema of its columns.

    A table of numbers without names is x as it is, without a schema.

    Args:
        data: A table as pandas has it, or as a reader found it.
        schema: What is known of some or all columns, see :func:`pyro_vae.data.schema.overrides`;
            ``"numbers"`` for columns that are all the numbers that they hold.
        kinds: Kinds of some columns, as ``income=positive,mood=ordinal`` or a mapping.
        drop: Columns to leave out of x.
        label: The column of labels.
        wanted: Columns that are to lie beside x, by the option that asks for them.
        words: For each column of x, in order, its levels, if it has some; one list for every one.
        missing: Whether entries of x may be missing.
        always: Whether a table of numbers without names has a schema, too.
        unseen: Whether a level that the schema does not have is refused, or missing.
        keep: Whether the frame of a reader that finds entries without it is left as it is; else it
            is emptied while x is made of it, so that a large table is there once.

    Raises:
        ValueError: If a column cannot be read, lacks a value, or an option names none.
    """
    table = as_table(data)
    wanted = {option: list(names) for option, names in (wanted or {}).items() if names}
    dropped = [each.strip() for each in drop.split(",")] if isinstance(drop, str) else list(drop)
    dropped = [each for each in dropped if each]
    asked = bool(wanted or dropped or label or kinds or any(words))
    plain = isinstance(schema, str) and schema == NUMBERS
    if not always and not asked and (schema is None or plain) and _is_array(table):
        return Raw({"train": _array(table, missing)})
    reader = _Reader(table, plain, wanted, dropped, label, unseen)
    known = {} if plain else overrides(None if plain else schema, kinds, reader.names)
    return reader.read(known, words, missing, keep or table.where is _in_frame)


def as_table(frame: pd.DataFrame | Table) -> Table:
    """Returns a table of pandas as one of a reader.

    Raises:
        ValueError: If its columns have several names each.
    """
    import pandas as pd

    if isinstance(frame, Table):
        return frame
    if isinstance(frame.columns, pd.MultiIndex):
        raise expected("data", "columns of one name each", list(frame.columns[:2]))
    default = isinstance(frame.columns, pd.RangeIndex) and frame.columns.equals(
        pd.RangeIndex(frame.shape[1])
    )
    return Table(frame, named=not default)


def _is_array(table: Table) -> bool:
    """Whether it is numbers without names."""
    kinds = {getattr(dtype, "kind", "O") for dtype in table.frame.dtypes}
    return not table.named and kinds <= set("biuf")


def _array(table: Table, missing: bool) -> Tensor:
    values = table.frame.to_numpy()
    if not missing and table.frame.size and table.where is not _in_frame:
        _check_complete(table, list(range(values.shape[1])), lambda i: np.isnan(values[:, i]))
    if values.dtype == object:  # nullable
        values = table.frame.to_numpy(dtype=np.float64, na_value=np.nan)
    return as_values(values, missing=missing)


def _check_complete(
    table: Table, positions: Sequence[int], lacking: Callable[[int], np.ndarray]
) -> None:
    """Refuses a missing entry, the first in the order of rows."""
    first = None
    for position in positions:
        if (which := lacking(position)).any():
            row = int(which.argmax())
            first = min(first or (row, position), (row, position))
    if first is not None:
        place, cell = table.where(*first)
        raise ValueError(f"{expected('data', f'a number in {place}', cell)}{MISSING}")


class _Reader:
    """Reads one table."""

    def __init__(
        self,
        table: Table,
        plain: bool,
        wanted: Mapping[str, Sequence[str]],
        dropped: Sequence[str],
        label: str | None,
        unseen: Unseen,
    ) -> None:
        self.plain, self.notes, self.unseen = plain, list(table.notes), unseen
        given = [str(name) for name in table.frame.columns]
        if not table.named:
            given = [f"column {i + 1}" for i in range(len(given))]
        self.names = _unique(given, self.notes)
        self.size = len(table.frame)
        self.written = table.where is not _in_frame
        self.table = table if table.where is not _in_frame else replace(table, where=self._where)
        self.dropped, self.roles = set(dropped), dict[str, Role]()
        options = {**wanted, "label": [label] if label else [], "drop": dropped}
        for option, names in options.items():
            for name in names:
                if name not in self.names:
                    if not table.named:
                        raise expected(option, "data with labels or with names of columns", name)
                    raise unknown_name(option, name, self.names)
                if given.count(name) > 1:
                    raise expected(option, "a name that one column has", name)
                if option != "drop":
                    if name in self.roles:
                        raise expected(option, "each column once", name)
                    self.roles[name] = _ROLE_OF.get(option, "label")

    def read(
        self,
        known: Mapping[str, dict[str, Any]],
        words: Sequence[Sequence[str]],
        missing: bool,
        keep: bool,
    ) -> Raw:
        """Returns what the table holds; see :func:`from_frame`."""
        if self.size == 0:
            what = "at least one observation with at least one entry"
            raise expected("data", what, self.table.frame)
        levels = self._levels(words, known)
        complete = bool(known) and all("dtype" in own for own in known.values())
        fields: list[Field] = []
        cells: dict[str, Cells] = {}
        for position, name in enumerate(self.names):
            own = dict(known.get(name, {}))
            if name in levels:
                own |= {"levels": levels[name]}
            role: Role = self.roles.get(name, own.get("role", ""))
            if name not in self.roles and name not in self.dropped:
                _check_taken(name, role)
            if name in self.dropped:
                fields.append(Field(name, "ignore", reason="left out by `drop`"))
                continue
            read = self._cells(name, position, role, own)
            if not role:
                self._check_finite(name, read, position)
            found = replace(self._field(name, read, role, own), role=role)
            fields.append(found)
            if found.role or found.in_x:
                cells[name] = read
        inferred = [each.name not in known and each.name not in levels for each in fields]
        fields = of_counts(fields, inferred)
        fields = self._something(fields, cells, inferred)
        if not keep:
            self.table.frame = self.table.frame.iloc[:, :0]
        # Columns that are known come in the order in which they are known.
        order = {name: at for at, name in enumerate(known)} if complete else {}
        fields.sort(key=lambda each: order.get(each.name, len(order)))
        for each in known.keys() - set(self.names):
            if Field.from_spec(each, {"kind": "real"} | known[each]).in_x:
                raise unknown_name("schema", each, self.names)
        schema = Schema(tuple(fields), tuple(self.notes))
        return self._raw(schema, cells, missing, checked=not self.plain and not complete)

    def _levels(
        self, words: Sequence[Sequence[str]], known: Mapping[str, Any]
    ) -> dict[str, tuple[str, ...]]:
        """The levels of columns of x that an option lists in their order."""
        if not any(words):
            return {}
        gone = self.dropped | self.roles.keys()
        gone |= {n for n, own in known.items() if own.get("kind") in ("id", "ignore")}
        columns = [name for name in self.names if name not in gone]
        if len(words) not in (1, len(columns)):
            what = f"one list, or one for each of {plural(len(columns), 'column')}"
            raise expected("words", what, f"{len(words)} lists")
        pairs = zip(columns, words if len(words) > 1 else [words[0]] * len(columns), strict=True)
        return {name: tuple(own) for name, own in pairs if own}

    def _cells(self, name: str, position: int, role: Role, own: Mapping[str, Any]) -> Cells:
        numbers = role in ("size factor", "covariate", "weight")
        groups = role in ("condition", "group")
        levels = own.get("levels", ())
        coded = own.get("kind") in ("category", "ordinal", "binary") and not all_numbers(levels)
        return cells_of(
            self.table.frame.iloc[:, position],
            name,
            position,
            self.table.where,
            plain=self.plain or numbers or groups,
            words=groups,
            format=str(own.get("format", "")),
            levels=() if groups or all_numbers(levels) else levels,
            numbers="dtype" in own and not levels,
            written=self.written,
            as_words=not groups and (coded or own.get("kind") in ("id", "ignore")),
        )

    def _place(self, position: int, row: int) -> str:
        return self.table.where(row, position)[0]

    def _where(self, row: int, position: int) -> tuple[str, object]:
        """Where an entry of a frame is, and what is there."""
        place, _ = _in_frame(row, position)
        return f"{place} ({self.names[position]})", _cell(self.table.frame, row, position)

    def _check_finite(self, name: str, cells: Cells, position: int) -> None:
        """Refuses infinite numbers."""
        values = cells.values
        if isinstance(values, np.ndarray) and not cells.extent.finite:
            row = int(np.isinf(values).argmax())
            raise self._infinite(name, row, position, float(values[row]))

    def _infinite(self, name: str, row: int, position: int, value: float) -> ValueError:
        place = self._place(position, row)
        hint = (
            f"; `drop` (--drop {name}) leaves the column out, `na_values` (--na-values {value:g}) "
            "of a file takes it for missing"
        )
        return ValueError(f"{expected('data', f'a finite float32 value in {place}', value)}{hint}")

    def _field(self, name: str, cells: Cells, role: Role, own: Mapping[str, Any]) -> Field:
        """The field of a column, of which something or nothing is known."""
        if "dtype" in own and "kind" in own:
            return Field.from_spec(name, own)
        if self.plain and not role and "levels" not in own:
            return Field(name, "real", cells.dtype, reason="numbers as they are")
        found, levels = kind_of(name, cells, self.names)
        if "kind" in own or "levels" in own:
            leveled = found.kind if found.kind in ("category", "ordinal", "binary") else "ordinal"
            kind = own.get("kind", leveled)
            levels = own.get("levels", levels if found.kind == kind else ())
            found = Found(kind, "as it was asked for", found.warning)
        made = described(name, cells, found, levels, forced=bool(own))
        return replace(made, **{key: value for key, value in own.items() if key != "kind"})

    def _something(
        self, fields: list[Field], cells: dict[str, Cells], inferred: Sequence[bool]
    ) -> list[Field]:
        """Keeps numbers that are constant or count rows in x, where x would have nothing else."""
        if any(each.in_x for each in fields):
            return fields
        kept = list(fields)
        for i, each in enumerate(fields):
            own = inferred[i] and not each.role and each.name not in self.dropped
            if own and not is_nameless(each.name):
                read = self._cells(each.name, i, "", {})
                if read.form == "numbers" and not read.lacking.all():
                    why = f"{each.reason}; kept, as x would have no column"
                    kept[i] = replace(each, kind="real", reason=why)
                    cells[each.name] = read
        if not any(each.in_x for each in kept):
            why = "; ".join(f"{each.name}: {each.role or each.reason}" for each in fields[:5])
            what = "columns that are left for x (`kinds`, --kind NAME=KIND, keeps one)"
            raise expected("data", what, why)
        return kept

    def _raw(self, schema: Schema, cells: dict[str, Cells], missing: bool, *, checked: bool) -> Raw:
        positions = {name: i for i, name in enumerate(self.names)}
        in_x = schema.x
        if not missing:
            at = [positions[each.name] for each in in_x]
            _check_complete(self.table, at, lambda i: cells[self.names[i]].lacking)
        x = np.empty((self.size, len(in_x)), dtype=np.float32)
        for start in range(0, len(in_x), _TOGETHER):
            some = in_x[start : start + _TOGETHER]
            rows = np.empty((len(some), self.size), dtype=np.float32)
            for i, each in enumerate(some):
                place = partial(self._place, positions[each.name])
                rows[i] = encoded(
                    each, cells[each.name], place, checked=checked, unseen=self.unseen
                )
                if (bad := np.isinf(rows[i])).any():
                    row = int(bad.argmax())
                    value = float(cells[each.name].values[row])
                    raise self._infinite(each.name, row, positions[each.name], value)
                del cells[each.name]  # of a large table, what is in x is held once
            # Of all that are called NaN, the same bits for a fingerprint.
            rows[np.isnan(rows)] = math.nan
            x[:, start : start + _TOGETHER] = rows.T
        aside: dict[str, Any] = {}
        of_words: dict[str, list[str]] = {}
        labels: dict[Any, Tensor] = {}
        for each in schema.columns:
            if each.role == "label":
                place = partial(self._place, positions[each.name])
                labels["train"] = labels_of(each, cells[each.name], place, self.unseen)
            elif each.role == "time" and cells[each.name].form not in ("numbers", "dates"):
                what = f"numbers or dates in {each.name}, by which rows are held out"
                raise expected("split", what, cells[each.name].form)
            elif each.role and each.role != "weight":
                values, of_words[each.name] = beside(cells[each.name])
                aside[each.name] = {"train": torch.from_numpy(values)}
        return Raw(
            {"train": torch.from_numpy(x)},
            labels=labels,
            classes=_classes(schema),
            label_names=[each.name for each in schema if each.role == "label"] or ("label",),
            names=[each.name for each in in_x] if self.table.named or not self.plain else (),
            aside=aside,
            words={name: words for name, words in of_words.items() if words},
            schema=None if self.plain else schema,
        )


def _classes(schema: Schema) -> tuple[str, ...]:
    """What the labels 0, 1, ... are called, if these are places of levels."""
    found = next((each for each in schema if each.role == "label"), None)
    return () if found is None else tuple(map(str, found.levels))


def _unique(names: Sequence[str], notes: list[str]) -> list[str]:
    """Names of which no two are the same."""
    counts: dict[str, int] = {}
    taken, found = set(names), []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        own = name
        if counts[name] > 1:
            own = f"{name}.{counts[name] - 1}"
            while own in taken:
                own += "_"
            taken.add(own)
            notes.append(f"two columns are called {name!r}: the later one is {own!r} now")
        found.append(own)
    return found
