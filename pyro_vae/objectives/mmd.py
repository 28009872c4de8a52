"""The InfoVAE objective with a maximum mean discrepancy."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyro_vae._errors import expected, unknown_name
from pyro_vae.objectives.objective import Objective, Program, Site, modes, only_latent, total

__all__ = ["MMD"]


class MMD(Objective):
    r"""Creates the reconstruction less a distance between the guide's draws and the prior's.

    .. math:: \mathcal{L} = \mathbb{E}_{q(z \mid x)}[\log p(x \mid z)]
        - \beta \, \mathrm{KL}(q(z \mid x) \,\|\, p(z))
        - \lambda \, \mathrm{MMD}^2(q(z), p(z))

    The distance is between the aggregate posterior and the prior, not one for each observation: the
    guide may be certain about every observation. It is estimated from one draw of q(z|x) for each
    observation of the batch and as many of the prior, unbiasedly for observations drawn
    independently. In d dimensions the kernels are

    - ``rbf``: :math:`k(z, z') = \exp(-\|z - z'\|^2 / 2d)`,
    - ``imq``: :math:`k(z, z') = 2d / (2d + \|z - z'\|^2)`, with heavier tails.

    The ``beta`` and ``weight`` are 1 - alpha and alpha + lambda - 1 of the paper. A discrete latent
    is compared by its ``soft`` or ``straight-through`` draws. For a batch of one observation the
    distance is 0.

    References:
        InfoVAE: Balancing Learning and Inference in Variational Autoencoders (Zhao et al., 2019),
        https://arxiv.org/abs/1706.02262
        A Kernel Two-Sample Test (Gretton et al., 2012),
        https://jmlr.org/papers/v13/gretton12a.html, for the estimator
        Wasserstein Auto-Encoders (Tolstikhin et al., 2018), https://arxiv.org/abs/1711.01558, for
        the inverse multiquadratic kernel

    Args:
        weight: Of the squared distance, in nats an observation.
        kernel: How similarity falls with the distance of two latents.
        beta: Weight of the KL term.

    Raises:
        ValueError: If a weight is negative, or the kernel unknown.

    Example:
        >>> import torch, pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> MMD(100.0).differentiable_loss(vae.model, vae.guide, torch.ones(3, 4)).shape
        torch.Size([])
    """

    is_bound = False

    def __init__(
        self, weight: float = 100.0, kernel: Literal["rbf", "imq"] = "rbf", beta: float = 0.0
    ) -> None:
        if not weight >= 0:
            raise expected("weight", "a number >= 0", weight)
        if kernel not in ("rbf", "imq"):
            raise unknown_name("kernel", kernel, ("rbf", "imq"))
        if not beta >= 0:
            raise expected("beta", "a number >= 0", beta)
        super().__init__()
        self.weight = weight
        self.kernel = kernel
        self.beta = beta

    @property
    def needs_batch(self) -> str:
        return "the discrepancy"

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Returns minus the objective summed over the batch, shape ``()``, nats.

        Raises:
            ValueError: If the latent is not one site in the plate ``data`` alone, has no draws
                to compare, or has a learned prior whose draws pass no gradient.
        """
        if without := modes(guide) & {"concrete", "enumerate"}:
            what = "the relaxation `soft` or `straight-through`, whose draws MMD compares"
            raise expected("guide", what, ", ".join(sorted(without)))
        with self._relaxed(guide, kwargs):
            ((model_trace, guide_trace),) = self._traces(model, guide, args, kwargs)
        observed, latent = self._split(model_trace, guide_trace, "analytic")
        loss = -total(observed)
        if self.beta > 0:
            loss = loss + self.beta * total(latent)
        ours, prior = only_latent(latent)
        ones = scale_and_mask(loss.new_ones(ours["fn"].batch_shape), ours["scale"], ours["mask"])
        return loss + self.weight * ones.sum() * self._squared_distance(ours, prior)

    def _squared_distance(self, ours: Site, prior: Site) -> Tensor:
        if len(ours["fn"].batch_shape) != 1:
            raise expected("guide", "a latent in the plate `data` alone", ours["name"])
        z, p = ours["value"], prior["fn"]
        y = p.rsample() if p.has_rsample else p.sample()
        if not p.has_rsample and p.log_prob(y).requires_grad:
            what = "a prior that is not learned, or whose draws pass a gradient"
            raise expected("model", what, type(p).__name__)
        z, y = z.flatten(1), y.flatten(1)
        size = len(z)
        if size == 1:
            return z.new_zeros(())
        within = [self._similarity(each, each) for each in (z, y)]
        # Of a draw with itself there is no similarity to average: hence unbiased.
        means = [(k.sum() - k.diagonal().sum()) / (size * (size - 1)) for k in within]
        return means[0] + means[1] - 2 * self._similarity(z, y).mean()

    def _similarity(self, a: Tensor, b: Tensor) -> Tensor:
        squares = (a.unsqueeze(1) - b).square().sum(-1)
        typical = 2 * a.shape[1]  # the mean of it for two standard normal draws
        return (
            torch.exp(-squares / typical) if self.kernel == "rbf" else typical / (typical + squares)
        )
