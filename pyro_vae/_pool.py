"""What a selection knows before anything is fitted: its models, and the data in folds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pyro_vae._errors import expected
from pyro_vae._kept import described
from pyro_vae._untouched import seeded
from pyro_vae.checkpoint import model_spec
from pyro_vae.data import Dataset
from pyro_vae.data.dataset import SPLITS
from pyro_vae.data.rows import Given, Numbers, Rows
from pyro_vae.evaluation._common import describe
from pyro_vae.programs import VAE
from pyro_vae.programs.accept import as_tensor
from pyro_vae.programs.protocol import is_amortized
from pyro_vae.training.recipe import Recipe

__all__ = ["Built", "Model", "Pool", "built"]

_OTHERS = "; `compare` ranks Programs that are fitted"
Built: TypeAlias = VAE | tuple[VAE, Mapping[str, Any]]


@dataclass(frozen=True)
class Model:
    """What is known of the model of a setting before it is fitted.

    Attributes:
        size: Its parameters.
        measure: Its base measure.
        spec: What it is known again by, with the options of its fits.
    """

    size: int
    measure: dict[str, Any]
    spec: dict[str, Any]

    @classmethod
    def of(cls, build: Callable[..., Built], setting: Mapping[str, Any], pool: Pool) -> Model:
        """Builds every setting before any is fitted: the last may be the one that is wrong.

        Raises:
            ValueError: If there is no such model, or an option of its fits is out of range.
        """
        vae, own = built(build, setting, 0)
        known = {each.name for each in dataclasses.fields(Recipe)}
        Recipe(**{name: own[name] for name in own if name in known}).check_parts(vae)
        state = {
            name: [str(tensor.dtype), *tensor.shape] for name, tensor in vae.state_dict().items()
        }
        try:
            parts = model_spec(vae)
        except ValueError:  # of arguments of the user's own
            parts = {}
        spec = {"parts": described(parts), "tensors": state, "options": described(own)}
        size = sum(p.numel() for p in vae.parameters())
        return cls(size, describe(vae, pool.rows(vae), pool.measure), spec)


def built(
    build: Callable[..., Built], setting: Mapping[str, Any], seed: int
) -> tuple[VAE, Mapping[str, Any]]:
    """Returns the model of a setting and the options of its fits.

    Raises:
        ValueError: If it is no VAE.
    """
    with seeded(seed):
        made = build(**setting)
    vae, options = made if isinstance(made, tuple) and len(made) == 2 else (made, {})
    if not isinstance(vae, VAE):
        raise expected("build", f"a function that returns a VAE{_OTHERS * is_amortized(vae)}", vae)
    if not isinstance(options, Mapping):
        raise expected("build", "beside the VAE a mapping of options of `fit`", options)
    return vae, options


class Pool:
    """The data to choose by, shuffled; as they are scored, and as they are fitted to."""

    def __init__(self, data: Dataset | Numbers, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        if isinstance(data, Dataset):
            fitted = torch.cat([data.train, data.validation]).cpu()
            described = data.base_measure("train")
            names = ("data", "binarize", "dequantize", "transform")
            self.measure = {name: described[name] for name in names}
            self.measure["split"] = "train and validation, held out in turn"
        elif isinstance(data := as_tensor(data, "data"), Tensor):
            fitted, self.measure = data, {}
        else:
            raise expected("data", "a Dataset, a tensor or an array", data)
        self._data, self.fitted, self.x = data, fitted, fitted
        self.given: Given = {}
        if isinstance(data, Dataset):
            parts = [data.given(split) for split in ("train", "validation")]
            self.given = tree_map(lambda *each: torch.cat(each).cpu(), *parts)
        self._order = torch.randperm(len(fitted), generator=generator).numpy()
        if isinstance(data, Dataset) and data.binarize == "stochastic":
            # Scored on one draw, the same for all; fitted to fresh ones. What was drawn already,
            # the validation data, stays as it is under both.
            uniform = torch.rand(fitted.shape, generator=generator)
            self.x = (uniform < fitted).to(fitted.dtype)

    def folds(self, count: int) -> np.ndarray:
        """Returns which fold each observation is in."""
        if not 2 <= count <= len(self.x):
            raise expected("folds", f"an integer from 2 to {len(self.x)}", count)
        fold = np.empty(len(self.x), dtype=np.int64)
        fold[self._order] = np.arange(len(fold)) * count // len(fold)
        return fold

    def rows(self, vae: VAE) -> Rows:
        """Returns the data as they are scored, with what a model has a use for."""
        return Rows(self.x, vae.uses(Rows(self.x, self.given)).given)

    def training(self, rows: np.ndarray, validation: float) -> tuple[Any, dict[str, Any]]:
        """Returns data for :func:`fit`, and options that go with them."""
        shuffled = np.random.default_rng(len(rows)).permutation(rows)
        held, kept = np.split(shuffled, [round(validation * len(rows))])
        train, epochs_by = self.fitted[kept], self.x[held]
        if isinstance(self._data, Tensor):
            return train, {"validation": epochs_by} if len(epochs_by) > 0 else {}
        both = Rows(self.x, self.given)
        of_split = {"train": both[kept].given, "validation": both[held].given}
        parts: dict[str, Any] = {
            name: {split: dict(given)[name] for split, given in of_split.items()}
            for name in self.given
        }
        return dataclasses.replace(
            self._data,
            train=train,
            validation=epochs_by,
            test=train[:0],
            labels=dict.fromkeys(SPLITS),
            **parts,
        ), {}
