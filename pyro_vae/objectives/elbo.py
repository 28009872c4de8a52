"""The evidence lower bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import is_validation_enabled
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match, check_site_shape
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae._errors import expected, unknown_name
from pyro_vae.objectives.objective import Objective
from pyro_vae.objectives.relaxation import relaxed

__all__ = ["ELBO", "Terms"]

Program = Callable[..., Any]


@dataclass(frozen=True)
class Terms:
    """The two halves of the ELBO, per datum.

    Attributes:
        reconstruction: E_q[log p(x|z)], shape ``(B,)``, nats.
        kl: KL(q(z|x) || p(z)), shape ``(B,)``, nats.
        kl_estimator: For each latent site, ``analytic`` or ``sampled``: which one ran.
    """

    reconstruction: Tensor
    kl: Tensor
    kl_estimator: dict[str, str]

    @property
    def elbo(self) -> Tensor:
        """``reconstruction - kl``, shape ``(B,)``, nats."""
        return self.reconstruction - self.kl


@dataclass(frozen=True)
class _Term:
    site: dict[str, Any]
    value: Tensor


class ELBO(Objective):
    r"""Creates the evidence lower bound, with a weight on its Kullback-Leibler term.

    .. math:: \mathcal{L}(x) = \mathbb{E}_{q(z \mid x)}[\log p(x \mid z)]
        - \beta_t \, \mathrm{KL}(q(z \mid x) \,\|\, p(z)),
        \quad \beta_t = \beta \min(1, (t + 1) / \mathrm{warmup})

    Takes any reparameterised Pyro model and guide. Its value and gradient equal those of Pyro's
    ``TraceMeanField_ELBO`` (``kl="analytic"``) and ``Trace_ELBO`` (``kl="sampled"``), but nothing
    is read back from the device.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014),
        https://arxiv.org/abs/1312.6114
        beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework
        (Higgins et al., 2017), https://openreview.net/forum?id=Sy2fzU9gl
        Ladder Variational Autoencoders (Sonderby et al., 2016), https://arxiv.org/abs/1602.02282,
        for the warm-up

    Args:
        kl: ``analytic`` where a closed form is known, site by site; ``sampled`` everywhere.
        beta: Weight of the KL term. Below 1 the objective is no bound.
        warmup: Optimiser steps over which the weight rises from 0 to ``beta``.
        num_particles: Draws of z for each datum.
        kwargs: As in :class:`pyro.infer.ELBO`.

    Raises:
        ValueError: If an argument is unknown or negative.

    Example:
        >>> import torch, pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> x = torch.ones(3, 4)
        >>> terms = ELBO().terms(vae.model, vae.guide, x)
        >>> terms.elbo.shape, terms.kl_estimator
        (torch.Size([3]), {'z': 'analytic'})
    """

    def __init__(
        self,
        kl: Literal["analytic", "sampled"] = "analytic",
        beta: float = 1.0,
        warmup: int = 0,
        num_particles: int = 1,
        **kwargs: Any,
    ) -> None:
        if kl not in ("analytic", "sampled"):
            raise unknown_name("kl", kl, ("analytic", "sampled"))
        if not beta >= 0:
            raise expected("beta", "a number >= 0", beta)
        if warmup < 0:
            raise expected("warmup", "a number of steps >= 0", warmup)
        kwargs.setdefault("vectorize_particles", num_particles > 1)
        super().__init__(num_particles=num_particles, **kwargs)
        self.kl = kl
        self.beta = beta
        self.warmup = warmup
        self.is_bound = beta >= 1 and warmup == 0

    def weight(self) -> Tensor | float:
        """Returns the weight of the KL term at the current step."""
        if self.warmup == 0:
            return self.beta
        return self.beta * ((self.step + 1) / self.warmup).clamp_max(1.0)

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Returns minus the weighted ELBO summed over the batch, shape ``()``, nats.

        Raises:
            ValueError: If a latent site of the guide can be neither reparameterised nor relaxed.
        """
        reconstruction: Tensor | float = 0.0
        divergence: Tensor | float = 0.0
        with self._relaxed(guide):
            for model_trace, guide_trace in self._traces(model, guide, args, kwargs):
                observed, latent, _ = self._split(model_trace, guide_trace)
                for term in observed:
                    reconstruction = reconstruction + term.value.sum()
                for term in latent:
                    divergence = divergence + term.value.sum()
        return torch.as_tensor(self.weight() * divergence - reconstruction)

    @torch.no_grad()
    def terms(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Terms:
        """Returns the two halves of the ELBO per datum, discrete sites drawn as they are.

        Neither beta nor a relaxation enters: this is the bound itself.

        Raises:
            ValueError: If the model has no plate ``data``.
        """
        parts: dict[str, list[Tensor]] = {"observed": [], "latent": []}
        ran: dict[str, str] = {}
        for model_trace, guide_trace in self._traces(model, guide, args, kwargs):
            observed, latent, ran = self._split(model_trace, guide_trace)
            parts["observed"] += [_per_datum(term) for term in observed]
            parts["latent"] += [_per_datum(term) for term in latent]
        sums = {name: torch.stack(values).sum(0) for name, values in parts.items()}
        return Terms(sums["observed"], sums["latent"], ran)

    def _relaxed(self, guide: Program) -> Any:
        relaxation = getattr(guide, "relaxation", None)
        if relaxation is None:
            return nullcontext()
        if self.kl == "sampled" and relaxation.mode in ("soft", "straight-through"):
            # A density at soft draws is undefined, and at hard ones has no gradient by the draw.
            raise expected("kl", f"`analytic` with the relaxation {relaxation.mode!r}", self.kl)
        return relaxed(relaxation.mode, relaxation.temperature_at(self.step))

    def _traces(
        self, model: Program, guide: Program, args: Any, kwargs: Any
    ) -> Iterator[tuple[poutine.Trace, poutine.Trace]]:
        if self.vectorize_particles and self.max_plate_nesting == float("inf"):
            nesting = getattr(model, "max_plate_nesting", None)
            if nesting is None:
                self._guess_max_plate_nesting(model, guide, args, kwargs)
            else:
                self.max_plate_nesting = nesting + (self.num_particles > 1)
        return self._get_traces(model, guide, args, kwargs)

    def _get_trace(
        self, model: Program, guide: Program, args: Any, kwargs: Any
    ) -> tuple[poutine.Trace, poutine.Trace]:
        """As stock, but leaves densities to whoever needs them: relaxed draws may have none."""
        unwrapped = poutine.unwrap(guide)
        if isinstance(unwrapped, poutine.messenger.Messenger):
            guide(*args, **kwargs)
            model_trace, guide_trace = unwrapped.get_traces()
        else:
            guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
            replayed = poutine.replay(model, trace=guide_trace)
            model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
        if is_validation_enabled():
            check_model_guide_match(model_trace, guide_trace, self.max_plate_nesting)
        return prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)

    def _split(
        self, model_trace: poutine.Trace, guide_trace: poutine.Trace
    ) -> tuple[list[_Term], list[_Term], dict[str, str]]:
        """Returns the terms of log p(x|z), those of the KL, and how each of the latter was had."""
        latents = {name: site for name, site in guide_trace.nodes.items() if _is_sample(site)}
        states = [s for s in latents.values() if s["infer"].get("relaxed") == "enumerate"]
        if len(states) > 1:
            raise expected("guide", "at most one enumerated site", [s["name"] for s in states])
        # Enumerated states lie along a new leftmost dimension: their expectation is a weighted sum.
        enumerated = len(states) == 1
        q = self._log_prob(states[0], enumerated=True).exp() if enumerated else 1.0
        share = q / self.num_particles
        observed, latent, ran = [], [], {}
        for name, site in model_trace.nodes.items():
            if not _is_sample(site):
                continue
            if name in latents:
                value, ran[name] = self._kl(latents[name], site, enumerated)
                weight = share if ran[name] == "sampled" else 1.0 / self.num_particles
                latent.append(_Term(latents[name], weight * value))
            else:
                observed.append(_Term(site, share * self._log_prob(site, enumerated=enumerated)))
        for name, site in latents.items():
            if name not in ran:  # auxiliary: in the guide alone
                _check_reparameterised(site)
                latent.append(_Term(site, share * self._log_prob(site, enumerated=enumerated)))
        return observed, latent, ran

    def _kl(
        self, guide_site: dict[str, Any], model_site: dict[str, Any], enumerated: bool
    ) -> tuple[Tensor, str]:
        _check_reparameterised(guide_site)
        if self.kl == "analytic":
            try:
                value = kl_divergence(guide_site["fn"], model_site["fn"])
                # A KL that depends on nothing drawn has no batch shape of its own.
                value = torch.as_tensor(value).expand(guide_site["fn"].batch_shape)
                return scale_and_mask(value, guide_site["scale"], guide_site["mask"]), "analytic"
            except NotImplementedError:
                pass  # no closed form for this pair: the caller is told
        log_q = self._log_prob(guide_site, enumerated=enumerated)
        return log_q - self._log_prob(model_site, enumerated=enumerated), "sampled"

    def _log_prob(self, site: dict[str, Any], *, enumerated: bool = False) -> Tensor:
        log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        site["log_prob"] = scale_and_mask(log_prob, site["scale"], site["mask"])
        if is_validation_enabled() and not enumerated:
            check_site_shape(site, self.max_plate_nesting)
        return site["log_prob"]


def _is_sample(site: dict[str, Any]) -> bool:
    return bool(site["type"] == "sample")


def _check_reparameterised(site: dict[str, Any]) -> None:
    if torch.is_grad_enabled() and not (site["fn"].has_rsample or "relaxed" in site["infer"]):
        law = type(site["fn"]).__name__
        raise expected(
            f"guide, site {site['name']}", "a reparameterised or relaxed distribution", law
        )


def _per_datum(term: _Term) -> Tensor:
    """Sums a term over every dimension but that of plate ``data``."""
    frames = [frame for frame in term.site["cond_indep_stack"] if frame.name == "data"]
    if not frames or frames[0].dim is None:
        raise expected("model", "every sample site inside a plate named `data`", term.site["name"])
    value = term.value
    data = value.ndim + frames[0].dim
    others = [i for i in range(value.ndim) if i != data]
    return value.sum(others) if others else value
