"""Columns beside x that data are conditioned on, and what a network sees of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae._errors import expected, unknown_name

__all__ = ["Column", "columns_by_name"]

_TAKEN = {"cond", "labels", "mask", "size_factor", "x"}
_MOST_LEVELS = 1000  # what more there is has a vector of that length for each observation


@dataclass(frozen=True)
class Column:
    """A column of conditions: integers become one-hot vectors, other numbers are standardised.

    Words are integers that count them in alphabetical order.

    Args:
        name: What it is called.
        levels: The integers that it holds; None if it holds real numbers.
        loc: What is subtracted from real numbers: their mean in the training data.
        scale: What they are then divided by: their standard deviation there.
        words: What the integers 0, 1, ... stand for, if it holds words.

    Example:
        >>> digit = Column.of("digit", torch.tensor([3, 8, 3]), torch.tensor([3, 8, 3]))
        >>> digit.encode(torch.tensor([8]))
        tensor([[0., 1.]])
        >>> kind = Column.of("kind", torch.tensor([0]), torch.tensor([0, 1]), ["cat", "dog"])
        >>> kind.read("dog")
        tensor([[0., 1.]])
    """

    name: str
    levels: tuple[int, ...] | None = None
    loc: float = 0.0
    scale: float = 1.0
    words: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, train: Tensor, every: Tensor, words: Sequence[str] = ()) -> Column:
        """Returns the column of these values.

        Args:
            name: What it is called.
            train: Those of the training data, shape ``(N,)``.
            every: Those of all data, whose integers are the levels.
            words: What the integers stand for, if it holds words.

        Raises:
            ValueError: If a one-hot vector of it would have more than 1000 entries.
        """
        if words or (every == every.round()).all():
            levels = range(len(words)) if words else every.unique().tolist()
            if len(levels) > _MOST_LEVELS:
                what = f"at most {_MOST_LEVELS} different integers or words in {name}"
                raise expected("cond", what, len(levels))
            return cls(name, levels=tuple(map(int, levels)), words=tuple(words))
        spread = float(train.double().std(correction=0))
        return cls(name, loc=float(train.double().mean()), scale=spread if spread > 0 else 1.0)

    @property
    def size(self) -> int:
        """Entries of a condition that are of this column."""
        return 1 if self.levels is None else len(self.levels)

    def encode(self, values: Tensor, words: Sequence[str] | None = None) -> Tensor:
        """Returns what a network sees of values ``(N,)``: shape ``(N, size)``.

        Args:
            values: Numbers, or places of words.
            words: The words that they are places in, none if they are numbers; those of the column
                if not given.

        Raises:
            ValueError: If a value is none of the levels, or a word none of the words.
        """
        if words is not None and (words or self.words):
            if not (words and self.words):
                raise expected(
                    self.name, "a number" if words else str(self), [*words, "numbers"][0]
                )
            for word in words:
                if word not in self.words:
                    raise unknown_name(self.name, word, self.words)
            places = torch.tensor([self.words.index(word) for word in words])
            values = places[values.long()]
        if self.levels is None:
            return ((values.double() - self.loc) / self.scale).float()[:, None]
        known = values[:, None] == torch.tensor(self.levels, device=values.device)
        if not (found := known.any(1)).all():
            value, levels = values[~found][0].item(), map(str, self.levels)
            raise unknown_name(self.name, f"{value:g}", levels)
        return known.float()

    def read(self, text: str) -> Tensor:
        """Returns the condition of one value, as it is written: shape ``(1, size)``.

        Raises:
            ValueError: If it is no number, or none of the levels; or none of the words.
        """
        if self.words:
            if text not in self.words:
                raise unknown_name(self.name, text, self.words)
            return self.encode(torch.tensor([self.words.index(text)]))
        try:
            value = float(text)
        except ValueError:
            raise expected(self.name, f"a number, {self}", text) from None
        return self.encode(torch.tensor([value], dtype=torch.float64))

    def spec(self) -> dict[str, Any]:
        """Returns it ready for JSON."""
        if self.words:
            return {"name": self.name, "words": list(self.words)}
        if self.levels is None:
            return {"name": self.name, "loc": self.loc, "scale": self.scale}
        return {"name": self.name, "levels": list(self.levels)}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Column:
        """Reads what :meth:`spec` returned.

        Raises:
            TypeError: If it is something else.
        """
        if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
            raise TypeError("a column without a name")
        given = dict(spec)
        name, levels = given.pop("name"), given.pop("levels", None)
        if (words := given.pop("words", None)) is not None:
            if not isinstance(words, list) or not all(isinstance(each, str) for each in words):
                raise TypeError(f"{name}: words that are none")
            return cls(name, levels=tuple(range(len(words))), words=tuple(words), **given)
        if levels is not None:
            if not isinstance(levels, list) or not all(isinstance(each, int) for each in levels):
                raise TypeError(f"{name}: levels that are no integers")
            return cls(name, levels=tuple(levels), **given)
        if not all(isinstance(value, int | float) for value in given.values()):
            raise TypeError(f"{name}: what is no number")
        column = cls(name, **given)
        if column.scale <= 0:
            raise TypeError(f"{name}: a scale that is not positive")
        return column

    def __str__(self) -> str:
        if self.levels is None:
            return "a real one"
        return f"one of {', '.join(map(str, self.words or self.levels))}"


def columns_by_name(argument: str, pairs: str | Mapping[str, str] | None) -> dict[str, str]:
    """Returns what is written as ``name=column``, with commas between several, as a mapping.

    Args:
        argument: What to call it in an error.
        pairs: The text, or the mapping itself; None if there is none.

    Raises:
        ValueError: If a pair is none, or a name is there twice.

    Example:
        >>> columns_by_name("covariates", "noise=sd, exposure=days")
        {'noise': 'sd', 'exposure': 'days'}
    """
    if not pairs:
        return {}
    found: dict[str, str] = dict(pairs) if isinstance(pairs, Mapping) else {}
    for pair in () if isinstance(pairs, Mapping) else pairs.split(","):
        name, equals, column = (part.strip() for part in pair.partition("="))
        if not (equals and name.isidentifier() and column) or name in found:
            raise expected(argument, "NAME=COLUMN, with commas between several", pairs)
        found[name] = column
    for name in found.keys() & _TAKEN:
        raise expected(argument, "names other than those of the other options", name)
    return found
