"""What the columns of a table are: their kinds, roles, units and the words that they hold.

A schema says of each column, by name, what it is and why, so that whatever a person has becomes
numbers that a likelihood takes, and what a model draws becomes a table again:

========== ============================================== =============================
kind       what it holds                                   x holds
========== ============================================== =============================
real       numbers on an interval scale, negative or not   them, less the offset
positive   amounts on a ratio scale                        them
count      whole numbers from 0 that count things          them
proportion shares in [0, 1]                                them
binary     two values, numbers or words                    0 and 1
category   three or more unordered words or codes          places of levels, from 0
ordinal    ordered levels                                  places of levels, from 0
angle      directions                                      radians from -π to π
time       dates, timestamps, years                        days, or them, less the offset
id         identifiers, names, row counters                nothing
ignore     constants, free text, what nobody observed      nothing
========== ============================================== =============================
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import yaml

from pyro_vae import _yaml
from pyro_vae._errors import expected, is_number, unknown_name
from pyro_vae.data.rows import NO_WEIGHTS

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

__all__ = ["Field", "Kind", "Level", "Role", "Schema", "SchemaLike", "overrides"]

Kind = Literal[
    "real", "positive", "count", "proportion", "binary", "category", "ordinal", "angle", "time",
    "id", "ignore",
]  # fmt: skip
Role = Literal["", "label", "condition", "size factor", "covariate", "weight", "group", "time"]
Level: TypeAlias = str | int | float | bool

KINDS: tuple[Kind, ...] = get_args(Kind)
ROLES: tuple[Role, ...] = get_args(Role)
_LEFT_OUT: tuple[Kind, ...] = ("id", "ignore")
_LARGEST, _MOST = 2**20, 2**17  # characters of a file, and values
_WIDTH = 80  # of a terminal that a table is printed on


@dataclass(frozen=True)
class Field:
    """A column of a table.

    Args:
        name: What it is called.
        kind: What it holds.
        dtype: The pandas dtype that it is decoded to.
        levels: What the numbers 0, 1, ... of x stand for; empty where x holds numbers.
        offset: What is subtracted from its numbers before float32 holds them, in their unit.
        unit: Of an angle ``degrees`` or ``radians``; of a time the pandas alias of what its days
            are rounded to when they become dates again; of other numbers what they are measured in,
            as axes have it; empty if that is not known.
        format: How its dates are written, as for ``strptime``; empty if they are no text.
        start: Of an angle, the lowest number of its circle, in its unit.
        zone: The time zone of its times.
        decimals: How many digits its numbers have after the decimal point, to which they are
            rounded when they are decoded; -1 for numbers as float32 has them.
        role: What it is used for beside x; empty for a part of x.
        reason: What about its name or its values calls for its kind.
        warning: What a person should know about how it was read; empty for nothing.

    Raises:
        ValueError: If the kind or the role is unknown.

    Example:
        >>> Field("mood", "ordinal", levels=("low", "high")).in_x
        True
    """

    name: str
    kind: Kind
    dtype: str = "float64"
    levels: tuple[Level, ...] = ()
    offset: float = 0
    unit: str = ""
    format: str = ""
    start: float = 0.0
    zone: str = ""
    decimals: int = -1
    role: Role = ""
    reason: str = ""
    warning: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown_name(f"schema: {self.name}", self.kind, KINDS)
        if self.role not in ROLES:
            raise unknown_name(f"schema: {self.name}", self.role, [role for role in ROLES if role])

    @property
    def in_x(self) -> bool:
        """Whether it is a part of x."""
        return not self.role and self.kind not in _LEFT_OUT

    @property
    def num_levels(self) -> int:
        """How many levels it has; 0 if they are not listed."""
        return len(self.levels)

    def spec(self) -> dict[str, Any]:
        """Returns what differs from the defaults, ready for JSON."""
        own = {each.name: each.default for each in dataclasses.fields(self)}
        found = {name: getattr(self, name) for name in own}
        kept = {n: v for n, v in found.items() if n in ("kind", "dtype") or v != own[n]}
        kept = {name: list(v) if isinstance(v, tuple) else v for name, v in kept.items()}
        del kept["name"]
        return kept

    @classmethod
    def from_spec(cls, name: str, spec: Mapping[str, Any]) -> Field:
        """Reads what :meth:`spec` returned.

        Args:
            name: Of the column.
            spec: What is known of it, by the names of the attributes.

        Returns:
            The field.

        Raises:
            ValueError: If it is something else.
        """
        given = _checked(name, spec)
        if "kind" not in given:
            raise expected(f"schema: {name}", f"a kind, one of {', '.join(KINDS)}", dict(spec))
        return cls(name, **given)


@dataclass(frozen=True)
class Schema:
    """The columns of a table, in order.

    Args:
        columns: One field each, of different names.
        notes: What was decided about the table as a whole, a line each.

    Raises:
        ValueError: If two columns have the same name.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame(
        ...     {"mood": ["low", "high", "mid"] * 5, "weight": [1.5, 2.5, 9.25] * 5}
        ... )
        >>> schema = Schema.infer(table)
        >>> [(field.name, field.kind) for field in schema.columns]
        [('mood', 'ordinal'), ('weight', 'positive')]
        >>> schema["mood"].levels
        ('low', 'mid', 'high')
        >>> schema.decode(schema.encode(table)).equals(table)
        True
    """

    columns: tuple[Field, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [field.name for field in self.columns]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise expected("schema", "columns of different names", twice)

    @classmethod
    def infer(
        cls,
        frame: pd.DataFrame,
        *,
        schema: SchemaLike = None,
        kinds: str | Mapping[str, str] | None = None,
        drop: str | Sequence[str] = "",
        label: str | None = None,
    ) -> Schema:
        """Returns the schema of a table, from the names and the values of its columns.

        Args:
            frame: A table, as pandas has it.
            schema: What is known of some or all columns, which is then not inferred.
            kinds: Kinds of some columns, as ``income=positive,mood=ordinal`` or a mapping.
            drop: Columns to leave out of x, ``a,b`` or a list.
            label: The column of labels.

        Raises:
            ValueError: If a column cannot be read, or an option names none of the table.
        """
        from pyro_vae.data.frames import from_frame

        found = from_frame(
            frame, schema=schema, kinds=kinds, drop=drop, label=label, missing=True, always=True
        ).schema
        assert found is not None  # `always`
        return found

    @property
    def x(self) -> tuple[Field, ...]:
        """The columns that x has, in order."""
        return tuple(field for field in self.columns if field.in_x)

    @property
    def left_out(self) -> tuple[Field, ...]:
        """The columns that are neither in x nor used beside it."""
        return tuple(each for each in self.columns if not each.role and not each.in_x)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know: about the table, about each column."""
        of_columns = (f"{field.name}: {field.warning}" for field in self.columns if field.warning)
        return (*self.notes, *of_columns)

    def __getitem__(self, name: str) -> Field:
        for field in self.columns:
            if field.name == name:
                return field
        raise unknown_name("schema", name, (field.name for field in self.columns))

    def __contains__(self, name: object) -> bool:
        return any(field.name == name for field in self.columns)

    def __iter__(self) -> Iterator[Field]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def encode(self, frame: pd.DataFrame) -> Tensor:
        """Returns x of a table with these columns, shape ``(N, number of columns of x)``.

        Args:
            frame: A table, as pandas has it, with at least the columns of x, in any order; NaN in x
                where it lacks an entry.

        Raises:
            ValueError: If a column is not there, or holds what the schema does not know.
        """
        from pyro_vae.data.frames import from_frame

        return from_frame(frame, schema=self, missing=True, always=True).splits["train"]

    def decode(self, x: Tensor, *, means: bool = False) -> pd.DataFrame:
        """Returns x as a table: with names, words, dates, units and dtypes.

        Args:
            x: Values as the model has them, shape ``(N, number of columns of x)``; NaN where an
                entry is missing. Places between two levels become the nearer one.
            means: Whether whole numbers, those with few decimals and 0/1 are left between two of
                them, as means are.

        Raises:
            ValueError: If it has another shape.
        """
        from pyro_vae.data.decoding import decoded

        return decoded(self.x, x, means=means)

    def spec(self) -> dict[str, Any]:
        """Returns it ready for JSON and YAML."""
        content: dict[str, Any] = {"columns": {field.name: field.spec() for field in self.columns}}
        return content | ({"notes": list(self.notes)} if self.notes else {})

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Schema:
        """Reads what :meth:`spec` returned.

        Args:
            spec: ``columns``, the fields by name, and ``notes``.

        Returns:
            The schema.

        Raises:
            ValueError: If it is something else.
        """
        columns, notes = spec.get("columns"), spec.get("notes", [])
        if not isinstance(columns, Mapping) or not isinstance(notes, list):
            raise expected("schema", "a mapping of columns under the key columns", dict(spec))
        fields = [Field.from_spec(str(name), own) for name, own in columns.items()]
        return cls(tuple(fields), tuple(map(str, notes)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it as YAML, or as JSON where the path ends in ``.json``."""
        path = Path(path)
        path.write_text(self.text(json_too=path.suffix == ".json"), encoding="utf-8")

    def text(self, *, json_too: bool = False) -> str:
        """Returns it as YAML.

        Args:
            json_too: Whether the text is JSON as well, which YAML includes.
        """
        if json_too:
            return json.dumps(self.spec(), indent=2, ensure_ascii=False) + "\n"
        return yaml.safe_dump(self.spec(), sort_keys=False, allow_unicode=True)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Schema:
        """Reads a complete schema from a file of YAML or JSON.

        Args:
            path: Of the file.

        Returns:
            The schema.

        Raises:
            ValueError: If there is no such file, or it holds something else.
        """
        return cls.from_spec({"columns": {}} | _content(Path(path)))

    def __str__(self) -> str:
        from pyro_vae.data.printing import printed

        return printed(self, _WIDTH)


SchemaLike: TypeAlias = Schema | Mapping[str, Any] | str | os.PathLike[str] | None
"""A schema, what is known of some columns by their names, or the file that says it."""


def overrides(
    schema: SchemaLike, kinds: str | Mapping[str, str] | None, names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Returns what is known of columns before their values are looked at, by their names.

    Args:
        schema: A schema; a mapping from names to kinds, or to mappings of what a :class:`Field`
            has; or a file of either.
        kinds: Kinds of some columns, as ``income=positive,mood=ordinal`` or a mapping.
        names: Those of the table.

    Raises:
        ValueError: If it is none of these, or about a column that there is not.

    Example:
        >>> overrides({"age": "positive"}, "mood=ordinal", ["age", "mood"])
        {'age': {'kind': 'positive'}, 'mood': {'kind': 'ordinal'}}
    """
    found: dict[str, dict[str, Any]] = {}
    if isinstance(schema, Schema):
        found = {field.name: field.spec() for field in schema.columns}
    elif schema is not None:
        content = schema if isinstance(schema, Mapping) else _content(Path(schema))
        content = content.get("columns", content)
        if not isinstance(content, Mapping):
            raise expected("schema", "a mapping from columns to kinds", content)
        content = {k: v for k, v in content.items() if k not in ("schema", "notes") or k in names}
        for name, own in content.items():
            given = {"kind": own} if isinstance(own, str) else own
            found[str(name)] = _checked(str(name), given)
    for name in found:
        beside = found[name].get("role") or found[name].get("kind") in _LEFT_OUT
        if name not in names and not beside:
            raise unknown_name("schema", name, names)
    for name, kind in _pairs(kinds).items():
        if name not in names:
            raise unknown_name("kinds", name, names)
        found[name] = _checked(name, {"kind": kind}, "kinds")
    return found


def _pairs(kinds: str | Mapping[str, str] | None) -> dict[str, str]:
    if kinds is None or isinstance(kinds, Mapping):
        return dict(kinds or {})
    found = {}
    for pair in filter(None, kinds.split(",")):
        name, equals, kind = (part.strip() for part in pair.rpartition("="))
        if not (name and equals and kind):
            raise expected("kinds", "NAME=KIND, with commas between several", kinds)
        found[name] = kind
    return found


def _checked(name: str, spec: object, argument: str = "schema") -> dict[str, Any]:
    """What is said of a column, of the right types.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(spec, Mapping):
        raise expected(f"{argument}: {name}", f"a kind, one of {', '.join(KINDS)}", spec)
    known = {each.name for each in dataclasses.fields(Field)} - {"name"}
    given = dict(spec)
    for key, value in given.items():
        if key not in known:
            raise unknown_name(f"{argument}: {name}", key, sorted(known))
        if key == "levels":
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise expected(f"{argument}: {name}", "a list of levels", value)
            if len(set(value)) < len(value) or not all(isinstance(v, Level) for v in value):
                raise expected(f"{argument}: {name}", "words or numbers, all different", value)
            given[key] = tuple(value)
        elif key in ("offset", "start"):
            if not is_number(value):
                raise expected(f"{argument}: {name}", f"a number for {key}", value)
        elif key == "decimals":
            if not isinstance(value, int) or isinstance(value, bool) or value < -1:
                raise expected(f"{argument}: {name}", "a whole number from -1 for decimals", value)
        elif not isinstance(value, str):
            raise expected(f"{argument}: {name}", f"a text for {key}", value)
    if given.get("kind") == "weight":
        raise expected(f"{argument}: {name}", f"{NO_WEIGHTS} (--drop {name})", "weight")
    if "kind" in given and given["kind"] not in KINDS:
        raise unknown_name(f"{argument}: {name}", given["kind"], KINDS)
    return given


def _content(path: Path) -> dict[str, Any]:
    """The mapping that a file of YAML or JSON holds."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_LARGEST + 1)
        content = _yaml.load(text, _MOST) if len(text) <= _LARGEST else None
    except FileNotFoundError:
        raise expected("schema", "an existing YAML or JSON file", str(path)) from None
    except _yaml.Excess as error:
        raise expected("schema", str(error), str(path)) from None
    except (yaml.YAMLError, ValueError, ArithmeticError, OSError):
        raise expected("schema", "a readable YAML or JSON file", str(path)) from None
    if not isinstance(content, dict):
        raise expected("schema", f"a mapping from columns to kinds in {path}", content)
    return content
