"""Splits of a source as they are served: x, what goes with it, and what describes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae._errors import expected
from pyro_vae.data.columns import Column
from pyro_vae.data.dataset import SPLITS, Binarize, Dataset, Split
from pyro_vae.data.raw import Raw, holds

__all__ = ["beside", "served"]


def served(
    raw: Raw,
    parts: Mapping[Split, tuple[Split, Tensor | slice]],
    top: int,
    binarize: Binarize,
    missing: bool,
    seed: int,
) -> dict[str, Any]:
    """Each split of x as it is served, its labels and its mask, and what describes them."""
    splits = {split: raw.splits[of][rows].contiguous() for split, (of, rows) in parts.items()}
    splits = {split: x / top if top > 1 else x.float() for split, x in splits.items()}
    if binarize != "none":
        splits = _binarized(splits, binarize, seed)
    mask: dict[str, Tensor] = {split: ~x.isnan() for split, x in splits.items()} if missing else {}
    labels = {
        split: raw.labels[of][rows] if of in raw.labels else None
        for split, (of, rows) in parts.items()
    }
    return {
        "train": splits["train"],
        "validation": splits["validation"],
        "test": splits["test"],
        "labels": labels,
        "support": constraints.boolean if binarize != "none" else _support(splits),
        "binarize": binarize,
        "transform": f"x / {top}" if top > 1 and binarize == "none" else "none",
        "names": raw.names,
        "dims": raw.dims,
        "coords": raw.coords,
        "index": {
            split: raw.index[of][rows if isinstance(rows, slice) else rows.numpy()]
            for split, (of, rows) in parts.items()
            if of in raw.index
        },
        "mask": {} if all(bool(seen.all()) for seen in mask.values()) else mask,
        "places": {
            split: torch.arange(len(raw.splits[of]))[rows] for split, (of, rows) in parts.items()
        },
    }


def beside(
    raw: Raw,
    parts: Mapping[Split, tuple[Split, Tensor | slice]],
    size_factor: str | None,
    covariates: Mapping[str, str],
    like: Dataset | None = None,
) -> dict[str, Any]:
    """Conditions and covariates of each split, of the columns beside x; encoded as other data."""
    found: dict[str, Any] = {}
    values = {
        name: {split: column[of][rows] for split, (of, rows) in parts.items()}
        for name, column in raw.columns.items()
    }
    names = [name for name in values if name not in (size_factor, *covariates.values())]
    if names and like is not None:
        found["columns"] = like.columns
        found["cond"] = {
            split: torch.cat(
                [
                    each.encode(values[each.name][split], raw.words.get(each.name, ()))
                    for each in like.columns
                ],
                1,
            )
            for split in parts
        }
    elif names:
        found["columns"] = columns = [
            Column.of(
                name,
                values[name]["train"],
                torch.cat(list(values[name].values())),
                raw.words.get(name, ()),
            )
            for name in names
        ]
        found["cond"] = {
            split: torch.cat([each.encode(values[each.name][split]) for each in columns], 1)
            for split in parts
        }
    if size_factor is not None:
        sizes = values[size_factor]
        lowest = min(float(size.min()) for size in sizes.values() if len(size))
        if lowest <= 0:
            raise expected("size_factor", f"positive numbers in {size_factor}", lowest)
        unit = float(sizes["train"].double().mean()) if like is None else like.size_unit
        found["size_unit"] = unit
        scaled = {split: (size / unit).float() for split, size in sizes.items()}
        if not all(bool(((each > 0) & each.isfinite()).all()) for each in scaled.values()):
            what = f"numbers in {size_factor} whose ratios to their mean float32 holds"
            raise expected("size_factor", what, lowest)
        found["covariates"] = {split: {"size_factor": each} for split, each in scaled.items()}
    if covariates:
        sized = found.get("covariates", {})
        found["covariates"] = {
            split: sized.get(split, {})
            | {name: values[column][split].float() for name, column in covariates.items()}
            for split in parts
        }
    return found


def _binarized(
    splits: Mapping[Split, Tensor], binarize: Binarize, seed: int
) -> dict[Split, Tensor]:
    """Grey values in [0, 1] as 0 and 1, but for training data to be drawn afresh in each batch."""
    for x in splits.values():
        seen = x[~x.isnan()]
        if len(seen) and not (seen.min() >= 0 and seen.max() <= 1):
            bounds = [seen.min().item(), seen.max().item()]
            error = expected("data", "values in [0, 1] to be made binary", bounds)
            raise ValueError(f"{error}; `rescale` (--rescale) divides levels by 255")
    if binarize == "threshold":
        return {split: (x > 0.5).float().where(~x.isnan(), x) for split, x in splits.items()}
    drawn = dict(splits)
    for split in ("validation", "test"):
        x = splits[split]
        uniform = np.random.RandomState([seed, SPLITS.index(split)]).random_sample(tuple(x.shape))
        drawn[split] = (torch.from_numpy(uniform).to(x.device) < x).float().where(~x.isnan(), x)
    return drawn


def _support(splits: Mapping[Split, Tensor]) -> constraints.Constraint:
    """The narrowest support, of those that likelihoods of discrete or bounded data have."""
    candidates = (constraints.boolean, constraints.nonnegative_integer, constraints.unit_interval)
    for support in candidates:
        if all(holds(support, x) for x in splits.values()):
            return support
    return constraints.real
