"""The base class of objectives, and the terms of a trace that they are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import pyro.infer
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import is_validation_enabled
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match, check_site_shape
from torch import Tensor

from pyro_vae._deprecated import adopt, renamed
from pyro_vae._errors import expected, positive_integer
from pyro_vae.distributions import Relaxation, closed_kl
from pyro_vae.distributions.space import Mode
from pyro_vae.objectives.relaxation import relaxed

__all__ = [
    "Objective",
    "Program",
    "Site",
    "Term",
    "check_reparameterised",
    "common_scale",
    "is_as_in_model",
    "is_sample",
    "modes",
    "only_latent",
    "per_observation",
    "per_particle",
    "plates",
    "relaxations",
    "total",
]

Program = Callable[..., Any]
Site = dict[str, Any]
_PARTICLES = "num_particles_vectorized"  # Pyro's name of the plate


@dataclass(frozen=True)
class Term:
    """A term of the ELBO: the expectation under q of one site.

    Attributes:
        site: The site of the term; of a latent, that of the guide.
        value: To be summed over all dimensions.
        estimator: How a divergence was computed; empty for an observed site.
        against: The model's site of a divergence, if any.
        share: The weight of each entry of the value in the expectation: one over the particles,
            times the probabilities of the states of an enumerated site that it may depend on.
    """

    site: Site
    value: Tensor
    estimator: Literal["", "analytic", "sampled"] = ""
    against: Site | None = None
    share: Tensor | float = 1.0


class Objective(pyro.infer.ELBO, ABC):
    """A loss over traces that stays in tensors, so that a step can be captured as one graph.

    Schedules are computed from ``step``, a tensor that counts optimiser steps. Whoever takes the
    step advances it; stock ``SVI`` does so through :meth:`loss_and_grads`.

    Args:
        num_particles: Draws of z for each observation, over which the loss is averaged.
        **kwargs: What else :class:`pyro.infer.ELBO` takes.

    Raises:
        ValueError: If ``num_particles`` is not a positive integer.

    Attributes:
        step: Optimiser steps taken so far, shape ``()``.
        is_bound: Whether minus the loss is a lower bound of log p(x) in expectation.
        unbiased_gradient: Whether the gradient is, in expectation, that of the expected loss.
    """

    step: Tensor
    max_plate_nesting: float
    is_bound: bool = True
    unbiased_gradient: bool = True

    def __init__(self, num_particles: int = 1, **kwargs: Any) -> None:
        num_particles = positive_integer("num_particles", num_particles)
        super().__init__(num_particles=num_particles, **kwargs)
        self.step = torch.zeros(())

    @abstractmethod
    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Returns the loss summed over the batch, shape ``()``, nats.

        Args:
            model: A Pyro program.
            guide: A Pyro program with the same arguments.
            *args: What both are called with, such as a batch of data, shape ``(B, *event_shape)``.
            **kwargs: Likewise, by name.
        """

    def bounds(self, guide: Program) -> bool:
        """Returns whether minus the loss is a lower bound of log p(x) with this very guide.

        With a relaxed discrete latent it is none: with Concrete variables the loss bounds another
        model, soft draws are outside the model's support, and straight-through gradients are not
        those of the value.
        """
        return self.is_bound and modes(guide) <= {"enumerate"}

    def prepare(self, num_data: int, num_labels: int = 0) -> None:
        """Receives how many training data there are, before the first step.

        Most objectives need neither number.

        Args:
            num_data: Observations.
            num_labels: How many of them have a label.
        """

    @property
    def needs_batch(self) -> str:
        """What of it is of a whole batch, and no sum over observations; empty if nothing is."""
        return ""

    told = renamed("told", "prepare")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        adopt(cls, "told", "prepare")

    def to(self, device: torch.device) -> None:
        """Moves the tensors that it holds to a ``device``: for whoever takes steps, the model's."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and value.device != device:
                setattr(self, name, value.to(device))

    def advance(self) -> None:
        """Counts one optimiser step."""
        self.step.add_(1)

    @torch.no_grad()
    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Returns the loss in nats, without gradients and without counting a step.

        Args:
            model: A Pyro program.
            guide: A Pyro program with the same arguments.
            *args: What both are called with.
            **kwargs: Likewise, by name.
        """
        return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Returns the loss in nats, adds its gradients to the parameters, and counts a step.

        Args:
            model: A Pyro program.
            guide: A Pyro program with the same arguments.
            *args: What both are called with.
            **kwargs: Likewise, by name.
        """
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        self.advance()
        return loss.item()

    @contextmanager
    def _relaxed(
        self, guide: Program, given: Mapping[str, Any], needs_density: str | None = None
    ) -> Iterator[None]:
        """Installs the relaxations that a guide names, one for each site.

        Args:
            guide: The guide.
            given: The keyword arguments of the programs.
            needs_density: What needs draws with a density, for the error where they have none.
        """
        if needs_density is not None and given.get("labels") is not None:
            # Checked first: the relaxation that has densities is not one that labels allow.
            what = f"none with {needs_density}, since what is known has no density"
            raise expected("labels", what, "labels")
        if needs_density is not None and (others := modes(guide) - {"concrete"}):
            what = f"the relaxation `concrete`, whose draws have the density that {needs_density}"
            raise expected("guide", f"{what} needs", ", ".join(sorted(others)))
        program: Any = guide
        with ExitStack() as handlers:
            for name, part in relaxations(guide).items():
                labelled = given.get("labels") is not None and name == program.label_site
                if labelled and part.mode == "concrete":
                    what = "a relaxation with discrete draws, as what is known has no density"
                    raise expected("labels", what, part.mode)
                handlers.enter_context(relaxed(part.mode, part.temperature_at(self.step), name))
            yield

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
        """As in Pyro, but computes no densities yet: relaxed draws may have none."""
        unwrapped = poutine.unwrap(guide)
        if isinstance(unwrapped, poutine.messenger.Messenger):
            guide(*args, **kwargs)
            model_trace, guide_trace = unwrapped.get_traces()
        else:
            guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
            replayed = poutine.replay(model, trace=guide_trace)
            model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
        if is_validation_enabled():
            # Enumerated states lie beyond the plates, where a prior need not have them all.
            own = getattr(unwrapped, "max_plate_nesting", self.max_plate_nesting)
            nesting = own + (self.vectorize_particles and self.num_particles > 1)
            check_model_guide_match(model_trace, guide_trace, nesting)
        return prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)

    def _split(
        self,
        model_trace: poutine.Trace,
        guide_trace: poutine.Trace,
        kl: Literal["analytic", "sampled"],
    ) -> tuple[list[Term], list[Term]]:
        """Returns the terms of log p(x|z) and those of the KL."""
        latents = {name: site for name, site in guide_trace.nodes.items() if is_sample(site)}
        states = [s for s in latents.values() if s["infer"].get("relaxed") == "enumerate"]
        if len(states) > 1:
            raise expected("guide", "at most one enumerated site", [s["name"] for s in states])
        # Enumerated states lie along a new leftmost dimension: their expectation is a weighted sum.
        enumerated = len(states) == 1
        # A scale multiplies terms of the loss; it does not change probabilities.
        log_q = self._log_prob(states[0], enumerated=True, scaled=False) if enumerated else None
        q = 1.0 if log_q is None else log_q.exp()
        share = q / self.num_particles
        observed, latent = [], []
        for name, site in model_trace.nodes.items():
            if not is_sample(site) or (name in latents and is_as_in_model(latents[name])):
                continue
            if name in latents:
                closed = kl == "analytic" and _in_order(name, model_trace, latents)
                latent.append(self._kl(latents[name], site, closed, share, enumerated))
            else:
                observed.append(Term(site, share * self._log_prob(site, enumerated=enumerated)))
        for name, site in latents.items():
            if name not in model_trace.nodes:  # auxiliary: in the guide alone
                check_reparameterised(site)
                value = share * self._log_prob(site, enumerated=enumerated)
                latent.append(Term(site, value, "sampled", share=share))
        return observed, latent

    def _kl(
        self, guide_site: Site, model_site: Site, closed: bool, share: Any, enumerated: bool
    ) -> Term:
        check_reparameterised(guide_site)
        value = closed_kl(guide_site["fn"], model_site["fn"]) if closed else None
        if value is not None:
            # A KL that depends on nothing drawn has no batch shape of its own.
            shapes = (value.shape, guide_site["fn"].batch_shape)
            value = value.expand(torch.broadcast_shapes(*shapes))
            value = scale_and_mask(value, guide_site["scale"], guide_site["mask"])
            # That of an enumerated site is an expectation already, others' may depend on it.
            own = guide_site["infer"].get("relaxed") == "enumerate"
            weight = 1.0 / self.num_particles if own else share
            return Term(guide_site, weight * value, "analytic", model_site, weight)
        log_q = self._log_prob(guide_site, enumerated=enumerated)
        value = log_q - self._log_prob(model_site, enumerated=enumerated)
        return Term(guide_site, share * value, "sampled", model_site, share)

    def _log_prob(self, site: Site, *, enumerated: bool = False, scaled: bool = True) -> Tensor:
        log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        scale = site["scale"] if scaled else 1.0
        site["log_prob"] = scale_and_mask(log_prob, scale, site["mask"])
        if is_validation_enabled() and not enumerated:
            check_site_shape(site, self.max_plate_nesting)
        return site["log_prob"]


def _in_order(name: str, model_trace: poutine.Trace, latents: Mapping[str, Site]) -> bool:
    """Returns whether a closed form of a divergence is an expectation over all that is drawn.

    The closed form holds the model's distribution of a site fixed, which is wrong where that
    depends on what the guide draws later, given this draw. Where the guide does not declare it
    (``infer["closed_form"]``), the order of the sites decides.
    """
    declared = latents[name]["infer"].get("closed_form")
    if declared is not None:
        return bool(declared)
    before = list(model_trace.nodes)[: list(model_trace.nodes).index(name)]
    drawn = list(latents)[: list(latents).index(name)]
    return {other for other in before if other in latents} <= set(drawn)


def relaxations(guide: Program) -> Mapping[str, Relaxation]:
    """Returns the relaxations of a guide by site name; none if it is not of a VAE."""
    named: Mapping[str, Relaxation] = getattr(guide, "relaxations", {})
    return named


def modes(guide: Program) -> set[Mode]:
    """Returns how the sites of a guide are to be relaxed, taken together."""
    return {part.mode for part in relaxations(guide).values()}


def is_sample(site: Site) -> bool:
    """Returns whether a site is a random variable."""
    return bool(site["type"] == "sample")


def is_as_in_model(site: Site) -> bool:
    """Returns whether a site of the guide has the very distribution that the model gives it.

    So has what is missing, given z. The two densities cancel, and are left out: what is drawn is as
    noise, which enters what the model makes of it. Such draws have to pass gradients.
    """
    if not site["infer"].get("as_in_model"):
        return False
    check_reparameterised(site)
    return True


def check_reparameterised(site: Site) -> None:
    """Checks that gradients pass the draws of a site of the guide, where there are gradients.

    Raises:
        ValueError: If they do not.
    """
    if torch.is_grad_enabled() and not (site["fn"].has_rsample or "relaxed" in site["infer"]):
        what = "a reparameterised or relaxed distribution"
        raise expected(f"guide, site {site['name']}", what, type(site["fn"]).__name__)


def common_scale(sites: Sequence[Site]) -> Any:
    """Returns the weight of each observation in the bound, which all its sites must share.

    Raises:
        ValueError: If it is not the same at all sites.
    """
    first = sites[0]["scale"]
    for site in sites:
        scale = site["scale"]
        if scale is not first and (
            isinstance(scale, Tensor) or isinstance(first, Tensor) or scale != first
        ):
            what = f"the same scale at every site, as at `{sites[0]['name']}`"
            raise expected("model", what, f"another at `{site['name']}`")
    return first


def total(terms: Sequence[Term]) -> Tensor:
    """Adds terms up, over the batch, shape ``()``."""
    return torch.as_tensor(sum(term.value.sum() for term in terms))


def only_latent(latent: Sequence[Term]) -> tuple[Site, Site]:
    """Returns the guide's site and the model's, of the only latent.

    Raises:
        ValueError: If there is not exactly one.
    """
    if len(latent) != 1 or latent[0].against is None:
        names = [term.site["name"] for term in latent]
        raise expected("guide", "exactly one latent site, which the model has too", names)
    return latent[0].site, latent[0].against


def plates(site: Site, value: Tensor, *, keep: Sequence[str] = ()) -> Tensor:
    """Sums over all plates of a site but ``data`` and those to keep.

    Returns:
        What is left, shape ``(*, B)``: any dimensions to the left of all plates, plates kept, and
        ``data``.

    Raises:
        ValueError: If the site is not in the plate ``data``.
    """
    frames = [frame for frame in site["cond_indep_stack"] if frame.dim is not None]
    own = next((frame.dim for frame in frames if frame.name == "data"), None)
    if own is None:
        raise expected("model", "every sample site inside a plate named `data`", site["name"])
    taken = {frame.dim for frame in frames}
    # To the right of `data` are places of plates that other sites are in, of size 1 at this one.
    vacant = [dim for dim in range(own + 1, 0) if dim not in taken]
    others = [frame.dim for frame in frames if frame.name not in ("data", *keep)]
    return value.sum([*others, *vacant]) if others or vacant else value


def per_particle(site: Site, value: Tensor) -> Tensor:
    """As :func:`plates`, with the particles kept: shape ``(S, B)``, or ``(B,)`` if one draw."""
    return plates(site, value, keep=(_PARTICLES,))


def per_observation(site: Site, value: Tensor) -> Tensor:
    """Sums over every dimension but that of the plate ``data``: shape ``(B,)``."""
    value = plates(site, value)
    return value.sum(tuple(range(value.ndim - 1))) if value.ndim > 1 else value
