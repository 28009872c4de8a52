"""Images as arrays: bytes, channels first, of one size; and what arrays of images are told by."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from pyro_vae._errors import expected, positive_integer, unknown_name
from pyro_vae.data.raw import Raw

__all__ = [
    "Layout",
    "as_in_file",
    "as_pixels",
    "in_layout",
    "looks_channels_last",
    "size_of",
    "stacked",
    "top_of",
]

log = logging.getLogger("pyro_vae")

Layout = Literal["channels-first", "channels-last", "no-channels"]
_CHANNELS = (1, 3, 4)  # of grey, colour, and colour with transparency
_TOPS = (255, 65535)  # of bytes, and of 16 bits


def size_of(resize: int | Sequence[int] | None) -> tuple[int, int] | None:
    """Returns height and width of what was asked for: both, or one number for a square.

    Raises:
        ValueError: If it is neither.
    """
    if resize is None:
        return None
    sizes = list(resize) if isinstance(resize, Sequence) else [resize, resize]
    if isinstance(resize, str) or len(sizes) != 2:
        raise expected("resize", "a size, or a height and a width", resize)
    height, width = (positive_integer("resize", size) for size in sizes)
    return height, width


def as_pixels(picture: Any, resize: tuple[int, int] | None) -> np.ndarray:
    """Returns a picture of Pillow's as levels, shape ``(C, H, W)``: grey 1, colour 3.

    It is turned as its camera noted. Transparency is refused unless nothing is transparent.

    Args:
        picture: The picture.
        resize: Height and width that it is to have, by averaging; None leaves it.

    Raises:
        ValueError: If parts of it are transparent.
    """
    from PIL import Image, ImageOps  # slow, and few need it

    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        alpha = np.asarray(picture.convert("RGBA"))[..., 3]
        if alpha.min() < 255:
            raise expected("data", "pictures without transparency", f"mode {picture.mode}")
        picture = picture.convert("L" if picture.mode == "LA" else "RGB")
    elif picture.mode == "1":
        picture = picture.convert("L")
    elif picture.mode not in ("L", "RGB", "I;16", "I;16B", "I", "F"):
        picture = picture.convert("RGB")
    if resize is not None and picture.size != resize[::-1]:
        picture = picture.resize(resize[::-1], Image.Resampling.BOX)
    pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def stacked(values: Sequence[Any], argument: str, names: Sequence[str]) -> Any:
    """Returns observations as one array; grey pictures among those in colour have equal channels.

    Args:
        values: One array or tensor each.
        argument: What to call the data in an error.
        names: What to call each.

    Raises:
        ValueError: If they are of several shapes.
    """
    depths = {each.shape[0] for each in values if each.ndim == 3}
    if depths == {1, 3} and all(isinstance(each, np.ndarray) for each in values):
        values = [np.repeat(each, 3, 0) if len(each) == 1 else each for each in values]
    first = values[0]
    for each, name in zip(values, names, strict=True):
        if each.shape != first.shape:
            what = f"observations of one shape ({names[0]} has {tuple(first.shape)})"
            hint = "; `resize` (--resize) gives images one size" if first.ndim > 1 else ""
            error = expected(argument, what, tuple(each.shape))
            raise ValueError(f"{error} of {name}{hint}")
    if all(isinstance(each, Tensor) for each in values):
        return torch.stack(list(values))
    return np.stack([np.asarray(each) for each in values])


def looks_channels_last(shape: Sequence[int]) -> bool:
    """Returns whether the shape of one observation is that of an image, channels last.

    Example:
        >>> looks_channels_last((28, 28, 1)), looks_channels_last((3, 32, 32))
        (True, False)
    """
    return len(shape) == 3 and shape[2] in _CHANNELS and min(shape[:2]) > max(_CHANNELS)


def in_layout(raw: Raw, layout: Layout | None) -> Raw:
    """Returns images with their channels first, where they came with their channels last.

    Args:
        raw: Values of any shape.
        layout: Which dimension of arrays ``(N, ., ., .)`` are the channels; None tells by their
            sizes: 1, 3 or 4, where no other dimension is so small. Of series ``(N, T, C)`` the last
            are the channels, if that is asked for. Without channels, arrays ``(N, ., .)`` are given
            one.

    Raises:
        ValueError: If the first and the last could both be, there is no such layout, or arrays have
            other dimensions.
    """
    if layout is not None and layout not in get_args(Layout):
        raise unknown_name("layout", layout, get_args(Layout))
    shape = tuple(raw.splits["train"].shape[1:])
    if raw.image and layout is not None:
        raise expected("layout", "None with pictures, whose channels are known", layout)
    if raw.image:
        return raw
    dimensions = {"channels-last": (2, 3), "no-channels": (2,)}
    if layout in dimensions and len(shape) not in dimensions[layout]:
        wanted = "(N, H, W)" if layout == "no-channels" else "(N, H, W, C) or (N, T, C)"
        raise expected("layout", f"{layout} with data of shape {wanted}", shape)
    if layout == "no-channels":
        dims = ("channel", *raw.dims) if raw.dims else ()
        return replace(raw, splits={k: x[:, None] for k, x in raw.splits.items()}, dims=dims)
    if layout != "channels-last" and (len(shape) != 3 or (layout is None and raw.dims)):
        return raw
    last = looks_channels_last(shape)
    if layout is None:
        # Of height 1 there are no images: what has one entry first has one channel.
        if shape[0] in _CHANNELS[1:] and shape[2] in _CHANNELS and shape[1] not in _CHANNELS:
            what = "channels-first or channels-last (--layout), which both could be"
            raise expected("layout", what, shape)
        if not last:
            return raw
        log.warning("images of shape %s have their channels last, and are served with channels "
                    "first: `layout=\"channels-first\"` (--layout) keeps them", shape)  # fmt: skip
    elif layout == "channels-first":
        return raw
    dims = (raw.dims[-1], *raw.dims[:-1]) if raw.dims else ()
    splits = {split: x.movedim(-1, 1).contiguous() for split, x in raw.splits.items()}
    return replace(raw, splits=splits, dims=dims)


def as_in_file(x: Tensor, shape: Sequence[int], layout: str | None) -> Tensor:
    """Returns values as :func:`in_layout` served them with their dimensions as they came.

    Args:
        x: What was served, or of the same shape, ``(*, *event_shape)``.
        shape: That of one observation as it came.
        layout: The layout that was asked for.

    Example:
        >>> as_in_file(torch.zeros(5, 6, 100), (100, 6), "channels-last").shape
        torch.Size([5, 100, 6])
    """
    if layout == "no-channels":
        return x.squeeze(-3)
    last = layout == "channels-last" or (layout is None and looks_channels_last(shape))
    return x.movedim(-len(shape), -1) if last else x


def top_of(raw: Raw) -> int:
    """Returns the top level of integer levels: that of bytes, or of 16 bits.

    Raises:
        ValueError: If they are no integers from 0 to one of these, or none is above 1.
    """
    values = [x[~x.isnan()] for x in raw.splits.values()]
    values = [each for each in values if len(each) > 0]
    highest = max(float(each.max()) for each in values)
    whole = all(bool((each.round() == each).all() and each.min() >= 0) for each in values)
    top = next((top for top in _TOPS if highest <= top), None)
    if not whole or highest <= 1 or top is None:
        got = f"{'integers' if whole else 'numbers'} up to {highest:g}"
        raise expected("rescale", "integer levels, 0 to 255 (or 65535), to be divided by", got)
    return top
