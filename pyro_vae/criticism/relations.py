r"""Statistics of how things hang together: rows that follow one another, means given z, triples.

With columns standardised in each data set, s of x and h of z or of a condition,

.. math:: \frac{1}{N} \sum_n s_{n,d}\, s_{n+1,d}, \quad
    \frac{1}{N} \sum_n s_{n,d}\, h_k(z_n), \quad
    \frac{1}{N} \sum_n s_{n,i}\, s_{n,j}\, s_{n,k}

Each is compared with that of replicates, whose rows are independent and were encoded by the same
guide: so a guide's error rejects no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.criticism._entries import support_of
from pyro_vae.criticism._measures import Statistic, standardized
from pyro_vae.criticism._of_sequences import Symbols, end_of
from pyro_vae.criticism._of_tables import Expanded
from pyro_vae.criticism._replicates import cycled, draw_prior, prior_of, simulate
from pyro_vae.criticism.latent import latent_entries
from pyro_vae.data.entries import Entry
from pyro_vae.data.rows import Rows
from pyro_vae.distributions import AngleSupport
from pyro_vae.programs import Amortized

__all__ = ["Seen", "interactions", "relations"]

_COLUMNS = 64  # entries that are looked at: of more, some that lie evenly among those that vary
_TRIPLED = 16  # of which all triples are looked at: 560
_VARIES = 0.95  # of draws have one value where an entry does not vary enough to be looked at
_FUNCTIONS = 4000  # means given z, at most: beyond that of squares alone
_SLOW = 8  # cosines along the rows: half a period to four
_FAR = 3.0  # standard deviations: what lies beyond would outweigh all others in a product of three
_REFERENCE = 500  # draws by which levels and varying entries are chosen


class Seen:
    """The columns of x as statistics of their relations see them.

    Levels without an order one by one, positive numbers by their logarithms, angles by cosine and
    sine. Nothing depends on how levels are coded. Of sequences that end their lengths and symbols.

    Attributes:
        names: Of the columns.
        of: The entry that each is of; none of a column of whole sequences.

    Args:
        vae: The model.
        reference: Draws of x, shape ``(N, D)``.
        entries: The entries of x.
        most: Entries that are looked at.
    """

    def __init__(
        self, vae: Amortized, reference: Tensor, entries: Sequence[Entry], most: int
    ) -> None:
        self._table: Expanded | Symbols
        self._logs, self._angles = torch.zeros(0, dtype=torch.bool), list[int]()
        if (end := end_of(vae)) is not None:
            self._table = Symbols(reference, end, entries)
            self.names = self._table.names
            self.of: tuple[tuple[Entry, ...], ...] = ((),) * len(self.names)
            return
        if len(entries) > most:
            same = (reference == reference.mode(0).values).double().mean(0)
            varied = [each for each in entries if same[each.index] < _VARIES] or [*entries]
            step = max(1.0, len(varied) / most)
            entries = [varied[int(i * step)] for i in range(min(most, len(varied)))]
        self._table = table = Expanded(reference, entries)
        supports = {each.index: support_of(vae, each) for each in entries}
        of = [supports[each.index] for each in table.of]
        self._logs = torch.tensor([each is constraints.positive for each in of])
        self._angles = [i for i, each in enumerate(of) if isinstance(each, AngleSupport)]
        self._others = [i for i in range(len(of)) if i not in self._angles]
        names = table.names
        self.names = (
            *(names[i] for i in self._others),
            *(f"{function} {names[i]}" for function in ("cos", "sin") for i in self._angles),
        )
        self.of = tuple((table.of[i],) for i in (*self._others, *self._angles, *self._angles))

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the columns of ``x``, shape ``(*, N, D)``."""
        x = self._table(x)
        if self._logs.any():
            logs = self._logs.to(x.device)
            x = torch.where(logs, torch.where(logs, x, 1.0).log(), x)
        if self._angles:
            turned = x[..., self._angles]
            x = torch.cat([x[..., self._others], turned.cos(), turned.sin()], -1)
        return x


def interactions(
    vae: Amortized, reference: Tensor, entries: Sequence[Entry]
) -> tuple[Statistic, ...]:
    """Mean products of three entries of x, of which correlations know nothing.

    There is none where x has fewer than three entries.

    References:
        On measuring interactions of three: Multivariate cumulants (Streitberg, 1990),
        https://doi.org/10.1214/aos/1176347885

    Args:
        vae: The model.
        reference: Draws of x, shape ``(N, D)``.
        entries: The entries of x.
    """
    seen = Seen(vae, reference, entries, _TRIPLED)
    at = [each.index for of in seen.of for each in of]  # sequences as wholes have no triples
    triples = [
        (i, j, k) for i, j, k in combinations(range(len(at)), 3) if len({at[i], at[j], at[k]}) == 3
    ]
    if not triples:
        return ()
    pairs = sorted({(i, j) for i, j, _ in triples})
    left, right = torch.tensor(pairs).unbind(1)
    place = {pair: n for n, pair in enumerate(pairs)}
    first = torch.tensor([place[i, j] for i, j, _ in triples])
    third = torch.tensor([k for *_, k in triples])

    def function(x: Tensor) -> Tensor:
        found = []
        x = x.flatten(x.ndim - len(vae.event_shape))
        for one in standardized(seen(x)).clamp(-_FAR, _FAR):  # of all at once there are too many
            # Columns that lie side by side are copied as a whole: a quarter of the time.
            columns = one.T.contiguous()
            products = columns.index_select(0, left.to(x.device))
            products.mul_(columns.index_select(0, right.to(x.device)))
            found.append((products @ one / len(one))[first.to(x.device), third.to(x.device)])
        return torch.stack(found)

    return (
        Statistic(
            "interactions",
            function,
            tuple(", ".join(seen.names[i] for i in triple) for triple in triples),
            tuple(tuple(seen.of[i][0] for i in triple) for triple in triples),
        ),
    )


