"""Normal likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
from torch import Tensor

from pyro_vae.likelihoods.location_scale import LocationScale, ScaleMode

__all__ = ["Normal"]


class Normal(LocationScale):
    r"""Creates independent normal variables, for real data.

    .. math:: p(x \mid z) = \prod_d \mathcal{N}(x_d \mid \mu_d(z), \sigma_d^2)

    Learned scales are ``softplus(raw) + 1e-4``.

    References:
        Simple and Effective VAE Training with Calibrated Decoders (Rybkin et al., 2021),
        https://arxiv.org/abs/2006.13202

    Args:
        event_shape: Shape of one x.
        scale: A fixed number; ``shared``, one learned number; ``per-dimension``, one learned
            number for each entry; ``predicted``, given by the decoder beside the mean.

    Raises:
        ValueError: If ``scale`` is neither a positive number nor one of these words.

    Example:
        >>> Normal((12,), scale="predicted").param_shape
        torch.Size([24])
    """

    def __init__(self, event_shape: Sequence[int], scale: float | ScaleMode = "shared") -> None:
        super().__init__(event_shape, scale)

    def law(self, loc: Tensor, scale: Tensor) -> Any:
        return dist.Normal(loc, scale)

    def fit_marginal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean(0), x.std(0, correction=0)

    def pooled(self, scale: Tensor) -> Tensor:
        return scale.square().mean().sqrt()
