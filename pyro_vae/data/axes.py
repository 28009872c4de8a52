"""What the dimensions of a tensor of observations are called, as long as there is the tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

if TYPE_CHECKING:
    from pyro_vae.data.schema import Schema

__all__ = ["Axes", "axes_of", "keep_axes"]

# Keyed by identity and weakly: a split that is handed on alone still knows what its columns are
# called, and a data set that nobody holds is freed.
_axes: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


@dataclass(frozen=True)
class Axes:
    """What the dimensions of some observations are called, and the places along them.

    Attributes:
        dims: Names of the dimensions of one observation; empty where they have none.
        coords: Labels along these dimensions, by name.
        names: Of the entries of one observation, of a table.
        index: Labels of the observations; None where they are counted.
        schema: What the columns of a table are; None for other data.
        symbols: What the levels of a text are called.
    """

    dims: tuple[str, ...] = ()
    coords: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    index: Any = None
    schema: Schema | None = None
    symbols: tuple[str, ...] = ()


def keep_axes(x: Tensor, axes: Axes) -> None:
    """Notes what the dimensions of a tensor are called, as long as there is the tensor."""
    if axes.dims or axes.names or axes.index is not None or axes.symbols:
        _axes[x] = axes


def axes_of(x: Tensor) -> Axes:
    """Returns what is known of the dimensions of a tensor, which is recognised by identity."""
    found: Axes = _axes.get(x, Axes())
    return found
