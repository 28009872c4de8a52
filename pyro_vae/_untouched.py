"""What is used for a while and then put back: modes of modules, random numbers, parameters."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import pyro
import torch
from torch import nn

__all__ = ["evaluating", "own_store", "seeded", "undisturbed"]


class _HasModules(Protocol):
    """A module, or a program that has some."""

    def modules(self) -> Iterator[nn.Module]:
        """Yields all of them."""


@contextmanager
def evaluating(module: _HasModules) -> Iterator[None]:
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
def undisturbed(module: _HasModules, seed: int | None, device: torch.device) -> Iterator[None]:
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


@contextmanager
def own_store() -> Iterator[None]:
    """Puts back Pyro's parameter store, in which programs that run inside declare theirs."""
    store = pyro.get_param_store()
    with store.scope(store.get_state()):
        yield


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seeds torch's generators, Python's and NumPy's, and then puts all back as they were.

    Without a seed, what is drawn inside is drawn from the generators as they are.
    """
    if seed is None:
        yield
        return
    torch.empty(0)  # where another device is the default one, its generators are there from now on
    generators = [torch.default_generator]
    if torch.cuda.is_initialized():
        generators += torch.cuda.default_generators
    if torch.backends.mps.is_available():
        generators.append(torch.mps._get_default_mps_generator())
    states = [generator.get_state() for generator in generators]
    others = random.getstate(), np.random.get_state()
    try:
        # Not `torch.manual_seed`, which would also seed devices that are only used later.
        for generator in generators:
            generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        random.setstate(others[0])
        np.random.set_state(others[1])
