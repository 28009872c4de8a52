"""What is used for a while and then put back: modes of modules, and random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["evaluating", "undisturbed"]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Inside it, dropout is off and batch statistics stay as they are; the modes then come back."""
    training = [each for each in module.modules() if each.training]
    try:
        for each in training:
            each.training = False
        yield
    finally:
        for each in training:
            each.training = True


@contextmanager
def undisturbed(module: nn.Module, seed: int | None, device: torch.device) -> Iterator[None]:
    """Sets evaluation mode and the seed, and puts back both as they were.

    Without a seed, what is drawn inside is drawn from the generators as they are.
    """
    if seed is None:
        with evaluating(module):
            yield
        return
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index])
    elif device.type == "mps":
        generators.append(torch.mps._get_default_mps_generator())
    states = [generator.get_state() for generator in generators]
    try:
        with evaluating(module):
            for generator in generators:
                generator.manual_seed(seed)
            yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
