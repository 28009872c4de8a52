"""Normal likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae._errors import expected
from pyro_vae.distributions import inverse_positive, positive
from pyro_vae.likelihoods.likelihood import Likelihood

__all__ = ["Normal", "ScaleMode"]

ScaleMode = Literal["shared", "per-dimension", "predicted"]


class Normal(Likelihood):
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

    support = constraints.real
    measure: Literal["lebesgue"] = "lebesgue"

    def __init__(self, event_shape: Sequence[int], scale: float | ScaleMode = "shared") -> None:
        fixed = isinstance(scale, int | float) and not isinstance(scale, bool) and scale > 0
        if not fixed and scale not in get_args(ScaleMode):
            words = ", ".join(get_args(ScaleMode))
            raise expected("scale", f"a positive number or one of {words}", scale)
        super().__init__(event_shape, num_params=2 if scale == "predicted" else 1)
        self.scale = scale
        if scale in ("shared", "per-dimension"):
            shape = self.event_shape if scale == "per-dimension" else ()
            self.raw_scale = nn.Parameter(inverse_positive(torch.ones(shape)))

    @torch.no_grad()
    def init_params(self, x_train: Tensor) -> Tensor:
        """Returns the mean, with the raw standard deviation after it if predicted."""
        mean, variance = x_train.mean(0), x_train.var(0, correction=0)
        if self.scale == "shared":
            self.raw_scale.copy_(inverse_positive(variance.mean().sqrt()))
        elif self.scale == "per-dimension":
            self.raw_scale.copy_(inverse_positive(variance.sqrt()))
        elif self.scale == "predicted":
            return torch.cat([mean, inverse_positive(variance.sqrt())])
        return mean

    def forward(self, params: Tensor) -> Any:
        """Returns p(x|z) from means, and raw scales if predicted, ``(*, B, *param_shape)``."""
        loc, *raw = self.split(params)
        if raw:
            scale = positive(raw[0])
        elif hasattr(self, "raw_scale"):
            scale = positive(self.raw_scale)
        else:
            scale = loc.new_tensor(self.scale)
        return dist.Normal(loc, scale).to_event(len(self.event_shape))
