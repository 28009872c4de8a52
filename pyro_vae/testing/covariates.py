"""Covariates for a likelihood under test."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.likelihoods import Likelihood
from pyro_vae.part import Part

__all__ = ["some_covariates"]


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