def relations(
    vae: Amortized, rows: Rows, order: Tensor, entries: Sequence[Entry]
) -> tuple[Statistic, ...]:
    """Statistics of x and z together, ``(R, N, D + K)``: row order and conditional means.

    ``row order``: of each column of x and of z the correlation of rows that follow one another, and
    the share of its variance that changes slowly along the rows, as eight cosines do. Replicates
    are given what the rows are given, so that an order that conditions bring is no misfit.

    ``conditional means``: how x goes with squares and products of z, where a wrong link bends what
    the model has straight, and with each condition and covariate and its square.

    Args:
        vae: The model.
        rows: Data, with what goes with them.
        order: Where each row of them was found.
        entries: The entries of x.
    """
    given, size = rows.given, vae.event_shape.numel()
    reference = simulate(vae, 1, _REFERENCE, cycled(given, _REFERENCE))[0].flatten(1)
    prior = draw_prior(prior_of(vae, cycled(given, _REFERENCE)), 1, _REFERENCE)[0].flatten(1)
    seen, z = Seen(vae, reference, entries, _COLUMNS), Expanded(prior, latent_entries(vae))
    return (
        _row_order(seen, z, size, order),
        _conditional_means(seen, z, size, rows),
    )


def _row_order(seen: Seen, latents: Expanded, size: int, order: Tensor) -> Statistic:
    places, length = order.argsort(), len(order)
    along = (torch.arange(length, dtype=torch.float64) + 0.5) / length
    frequencies = math.pi * torch.arange(1, _SLOW + 1, dtype=torch.float64)
    waves = (2 / length) ** 0.5 * torch.cos(frequencies[:, None] * along)

    def function(both: Tensor) -> Tensor:
        columns = torch.cat([seen(both[..., :size]), latents(both[..., size:])], -1)
        ordered = standardized(columns)[:, places]
        next_to = (ordered[:, 1:] * ordered[:, :-1]).mean(1)
        slow = (waves.to(ordered) @ ordered).square().sum(1) / length
        return torch.cat([next_to, slow], -1)

    names = (*seen.names, *latents.names)
    of: tuple[tuple[Entry, ...], ...] = (
        *seen.of,
        *(() for _ in latents.names),
    )
    next_to = tuple(f"{name} in rows that follow one another" for name in names)
    slow = tuple(f"{name}, its slow change along the rows" for name in names)
    titles = (*(f"correlation of {each}" for each in next_to), *slow)
    return Statistic("row order", function, (*next_to, *slow), of * 2, titles=titles)


def _conditional_means(seen: Seen, latents: Expanded, size: int, rows: Rows) -> Statistic:
    known, names = _known(rows)
    of_z, count = latents.names, len(latents.names)
    if count * (count + 1) // 2 * len(seen.names) > _FUNCTIONS:
        i = j = torch.linspace(0, count - 1, min(count, _COLUMNS)).long()
    else:
        i, j = torch.triu_indices(count, count)
    squares = (
        f"{of_z[a]} squared" if a == b else f"{of_z[a]} times {of_z[b]}"
        for a, b in zip(i.tolist(), j.tolist(), strict=True)
    )
    given = (*squares, *names)

    def function(both: Tensor) -> Tensor:
        x, z = standardized(seen(both[..., :size])), standardized(latents(both[..., size:]))
        left, right = (z.index_select(-1, each.to(z.device)) for each in (i, j))
        functions = standardized(left.mul_(right))
        functions = torch.cat([functions, known.expand(len(x), -1, -1)], -1)
        return (functions.mT @ x / x.shape[1]).flatten(1)

    columns = tuple(f"{name} given {what}" for what in given for name in seen.names)
    of = seen.of * len(given)
    titles = tuple(f"mean of {each}" for each in columns)
    return Statistic("conditional means", function, columns, of, titles=titles)


def _known(rows: Rows) -> tuple[Tensor, tuple[str, ...]]:
    """Conditions and covariates and, where they have more than two values, squares: ``(N, C)``."""
    columns, names = [], list[str]()
    for name, value in rows.without("mask", "labels").tensors().items():
        flat = value.to(rows.x).reshape(len(rows), -1)
        some = torch.linspace(0, flat.shape[1] - 1, min(flat.shape[1], _COLUMNS)).long().tolist()
        for place in some:
            label = name if flat.shape[1] == 1 else f"{name}[{place}]"
            column = standardized(flat[:, [place]])
            columns.append(column)
            names.append(label)
            if len(column.unique()) > 2:
                columns.append(standardized(column.square()))
                names.append(f"{label} squared")
    return torch.cat(columns, 1) if columns else rows.x.new_zeros(len(rows), 0), tuple(names)
