"""The guide of many binary variables, with the relaxation that trains it."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae._errors import positive_integer
from pyro_vae.distributions import JointBernoulli
from pyro_vae.distributions.space import Mode
from pyro_vae.guides.relaxed import Relaxed

__all__ = ["RelaxedBernoulli"]


class RelaxedBernoulli(Relaxed):
    r"""Creates a guide of independent binary variables, trained through one of four relaxations.

    .. math:: q(z \mid x) = \prod_{i=1}^{d} \mathrm{Bernoulli}(z_i \mid \sigma(\ell_i(x)))

    The guide itself is always binary. How to take its gradient is a request to the objective,
    which alone installs the relaxation:

    - ``enumerate``: the exact expectation over all joint states. Unbiased; for few variables.
    - ``concrete``: logistic log-odds in guide and prior. A bound on a relaxed model.
    - ``straight-through``: binary draws forward, relaxed gradients backward, Bernoulli KL. The
      value is a bound, the gradient is biased.
    - ``soft``: relaxed draws into the decoder, Bernoulli KL. Not a bound.

    The temperature is ``max(min_temperature, temperature * exp(-anneal_rate * step))``.

    References:
        The Concrete Distribution: A Continuous Relaxation of Discrete Random Variables
        (Maddison et al., 2017), https://arxiv.org/abs/1611.00712, appendix B
        Categorical Reparameterization with Gumbel-Softmax (Jang et al., 2017),
        https://arxiv.org/abs/1611.01144

    Args:
        dim: Number of binary variables, d; the encoder ends in the log-odds of each.
        mode: How the objective takes gradients, see above.
        temperature: Temperature at the first optimiser step.
        min_temperature: Where the annealing stops.
        anneal_rate: Rate of the exponential decay per optimiser step; 0 keeps the temperature.

    Raises:
        ValueError: If the size or a temperature is not positive, the rate is negative, or the mode
            is unknown.

    Example:
        >>> import torch
        >>> q = RelaxedBernoulli(200)(torch.zeros(5, 200))
        >>> q.batch_shape, q.event_shape
        (torch.Size([5]), torch.Size([200]))
    """

    support = constraints.boolean

    def __init__(
        self,
        dim: int,
        *,
        mode: Mode = "straight-through",
        temperature: float = 1.0,
        min_temperature: float = 0.5,
        anneal_rate: float = 0.0,
    ) -> None:
        super().__init__(
            [positive_integer("dim", dim)],
            mode=mode,
            temperature=temperature,
            min_temperature=min_temperature,
            anneal_rate=anneal_rate,
        )

    def forward(self, features: Tensor) -> Distribution:
        """Returns q(z|x) from log-odds of shape ``(*, B, dim)``."""
        return JointBernoulli(dist.Bernoulli(logits=features), 1)
