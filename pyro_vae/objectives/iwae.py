"""The importance-weighted bound."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae._errors import unknown_name
from pyro_vae.objectives.importance import Importance, LogWeights
from pyro_vae.objectives.objective import Program, check_reparameterised

__all__ = ["IWAE"]


class IWAE(Importance):
    r"""Creates the importance-weighted bound, tighter the more draws there are.

    .. math:: \mathcal{L}_K(x) = \mathbb{E}\Big[\log \frac1K \sum_{k=1}^{K} w_k\Big],
        \quad w_k = \frac{p(x \mid z_k) \, p(z_k)}{q(z_k \mid x)}, \quad z_k \sim q(z \mid x)

    The value is the same for each ``gradient``, and so is the gradient of the model's parameters,
    :math:`\sum_k \tilde w_k \nabla_\theta \log w_k` with weights that add up to 1. They differ in
    the gradient of the guide's:

    - ``standard``: that of the value. Unbiased, but its noise outgrows it as K grows.
    - ``dreg``: :math:`\sum_k \tilde w_k^2 \, \partial_z \log w_k \, \nabla_\phi z_k`, doubly
      reparameterised. Unbiased, and the better the larger K is.
    - ``stl``: the same with :math:`\tilde w_k`, sticking the landing: the score is left out, which
      biases it for K > 1. Of little noise where the guide is close to the posterior.

    The last two take any reparameterised guide, in one or several sites, and differentiate its
    density at draws that are inputs: a flow has to invert them. They cost another backward pass
    through the decoder.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519
        Sticking the Landing: Simple, Lower-Variance Gradient Estimators for Variational Inference
        (Roeder et al., 2017), https://arxiv.org/abs/1703.09194
        Tighter Variational Bounds are Not Necessarily Better (Rainforth et al., 2018),
        https://arxiv.org/abs/1802.04537
        Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives (Tucker et al., 2019),
        https://arxiv.org/abs/1810.04152

    Args:
        num_samples: Draws of z for each observation, K. One makes it the ELBO with a sampled KL.
        gradient: How the guide's parameters get their gradient, see above.

    Raises:
        ValueError: If ``num_samples`` is not a positive integer, or ``gradient`` unknown.

    Example:
        >>> import torch, pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> IWAE(5, "dreg").differentiable_loss(vae.model, vae.guide, torch.ones(3, 4)).shape
        torch.Size([])
    """

    def __init__(
        self, num_samples: int = 5, gradient: Literal["standard", "stl", "dreg"] = "standard"
    ) -> None:
        if gradient not in ("standard", "stl", "dreg"):
            raise unknown_name("gradient", gradient, ("standard", "stl", "dreg"))
        super().__init__(num_samples)
        self.gradient = gradient
        self.unbiased_gradient = gradient != "stl" or num_samples == 1

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Returns minus the bound summed over the batch, shape ``()``, nats.

        Raises:
            ValueError: If a latent site of the guide can be neither reparameterised nor relaxed to
                a density, or a site is not in the plate ``data``.
        """
        if self.gradient == "standard" or not torch.is_grad_enabled():
            return self._loss(self._log_weights(model, guide, args, kwargs))
        with _Cut() as cut:
            log_weights = self._log_weights(model, guide, args, kwargs)
        loss, scale = self._loss(log_weights), log_weights.scale
        share = log_weights.total.detach().softmax(0)
        by_draw = share * share if self.gradient == "dreg" else share
        through_draws = cut.path((scale * by_draw * log_weights.total).sum())
        directly = (scale * share * (log_weights.likelihood + log_weights.prior)).sum()
        surrogate = -(directly + through_draws)  # has the gradient wanted, and no value of meaning
        return loss.detach() + (surrogate - surrogate.detach())

    def _loss(self, log_weights: LogWeights) -> Tensor:
        scale = log_weights.scale
        if self.num_samples == 1:  # in the order of the ELBO, so that they agree to the last digit
            divergence = log_weights.guide - log_weights.prior
            return (scale * divergence).sum() - (scale * log_weights.likelihood).sum()
        bound = log_weights.total.logsumexp(0) - math.log(self.num_samples)
        return -(scale * bound).sum()


class _Cut(Messenger):
    """Lets programs go on with copies of their draws, beyond which gradients do not go."""

    def __init__(self) -> None:
        super().__init__()
        self._draws: dict[str, tuple[Tensor, Tensor]] = {}  # as drawn, and what programs go on with

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        # In the model, replayed, the guide has drawn already.
        if msg["is_observed"] or msg["value"] is not None or site_is_subsample(msg):
            return
        if msg["infer"].get("as_in_model"):  # no draw of the guide's: gradients are the model's
            return
        check_reparameterised(msg)
        draw = msg["fn"](*msg["args"], **msg["kwargs"])
        copy = draw.detach().requires_grad_()
        self._draws[msg["name"]], msg["value"] = (draw, copy), copy

    def path(self, value: Tensor) -> Tensor:
        """Returns a number whose gradient is that of ``value`` by way of the draws alone.

        A draw may depend on earlier ones: the chain is followed from the last to the first.
        """
        draws = list(self._draws.values())
        partials = torch.autograd.grad(value, [copy for _, copy in draws], retain_graph=True)
        through = value.new_zeros(())
        for (draw, copy), partial in zip(reversed(draws), reversed(partials), strict=True):
            slope = partial
            if through.requires_grad:  # by way of the draws after this one
                (later,) = torch.autograd.grad(
                    through, copy, retain_graph=True, allow_unused=True, materialize_grads=True
                )
                slope = slope + later
            through = through + (slope.detach() * draw).sum()
        return through
