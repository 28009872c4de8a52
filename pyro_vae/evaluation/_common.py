"""What every evaluation does: leave the model as it was, and say what its numbers belong to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae._errors import expected, unknown_name
from pyro_vae.data import base_measure_of
from pyro_vae.data.dataset import fingerprint
from pyro_vae.vae import VAE

__all__ = ["check_arguments", "describe", "undisturbed"]

_DESCRIBED = ("data", "split", "binarize", "dequantize", "transform")


def check_arguments(vae: object, seed: object) -> None:
    """Refuses what is no VAE, and a seed that is no integer >= 0.

    Raises:
        ValueError: In both cases.
    """
    if not isinstance(vae, VAE):
        raise expected("vae", "a VAE", vae)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise expected("seed", "an integer >= 0", seed)


def describe(vae: VAE, x: Tensor, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the base measure: what was said of the data, and what they tell themselves.

    Raises:
        ValueError: If something was said that is no part of it.
    """
    told = {"fingerprint": fingerprint(x), "dim": vae.event_shape.numel()}
    for name in given or {}:
        if name not in (*_DESCRIBED, *told, "measure"):
            raise unknown_name("base_measure", name, _DESCRIBED)
    known = given if given is not None else base_measure_of(x) or {}
    described = {name: known.get(name) for name in _DESCRIBED}
    return described | told | {"measure": vae.likelihood.measure}


@contextmanager
def undisturbed(vae: nn.Module, seed: int, device: torch.device) -> Iterator[None]:
    """Sets evaluation mode and the seed, and puts back both as they were."""
    modes = [(module, module.training) for module in vae.modules()]
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index])
    elif device.type == "mps":
        generators.append(torch.mps._get_default_mps_generator())
    states = [generator.get_state() for generator in generators]
    try:
        vae.eval()
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        for module, training in modes:
            module.training = training
