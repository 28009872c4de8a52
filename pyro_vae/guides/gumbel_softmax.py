"""The categorical guide, with the relaxation that trains it."""

from __future__ import annotations

from typing import Any, Literal, get_args

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae._errors import expected, positive_integer, unknown_name
from pyro_vae.distributions import GroupedOneHotCategorical
from pyro_vae.guides.guide import Guide

__all__ = ["GumbelSoftmax", "Mode"]

Mode = Literal["concrete", "enumerate", "soft", "straight-through"]


class GumbelSoftmax(Guide):
    r"""Creates a categorical guide, trained through one of four relaxations.

    .. math:: q(z \mid x) = \prod_{g=1}^{G} \mathrm{Categorical}(z_g \mid \pi_g(x))

    The guide itself is always categorical. How to take its gradient is a request to the
    objective, which alone installs the relaxation:

    - ``enumerate``: the exact expectation over all joint states. Unbiased; for few states.
    - ``concrete``: Concrete variables in log space in guide and prior. A bound on a relaxed model.
    - ``straight-through``: categorical draws forward, relaxed gradients backward, categorical KL.
      The value is a bound, the gradient is biased.
    - ``soft``: relaxed draws into the decoder, categorical KL. Not a bound, and often the best.

    The temperature is ``max(min_temperature, temperature * exp(-anneal_rate * step))``.

    References:
        Categorical Reparameterization with Gumbel-Softmax (Jang et al., 2017),
        https://arxiv.org/abs/1611.01144
        The Concrete Distribution: A Continuous Relaxation of Discrete Random Variables
        (Maddison et al., 2017), https://arxiv.org/abs/1611.00712

    Args:
        groups: Number of variables, G.
        classes: Number of classes of each, K.
        mode: How the objective takes gradients, see above.
        temperature: Temperature at the first optimiser step.
        min_temperature: Where the annealing stops.
        anneal_rate: Rate of the exponential decay per optimiser step; 0 keeps the temperature.

    Raises:
        ValueError: If a size or a temperature is not positive, the rate is negative, or the mode
            is unknown.

    Example:
        >>> q = GumbelSoftmax(20, 10)(torch.zeros(5, 20, 10))
        >>> q.batch_shape, q.event_shape
        (torch.Size([5]), torch.Size([20, 10]))
    """

    support = constraints.one_hot

    def __init__(
        self,
        groups: int,
        classes: int,
        *,
        mode: Mode = "straight-through",
        temperature: float = 1.0,
        min_temperature: float = 0.5,
        anneal_rate: float = 0.0,
    ) -> None:
        super().__init__()
        shape = (positive_integer("groups", groups), positive_integer("classes", classes))
        if mode not in get_args(Mode):
            raise unknown_name("mode", mode, get_args(Mode))
        if not 0 < min_temperature <= temperature:
            limits = f"{min_temperature} and {temperature}"
            raise expected("temperature", "0 < min_temperature <= temperature", limits)
        if anneal_rate < 0:
            raise expected("anneal_rate", "a number >= 0", anneal_rate)
        self.event_shape = self.param_shape = torch.Size(shape)
        self.mode: Mode = mode
        self.temperature = temperature
        self.min_temperature = min_temperature
        self.anneal_rate = anneal_rate

    def temperature_at(self, step: Tensor) -> Tensor:
        """Returns the temperature after ``step`` optimiser steps, both of shape ``()``."""
        annealed = self.temperature * torch.exp(-self.anneal_rate * step)
        return annealed.clamp_min(self.min_temperature)

    def forward(self, features: Tensor) -> Any:
        """Returns q(z|x) from logits of shape ``(*, B, groups, classes)``."""
        return GroupedOneHotCategorical(dist.OneHotCategorical(logits=features), 1)
