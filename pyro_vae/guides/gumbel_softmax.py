"""The categorical guide, with the relaxation that trains it."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae._errors import positive_integer
from pyro_vae.distributions import GroupedOneHotCategorical
from pyro_vae.distributions.space import Mode
from pyro_vae.guides.relaxed import Relaxed

__all__ = ["GumbelSoftmax"]


class GumbelSoftmax(Relaxed):
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
        >>> import torch
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
        super().__init__(
            [positive_integer("groups", groups), positive_integer("classes", classes)],
            mode=mode,
            temperature=temperature,
            min_temperature=min_temperature,
            anneal_rate=anneal_rate,
        )

    def forward(self, features: Tensor) -> Distribution:
        """Returns q(z|x) from logits of shape ``(*, B, groups, classes)``."""
        return GroupedOneHotCategorical(dist.OneHotCategorical(logits=features), 1)
