"""Training and validation rows of whatever data were given."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn

from pyro_vae._errors import expected, is_number
from pyro_vae._untouched import undisturbed
from pyro_vae.data import Dataset
from pyro_vae.data.dataset import Split
from pyro_vae.data.rows import Numbers, Rows, given_of
from pyro_vae.programs import VAE, Amortized
from pyro_vae.programs.accept import as_tensor

__all__ = ["Splits", "Values", "beside", "rows_of_a_pass", "split"]

Values: TypeAlias = Numbers | Mapping[Split, Any] | Mapping[str, Any] | None


@dataclass(frozen=True)
class Splits:
    """The rows of a fit.

    Attributes:
        train: Training rows.
        held_out: Validation rows, if any.
        draw: What to do to each batch afresh: data of probabilities are drawn anew for each.
    """

    train: Rows
    held_out: Rows | None = None
    draw: Callable[[Tensor], Tensor] | None = None

    def accepted(self, vae: Amortized) -> tuple[Splits, Rows]:
        """Returns the same as the model takes them, and one draw of the training rows.

        Raises:
            ValueError: If they do not fit the model.
        """
        if self.draw is None:
            drawn = train = vae.accepts(self.train, "data")
        else:
            drawn = vae.accepts(replace(self.train, x=self.draw(self.train.x)), "data")
            train = replace(drawn, x=self.train.x.to(drawn.x))
        held_out = None if self.held_out is None else vae.accepts(self.held_out, "validation")
        return Splits(train, held_out, self.draw), drawn


def beside(
    vae: Amortized,
    data: object,
    cond: Values,
    mask: Values,
    covariates: Mapping[str, Any] | None,
    labels: Values,
) -> dict[str, Any]:
    """Returns what there is to go with the rows: a dataset may bring it."""
    if isinstance(data, Dataset):
        cond = dict(data.cond) or None if cond is None and "cond" in vae.takes else cond
        mask = dict(data.mask) or None if mask is None else mask
        if covariates is None and "covariates" in vae.takes:
            covariates = dict(data.covariates) or None
    named = {"cond": cond, "mask": mask, "covariates": covariates, "labels": labels}
    return {
        name: value
        for name, value in named.items()
        if not (value is None or (isinstance(value, Mapping) and not value))
    }


def split(
    data: Dataset | Numbers,
    validation: object,
    seed: int | None,
    given: Mapping[str, Values],
) -> Splits:
    """Sets validation rows apart, and puts with all rows what goes with them.

    Args:
        data: A dataset, which brings its splits, or an array of shape ``(N, *event_shape)``.
        validation: Data, or the fraction of ``data`` to set apart; None for none.
        seed: Of the permutation by which that fraction is drawn.
        given: What goes with the rows, by name; where there are splits, by split.

    Raises:
        ValueError: If something is missing, or of another length than the rows.
    """
    if isinstance(data, Dataset):
        if validation is not None:
            raise expected("validation", "None with a dataset, which brings its own", validation)
        train, held_out = _rows(data.train, given, "train"), None
        if len(data.validation) > 0:
            held_out = _rows(data.validation, given, "validation")
        return Splits(train, held_out, data.draw if data.binarize == "stochastic" else None)
    x = _as_tensor("data", data)
    if len(x) == 0:
        raise expected("data", "at least one observation", data)
    if validation is None:
        return Splits(_rows(x, given, "train", alone=True))
    if not is_number(validation):
        held_out = _rows(_as_tensor("validation", validation), given, "validation")
        return Splits(_rows(x, given, "train"), held_out)
    fraction = float(cast(float, validation))
    if not 0 < fraction < 1:
        raise expected("validation", "data or a fraction between 0 and 1", validation)
    train = _rows(x, given, "train", alone=True)
    generator = torch.Generator().manual_seed(0 if seed is None else seed)
    order = torch.randperm(len(x), generator=generator)
    chosen, kept = order.split([n := round(fraction * len(x)), len(x) - n])
    if len(chosen) == 0 or len(kept) == 0:
        raise expected("validation", f"a fraction that splits {len(x)} data", validation)
    return Splits(train[kept], train[chosen].without("labels"))


def rows_of_a_pass(vae: Amortized, train: Rows, batch_size: int) -> int:
    """Returns how many rows a pass takes: all, or all but a last one that is a batch by itself.

    That is where a network of the user's has batch normalisation, which refuses a batch of one
    row; those of this package take it.
    """
    size = len(train)
    normalises = any(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in vae.modules())
    if size % batch_size != 1 or size == 1 or not normalises or not isinstance(vae, VAE):
        return size
    twin, one = copy.deepcopy(vae).train(), train[:1]
    try:
        with torch.no_grad(), undisturbed(vae, 0, one.x.device):
            twin.model.decode(twin.guide.encode(one.x, one.given).sample(), one.given)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        return size - 1
    return size


def _rows(x: Tensor, given: Mapping[str, Values], split: Split, *, alone: bool = False) -> Rows:
    """Returns a split with what goes with it; ``alone`` if there is no other split."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name == "labels" and split == "validation":
            continue
        if isinstance(value, Mapping) and _by_split(name, value):
            if split not in value:
                raise expected(name, f"a mapping with {split}", sorted(value))
            value = cast("Mapping[str, Any]", value)[split]
        elif not alone and name != "labels":
            raise expected(name, "a mapping with train and validation", value)
        if isinstance(value, Mapping):
            named = value.items()
            found[name] = {key: _as_rows(f"{name}: {key}", each, x) for key, each in named}
        else:
            found[name] = _as_rows(name, value, x)
    return Rows(x, given_of(found))


def _by_split(name: str, value: Mapping[Any, Any]) -> bool:
    """Returns whether a mapping is one of splits: covariates are a mapping themselves."""
    return name != "covariates" or all(isinstance(each, Mapping) for each in value.values())


def _as_rows(argument: str, value: object, x: Tensor) -> Tensor:
    tensor = _as_tensor(argument, value)
    if len(tensor) != len(x):
        raise expected(argument, f"one row for each of {len(x)} data", value)
    return tensor


def _as_tensor(argument: str, data: object) -> Tensor:
    if isinstance(data, np.ma.MaskedArray):
        raise expected(argument, "an array, and `mask` beside it", data)
    data = as_tensor(data, argument)
    if not isinstance(data, Tensor) or data.layout is not torch.strided or data.is_meta:
        raise expected(argument, "a tensor or an array of real numbers", data)
    if data.ndim == 0:
        raise expected(argument, "at least one dimension", data)
    return data
