"""Text as rows of numbers: one line a row, a level for each character or word, then an end.

A :class:`Vocabulary` says which levels these are. Level 0 ends a line, and fills what is left of
its row; where the vocabulary is limited, level 1 stands for whatever is not in it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from pyro_vae._errors import expected, plural, positive_integer, unknown_name

__all__ = ["Text", "TextUnit", "TooLong", "Vocabulary", "encoded_lines"]

TextUnit: TypeAlias = Literal["characters", "words"]
"""What has a level."""

TooLong: TypeAlias = Literal["cut", "drop"]
"""What becomes of lines of more levels than a row has."""

_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
_MARK = re.compile(r"[^\w\s]")
_UNKNOWN = "�"
_LONGEST = 256  # levels of a row, unless more are asked for


@dataclass(frozen=True)
class Vocabulary:
    """The levels of lines of text, and how many a line has at most.

    A word is letters and digits, with apostrophes between them and what is written over or under
    them, or one mark; spaces are not kept, and decoding puts one before each word, but for marks.

    Args:
        unit: ``characters`` or ``words``.
        symbols: They, in the order of their levels.
        length: Levels of a row, L. A line of so many has no end.
        unknown: Whether level 1 stands for all that are not among them.

    Raises:
        ValueError: If the unit is unknown, the length no positive integer, or two symbols the same.

    Example:
        >>> vocabulary = Vocabulary("characters", ("a", "b"), length=4)
        >>> vocabulary.encode(["ab", "b"])
        tensor([[1., 2., 0., 0.],
                [2., 0., 0., 0.]])
        >>> vocabulary.decode(vocabulary.encode(["ab", "b"]))
        ['ab', 'b']
    """

    unit: TextUnit
    symbols: tuple[str, ...]
    length: int
    unknown: bool = False

    end: ClassVar[int] = 0
    """The level that ends a line."""

    def __post_init__(self) -> None:
        if self.unit not in get_args(TextUnit):
            raise unknown_name("text", self.unit, get_args(TextUnit))
        positive_integer("length", self.length)
        if not all(isinstance(each, str) and each for each in self.symbols):
            raise expected("symbols", "texts that are not empty", list(self.symbols))
        if len(set(self.symbols)) < len(self.symbols):
            raise expected("symbols", "texts that are all different", list(self.symbols))

    @property
    def first(self) -> int:
        """The level of the first symbol."""
        return 2 if self.unknown else 1

    @property
    def levels(self) -> int:
        """How many there are, K: the symbols, the end, and what is unknown if anything may be."""
        return self.first + len(self.symbols)

    @property
    def names(self) -> tuple[str, ...]:
        """What each level is written as, shape ``(K,)``; the end is nothing."""
        return ("", *([_UNKNOWN] if self.unknown else ()), *self.symbols)

    def split(self, line: str) -> list[str]:
        """Returns the characters or words of a line."""
        return list(line) if self.unit == "characters" else _words(line)

    def encode(self, lines: str | Iterable[str]) -> Tensor:
        """Returns lines as levels, float32 of shape ``(N, L)``; one that is too long is cut.

        Args:
            lines: One or several.

        Raises:
            ValueError: If a line holds a symbol that is unknown, where none may be.
        """
        lines = [lines] if isinstance(lines, str) else list(lines)
        rows = np.zeros((len(lines), self.length), dtype=np.float32)
        known = {symbol: at for at, symbol in enumerate(self.symbols, self.first)}
        for row, line in zip(rows, lines, strict=True):
            for at, symbol in enumerate(self.split(line)[: self.length]):
                if symbol not in known and not self.unknown:
                    what = f"one of the {plural(len(self.symbols), 'symbol')} of the vocabulary"
                    raise expected("text", what, symbol)
                row[at] = known.get(symbol, 1)
        return torch.from_numpy(rows)

    def decode(self, x: Tensor) -> list[str]:
        """Returns rows of levels as lines, up to their ends.

        Args:
            x: Shape ``(N, L)``.

        Raises:
            ValueError: If it has another shape, or a number in it is no level.
        """
        if x.ndim != 2 or x.shape[1] != self.length:
            raise expected("x", f"shape (N, {self.length}), as the vocabulary has rows", x)
        if not bool(((x >= 0) & (x < self.levels) & (x == x.round())).all()):
            raise expected("x", f"levels from 0 to {self.levels - 1}", x)
        names = self.names
        lines = []
        for row in x.long().tolist():
            over = row.index(self.end) if self.end in row else len(row)
            lines.append(self._joined([names[level] for level in row[:over]]))
        return lines

    def _joined(self, symbols: Sequence[str]) -> str:
        if self.unit == "characters":
            return "".join(symbols)
        apart = ("" if each != _UNKNOWN and _MARK.fullmatch(each) else " " for each in symbols)
        return "".join(map("".join, zip(apart, symbols, strict=True))).lstrip()

    def spec(self) -> dict[str, Any]:
        """Returns it ready for JSON."""
        named = {"unit": self.unit, "length": self.length, "unknown": self.unknown}
        return named | {"symbols": list(self.symbols)}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Vocabulary:
        """Reads what :meth:`spec` returned.

        Raises:
            ValueError: If it is something else.
        """
        unit, length, symbols = spec.get("unit"), spec.get("length"), spec.get("symbols")
        unknown = spec.get("unknown", False)
        if not isinstance(symbols, list) or not isinstance(unknown, bool):
            raise expected("vocabulary", "a unit, a length and a list of symbols", dict(spec))
        return cls(unit, tuple(symbols), length, unknown)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        named = f"{self.unit!r}, {plural(len(self.symbols), 'symbol')}, length={self.length}"
        return f"Vocabulary({named}, unknown={self.unknown})"


@dataclass(frozen=True)
class Text:
    """How lines of text become rows.

    Args:
        unit: What has a level; None for characters, which is then logged.
        max_length: Levels of a row at most; by default those of the longest line, up to 256.
        too_long: Whether longer lines are ``cut`` or left out (``drop``); ``cut`` by default.
        vocabulary_size: Symbols at most, the most frequent ones: others are one symbol, unknown.
            By default all that there are.
        vocabulary: That of other data, which these are to be like.

    Raises:
        ValueError: If an option is not what it should be.
    """

    unit: TextUnit | None = None
    max_length: int | None = None
    too_long: TooLong | None = None
    vocabulary_size: int | None = None
    vocabulary: Vocabulary | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("text", self.unit, get_args(TextUnit)),
            ("too_long", self.too_long, get_args(TooLong)),
        ):
            if value is not None and value not in known:
                raise unknown_name(name, value, known)
        for name, size in (
            ("max_length", self.max_length),
            ("vocabulary_size", self.vocabulary_size),
        ):
            if size is not None:
                positive_integer(name, size)
        if self.max_length == 1:
            raise expected("max_length", "two or more", 1)

    def given(self) -> dict[str, Any]:
        """Returns what was asked for, by the names of the arguments of ``load``."""
        found = {"text": self.unit, "max_length": self.max_length, "too_long": self.too_long}
        found["vocabulary_size"] = self.vocabulary_size
        return {name: value for name, value in found.items() if value is not None}


def _words(line: str) -> list[str]:
    """The words of a line; accents, vowel signs and joiners of their own are no marks in it."""
    words: list[str] = []
    goes_on, over = False, 0
    for match in _WORD.finditer(line):
        part = match[0]
        category = unicodedata.category(part[0])
        combines = category[0] == "M" or category == "Cf"
        if words and match.start() == over and (combines or (goes_on and part[0].isalnum())):
            words[-1] += part
        else:
            words.append(part)
        goes_on, over = combines and words[-1][0].isalnum(), match.end()
    return words


def encoded_lines(lines: Sequence[str], how: Text) -> tuple[Tensor, Vocabulary, list[str]]:
    """Returns lines as levels, with their vocabulary, and what was done to them.

    Args:
        lines: Those of a text; empty ones are left out.
        how: How they are read.

    Returns:
        Rows, float32 of shape ``(N, L)``; the vocabulary; and notes, a line each.

    Raises:
        ValueError: If nothing is left, or new lines hold symbols that the vocabulary lacks.
    """
    notes: list[str] = []
    kept = [(at, line) for at, line in enumerate(lines, 1) if line.strip()]
    if len(kept) < len(lines):
        notes.append(f"left out {_lines(len(lines) - len(kept))} without a character")
    unit = how.vocabulary.unit if how.vocabulary else how.unit or "characters"
    splitter = Vocabulary(unit, (), 1)
    split = [(at, splitter.split(line)) for at, line in kept]
    longest = max((len(each) for _, each in split), default=0)
    if how.vocabulary is not None:
        length = how.vocabulary.length
    else:
        length = max(2, min(longest, how.max_length or _LONGEST))
    if (count := sum(len(each) > length for _, each in split)) > 0:
        drop = how.too_long == "drop"
        note = f"{'left out' if drop else 'cut'} {_lines(count)} of more than {length} {unit}"
        if how.vocabulary is not None:
            notes.append(f"{note}, the most that the model takes; the longest has {longest}")
        else:
            notes.append(
                f"{note}, up to {longest}; `max_length` (--max-length) keeps more, `too_long` "
                f"(--too-long {'cut' if drop else 'drop'}) "
                f"{'cuts them' if drop else 'leaves them out'}"
            )
        split = [(at, each[:length]) for at, each in split if not (drop and len(each) > length)]
    if not split:
        raise expected("data", "lines of text that are not all empty or too long", len(lines))
    vocabulary = how.vocabulary or _vocabulary(unit, [each for _, each in split], length, how)
    known = {symbol: at for at, symbol in enumerate(vocabulary.symbols, vocabulary.first)}
    unknown: Counter[str] = Counter()
    rows = np.zeros((len(split), length), dtype=np.float32)
    for row, (at, symbols) in zip(rows, split, strict=True):
        for place, symbol in enumerate(symbols):
            if symbol not in known:
                if not vocabulary.unknown:
                    raise _strange(symbol, at, vocabulary)
                unknown[symbol] += 1
            row[place] = known.get(symbol, 1)
    if unknown:
        total = sum(map(len, (each for _, each in split)))
        notes.append(
            f"took {plural(len(unknown), 'symbol')} that the vocabulary lacks for one, unknown: "
            f"{unknown.total():,} of {total:,} {unit}"
        )
    if how.vocabulary is None:
        asked = "" if how.unit else "; `text` (--text words) reads words"
        notes.insert(
            0,
            f"{_lines(len(rows))} of text: {len(vocabulary.symbols):,} {unit} and the end, "
            f"{length} a line at most{asked}",
        )
    return torch.from_numpy(rows), vocabulary, notes


def _vocabulary(
    unit: TextUnit, split: Sequence[Sequence[str]], length: int, how: Text
) -> Vocabulary:
    """The vocabulary of lines: characters by their code, words by how often they occur."""
    counts = Counter(symbol for each in split for symbol in each)
    by_count = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))
    limited = how.vocabulary_size is not None and how.vocabulary_size < len(by_count)
    symbols = by_count[: how.vocabulary_size]
    return Vocabulary(
        unit, tuple(sorted(symbols) if unit == "characters" else symbols), length, limited
    )


def _strange(symbol: str, line: int, vocabulary: Vocabulary) -> ValueError:
    what = (
        f"one of the {plural(len(vocabulary.symbols), 'symbol')} of the vocabulary in line {line}"
    )
    way = "; a model that is fitted with `vocabulary_size` (--vocabulary-size) takes it for unknown"
    return ValueError(f"{expected('data', what, symbol)}{way}")


def _lines(count: int) -> str:
    return plural(count, "line")
