"""Imputation of missing entries by values of other observations (hot deck)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["hot_deck"]


def hot_deck(x: Tensor, mask: Tensor, filler: Tensor) -> Tensor:
    """Replaces missing entries by observed values of the same entry, drawn at random.

    Args:
        x: Data, shape ``(N, *event_shape)``.
        mask: Which entries are observed, of the same shape.
        filler: In place of an entry that no row has observed, shape ``event_shape``.

    Returns:
        Complete data, of the same shape.
    """
    # Observed rows first, in random order; then one of those for each row.
    order = torch.where(mask, torch.rand_like(x), 2.0).argsort(0)
    count = mask.sum(0)
    rank = (torch.rand_like(x) * count).long().clamp_max(len(x) - 1)
    donors = x.gather(0, order.gather(0, rank))
    return torch.where(mask, x, torch.where(count > 0, donors, filler))
