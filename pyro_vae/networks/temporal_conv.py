"""A pair of convolutional networks for time series."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import nn

from pyro_vae._errors import expected, positive_integer
from pyro_vae.networks.conv import check_channels, halved
from pyro_vae.networks.convolving import ConvolvingDecoder, ConvolvingEncoder
from pyro_vae.networks.network import Activation, activation_layer
from pyro_vae.networks.norm import Norm, check_norm, norm_of_channels

__all__ = ["TemporalConvDecoder", "TemporalConvEncoder"]

log = logging.getLogger("pyro_vae")


def _series_shape(argument: str, shape: Sequence[int]) -> tuple[int, int]:
    """Returns channels and steps of a series; warns where they look swapped.

    Raises:
        ValueError: If the shape is that of no series.
    """
    way = "`layout='channels-last'` of `pv.data.load` serves (N, T, C) so, x.movedim(-1, 1) too"
    if len(shape) != 2:
        what = f"data of shape (C, T), channels by steps, for TemporalConv{argument.capitalize()}"
        raise ValueError(f"{expected(argument, what, tuple(shape))}; {way}")
    channels, steps = shape
    if channels > 2 * steps:  # of a series, its mask and its predicted scales there are as many
        log.warning("`%s`: data of shape %s are convolved as %d channels of %d steps: if time "
                    "comes first, %s", argument, tuple(shape), channels, steps, way)  # fmt: skip
    return channels, steps


def _check_kernel(kernel_size: int) -> int:
    size = positive_integer("kernel_size", kernel_size)
    if size % 2 == 0:
        raise expected("kernel_size", "an odd number, so that steps stay where they are", size)
    return size


class TemporalConvEncoder(ConvolvingEncoder):
    """Creates strided convolutions over time, from a series to a vector.

    Each layer halves the number of steps; one linear map follows. Series are ``(C, T)``, channels
    by steps of time.

    References:
        Time Series Classification from Scratch with Deep Neural Networks: A Strong Baseline
        (Wang et al., 2017), https://arxiv.org/abs/1611.06455

    Args:
        channels: Channels after each halving.
        kernel_size: Steps that a convolution sees at once; odd.
        activation: As in :class:`MLP`.
        norm: As in :class:`MLP`: ``batch``, a channel at a time; ``layer``, over the channels and
            steps of each series.

    Raises:
        ValueError: If a number of channels is not positive, the kernel is even, or the activation
            or the normalisation is unknown.

    Example:
        >>> net = TemporalConvEncoder(channels=(8, 16))
        >>> net.build((6, 100), (20,))
        >>> net(torch.zeros(5, 6, 100)).shape
        torch.Size([5, 20])
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 64),
        kernel_size: int = 5,
        activation: Activation = "silu",
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        check_channels(channels, activation)
        self.channels = tuple(channels)
        self.kernel_size = _check_kernel(kernel_size)
        self.activation = activation
        self.norm = check_norm(norm)
        self.layers = nn.Sequential()
        self.out_shape = torch.Size()

    def build(self, in_shape: Sequence[int], out_shape: Sequence[int], cond_size: int = 0) -> None:
        depth, steps = _series_shape("encoder", in_shape)
        depth += cond_size
        layers: list[nn.Module] = []
        for before, after in zip((depth, *self.channels[:-1]), self.channels, strict=True):
            # A bias before batch normalisation is subtracted again, and has no gradient.
            layers.append(_conv(before, after, self.kernel_size, 2, bias=self.norm != "batch"))
            layers += norm_of_channels(self.norm, after, dims=1)
            layers.append(activation_layer(self.activation))
        left = self.channels[-1] * halved(steps, len(self.channels))
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(left, math.prod(out_shape)))
        self.out_shape = torch.Size(out_shape)


class TemporalConvDecoder(ConvolvingDecoder):
    """Creates a network from a vector to a series: coarse in time, then finer and finer.

    Each layer doubles the number of steps, by linear interpolation, and convolves: what is
    interpolated has no pattern of a stride, so that series are smooth. The fewer steps there are to
    begin with, the smoother: with n layers, one in about 2^n. The last layer has a bias a step, so
    that it can start at the marginal of the data.

    References:
        Deconvolution and Checkerboard Artifacts (Odena et al., 2016),
        https://doi.org/10.23915/distill.00003

    Args:
        channels: Channels before each doubling of the number of steps.
        kernel_size: Steps that a convolution sees at once; odd.
        activation: As in :class:`MLP`.
        norm: As in :class:`MLP`: ``batch``, a channel at a time; ``layer``, over the channels and
            steps of each series.

    Raises:
        ValueError: If a number of channels is not positive, the kernel is even, or the activation
            or the normalisation is unknown.

    Example:
        >>> net = TemporalConvDecoder(channels=(16, 8))
        >>> net.build((20,), (6, 100))
        >>> net(torch.zeros(5, 20)).shape
        torch.Size([5, 6, 100])
    """

    def __init__(
        self,
        channels: Sequence[int] = (64, 32),
        kernel_size: int = 5,
        activation: Activation = "silu",
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        check_channels(channels, activation)
        self.channels = tuple(channels)
        self.kernel_size = _check_kernel(kernel_size)
        self.activation = activation
        self.norm = check_norm(norm)
        self.layers = nn.Sequential()
        self.bias = nn.Parameter(torch.zeros(0))
        self.out_shape = torch.Size()

    def build(self, in_shape: Sequence[int], out_shape: Sequence[int], cond_size: int = 0) -> None:
        depth, steps = _series_shape("decoder", out_shape)
        times = len(self.channels)
        coarse = halved(steps, times)
        plain = self.norm != "batch"
        layers: list[nn.Module] = [
            nn.Flatten(),
            nn.Linear(math.prod(in_shape) + cond_size, self.channels[0] * coarse, bias=plain),
            nn.Unflatten(1, (self.channels[0], coarse)),
        ]
        for i, before in enumerate(self.channels):
            is_last = i + 1 == times
            after = depth if is_last else self.channels[i + 1]
            finer = halved(steps, times - i - 1)
            layers += [
                *norm_of_channels(self.norm, before, dims=1),
                activation_layer(self.activation),
                nn.Upsample(finer, mode="linear", align_corners=False),
                _conv(before, after, self.kernel_size, 1, bias=plain and not is_last),
            ]
        self.layers = nn.Sequential(*layers)
        self.bias = nn.Parameter(torch.zeros(*out_shape))
        self.out_shape = torch.Size(out_shape)


def _conv(before: int, after: int, size: int, stride: int, *, bias: bool) -> nn.Conv1d:
    """A convolution for which a series goes on as it begins and ends, rather than at zero."""
    padding = {"padding": size // 2, "padding_mode": "replicate"}
    return nn.Conv1d(before, after, size, stride=stride, bias=bias, **padding)  # type: ignore[arg-type]
