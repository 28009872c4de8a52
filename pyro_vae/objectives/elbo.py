"""The evidence lower bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from pyro_vae._errors import expected, positive_integer, unknown_name
from pyro_vae.objectives.objective import Objective, Program, Term, modes, per_observation, total

__all__ = ["ELBO", "Terms", "terms_of"]

Schedule = Literal["linear", "sigmoid", "cyclical"]
_STEEPNESS = 10.0  # of the sigmoid: 0.7% at the start of the warm-up, 99.3% at its end


@dataclass(frozen=True)
class Terms:
    """The two halves of the ELBO, per observation.

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


class ELBO(Objective):
    r"""Creates the evidence lower bound, with a weight on its Kullback-Leibler term.

    .. math:: \mathcal{L}(x) = \mathbb{E}_{q(z \mid x)}[\log p(x \mid z)]
        - \beta r_t \, \mathrm{KL}(q(z \mid x) \,\|\, p(z))

    The ramp :math:`r_t` rises over the ``warmup``, W steps: ``linear``, ``min(1, (t + 1) / W)``;
    ``sigmoid``, a logistic curve from 0.7% at its start over a half to 99.3% at its end;
    ``cyclical``, linear, then level for as long, ``cycles`` times, and level from then on.

    With ``free_bits``, a dimension gains nothing by a divergence below them: the mean over the
    minibatch of the KL of each latent dimension is replaced by ``free_bits`` where it is less, and
    the results are added up. Where the KL has no closed form that is a sum over dimensions, the
    mean KL of the whole latent is clamped at ``free_bits`` times its number of entries.

    With a ``capacity``, C nats, the term is :math:`\beta \, |\mathrm{KL} - r_t C|`, of the mean
    KL over the minibatch: the warm-up raises the capacity, and the weight stays.

    Labels, where data have some, make it semi-supervised: a labelled observation has the bound
    :math:`\mathcal{L}(x, y)` of log p(x, y), any other :math:`\mathcal{L}(x)`. A ``label_weight``,
    a, also trains the guide as a classifier: of M labelled observations among N, each adds
    :math:`a \frac{N}{M} \log q(y \mid x)`, by which the objective is no bound any more.

    Takes any reparameterised Pyro model and guide. Its value and gradient equal those of Pyro's
    ``TraceMeanField_ELBO`` (``kl="analytic"``) and ``Trace_ELBO`` (``kl="sampled"``), but nothing
    is read back from the device.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014),
        https://arxiv.org/abs/1312.6114
        beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework
        (Higgins et al., 2017), https://openreview.net/forum?id=Sy2fzU9gl
        Ladder Variational Autoencoders (Sonderby et al., 2016), https://arxiv.org/abs/1602.02282,
        for the linear warm-up
        Generating Sentences from a Continuous Space (Bowman et al., 2016),
        https://arxiv.org/abs/1511.06349, for the sigmoid one
        Cyclical Annealing Schedule: A Simple Approach to Mitigating KL Vanishing (Fu et al., 2019),
        https://arxiv.org/abs/1903.10145
        Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
        https://arxiv.org/abs/1606.04934, for free bits
        Understanding disentangling in beta-VAE (Burgess et al., 2018),
        https://arxiv.org/abs/1804.03599, for the capacity
        Semi-supervised Learning with Deep Generative Models (Kingma et al., 2014),
        https://arxiv.org/abs/1406.5298, for the weight of labels, there 0.1

    Args:
        kl: ``analytic`` where a closed form is known, site by site, and the prior of a site depends
            on nothing that the guide draws after it; ``sampled`` everywhere.
        beta: Weight of the KL term. Below 1 the objective is no bound.
        warmup: Optimiser steps over which the weight rises to ``beta``.
        schedule: Shape of the warm-up.
        cycles: How often a ``cyclical`` schedule starts over.
        free_bits: Nats of each latent dimension that cost the same whether used or not.
        capacity: Nats an observation that the KL is drawn towards in place of 0.
        label_weight: Weight of log q(y|x) of labelled observations. ``fit`` passes M and N to
            :meth:`prepare`; without it N / M is 1.
        num_particles: Draws of z for each observation.
        kwargs: As in :class:`pyro.infer.ELBO`.

    Raises:
        ValueError: If an argument is unknown, negative, or has no meaning beside another.

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
        schedule: Schedule = "linear",
        cycles: int = 4,
        free_bits: float = 0.0,
        capacity: float | None = None,
        label_weight: float = 0.0,
        num_particles: int = 1,
        **kwargs: Any,
    ) -> None:
        if kl not in ("analytic", "sampled"):
            raise unknown_name("kl", kl, ("analytic", "sampled"))
        if not beta >= 0:
            raise expected("beta", "a number >= 0", beta)
        if warmup < 0:
            raise expected("warmup", "a number of steps >= 0", warmup)
        if schedule not in ("linear", "sigmoid", "cyclical"):
            raise unknown_name("schedule", schedule, ("linear", "sigmoid", "cyclical"))
        if warmup == 0 and schedule != "linear":
            raise expected("warmup", f"a positive number of steps, being {schedule}", warmup)
        cycles = positive_integer("cycles", cycles)
        if not free_bits >= 0:
            raise expected("free_bits", "a number of nats >= 0", free_bits)
        if capacity is not None and not capacity >= 0:
            raise expected("capacity", "a number of nats >= 0", capacity)
        if capacity is not None and free_bits > 0:
            raise expected("free_bits", "0 beside a capacity", free_bits)
        if not label_weight >= 0:
            raise expected("label_weight", "a number >= 0", label_weight)
        kwargs.setdefault("vectorize_particles", num_particles > 1)
        super().__init__(num_particles=num_particles, **kwargs)
        self.kl = kl
        self.beta = beta
        self.warmup = warmup
        self.schedule = schedule
        self.cycles = cycles
        self.free_bits = free_bits
        self.capacity = capacity
        self.label_weight = label_weight
        self.data_per_label = 1.0
        # Clamping from below only adds to the loss: with free bits it bounds, less tightly.
        self.is_bound = beta >= 1 and warmup == 0 and capacity is None and label_weight == 0

    def prepare(self, num_data: int, num_labels: int = 0) -> None:
        """Sets the number of observations for each label.

        Raises:
            ValueError: If labels have a weight, and there are none.
        """
        if num_labels == 0 and self.label_weight > 0:
            raise expected("label_weight", "0 without labels", self.label_weight)
        self.data_per_label = num_data / num_labels if num_labels > 0 else 1.0

    @property
    def needs_batch(self) -> str:
        if self.capacity is not None:
            return "the capacity"
        return "the floor of `free_bits`" if self.free_bits > 0 else ""

    def weight(self) -> Tensor | float:
        """Returns the weight of the KL at the current step, without a unit: a number or ``()``."""
        return self.beta if self.capacity is not None else self.beta * self._ramp()

    def _ramp(self) -> Tensor | float:
        if self.warmup == 0:
            return 1.0
        passed = (self.step + 1) / self.warmup
        if self.schedule == "sigmoid":
            return torch.sigmoid(_STEEPNESS * (passed - 0.5))
        if self.schedule == "cyclical":
            done = self.step >= 2 * self.warmup * self.cycles
            passed = (self.step % (2 * self.warmup) + 1) / self.warmup
            passed = torch.where(done, 1.0, passed)
        return passed.clamp_max(1.0)

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Returns minus the weighted ELBO summed over the batch, shape ``()``, nats.

        Raises:
            ValueError: If a latent site of the guide can be neither reparameterised nor relaxed.
        """
        without = sorted(modes(guide) & {"soft", "straight-through"})
        if self.kl == "sampled" and without:
            # A density at soft draws is undefined, and at hard ones has no gradient by the draw.
            raise expected("kl", f"`analytic` with the relaxation {without[0]!r}", self.kl)
        with self._relaxed(guide, kwargs):
            observed, latents = self._all_terms(model, guide, args, kwargs)
        loss = self.weight() * self._divergence(latents) - total(observed)
        return loss - self._classification(latents) if self.label_weight > 0 else loss

    @torch.no_grad()
    def terms(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Terms:
        """Returns the two halves of the ELBO per observation, discrete sites drawn as they are.

        Neither beta nor a relaxation enters: this is the bound itself.

        Args:
            model: A Pyro program.
            guide: A Pyro program with the same arguments.
            *args: What both are called with.
            **kwargs: Likewise, by name.

        Raises:
            ValueError: If the model has no plate ``data``.
        """
        return terms_of(*self._all_terms(model, guide, args, kwargs))

    @torch.no_grad()
    def totals(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Returns the two halves of the ELBO summed over the batch, whatever plates there are.

        They are E_q[log p(x|z)] and the KL, of shape ``()`` and in nats each.

        Args:
            model: A Pyro program.
            guide: A Pyro program with the same arguments.
            *args: What both are called with.
            **kwargs: Likewise, by name.
        """
        observed, latents = self._all_terms(model, guide, args, kwargs)
        return total(observed), total(latents)

    def _all_terms(
        self, model: Program, guide: Program, args: Any, kwargs: Any
    ) -> tuple[list[Term], list[Term]]:
        """The terms of all particles, each its share of the expectation."""
        observed: list[Term] = []
        latents: list[Term] = []
        for traces in self._traces(model, guide, args, kwargs):
            more, latent = self._split(*traces, self.kl)
            observed += more
            latents += latent
        return observed, latents

    def _divergence(self, latents: list[Term]) -> Tensor:
        """The KL summed over the batch, with free bits or a capacity."""
        if self.free_bits > 0:
            groups: dict[str, list[tuple[Tensor, Tensor]]] = {}
            for term in latents:
                by_group, size = _groups(term)
                floor = self.free_bits * size * _weight_of(term).sum()
                groups.setdefault(term.site["name"], []).append((by_group, floor))
            sums = [
                map(torch.as_tensor, map(sum, zip(*each, strict=True))) for each in groups.values()
            ]
            return torch.stack([torch.maximum(*each).sum() for each in sums]).sum()
        divergence = total(latents)
        if self.capacity is not None:
            names = [term.site["name"] for term in latents]
            data = [per_observation(term.site, _weight_of(term)).sum() for term in latents]
            num_data = sum(n for n, name in zip(data, names, strict=True) if name == names[0])
            divergence = (divergence - self.capacity * self._ramp() * num_data).abs()
        return divergence

    def _classification(self, latents: list[Term]) -> Tensor | float:
        """The weighted log q(y|x) of what is labelled, summed over the batch."""
        sites = [term.site for term in latents if "label_log_prob" in term.site["infer"]]
        sums = [
            scale_and_mask(site["infer"]["label_log_prob"], site["scale"], site["mask"]).sum()
            for site in sites
        ]
        # The same for each particle of those that come one by one.
        return self.label_weight * self.data_per_label * sum(sums) / max(1, len(sums))


def terms_of(observed: Sequence[Term], latents: Sequence[Term]) -> Terms:
    """Adds up the terms of each observation.

    Raises:
        ValueError: If a site is not in the plate ``data``.
    """
    reconstruction, kl = (
        torch.stack([per_observation(term.site, term.value) for term in terms]).sum(0)
        for terms in (observed, latents)
    )
    return Terms(reconstruction, kl, {term.site["name"]: term.estimator for term in latents})


def _weight_of(term: Term) -> Tensor:
    """The weight of each entry of a site's batch: 1 but for scales, masks and its share."""
    ones = term.value.new_ones(term.site["fn"].batch_shape)
    weight: Tensor = scale_and_mask(ones, term.site["scale"], term.site["mask"])
    # Shares add up to 1, whatever they are: the weight has no gradient.
    return weight * torch.as_tensor(term.share, device=weight.device).detach()


def _groups(term: Term) -> tuple[Tensor, int]:
    """Splits a KL, summed over the batch, into the contributions of the latent's dimensions.

    Returns:
        The share of each group, and how many dimensions a group has: 1, or all where the KL does
        not factorise.
    """
    q, p = term.site["fn"], None if term.against is None else term.against["fn"]
    if (
        term.estimator == "analytic"
        and isinstance(q, Independent)
        and isinstance(p, Independent)
        and q.reinterpreted_batch_ndims == p.reinterpreted_batch_ndims
    ):
        kl = kl_divergence(q.base_dist, p.base_dist).expand(q.base_dist.batch_shape)
        kl = kl.flatten(len(q.batch_shape)).movedim(-1, 0)  # scales and masks are of the batch
        kl = scale_and_mask(kl, term.site["scale"], term.site["mask"]).movedim(0, -1)
        kl = torch.as_tensor(term.share, device=kl.device).unsqueeze(-1) * kl
        return kl.reshape(-1, kl.shape[-1]).sum(0), 1
    return term.value.sum().unsqueeze(0), term.site["fn"].event_shape.numel()
