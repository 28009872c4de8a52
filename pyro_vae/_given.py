"""What goes with each datum into model and guide: conditions, masks, covariates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from torch import Tensor
from torch.utils._pytree import tree_map

from pyro_vae._errors import expected

__all__ = ["Covariates", "covariates_of", "named_tensors", "present", "rows"]

Covariates: TypeAlias = Mapping[str, Tensor] | None


def present(**given: Any) -> dict[str, Any]:
    """Returns what is there: neither None nor empty mappings.

    Example:
        >>> present(cond=None, covariates={})
        {}
    """
    return {k: v for k, v in given.items() if v is not None and v != {}}


def rows(given: Mapping[str, Any], index: Any) -> dict[str, Any]:
    """Returns what goes with some of the data; mappings of tensors are of these data too.

    Example:
        >>> import torch
        >>> rows({"covariates": {"size_factor": torch.tensor([0.5, 2.0])}}, [1])
        {'covariates': {'size_factor': tensor([2.])}}
    """
    chosen: dict[str, Any] = tree_map(lambda value: value[index], dict(given))
    return chosen


def named_tensors(given: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns the tensors of what goes with data by their own names, those of covariates too."""
    named: dict[str, Tensor] = {}
    for name, value in given.items():
        named |= value if isinstance(value, Mapping) else {name: value}
    return named


def covariates_of(names: Iterable[str], covariates: Covariates) -> dict[str, Tensor]:
    """Returns the covariates that a likelihood names.

    Raises:
        ValueError: If there are others, or one is missing.
    """
    named, wanted = dict(covariates or {}), list(names)
    if named.keys() != set(wanted):
        what = f"{', '.join(wanted)} of each datum" if wanted else "None with this likelihood"
        raise expected("covariates", what, sorted(named) or None)
    return named
