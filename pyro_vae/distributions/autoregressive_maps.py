"""Autoregressive maps by zuko, which is imported only where one is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae._errors import expected, positive_integer

__all__ = ["Autoregressive", "zuko"]

_BINS = 8
_START = 0.1  # of the usual size of the last weights: a map that begins near the identity


def zuko() -> Any:
    """Returns zuko, without what importing it does to everybody's distributions.

    It switches their validation off, for the whole process.
    """
    validates = Distribution._validate_args
    try:
        import zuko as library
    finally:
        Distribution.set_default_validate_args(validates)
    return library


class Autoregressive(nn.Module):
    """A chain of maps, each of whose outputs depends on the inputs up to its own.

    One pass through the networks maps; the way back takes as many passes as there are dimensions.

    References:
        Masked Autoregressive Flow for Density Estimation (Papamakarios et al., 2017),
        https://arxiv.org/abs/1705.07057
        Neural Spline Flows (Durkan et al., 2019), https://arxiv.org/abs/1906.04032

    Args:
        dim: Number of dimensions.
        context: Number of features that the maps depend on beside their inputs; 0 for none.
        transforms: Number of maps in the chain, of alternating order.
        hidden: Widths of the hidden layers of each of their networks.
        spline: Whether the maps of single entries are monotonic splines on [-5, 5], the identity
            elsewhere; else they are affine.

    Raises:
        ValueError: If a size is not positive.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Autoregressive:
        # What is unpickled next are classes of zuko, imported by name.
        zuko()
        return super().__new__(cls)

    def __init__(
        self, dim: int, *, context: int, transforms: int, hidden: Sequence[int], spline: bool
    ) -> None:
        super().__init__()
        transforms = positive_integer("transforms", transforms)
        if not hidden or any(width < 1 for width in hidden):
            raise expected("hidden", "positive widths", hidden)
        library = zuko()
        options: dict[str, Any] = {}
        if spline:
            options["univariate"] = library.transforms.MonotonicRQSTransform
            options["shapes"] = [(_BINS,), (_BINS,), (_BINS - 1,)]
        ascending = torch.arange(dim)
        self.maps = nn.ModuleList(
            library.flows.MaskedAutoregressiveTransform(
                dim,
                context,
                order=ascending if i % 2 == 0 else ascending.flip(0),
                hidden_features=tuple(hidden),
                activation=nn.SiLU,
                **options,
            )
            for i in range(transforms)
        )
        with torch.no_grad():
            for each in self.maps:
                for parameter in list(each.parameters())[-2:]:
                    parameter.mul_(_START)

    def __repr__(self) -> str:
        # Those of zuko draw random numbers.
        return f"{type(self).__name__}({len(self.maps)} maps)"

    def forward(self, context: Tensor | None = None) -> Any:
        """Returns the map, a transform whose ``call_and_ladj`` is one pass."""
        return zuko().transforms.ComposedTransform(*(each(context) for each in self.maps))
