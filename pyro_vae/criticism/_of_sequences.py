"""Statistics of sequences that end, such as lines of text: symbols, pairs of them, lengths."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_vae.criticism import _measures as measures
from pyro_vae.criticism._entries import likelihood_of
from pyro_vae.criticism._measures import Statistic
from pyro_vae.data.entries import Entry
from pyro_vae.distributions.autoregressive_levels import ended
from pyro_vae.likelihoods import Autoregressive
from pyro_vae.programs import Amortized

__all__ = ["Symbols", "end_of", "of_sequences"]

_SYMBOLS = 16  # that are counted: the commonest of the model's draws
_PAIRS = 16  # that are counted, likewise


def end_of(vae: Amortized) -> int | None:
    """Returns the level that ends sequences of x; None where x is anything else."""
    likelihood = likelihood_of(vae)
    return likelihood.end if isinstance(likelihood, Autoregressive) else None


class Symbols:
    """The length of each sequence, and how often it has the commonest symbols and pairs of them.

    By its places a sequence has as many columns as places times levels, and their correlations and
    products are far too many to be held; and what stands at a place says little of text.

    Attributes:
        names: Of the columns.

    Args:
        reference: Sequences among which the commonest are sought, shape ``(N, L)``.
        end: The level that ends a sequence.
        entries: The entries of x.
    """

    def __init__(self, reference: Tensor, end: int, entries: Sequence[Entry]) -> None:
        self._end = end
        x = reference.long()
        counted = ~ended(x, end) & (x != end)
        self._levels = 1 + max(int(x.max()), end)
        self._symbols = _commonest(x[counted], _SYMBOLS)
        both = counted[:, 1:] & counted[:, :-1]
        self._pairs = _commonest(self._paired(x)[both], _PAIRS)
        words = entries[0].levels
        named = any(name != str(level) for level, name in enumerate(words))

        def word(level: int) -> str:
            return repr(words[level]) if named and level < len(words) else str(level)

        self.names = (
            "length",
            *(f"count of {word(each)}" for each in self._symbols.tolist()),
            *(
                f"count of {word(each // self._levels)} then {word(each % self._levels)}"
                for each in self._pairs.tolist()
            ),
        )

    def _paired(self, x: Tensor) -> Tensor:
        """Numbers pairs of neighbours; -1 where a level is none that the reference has."""
        pairs = x[..., :-1] * self._levels + x[..., 1:]
        return pairs.masked_fill((x[..., :-1] >= self._levels) | (x[..., 1:] >= self._levels), -1)

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the columns of ``x``, from shape ``(*, N, L)`` to ``(*, N, C)``."""
        levels = x.long()
        counted = ~ended(levels, self._end) & (levels != self._end)
        # What follows an end is no symbol: -1 is neither a symbol nor part of a pair of them.
        symbols = levels.masked_fill(~counted, -1)
        pairs = self._paired(levels).masked_fill(~counted[..., 1:], -1)
        columns = [counted.sum(-1)]
        columns += [(symbols == each).sum(-1) for each in self._symbols.tolist()]
        columns += [(pairs == each).sum(-1) for each in self._pairs.tolist()]
        return torch.stack(columns, -1).to(x.dtype)


def of_sequences(
    reference: Tensor, end: int, entries: Sequence[Entry], event_shape: torch.Size
) -> tuple[Statistic, ...]:
    """Statistics of lengths and counts of symbols; see :func:`default_statistics`."""
    table = Symbols(reference, end, entries)
    scale = table(reference).std(0).clamp_min(1e-12)
    start = len(event_shape)

    def seen(x: Tensor) -> Tensor:
        return table(x.flatten(x.ndim - start))

    names = table.names
    own = [Entry(name, i, kind="count") for i, name in enumerate(names)]
    correlations = measures.correlations(torch.Size([len(names)]), names, own)
    return (
        Statistic("mean", lambda x: measures.mean(seen(x)), names),
        Statistic("spread", lambda x: measures.spread(seen(x)), names),
        Statistic("correlation", lambda x: correlations.function(seen(x)), correlations.columns),
        measures.nearest(lambda x: measures.distances(seen(x) / scale)),
    )


def _commonest(values: Tensor, most: int) -> Tensor:
    """The values that occur most often, in their order."""
    found, counts = values.unique(return_counts=True)
    return found[counts.argsort(descending=True, stable=True)[:most]].sort().values
