"""Numbers as the page writes them."""

from __future__ import annotations

import math

__all__ = ["number", "p_value", "percent"]


def number(value: float | None, digits: int = 2) -> str:
    """A number of so many digits, a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}".replace("-", "−")


def p_value(value: float) -> str:
    """A p-value, small ones by their bound."""
    if math.isnan(value):
        return "–"
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def percent(share: float | None) -> str:
    """A share as a percentage."""
    return "–" if share is None else f"{share:.0%}"
