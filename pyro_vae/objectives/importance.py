"""The base class of objectives made of importance weights."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_vae._errors import positive_integer
from pyro_vae.objectives.objective import (
    Objective,
    Program,
    Site,
    check_reparameterised,
    common_scale,
    is_as_in_model,
    is_sample,
    per_particle,
)

__all__ = ["Importance", "LogWeights"]


@dataclass(frozen=True)
class LogWeights:
    """The logarithms of S importance weights an observation, by their factors.

    Attributes:
        likelihood: log p(x|z), shape ``(S, B)``.
        prior: log p(z), shape ``(S, B)``.
        guide: log q(z|x), shape ``(S, B)``.
        scale: Weight of each observation.
    """

    likelihood: Tensor
    prior: Tensor
    guide: Tensor
    scale: Any

    @property
    def total(self) -> Tensor:
        """Their logarithms themselves, shape ``(S, B)``."""
        return self.likelihood + self.prior - self.guide


class Importance(Objective, ABC):
    """An objective of several weighted draws an observation.

    All sites are in the plate ``data``: weights belong to an observation, not to a batch. A
    discrete latent needs the relaxation ``concrete``, whose draws have a density.

    Args:
        num_samples: Draws of z for each observation.

    Raises:
        ValueError: If ``num_samples`` is not a positive integer.
    """

    def __init__(self, num_samples: int) -> None:
        num_samples = positive_integer("num_samples", num_samples)
        super().__init__(num_particles=num_samples, vectorize_particles=True)
        self.num_samples = num_samples

    def _log_weights(self, model: Program, guide: Program, args: Any, kwargs: Any) -> LogWeights:
        """Runs guide and model once, all draws together."""
        name = type(self).__name__
        with self._relaxed(guide, kwargs, name):
            ((model_trace, guide_trace),) = self._traces(model, guide, args, kwargs)
        sums: dict[str, Tensor | float] = {"likelihood": 0.0, "prior": 0.0, "guide": 0.0}
        sites = []
        drawn = filter(is_sample, guide_trace.nodes.values())
        cancel = {site["name"] for site in drawn if is_as_in_model(site)}
        for site in filter(is_sample, model_trace.nodes.values()):
            if site["name"] in cancel:
                continue
            half = "prior" if site["name"] in guide_trace.nodes else "likelihood"
            sums[half] = sums[half] + self._per_draw(site)
            sites.append(site)
        for site in filter(is_sample, guide_trace.nodes.values()):
            if site["name"] in cancel:
                continue
            check_reparameterised(site)
            sums["guide"] = sums["guide"] + self._per_draw(site)
            sites.append(site)
        return LogWeights(**sums, scale=common_scale(sites))  # type: ignore[arg-type]

    def _per_draw(self, site: Site) -> Tensor:
        value = per_particle(site, self._log_prob(site, scaled=False))
        return value if self.num_samples > 1 else value.unsqueeze(0)
