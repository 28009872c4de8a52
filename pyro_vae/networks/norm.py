"""Normalisation between the layers of a network."""

from __future__ import annotations

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from pyro_vae._errors import unknown_name

__all__ = ["Norm", "check_norm", "norm_of_channels", "norm_of_features"]

Norm = Literal["batch", "layer"]


def check_norm(norm: Norm | None) -> Norm | None:
    """Returns a kind of normalisation, or None.

    Raises:
        ValueError: If it is neither of the known ones nor None.
    """
    if norm is not None and norm not in get_args(Norm):
        raise unknown_name("norm", norm, (*get_args(Norm), "None"))
    return norm


def norm_of_features(norm: Norm | None, width: int) -> list[nn.Module]:
    """Returns what normalises vectors ``(B, width)``, in a list that is empty without it."""
    if norm is None:
        return []
    return [_BatchNorm1d(width) if norm == "batch" else nn.LayerNorm(width)]


def norm_of_channels(norm: Norm | None, channels: int, dims: int = 2) -> list[nn.Module]:
    """Returns what normalises images ``(B, channels, H, W)``, likewise.

    Layer normalisation of an image is over channels and pixels, with a scale a channel.

    Args:
        norm: The kind of normalisation.
        channels: How many there are.
        dims: Of a channel: 2 of images, 1 of series ``(B, channels, T)``.
    """
    if norm is None:
        return []
    if norm == "layer":
        return [nn.GroupNorm(1, channels)]
    return [_BatchNorm2d(channels) if dims == 2 else _BatchNorm1d(channels)]


class _OfOneRow(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation by the running statistics, too, while training on a batch of one row.

    A row by itself has no spread that would stand for that of data.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and len(input) == 1:
            kept = self.running_mean, self.running_var, self.weight, self.bias
            return F.batch_norm(input, *kept, training=False, eps=self.eps)
        return super().forward(input)


class _BatchNorm1d(_OfOneRow, nn.BatchNorm1d):
    """Of vectors, or of series, a channel at a time."""


class _BatchNorm2d(_OfOneRow, nn.BatchNorm2d):
    """Of images, a channel at a time."""
