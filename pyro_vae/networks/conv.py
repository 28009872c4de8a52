"""A small pair of convolutional networks for images."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import nn

from pyro_vae._errors import expected
from pyro_vae.networks.convolving import ConvolvingDecoder, ConvolvingEncoder
from pyro_vae.networks.network import Activation, activation_layer
from pyro_vae.networks.norm import Norm, check_norm, norm_of_channels

__all__ = ["ConvDecoder", "ConvEncoder", "check_channels", "halved"]

log = logging.getLogger("pyro_vae")

_CHANNELS = (1, 3, 4)  # of grey, colour, and colour with transparency


def halved(size: int, times: int) -> int:
    """Returns a size that is halved so many times, rounded up each time."""
    for _ in range(times):
        size = (size + 1) // 2
    return size


def _image_shape(argument: str, shape: Sequence[int]) -> tuple[int, int, int]:
    """Returns channels, height and width of an image; warns where they look like something else.

    Raises:
        ValueError: If the shape is that of no image.
    """
    if len(shape) != 3:
        what = f"data of shape (C, H, W) for Conv{argument.capitalize()}"
        error = expected(argument, what, tuple(shape))
        hint = "; x[:, None], or layout='no-channels' of `pv.data.load`, adds a channel"
        raise ValueError(f"{error}{hint if len(shape) == 2 else ''}")
    depth, height, width = shape
    if width in _CHANNELS and min(depth, height) > max(_CHANNELS):
        log.warning("`%s`: data of shape %s are convolved as %d channels of %d x %d: if the "
                    "channels are last, x.movedim(-1, 1), or `layout` of `pv.data.load`, puts them "
                    "first", argument, tuple(shape), depth, height, width)  # fmt: skip
    return depth, height, width


def check_channels(channels: Sequence[int], activation: Activation) -> None:
    """Refuses what are no widths of layers, and unknown activations.

    Raises:
        ValueError: If it is so.
    """
    if isinstance(channels, int):
        raise expected("channels", f"widths of layers, such as ({channels},)", channels)
    if not channels or any(width < 1 for width in channels):
        raise expected("channels", "one or more positive widths", channels)
    activation_layer(activation)


class ConvEncoder(ConvolvingEncoder):
    """Creates strided convolutions from an image to a vector.

    Each layer halves height and width; one linear map follows.

    References:
        Striving for Simplicity: The All Convolutional Net (Springenberg et al., 2015),
        https://arxiv.org/abs/1412.6806

    Args:
        channels: Channels after each halving.
        activation: As in :class:`MLP`.
        norm: As in :class:`MLP`: ``batch``, a channel at a time; ``layer``, over the channels and
            pixels of each image.

    Raises:
        ValueError: If a number of channels is not positive, or the activation or the normalisation
            is unknown.

    Example:
        >>> net = ConvEncoder(channels=(8, 16))
        >>> net.build((1, 28, 28), (20,))
        >>> net(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 20])
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 64),
        activation: Activation = "silu",
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        check_channels(channels, activation)
        self.channels = tuple(channels)
        self.activation = activation
        self.norm = check_norm(norm)
        self.layers = nn.Sequential()
        self.out_shape = torch.Size()

    def build(self, in_shape: Sequence[int], out_shape: Sequence[int], cond_size: int = 0) -> None:
        depth, height, width = _image_shape("encoder", in_shape)
        depth += cond_size
        layers: list[nn.Module] = []
        for before, after in zip((depth, *self.channels[:-1]), self.channels, strict=True):
            # A bias before batch normalisation is subtracted again, and has no gradient.
            bias = self.norm != "batch"
            layers.append(nn.Conv2d(before, after, 3, stride=2, padding=1, bias=bias))
            layers += norm_of_channels(self.norm, after)
            layers.append(activation_layer(self.activation))
        times = len(self.channels)
        pixels = halved(height, times) * halved(width, times)
        head = nn.Linear(self.channels[-1] * pixels, math.prod(out_shape))
        self.layers = nn.Sequential(*layers, nn.Flatten(), head)
        self.out_shape = torch.Size(out_shape)


class ConvDecoder(ConvolvingDecoder):
    """Creates transposed convolutions from a vector to an image, the mirror of ConvEncoder.

    The last layer has a bias a pixel rather than a channel, so that it can start at the
    marginal of the data.

    References:
        Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks
        (Radford et al., 2016), https://arxiv.org/abs/1511.06434

    Args:
        channels: Channels before each doubling of height and width.
        activation: As in :class:`MLP`.
        norm: As in :class:`MLP`: ``batch``, a channel at a time; ``layer``, over the channels and
            pixels of each image.

    Raises:
        ValueError: If a number of channels is not positive, or the activation or the normalisation
            is unknown.

    Example:
        >>> net = ConvDecoder(channels=(16, 8))
        >>> net.build((20,), (1, 28, 28))
        >>> net(torch.zeros(5, 20)).shape
        torch.Size([5, 1, 28, 28])
    """

    def __init__(
        self,
        channels: Sequence[int] = (64, 32),
        activation: Activation = "silu",
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        check_channels(channels, activation)
        self.channels = tuple(channels)
        self.activation = activation
        self.norm = check_norm(norm)
        self.layers = nn.Sequential()
        self.bias = nn.Parameter(torch.zeros(0))
        self.out_shape = torch.Size()

    def build(self, in_shape: Sequence[int], out_shape: Sequence[int], cond_size: int = 0) -> None:
        depth, height, width = _image_shape("decoder", out_shape)
        times = len(self.channels)
        small = (halved(height, times), halved(width, times))
        first = math.prod(in_shape) + cond_size, self.channels[0] * math.prod(small)
        plain = self.norm != "batch"
        layers: list[nn.Module] = [
            nn.Flatten(),
            nn.Linear(*first, bias=plain),
            nn.Unflatten(1, (self.channels[0], *small)),
        ]
        for i, before in enumerate(self.channels):
            after = self.channels[i + 1] if i + 1 < times else depth
            # Sizes that are not powers of two grow back to what the encoder halved.
            size = (halved(height, times - i - 1), halved(width, times - i - 1))
            grown = (halved(height, times - i), halved(width, times - i))
            odd = tuple(2 * g - s for g, s in zip(grown, size, strict=True))
            layers += [
                *norm_of_channels(self.norm, before),
                activation_layer(self.activation),
                nn.ConvTranspose2d(
                    before,
                    after,
                    3,
                    stride=2,
                    padding=1,
                    output_padding=(1 - odd[0], 1 - odd[1]),
                    bias=plain and i + 1 < times,
                ),
            ]
        self.layers = nn.Sequential(*layers)
        self.bias = nn.Parameter(torch.zeros(*out_shape))
        self.out_shape = torch.Size(out_shape)
