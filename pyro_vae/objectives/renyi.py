"""The variational Renyi bound."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from pyro_vae._errors import expected
from pyro_vae.objectives.importance import Importance
from pyro_vae.objectives.objective import Program

__all__ = ["Renyi"]


class Renyi(Importance):
    r"""Creates the variational Renyi bound, from the ELBO to log p(x) and beyond.

    .. math:: \mathcal{L}_{\alpha,K}(x) = \mathbb{E}\Big[\frac{1}{1 - \alpha}
        \log \frac1K \sum_{k=1}^{K} w_k^{1 - \alpha}\Big]

    At ``alpha`` 0 this is the importance-weighted bound, at 1 the ELBO, its limit. From 0 on it is
    a lower bound for any number of draws; below, with enough of them, it is more than log p(x).

    References:
        Renyi Divergence Variational Inference (Li and Turner, 2016),
        https://arxiv.org/abs/1602.02311

    Args:
        alpha: Order of the divergence; the larger, the more the guide seeks a mode.
        num_samples: Draws of z for each observation, K.

    Raises:
        ValueError: If ``alpha`` is not finite, or ``num_samples`` not a positive integer.

    Example:
        >>> import torch, pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> Renyi(0.5).differentiable_loss(vae.model, vae.guide, torch.ones(3, 4)).shape
        torch.Size([])
    """

    def __init__(self, alpha: float = 0.5, num_samples: int = 5) -> None:
        if not math.isfinite(alpha):
            raise expected("alpha", "a finite number", alpha)
        super().__init__(num_samples)
        self.alpha = alpha
        self.is_bound = alpha >= 0

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Returns minus the bound summed over the batch, shape ``()``, nats.

        Raises:
            ValueError: If a latent site of the guide can be neither reparameterised nor relaxed to
                a density, or a site is not in the plate ``data``.
        """
        log_weights = self._log_weights(model, guide, args, kwargs)
        order = 1 - self.alpha
        if order == 0:
            bound = log_weights.total.mean(0)
        else:
            powers = (order * log_weights.total).logsumexp(0)
            bound = (powers - math.log(self.num_samples)) / order
        return -(log_weights.scale * bound).sum()
