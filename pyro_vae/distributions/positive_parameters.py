"""Positive parameters by way of softplus."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["SCALE_FLOOR", "inverse_positive", "positive"]

SCALE_FLOOR = 1e-4


def positive(raw: Tensor) -> Tensor:
    """Maps real numbers to positive ones: ``softplus(raw) + 1e-4``."""
    return F.softplus(raw) + SCALE_FLOOR


def inverse_positive(value: Tensor) -> Tensor:
    """Inverts :func:`positive`; values at or below its floor are taken just above it."""
    above = (value - SCALE_FLOOR).clamp_min(SCALE_FLOOR)
    return above + torch.log(-torch.expm1(-above))
