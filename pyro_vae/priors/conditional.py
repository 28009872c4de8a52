"""The conditional prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae._errors import expected, positive_integer
from pyro_vae.networks.normal_given import NormalGiven
from pyro_vae.priors.prior import Prior

if TYPE_CHECKING:  # programs are made of parts, and know them
    from pyro_vae.programs.view import View

__all__ = ["Conditional"]


class Conditional(Prior):
    r"""Creates a normal prior whose parameters are a function of the condition.

    .. math:: p(z \mid c) = \mathcal{N}(z \mid \mu(c), \mathrm{diag}\,\sigma^2(c))

    It is for models with ``cond_size``, and starts near the standard normal distribution.

    References:
        Learning Structured Output Representation using Deep Conditional Generative Models
        (Sohn et al., 2015), https://papers.nips.cc/paper/5775

    Args:
        dim: Number of latent dimensions.
        hidden: Widths of the hidden layers of the network behind it.

    Raises:
        ValueError: If a size is not positive.

    Example:
        >>> import pyro_vae as pv
        >>> prior = Conditional(2)
        >>> likelihood = pv.likelihoods.Bernoulli((4,))
        >>> vae = pv.VAE(prior, pv.guides.Normal(2), likelihood, cond_size=3)
        >>> prior(torch.eye(3)).batch_shape
        torch.Size([3])
    """

    support = constraints.real_vector

    def __init__(self, dim: int, hidden: Sequence[int] = (64,)) -> None:
        super().__init__()
        self.event_shape = torch.Size([positive_integer("dim", dim)])
        if any(width < 1 for width in hidden):
            raise expected("hidden", "positive widths", hidden)
        self.hidden = tuple(hidden)
        self.law: NormalGiven | None = None

    def bind(self, view: View) -> None:
        if view.cond_size is None:
            what = "the entries of a condition, of which this prior is a function"
            raise expected("cond_size", what, None)
        if self.law is None:
            self.law = NormalGiven(view.cond_size, self.event_shape[0], self.hidden)
        elif self.law.size != view.cond_size:  # of an earlier model
            what = f"{self.law.size}, of so many entries its prior is a function already"
            raise expected("cond_size", what, view.cond_size)

    def forward(self, cond: Tensor | None = None) -> Distribution:
        """Returns p(z|c), batch shape ``(B,)``, for conditions of shape ``(B, cond_size)``.

        Raises:
            ValueError: If there is no condition, or the prior is part of no model.
        """
        if cond is None or self.law is None:
            raise expected("cond", "conditions, and a prior that is part of a VAE", cond)
        return self.law(cond)
