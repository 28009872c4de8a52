"""How many joint states of discrete variables are listed."""

from __future__ import annotations

__all__ = ["MAX_ENUMERATED"]

MAX_ENUMERATED = 2**16
