"""What a run is known again by: model, objective, data and where it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.infer import ELBO as PyroELBO  # noqa: N811 - an acronym in both

from pyro_vae import checkpoint
from pyro_vae.data import Dataset
from pyro_vae.data.dataset import SPLITS, fingerprint
from pyro_vae.programs import VAE, Amortized
from pyro_vae.training.splits import Splits

__all__ = ["as_read", "describe", "environment"]

_FOUND = ("max_plate_nesting", "data_per_label")  # by an objective, not asked of it


def describe(vae: Amortized, objective: PyroELBO, data: object, splits: Splits) -> dict[str, Any]:
    """Returns what a run is known again by, besides its recipe."""
    found = splits.prints(vae)
    by_split = {"train": found["train"], "validation": found.get("held_out", {})}
    described: dict[str, Any] = {split: each.get("x") for split, each in by_split.items()}
    if isinstance(data, Dataset):
        described = {"name": data.name, "binarize": data.binarize, "transform": data.transform}
        described |= {split: fingerprint(data.split(split)) for split in SPLITS}
    for split, prints in by_split.items():
        described |= {f"{split} {name}": each for name, each in prints.items() if name != "x"}
    dtype = next((str(p.dtype) for p in vae.parameters()), None)
    plain = {
        name: value
        for name, value in vars(objective).items()
        if isinstance(value, bool | int | float | str) and name not in _FOUND
    }
    options: dict[str, Any] = {"dtype": dtype}
    if isinstance(vae, VAE):
        options |= {"cond_size": vae.cond_size, "show_mask": vae.guide.show_mask}
        if not vae.standardize:  # of runs that are not as they were before there was a choice
            options["standardize"] = False
    return {
        "model": checkpoint.model_spec(vae) | options,
        "objective": {"class": type(objective).__name__} | plain,
        "data": described,
    }


def as_read(settings: Any) -> Any:
    """Returns settings as a file has them, in which a sequence is a list.

    Example:
        >>> as_read({"model": {"event_shape": (4,)}})
        {'model': {'event_shape': [4]}}
    """
    if isinstance(settings, Mapping):
        return {name: as_read(value) for name, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [as_read(value) for value in settings]
    return settings


def environment(device: torch.device) -> dict[str, Any]:
    """Returns what the last bits depend on besides the settings."""
    versions = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    return versions | {"device": device.type}
