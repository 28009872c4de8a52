"""Covariates for a likelihood under test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vae.likelihoods import Likelihood
from pyro_vae.part import Part

__all__ = ["of_rows", "some_covariates"]


def some_covariates(
    part: Part, *batch_shape: int, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Draws the covariates of a likelihood; none for a part that has none.

    Args:
        part: The likelihood; any other part has no covariates.
        batch_shape: Shape of each of them.
        dtype: Their dtype.

    Returns:
        Numbers between a half and two, by name: size factors, or any other real numbers.

    Example:
        >>> from pyro_vae import likelihoods
        >>> some_covariates(likelihoods.Poisson((2,), size_factor=True), 5)["size_factor"].shape
        torch.Size([5])
    """
    names = part.covariates if isinstance(part, Likelihood) else ()
    return {name: 2 ** (2 * torch.rand(batch_shape, dtype=dtype) - 1) for name in names}


def of_rows(covariates: Mapping[str, Tensor], index: Any) -> dict[str, Tensor]:
    """Returns the covariates of some observations."""
    return {name: value[index] for name, value in covariates.items()}
