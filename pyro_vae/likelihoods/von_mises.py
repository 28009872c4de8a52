"""Von Mises likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.distributions import AngleSupport, NaturalVonMises
from pyro_vae.likelihoods.likelihood import Likelihood

__all__ = ["VonMises"]

_ROUNDS = 20  # of Newton's method
_MOST = 1e4  # for the concentration to start at: spread of half a degree


class VonMises(Likelihood):
    r"""Creates independent von Mises variables, for angles in radians from -π to π.

    .. math:: p(x \mid z) = \prod_d \frac{\exp(a_d \cos x_d + b_d \sin x_d)}
        {2 \pi \, I_0(\kappa_d)}, \quad \kappa_d = \sqrt{a_d^2 + b_d^2}

    The decoder gives the natural parameters a and b, a vector that points to the mean direction
    and is as long as the concentration: it turns through a whole circle without a jump. Angles
    must lie in the support; others are wrapped by ``torch.remainder(x + π, 2 * π) - π``, those in
    degrees multiplied by ``π / 180`` before. The mean is the mean direction.

    References:
        Directional Statistics (Mardia and Jupp, 1999), https://doi.org/10.1002/9780470316979

    Args:
        event_shape: Shape of one x.

    Example:
        >>> import torch
        >>> d = VonMises((1,))(torch.tensor([0.0, 5.0]))
        >>> d.mean
        tensor([1.5708])
    """

    support = AngleSupport()
    measure: Literal["lebesgue"] = "lebesgue"
    remedy = "radians are wrapped by `torch.remainder(x + π, 2 * π) - π`"

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__(event_shape, num_params=2)

    @property
    def are_angles(self) -> Tensor:
        return torch.ones(self.event_shape, dtype=torch.bool)

    @torch.no_grad()
    def init_params(self, x_train: Tensor) -> Tensor:
        r"""Returns the natural parameters of the largest likelihood.

        The mean direction is that of the data, and :math:`I_1(\kappa) / I_0(\kappa)` the length of
        the mean of their unit vectors.
        """
        x = x_train.cpu().double()  # which not every device has
        cosine, sine = x.cos().mean(0), x.sin().mean(0)
        length = torch.hypot(cosine, sine).clamp(1e-9, 1 - 1e-9)
        kappa = (length * (2 - length.square()) / (1 - length.square())).clamp_max(_MOST)
        for _ in range(_ROUNDS):
            ratio = torch.special.i1e(kappa) / torch.special.i0e(kappa)
            slope = 1 - ratio.square() - ratio / kappa
            kappa = (kappa - (ratio - length) / slope).clamp(1e-9, _MOST)
        direction = torch.cat([cosine / length, sine / length])
        return (direction * torch.cat([kappa, kappa])).to(x_train)

    def forward(self, params: Tensor) -> Distribution:
        """Returns p(x|z) from natural parameters of shape ``(*, B, *param_shape)``."""
        cosine, sine = self.split(params)
        return NaturalVonMises(cosine, sine).to_event(len(self.event_shape))
