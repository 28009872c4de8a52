"""Which rows are held out: at random, the last ones, whole groups, or those of later times."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyro_vae._errors import expected
from pyro_vae.data.raw import Raw

__all__ = ["HeldOut", "held_out", "split_column", "step_in_order"]

_OPTIONS = {"column": "split", "time": "time"}
_LOOKED_AT = 2000  # pairs of rows


class HeldOut:
    """Creates what hands out the rows of a table, and keeps those that are left.

    Args:
        order: The rows, those to be held out first.
        groups: The group of each row, of which none is torn apart; None where each is its own.
        in_order: Whether what is taken is put in the order of the rows.
    """

    def __init__(
        self, order: Tensor, groups: Tensor | None = None, *, in_order: bool = False
    ) -> None:
        self.left = order
        self._groups, self._in_order = groups, in_order

    def take(self, count: int) -> Tensor:
        """Returns about so many rows, whole groups, and no longer has them."""
        if self._groups is not None and 0 < count < len(self.left):
            of_rows = self._groups[self.left]
            ends = (of_rows[1:] != of_rows[:-1]).nonzero().flatten() + 1
            if len(ends) == 0:
                raise expected("split", "more groups than splits", f"{len(self.left)} rows of one")
            count = int(ends[(ends - count).abs().argmin()])
        taken, self.left = self.left[:count], self.left[count:]
        return taken.sort().values if self._in_order else taken


def split_column(split: str) -> tuple[str, str] | None:
    """Returns what rows are held out by, of ``column NAME`` and ``time NAME``.

    Returns:
        The option that asks for a column beside x, ``split`` for groups and ``time`` for times,
        and its name; None if rows are held out by themselves.

    Raises:
        ValueError: If it is no way to split rows.

    Example:
        >>> split_column("column patient"), split_column("time visit"), split_column("random")
        (('split', 'patient'), ('time', 'visit'), None)
    """
    how, _, name = split.partition(" ") if isinstance(split, str) else ("", "", "")
    if how in _OPTIONS and name.strip():
        return _OPTIONS[how], name.strip()
    if split not in ("random", "blocks"):
        raise expected("split", "random, blocks, `column NAME` or `time NAME`", split)
    return None


def held_out(raw: Raw, split: str, seed: int) -> HeldOut:
    """Returns what hands out the rows of a source.

    Args:
        raw: The source, with the column of groups or of times beside it.
        split: ``random``, ``blocks``, ``column NAME`` or ``time NAME``.
        seed: Of the order of rows or groups.

    Raises:
        ValueError: If the source brings its own splits, and they are to be others.
    """
    if split != "random" and set(raw.splits) != {"train"}:
        raise expected("split", "random, as the data bring their own splits", split)
    size = len(raw.splits["train"])
    if split == "blocks":
        return HeldOut(torch.arange(size).flip(0), in_order=True)
    # NumPy promises that this generator's stream never changes, so that fingerprints last.
    random = np.random.RandomState(seed)
    if (by := split_column(split)) is None:
        return HeldOut(torch.from_numpy(random.permutation(size)))
    option, name = by
    groups = raw.columns[name]["train"].unique(return_inverse=True)[1]
    if option == "time":  # the latest first, and rows of one time together
        return HeldOut((-groups).argsort(stable=True), groups, in_order=True)
    place = torch.from_numpy(random.permutation(int(groups.max()) + 1))
    return HeldOut(place[groups].argsort(stable=True), groups)


def step_in_order(raw: Raw) -> float:
    """Returns how far apart rows are that follow one another, of what random pairs are.

    About 1 where the order means nothing; NaN where there are too few rows. It is the ratio of two
    mean absolute differences of standardised entries.
    """
    x = raw.splits["train"].flatten(1)
    if len(x) < 3:
        return float("nan")
    first = torch.linspace(0, len(x) - 2, min(len(x) - 1, _LOOKED_AT)).long()
    other = torch.from_numpy(np.random.RandomState(0).permutation(len(first)))
    some = x[first].double()
    scale = (some - some.nanmean(0)).square().nanmean(0).sqrt()
    seen = scale > 0

    def apart(a: Tensor, b: Tensor) -> Tensor:
        return ((x[a].double() - x[b].double())[:, seen] / scale[seen]).abs().nanmean()

    # A permutation may leave some rows where they are: a row is no random pair with itself.
    moved = other != torch.arange(len(other))
    return float(apart(first, first + 1) / apart(first[moved], first[other[moved]]))
