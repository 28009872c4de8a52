"""The file of compressed data: a header in JSON, the bits, and a digest of both."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from dataclasses import asdict, dataclass, fields

import numpy as np

from pyro_vae._errors import expected
from pyro_vae._json import loads

__all__ = ["Header", "header_of", "pack", "unpack"]

_MAGIC = b"\x93PVZ\r\n\x1a\n"  # which a transfer as text would change
_FORMAT = 1
_LONGEST = 2**14  # bytes of a header
_DIGEST = 32  # bytes of SHA-256
_DIMENSIONS = 32
# Numbers that a file may claim to hold: beyond, it is made up. The surest entry takes 2^-24 bits.
_ANY, _PER_BYTE = 2**24, 2**20
_MOST_INITIAL = 2**24  # words


@dataclass(frozen=True)
class Header:
    """What a file of compressed data says of itself.

    Attributes:
        dtype: Of the array, as NumPy writes it.
        shape: Of the array.
        words: Words of 32 bits that the data take.
        initial: Words of random bits that were there before any data, and were used.
        model: A digest of the model.
        numbers: A digest of the parameters of the first rows, as they were computed.
        data: A digest of the array, its dtype and its shape.
        machine: What computed: versions and the kind of processor, with a comma between them.
        size: Bytes of the whole file; 0 until it is written.
    """

    dtype: str
    shape: tuple[int, ...]
    words: int
    initial: int
    model: str
    numbers: str
    data: str
    machine: str
    size: int = 0

    @property
    def bits(self) -> int:
        """Bits that the data take, without the initial ones, which come back in decoding."""
        return 32 * (self.words - self.initial)

    @property
    def bits_per_dim(self) -> float:
        """Bits for each number of the array, without the initial ones."""
        return self.bits / math.prod(self.shape)


def header_of(content: bytes) -> Header:
    """Returns what a file of compressed data says of itself; no model is needed.

    Args:
        content: The file.

    Raises:
        ValueError: If it is none, is damaged, or of another format.
    """
    return unpack(content)[0]


def pack(header: Header, words: np.ndarray) -> bytes:
    """Returns a file: the header, and words of 32 bits."""
    written = {"format": _FORMAT} | asdict(header)
    del written["size"]
    text = json.dumps(written, separators=(",", ":")).encode()
    body = _MAGIC + len(text).to_bytes(4, "little") + text + words.astype("<u4").tobytes()
    return body + hashlib.sha256(body).digest()


def unpack(content: bytes) -> tuple[Header, np.ndarray]:
    """Returns the header and the words of a file.

    Raises:
        ValueError: If it is none, is damaged, or of another format.
    """
    start = len(_MAGIC) + 4
    if not isinstance(content, bytes) or not content.startswith(_MAGIC):
        raise expected("content", "what `compress` returned", content)
    body, digest = content[:-_DIGEST], content[-_DIGEST:]
    if len(body) < start or hashlib.sha256(body).digest() != digest:
        what = "what `compress` returned: it is damaged, or its end is missing"
        raise expected("content", what, f"{len(content):,} bytes of another digest")
    length = int.from_bytes(body[len(_MAGIC) : start], "little")
    if length > min(_LONGEST, len(body) - start):
        raise expected("content", f"a header of at most {_LONGEST:,} bytes", length)
    header = _read(body[start : start + length], len(content))
    bits = body[start + length :]
    if len(bits) != 4 * header.words or not 0 <= header.initial <= _MOST_INITIAL:
        raise expected("content", f"{header.words} words of 32 bits", f"{len(bits)} bytes")
    if math.prod(header.shape) > _ANY + _PER_BYTE * len(bits):
        raise expected("content", f"an array that {len(bits)} bytes can hold", header.shape)
    return header, np.frombuffer(bits, "<u4").astype(np.uint32)


def _read(text: bytes, size: int) -> Header:
    """Reads a header, of which nothing is taken for granted.

    Raises:
        ValueError: If it is none, or of another format.
    """
    try:
        found = loads(text)
    except (ValueError, RecursionError) as error:
        raise expected("content", "a header in JSON", str(error)) from None
    if not isinstance(found, dict) or repr(found.pop("format", None)) != str(_FORMAT):
        raise expected("content", f"format {_FORMAT}, which this version reads", text[:40])
    kinds = {each.name: each.type for each in fields(Header) if each.name != "size"}
    names = {"str": str, "int": int, "tuple[int, ...]": list}
    if found.keys() != kinds.keys() or not all(
        type(found[name]) is names[str(kind)] for name, kind in kinds.items()
    ):
        raise expected("content", f"a header of {', '.join(kinds)}", sorted(found))
    shape = found.pop("shape")
    if not 0 < len(shape) <= _DIMENSIONS or not all(type(n) is int and n > 0 for n in shape):
        raise expected("content", f"1 to {_DIMENSIONS} positive sizes", shape)
    if max(shape) > sys.maxsize or found["dtype"] not in _dtypes():
        raise expected("content", "an array of numbers", f"{found['dtype']} of shape {shape}")
    return Header(shape=tuple(shape), size=size, **found)


def _dtypes() -> set[str]:
    """The types of numbers that are kept, as NumPy writes them, in either order of bytes."""
    kinds = [np.dtype(kind) for kind in ("?", *"bBhHiIlLqQefd")]
    return {dtype.newbyteorder(order).str for dtype in kinds for order in "<>"}
