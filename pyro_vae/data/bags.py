"""Texts as bags of words: counts of the words of a vocabulary, and the sentences of a text."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_vae._errors import expected

__all__ = ["bag_of_words", "sentences", "words_of_text"]

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
# A sentence ends with its sign, which what closes a quotation may follow.
_END = re.compile(r"[.!?…][\"'”’»)\]]*\s+(?=[\"'“‘«(\[]*([^\W_]))")
_EMPTY_LINE = re.compile(r"\n\s*\n")
# What has a full stop before a name: titles, and initials.
_TITLE = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|[A-ZÀ-Þ])\.$")


def words_of_text(text: str) -> list[str]:
    """Returns the words of a text, in small letters, without numbers' and sentences' signs.

    Example:
        >>> words_of_text("He didn't win, did he?")
        ['he', "didn't", 'win', 'did', 'he']
    """
    return _WORD.findall(_plain(text))


def _plain(text: str) -> str:
    """Returns a text in small letters, whose marks are as most vocabularies have them."""
    return unicodedata.normalize("NFC", text).lower().replace("’", "'")


def bag_of_words(texts: Sequence[str], vocabulary: Sequence[str]) -> Tensor:
    """Counts the words of texts; those that are not in the vocabulary are left out.

    Args:
        texts: As people write them, N of them.
        vocabulary: V words; of two that differ by capitals alone, the small one is counted.

    Returns:
        Counts, float32 of shape ``(N, V)``, as a model of counts takes them.

    Raises:
        ValueError: If the vocabulary has no words, or texts are no list of them.

    Example:
        >>> bag_of_words(["A ship, a sail.", "The wind"], ["sail", "a", "wind"])
        tensor([[1., 2., 0.],
                [0., 0., 1.]])
    """
    if isinstance(texts, str):
        raise expected("texts", "a list of texts", texts)
    place = {_plain(word): i for i, word in enumerate(vocabulary)}
    place |= {word: i for i, word in enumerate(vocabulary) if word == _plain(word)}
    if not place:
        raise expected("vocabulary", "words", vocabulary)
    counts = torch.zeros(len(texts), len(vocabulary))
    for row, text in zip(counts, texts, strict=True):
        for word, count in Counter(words_of_text(text)).items():
            if word in place:
                row[place[word]] = count
    return counts


def sentences(text: str) -> list[str]:
    r"""Returns the sentences of a text, each on one line.

    A sentence ends with a full stop, a question or an exclamation mark before a digit or a letter
    that is not small, or with an empty line. Titles such as "Mr." and initials are no ends; other
    abbreviations before names are taken for ends.

    Args:
        text: Any text.

    Example:
        >>> sentences("It rained. We stayed\nat home!\n\nthe end")
        ['It rained.', 'We stayed at home!', 'the end']
    """
    found = []
    for part in _EMPTY_LINE.split(text):
        start = 0
        for end in _END.finditer(part):
            if not (
                end[1].islower()
                or _TITLE.search(end.string[max(0, end.start() - 5) : end.start() + 1])
            ):
                found.append(part[start : end.end()])
                start = end.end()
        found.append(part[start:])
    return [" ".join(each.split()) for each in found if words_of_text(each)]
