"""What must be the same where data are decoded: the model, and how its numbers are computed."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import special

from pyro_vae._errors import expected
from pyro_vae._untouched import evaluating
from pyro_vae.checkpoint import model_spec
from pyro_vae.programs import VAE

__all__ = [
    "alike",
    "check_same",
    "digest",
    "digest_of",
    "digest_of_array",
    "machine",
    "without_gradients",
]

_HEX = 32  # digits of a digest, which are enough for what is not made to deceive


@contextmanager
def alike(vae: VAE) -> Iterator[None]:
    """Inside it networks compute the same numbers again, whatever the caller has set.

    That is in one thread, in full precision, by oneDNN where torch has it, without dropout, and
    with new tensors of the dtype of the model. What is rounded to zero or overflows is no error.
    """
    onednn: Any = torch.backends.mkldnn
    # Each has a precision of its own; that of all and of matrix products in general sets these.
    parts = [onednn.matmul, onednn.conv, onednn.rnn]
    with ExitStack() as after:
        after.callback(torch.set_num_threads, torch.get_num_threads())
        after.callback(torch.set_default_dtype, torch.get_default_dtype())
        after.callback(setattr, onednn, "enabled", onednn.enabled)
        for part in parts:
            after.callback(setattr, part, "fp32_precision", part.fp32_precision)
            part.fp32_precision = "ieee"
        onednn.enabled = True
        torch.set_num_threads(1)
        torch.set_default_dtype(vae.model.filler.dtype)
        after.enter_context(np.errstate(all="ignore"))
        after.enter_context(special.errstate(all="ignore"))
        after.enter_context(torch.autocast("cpu", enabled=False))
        after.enter_context(evaluating(vae))
        yield


@contextmanager
def without_gradients() -> Iterator[None]:
    """Inside it nothing is kept for gradients, and new tensors are on the CPU."""
    with torch.no_grad(), torch.device("cpu"):
        yield


def check_same(what: str, written: str, own: str) -> None:
    """Refuses what was written in another way.

    Raises:
        ValueError: If it was.
    """
    if written != own:
        raise expected("content", f"a file written {what} {own}, as here", written)


def machine() -> str:
    """Returns what decides how numbers are rounded, as far as it has a name."""
    packages = ("torch", "numpy", "scipy", "constriction")
    found = [f"{name} {version(name)}" for name in packages]
    kind = [torch.backends.cpu.get_cpu_capability(), platform.machine(), _vendor()]
    return ", ".join([*found, f"a processor {' '.join(each for each in kind if each)}"])


def _vendor() -> str:
    """Returns who made the processor, which libraries of products of matrices go by."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id"))
    return next(named, platform.processor())


def digest(content: bytes) -> str:
    """Returns a digest of bytes, as text."""
    return hashlib.sha256(content).hexdigest()[:_HEX]


def digest_of_array(array: np.ndarray) -> str:
    """Returns a digest of an array: its dtype, its shape, and its contiguous bytes."""
    found = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
    found.update(array.reshape(-1).view(np.uint8).data)  # which needs no copy, as `tobytes` does
    return found.hexdigest()[:_HEX]


def digest_of(vae: VAE) -> str:
    """Returns a digest of a model: how it is built, its weights and its buffers."""
    spec: Mapping[str, Any] = model_spec(vae)
    found = hashlib.sha256(json.dumps(spec, sort_keys=True).encode())
    tensors = dict(vae.named_parameters()) | dict(vae.named_buffers())
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        found.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:_HEX]
