"""What must be the same where data are decoded: the model, and how its numbers are computed."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pyro_vae._errors import expected
from pyro_vae._untouched import evaluating
from pyro_vae.checkpoint import model_spec
from pyro_vae.programs import VAE

__all__ = ["alike", "check_same", "digest", "digest_of", "machine"]

_HEX = 32  # digits of a digest, which are enough for what is not made to deceive


@contextmanager
def alike(vae: VAE) -> Iterator[None]:
    """Inside it networks compute the same numbers again: in one thread, and without dropout."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with evaluating(vae), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_num_threads(threads)


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
