"""Exact sums over the states of a discrete latent."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vae._errors import expected, unknown_name
from pyro_vae.objectives.elbo import Terms, terms_of
from pyro_vae.objectives.objective import (
    Objective,
    Program,
    Site,
    Term,
    common_scale,
    is_sample,
    plates,
    relaxations,
    total,
)
from pyro_vae.objectives.relaxation import relaxed

__all__ = ["Enumerated"]


class Enumerated(Objective):
    r"""Creates the exact bound, or the exact log-likelihood, of a small discrete latent.

    .. math:: \mathcal{L}(x) = \sum_z q(z \mid x) \log \frac{p(x \mid z) \, p(z)}{q(z \mid x)}
        \quad\text{or}\quad \log p(x) = \log \sum_z p(x \mid z) \, p(z)

    Neither draws anything. Over the ``prior`` no guide enters: the objective is log p(x) itself,
    and the guide is not trained; a second fit, over the ``guide``, trains it. Relaxations that the
    guide names are not used.

    References:
        Pyro: Deep Universal Probabilistic Programming (Bingham et al., 2019),
        https://arxiv.org/abs/1810.09538

    Args:
        over: Whose states are summed over: of the ``guide``, as the ELBO is an expectation under
            it; of the ``prior``, for log p(x).

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
        """Returns True: no relaxation enters."""
        return True

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Returns minus the bound, or minus log p(x), summed over the batch, shape ``()``, nats.

        Raises:
            ValueError: If there is not exactly one latent site, or it has no states to list.
        """
        _only_one(guide)
        if self.over == "prior":
            if kwargs.get("labels") is not None:
                raise expected("over", "`guide` where there are labels", self.over)
            log_likelihood, log_prior, site = self._states(model, args, kwargs)
            return -_counted(site, (log_likelihood + log_prior).logsumexp(0)).sum()
        observed, latent = self._expectations(model, guide, args, kwargs)
        return total(latent) - total(observed)

    @torch.no_grad()
    def terms(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Terms:
        """Returns the two halves of the bound per observation.

        Over the prior they are those of log p(x) itself, which is the ELBO of the exact posterior
        in place of the guide.

        Args:
            model: A Pyro program.
            guide: A Pyro program with the same arguments.
            *args: What both are called with.
            **kwargs: Likewise, by name.
        """
        _only_one(guide)
        if self.over == "guide":
            observed, latent = self._expectations(model, guide, args, kwargs)
            return terms_of(observed, latent)
        log_likelihood, log_prior, site = self._states(model, args, kwargs)
        log_posterior = (log_likelihood + log_prior).log_softmax(0)
        posterior = log_posterior.exp()
        reconstruction = _counted(site, (posterior * log_likelihood).sum(0))
        kl = _counted(site, (posterior * (log_posterior - log_prior)).sum(0))
        return Terms(reconstruction, kl, {site["name"]: "analytic"})

    def _expectations(
        self, model: Program, guide: Program, args: Any, kwargs: Any
    ) -> tuple[list[Term], list[Term]]:
        with relaxed("enumerate", self.step):  # the temperature has no part in it
            ((model_trace, guide_trace),) = self._traces(model, guide, args, kwargs)
        _only_states("guide", guide_trace)
        return self._split(model_trace, guide_trace, "analytic")

    def _states(self, model: Program, args: Any, kwargs: Any) -> tuple[Tensor, Tensor, Site]:
        """Log p(x|z) and log p(z) at each state, shape ``(S, B)``, unscaled, and the site of z."""
        with relaxed("enumerate", self.step):
            trace = prune_subsample_sites(poutine.trace(model).get_trace(*args, **kwargs))
        name = _only_states("model", trace)
        sites = list(filter(is_sample, trace.nodes.values()))
        common_scale(sites)
        log_likelihood: Tensor | float = 0.0
        for site in sites:
            value = plates(site, self._log_prob(site, enumerated=True, scaled=False))
            if site["name"] == name:
                log_prior = value
            else:
                log_likelihood = log_likelihood + value
        return torch.as_tensor(log_likelihood), log_prior, trace.nodes[name]


def _counted(site: Site, value: Tensor) -> Tensor:
    """Applies scale and mask of each observation, shape ``(B,)``, after the sum over states."""
    counted: Tensor = scale_and_mask(value, site["scale"], site["mask"])
    return counted


def _only_one(guide: Program) -> None:
    """Refuses a guide of several discrete sites, whose states would be taken for each other's.

    Raises:
        ValueError: If it is one.
    """
    if len(named := relaxations(guide)) > 1:
        what = "one latent site, of a few states that can be listed"
        raise expected("guide", what, sorted(named))


def _only_states(program: str, trace: poutine.Trace) -> str:
    """Returns the name of the one latent site, whose states are listed.

    Raises:
        ValueError: If there are more or fewer, or it is not discrete.
    """
    sites = filter(is_sample, trace.nodes.values())
    latent = {site["name"]: site for site in sites if not site["is_observed"]}
    if [site["infer"].get("relaxed") for site in latent.values()] != ["enumerate"]:
        found = {
            name: type(getattr(site["fn"], "base_dist", site["fn"])).__name__
            for name, site in latent.items()
        }
        raise expected(program, "one latent site, of a few states that can be listed", found)
    return next(iter(latent))
