"""Exact sums over the states of a discrete latent."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vae._errors import expected, unknown_name
from pyro_vae.objectives.objective import Objective, Program, is_sample, plates, total
from pyro_vae.objectives.relaxation import relaxed

__all__ = ["Enumerated"]


class Enumerated(Objective):
    r"""Creates the exact bound, or the exact log-likelihood, of a small discrete latent.

    .. math:: \mathcal{L}(x) = \sum_z q(z \mid x) \log \frac{p(x \mid z) \, p(z)}{q(z \mid x)}
        \quad\text{or}\quad \log p(x) = \log \sum_z p(x \mid z) \, p(z)

    Neither draws anything. Over the ``prior`` no guide enters: the objective is log p(x) itself,
    and the guide is not trained; a fit that follows, with over the ``guide``, does that. Whatever
    relaxation the guide asks for is left out.

    References:
        Pyro: Deep Universal Probabilistic Programming (Bingham et al., 2019),
        https://arxiv.org/abs/1810.09538

    Args:
        over: The law whose states are summed over: of the ``guide``, as the ELBO is an expectation
            under it; of the ``prior``.

    Raises:
        ValueError: If ``over`` is unknown.

    Example:
        >>> import torch, pyro_vae as pv
        >>> vae = pv.VAE(
        ...     pv.priors.Categorical(2, 3),
        ...     pv.guides.GumbelSoftmax(2, 3),
        ...     pv.likelihoods.Bernoulli((4,)),
        ... )
        >>> bound, exact = (
        ...     -Enumerated(over).loss(vae.model, vae.guide, torch.ones(5, 4))
        ...     for over in ("guide", "prior")
        ... )
        >>> bound <= exact
        True
    """

    def __init__(self, over: Literal["guide", "prior"] = "guide") -> None:
        if over not in ("guide", "prior"):
            raise unknown_name("over", over, ("guide", "prior"))
        super().__init__()
        self.over = over

    def bounds(self, guide: Program) -> bool:
        """Tells that it is a bound: no relaxation enters."""
        return True

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Returns minus the bound, or minus log p(x), summed over the batch, shape ``()``, nats.

        Raises:
            ValueError: If there is not exactly one latent site, or it has no states to list.
        """
        with relaxed("enumerate", self.step):  # the temperature has no part in it
            if self.over == "prior":
                trace = prune_subsample_sites(poutine.trace(model).get_trace(*args, **kwargs))
                return -self._log_marginal(trace)
            ((model_trace, guide_trace),) = self._traces(model, guide, args, kwargs)
        self._check(guide_trace, "guide")
        observed, latent = self._split(model_trace, guide_trace, "analytic")
        return total(latent) - total(observed)

    def _log_marginal(self, trace: poutine.Trace) -> Tensor:
        self._check(trace, "model")
        joint: Tensor | float = 0.0
        for site in filter(is_sample, trace.nodes.values()):
            joint = joint + plates(site, self._log_prob(site, enumerated=True))
        return torch.as_tensor(joint).logsumexp(0).sum()

    def _check(self, trace: poutine.Trace, program: str) -> None:
        latent = {
            site["name"]: type(site["fn"]).__name__
            for site in trace.nodes.values()
            if is_sample(site) and not site["is_observed"]
        }
        states = [s for s in trace.nodes.values() if s.get("infer", {}).get("relaxed")]
        if len(latent) != 1 or len(states) != 1:
            what = "one latent site, discrete, whose states can be listed"
            raise expected(program, what, latent)
