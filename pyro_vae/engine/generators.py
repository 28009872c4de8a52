"""Generators: the state of all random numbers that a program may draw."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

__all__ = ["draw_from", "drawn_from", "random_state", "set_random_state"]


def random_state(device: torch.device) -> dict[str, Any]:
    """Returns the state of every generator that a run may draw from."""
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": list(np.random.get_state()),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Puts back what :func:`random_state` returned, perhaps by way of a file."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state["mps"])


def drawn_from(device: torch.device) -> dict[str, torch.Tensor]:
    """Returns the state of the generators that a graph may draw from, torch's alone.

    It is kept at every step, which the states of Python's and NumPy's would make much slower.
    """
    state = {"torch": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def draw_from(state: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Puts back what :func:`drawn_from` returned."""
    torch.set_rng_state(state["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
