"""Rows: observations with what goes with each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pyro_vae._given import rows
from pyro_vae.vae import VAE

__all__ = ["Rows"]


@dataclass(frozen=True)
class Rows:
    """Observations, and what goes with each of them.

    Attributes:
        x: The observations, shape ``(N, *event_shape)``.
        others: What goes with them, by the names of the programs' arguments.
    """

    x: Tensor
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_labels(self) -> int:
        """How many observations have a label."""
        return int((self.others["labels"] >= 0).sum()) if "labels" in self.others else 0

    @property
    def given(self) -> dict[str, Any]:
        """What there is, by the names of the programs' arguments."""
        return {"x": self.x, **self.others}

    def without_labels(self) -> Rows:
        """The same, of no class that is known."""
        return Rows(self.x, {k: v for k, v in self.others.items() if k != "labels"})

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> Rows:
        return Rows(self.x[index], rows(self.others, index))

    def checked(self, vae: VAE, argument: str) -> Rows:
        """The same as the model takes them."""
        others = vae.check_given(self.x, **self.others)
        return Rows(vae.check(self.x, argument, others.get("mask")), others)

    def batches(self, size: int) -> Iterator[Rows]:
        """Yields so many at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]
