"""The file of a state: safetensors, whose metadata are JSON with tensors by their names."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae._errors import expected
from pyro_vae.checkpoint import of_known_schema, read_bytes, tensors_of

__all__ = ["from_file", "to_bytes"]


def to_bytes(state: Mapping[str, Any]) -> bytes:
    """Returns the content of the file of a state.

    Args:
        state: Numbers, strings, tensors, and lists and mappings of them.

    Raises:
        ValueError: If it holds anything else.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    tree = _encode(state, "", tensors, set())
    return save(tensors, {"state": json.dumps(tree, allow_nan=False)})


def from_file(path: Path, digest: str | None) -> dict[str, Any]:
    """Reads the state that a file holds, on the CPU.

    Args:
        path: The file.
        digest: Its SHA-256, if known.

    Raises:
        ValueError: If it is damaged, or holds something else.
    """
    tensors, metadata = tensors_of(path, read_bytes(path, digest))
    try:
        state = _decode(json.loads(metadata["state"]), tensors)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise expected(str(path), "a checkpoint", f"{type(error).__name__} {error}") from None
    if not isinstance(state, dict):
        raise expected(str(path), "a checkpoint", state)
    return of_known_schema(path, state)


def _encode(value: Any, name: str, tensors: dict[str, Tensor], places: set[int]) -> Any:
    """Returns a value as JSON has it, and puts tensors under their names, which share no memory."""
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        if (place := plain.untyped_storage().data_ptr()) in places:
            plain = plain.clone()  # safetensors refuses tensors that share memory
        places.add(place)
        tensors[name] = plain
        return {"$tensor": name}
    if isinstance(value, np.ndarray):
        return _encode(torch.from_numpy(value.astype(np.int64)), name, tensors, places)
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        pairs = [[k, _encode(each, f"{name}/{k}", tensors, places)] for k, each in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key, _ in pairs):
            return dict(pairs)
        return {"$pairs": pairs}
    if isinstance(value, list | tuple):
        return [_encode(each, f"{name}/{i}", tensors, places) for i, each in enumerate(value)]
    raise expected("optim", f"one whose state is numbers and tensors, at {name}", value)


def _decode(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(tree, list):
        return [_decode(each, tensors) for each in tree]
    if not isinstance(tree, dict):
        return tree
    if "$tensor" in tree:
        return tensors[tree["$tensor"]]
    if "$float" in tree:
        return float(tree["$float"])
    if "$pairs" in tree:
        return {key: _decode(each, tensors) for key, each in tree["$pairs"]}
    return {key: _decode(each, tensors) for key, each in tree.items()}
