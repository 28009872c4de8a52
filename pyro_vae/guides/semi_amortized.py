"""A guide that goes on where its encoder stops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae._errors import expected, positive_integer, unknown_name
from pyro_vae.guides.full_normal import FullNormal
from pyro_vae.guides.guide import Guide
from pyro_vae.guides.normal import Normal

__all__ = ["SemiAmortized"]

_FAMILIES: dict[str, type[Normal | FullNormal]] = {"Normal": Normal, "FullNormal": FullNormal}
# Norm of the gradient of one observation, above which it is shortened: Kim et al., section 4.
_NORM = 5.0


class SemiAmortized(Guide):
    r"""Creates a guide whose parameters the encoder starts and a few steps of ascent improve.

    .. math:: \lambda_{t+1} = \lambda_t + \eta \,
        \nabla_\lambda \hat{\mathcal{L}}(x, \lambda_t), \quad \lambda_0 = \mathrm{encoder}(x)

    Each step's bound is estimated by one draw of z. The encoder learns as if its output were what
    the steps made of it: they are no part of the gradient, unlike in Kim et al. (2018).

    References:
        Semi-Amortized Variational Autoencoders (Kim et al., 2018),
        https://arxiv.org/abs/1802.02550
        Iterative Amortized Inference (Marino et al., 2018), https://arxiv.org/abs/1807.09356

    Args:
        dim: Number of latent dimensions.
        family: The distribution whose parameters these are: ``Normal`` or ``FullNormal``.
        steps: Steps of ascent for each observation.
        step_size: Their length for a unit gradient.

    Raises:
        ValueError: If a number is not positive, or the family is unknown.

    Example:
        >>> SemiAmortized(8, steps=3)(torch.zeros(5, 16)).batch_shape
        torch.Size([5])
    """

    support = constraints.real_vector

    def __init__(
        self,
        dim: int,
        family: Literal["Normal", "FullNormal"] = "Normal",
        steps: int = 5,
        step_size: float = 0.1,
    ) -> None:
        super().__init__()
        if family not in _FAMILIES:
            raise unknown_name("family", family, _FAMILIES)
        if not step_size > 0:
            raise expected("step_size", "a positive number", step_size)
        self.family = _FAMILIES[family](dim)
        self.steps = positive_integer("steps", steps)
        self.step_size = step_size
        self.event_shape = self.family.event_shape
        self.param_shape = self.family.param_shape

    def refine(self, features: Tensor, log_joint: Callable[[Tensor], Tensor]) -> Tensor:
        for _ in range(self.steps):
            with torch.enable_grad():
                leaf = features.detach().requires_grad_()
                q = self.family(leaf)
                z = q.rsample()
                bound = log_joint(z) - q.log_prob(z)
                (gradient,) = torch.autograd.grad(bound.sum(), leaf)
            norm = gradient.flatten(-len(self.param_shape)).norm(dim=-1).clamp_min(_NORM)
            shape = (*norm.shape, *[1] * len(self.param_shape))
            features = features + self.step_size * _NORM * gradient / norm.reshape(shape)
        return features

    def forward(self, features: Tensor) -> Distribution:
        """Returns q(z|x) from features of shape ``(*, B, *param_shape)``, refined or not."""
        return self.family(features)
