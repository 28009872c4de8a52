"""The beta-TCVAE objective."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import Independent

from pyro_vae._errors import expected, positive_integer
from pyro_vae.objectives.objective import Objective, Program, Site, only_latent, total

__all__ = ["TotalCorrelation"]


class TotalCorrelation(Objective):
    r"""Creates the ELBO less a penalty on dependence between the dimensions of the latent.

    .. math:: \mathcal{L}(x) = \mathrm{ELBO}(x) - (\beta - 1) \, \mathbb{E}_{q(z \mid x)}
        \Big[\log \frac{q(z)}{\prod_j q(z_j)}\Big],
        \quad q(z) = \frac1N \sum_{n=1}^N q(z \mid x_n)

    With all N observations in the batch the two densities are exact. In a minibatch of M the
    observation that z was drawn for has weight 1/N, as in q(z), and each other one
    (N - 1) / (N (M - 1)): the estimates of q(z) and of its marginals are then unbiased, for a batch
    is drawn without replacement. This is the minibatch-stratified sampling of the paper, averaged
    over the order of the others, which there have unequal weights. The logarithms are biased, less
    so the larger the batch. For a batch of one observation the penalty is 0.

    References:
        Isolating Sources of Disentanglement in Variational Autoencoders (Chen et al., 2018),
        https://arxiv.org/abs/1802.04942

    Args:
        beta: Weight of the total correlation; 1 makes it the ELBO.
        num_data: Number of training observations, N; by default ``fit`` sets it.

    Raises:
        ValueError: If ``beta`` is negative, or ``num_data`` not a positive integer.

    Example:
        >>> import torch, pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> objective = TotalCorrelation(beta=6.0, num_data=1000)
        >>> objective.differentiable_loss(vae.model, vae.guide, torch.ones(3, 4)).shape
        torch.Size([])
    """

    is_bound = False

    def __init__(self, beta: float = 6.0, num_data: int | None = None) -> None:
        if not beta >= 0:
            raise expected("beta", "a number >= 0", beta)
        super().__init__()
        self.beta = beta
        self.num_data = None if num_data is None else positive_integer("num_data", num_data)
        self._given = num_data is not None

    def prepare(self, num_data: int, num_labels: int = 0) -> None:
        """Sets the number of training observations, unless the constructor did."""
        if not self._given:
            self.num_data = num_data

    @property
    def needs_batch(self) -> str:
        return "the total correlation"

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Returns minus the objective summed over the batch, shape ``()``, nats.

        Raises:
            ValueError: If the guide is not one site of independent dimensions, or the number of
                data is not known, or less than the batch.
        """
        with self._relaxed(guide, kwargs, type(self).__name__):
            ((model_trace, guide_trace),) = self._traces(model, guide, args, kwargs)
        observed, latent = self._split(model_trace, guide_trace, "analytic")
        site, _ = only_latent(latent)
        excess = scale_and_mask(self._log_ratio(site), site["scale"], site["mask"])
        return total(latent) - total(observed) + (self.beta - 1) * excess.sum()

    def _log_ratio(self, site: Site) -> Tensor:
        """Estimates log q(z) - sum_j log q(z_j) at the draw of each observation, shape ``(B,)``."""
        joint, marginals = self._log_aggregate(site)
        return joint - marginals.sum(-1)

    def _log_aggregate(self, site: Site) -> tuple[Tensor, Tensor]:
        """Estimates log q(z), shape ``(B,)``, and each log q(z_j), shape ``(B, d)``."""
        q, z = site["fn"], site["value"]
        if not isinstance(q, Independent) or len(q.batch_shape) != 1:
            what = "one draw an observation of a distribution with independent dimensions"
            raise expected(f"guide, site {site['name']}", what, type(q).__name__)
        size = len(z)
        if self.num_data is None or self.num_data < size:
            what = f"the number of training data, at least the {size} of a batch"
            raise expected("num_data", what, self.num_data)
        # The first dimension holds the draws, the second the observations.
        by_dimension = q.base_dist.log_prob(z.unsqueeze(1)).flatten(2)
        if size == 1:
            return by_dimension[0].sum(-1), by_dimension[0]
        own = torch.eye(size, dtype=torch.bool, device=z.device)
        others = (self.num_data - 1) / (self.num_data * (size - 1))
        weights = z.new_full((size, size), math.log(others))
        weights = weights.masked_fill(own, -math.log(self.num_data))
        joint = (weights + by_dimension.sum(-1)).logsumexp(1)
        return joint, (weights.unsqueeze(-1) + by_dimension).logsumexp(1)
