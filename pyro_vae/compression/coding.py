"""Rows onto a stack of bits by a model, and back: BB-ANS and Bit-Swap."""

from __future__ import annotations

from itertools import zip_longest

import numpy as np

from pyro_vae._errors import expected
from pyro_vae.compression.codec import Codec, sizes_of_blocks
from pyro_vae.compression.container import Header, pack, unpack
from pyro_vae.compression.same import (
    alike,
    check_same,
    digest_of,
    digest_of_array,
    machine,
    without_gradients,
)
from pyro_vae.compression.stack import Stack, initial_bits
from pyro_vae.compression.taken import array_of, check_shape, check_values, taken
from pyro_vae.data.rows import RowsLike
from pyro_vae.programs import VAE

__all__ = ["compress", "decompress"]

_SPARE = 2  # words, in which the top of a stack may be


@without_gradients()
def compress(vae: VAE, x: RowsLike) -> bytes:
    """Compresses data to what :func:`decompress` makes the very same array of.

    The file is as long as the bound says: minus the ELBO of the rows, and less than 1 % more from
    grids and tables; and for the first row the random bits that its latents are taken from. To
    read it takes the model, and the same versions and kind of processor: networks are run in one
    thread and batches of one size, so that both ends compute the same numbers, which is checked.

    References:
        Practical Lossless Compression with Latent Variables using Bits Back Coding
        (Townsend, Bird and Barber, 2019), https://arxiv.org/abs/1901.04866
        Bit-Swap: Recursive Bits-Back Coding for Lossless Compression with Hierarchical Latent
        Variables (Kingma, Abbeel and Ho, 2019), https://arxiv.org/abs/1905.06845

    Args:
        vae: The model: a likelihood of binary data, levels or counts; priors ``Normal``,
            ``Laplace``, ``Hierarchy`` or a ``Product`` of these, and guides ``Normal``,
            ``FullNormal``, ``Hierarchy`` or such a ``Product``. No conditions, no covariates.
        x: Whole numbers of any dtype, shape ``(N, *event_shape)``; dimensions of size 1 may be
            missing or more.

    Returns:
        The file.

    Raises:
        ValueError: If the model has another part, or data do not suit it, lack entries, or hold a
            number that is not whole, below 0, or 16^12 or more.
    """
    model = taken(vae)
    array = array_of(x, "x")
    check_shape(model, array.shape, "x")
    check_values(model, array)
    with alike(model):
        codec = Codec(model)
        words = initial_bits(codec.initial_words)
        stack = Stack(words)
        flat = array.reshape(len(array), -1)
        end = len(array)
        for size in sizes_of_blocks(len(array)):
            codec.encode(stack, flat[end - size : end].astype(np.int64))
            end -= size
        numbers = codec.digest()
    found = stack.words()
    # What was on the stack before and was not touched needs no place in the file.
    same = int((found[: len(words)] == words[: len(found)]).cumprod().sum())
    header = Header(
        dtype=array.dtype.str,
        shape=array.shape,
        words=len(found) - same,
        initial=len(words) - same,
        model=digest_of(model),
        numbers=numbers,
        data=digest_of_array(array),
        machine=machine(),
    )
    return pack(header, found[same:])


@without_gradients()
def decompress(vae: VAE, content: bytes) -> np.ndarray:
    """Returns the array that :func:`compress` was given.

    Args:
        vae: The model that compressed it.
        content: The file.

    Returns:
        The array, of the shape ``(N, ...)`` and dtype that it had.

    Raises:
        ValueError: If the file is damaged, was written with another model or other versions, or
            this machine computes other numbers: nothing else is ever returned.
    """
    model = taken(vae)
    header, words = unpack(content)
    check_shape(model, header.shape, "content")
    check_same("by the model", header.model, digest_of(model))
    ways = zip_longest(header.machine.split(", "), machine().split(", "), fillvalue="nothing")
    for written, own in ways:
        check_same("with", written, own)
    with alike(model):
        codec = Codec(model)
        before = initial_bits(codec.initial_words)
        if header.initial > len(before):
            raise expected("content", f"at most {len(before)} initial words", header.initial)
        stack = _stack_of(np.concatenate([before[: len(before) - header.initial], words]))
        array = np.empty((header.shape[0], model.event_shape.numel()), header.dtype)
        start, least = 0, max(1, len(before) - header.initial - _SPARE)
        for size in sizes_of_blocks(len(array), backwards=True):
            rows = codec.decode(stack, size)
            if start == 0:
                check_same("where the first rows have parameters", header.numbers, codec.digest())
            with np.errstate(over="ignore", invalid="ignore"):
                array[start : start + size] = rows
            start += size
            if len(stack) < least:  # coding never had fewer: what follows would be made of nothing
                raise expected("content", f"bits for {header.shape[0]} rows", f"fewer, for {start}")
    array = array.reshape(header.shape)
    if not np.array_equal(stack.words(), before) or digest_of_array(array) != header.data:
        raise expected("content", "data of the digest that was written", "others")
    return array


def _stack_of(words: np.ndarray) -> Stack:
    """Returns a stack with the words of a file on it.

    Raises:
        ValueError: If a stack has no such words.
    """
    try:
        return Stack(words)
    except ValueError as error:
        raise expected("content", "words as a stack leaves them", str(error)) from None
