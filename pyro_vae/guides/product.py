"""The product of several guides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.distributions import Distribution, constraints

import pyro_vae.guides as package
from pyro_vae._errors import expected
from pyro_vae.distributions.joint import Joint
from pyro_vae.distributions.space import Site, Space, site_names
from pyro_vae.guides.guide import Guide
from pyro_vae.guides.relaxed import Relaxed
from pyro_vae.part import named_part

if TYPE_CHECKING:  # programs are made of parts, and know them
    from pyro_vae.programs.view import View

__all__ = ["Product"]


class Product(Guide):
    r"""Creates a guide of several variables, each of a family of its own.

    .. math:: q(z \mid x) = \prod_i q_i(z_i \mid x)

    They are independent given x, unless asked otherwise: then the discrete ones, y, are drawn first
    and shift, by a linear map that is learned, what the families of the others read. That is
    :math:`q(y \mid x) \, q(z \mid x, y)`, as semi-supervised models have it.

    Discrete ones are relaxed each as it asks; at most one of them by enumeration.

    References:
        Learning Disentangled Joint Continuous and Discrete Representations (Dupont, 2018),
        https://arxiv.org/abs/1804.00104
        Semi-supervised Learning with Deep Generative Models (Kingma et al., 2014),
        https://arxiv.org/abs/1406.5298

    Args:
        parts: The families, in the order of the prior's parts, none of them composite itself:
            guides, or mappings of ``class`` and options.
        independent: Whether the continuous ones do not depend on the discrete ones.

    Raises:
        ValueError: If they are fewer than two, or composite, or two are enumerated; or, where they
            are to depend on each other, all discrete or all continuous, or one refines its
            parameters.

    Example:
        >>> import torch
        >>> from pyro_vae import guides
        >>> guide = Product([guides.Normal(3), guides.GumbelSoftmax(1, 10)])
        >>> guide.param_shape, guide(torch.zeros(5, 16)).event_shape
        (torch.Size([16]), torch.Size([13]))
    """

    def __init__(self, parts: Sequence[Any], independent: bool = True) -> None:
        super().__init__()
        if isinstance(parts, str) or not isinstance(parts, Sequence) or len(parts) < 2:
            raise expected("parts", "two or more guides", parts)
        known = {name: getattr(package, name) for name in package.__all__ if name != "Guide"}
        parts = [named_part("parts", part, known) for part in parts]
        if not all(isinstance(part, Guide) and len(part.space) == 1 for part in parts):
            raise expected("parts", "guides, none of them composite", parts)
        states = [part for part in parts if isinstance(part, Relaxed) and part.mode == "enumerate"]
        if len(states) > 1:
            raise expected("parts", "at most one whose states are enumerated", parts)
        # What rebuilds it is the parts as they were built, options and all.
        self._arguments = self._arguments | {"parts": parts}
        self.parts = nn.ModuleList(parts)
        read = {
            name: Site(part.param_shape, constraints.real)
            for name, part in self._named_parts.items()
        }
        self._features = Space(read)
        self.param_shape = self._features.event_shape
        self.independent = independent
        names = list(self._named_parts)
        discrete = [n for n, part in self._named_parts.items() if part.support.is_discrete]
        others = [name for name in names if name not in discrete]
        if not independent and not (discrete and others):
            raise expected("parts", "discrete and continuous ones, to be dependent", parts)
        if any(type(part).refine is not Guide.refine for part in parts) and not independent:
            raise expected("independent", "True where a family refines its parameters", False)
        self._order = names if independent else discrete + others
        self._discrete = discrete
        entries = sum(self._named_parts[name].event_shape.numel() for name in discrete)
        self.shifts = nn.ModuleDict()
        for name in others if not independent else ():
            shift = nn.Linear(entries, self._features[name].shape.numel(), bias=False)
            nn.init.zeros_(shift.weight)  # it starts as an independent guide
            self.shifts[name] = shift

    @property
    def _named_parts(self) -> dict[str, Guide]:
        return dict(zip(site_names(len(self.parts)), self.parts, strict=True))  # type: ignore[arg-type]

    @property
    def space(self) -> Space:
        """The sites of the parts, with the relaxations that these ask for at this time."""
        found = {}
        for name, part in self._named_parts.items():
            (site,) = part.space.values()
            discrete = site.support.is_discrete
            parents = () if self.independent or discrete else tuple(self._discrete)
            found[name] = replace(site, parents=parents)
        return Space(found)

    def bind(self, view: View) -> None:
        for name, part in self._named_parts.items():
            part.bind(view.of_site(name))

    def refine(self, features: Tensor, log_joint: Callable[[Tensor], Tensor]) -> Tensor:
        """Returns features of which each family has refined its own, given draws of the others."""
        own, parts = self._features.split(features), self._named_parts
        for name, part in parts.items():

            def of_own(z: Tensor, name: str = name) -> Tensor:
                others = {
                    other: parts[other](own[other].detach()).sample()
                    for other in own
                    if other != name
                }
                return log_joint(self.space.join(others | {name: z}))

            own[name] = part.refine(own[name], of_own)
        return self._features.join(own)

    def forward(self, features: Tensor) -> Distribution:
        """Returns q(z|x), event shape ``(D,)``, from features of shape ``(*, B, *param_shape)``."""
        own, parts = self._features.split(features), self._named_parts
        space = self.space

        def site(name: str, earlier: Mapping[str, Tensor]) -> Distribution:
            read = own[name]
            if name in self.shifts:
                shift = self.shifts[name](space.flatten(earlier, self._discrete))
                read = read + shift.reshape(*shift.shape[:-1], *self._features[name].shape)
            return parts[name](read)

        return Joint(
            site,
            space,
            order=self._order,
            batch_shape=features.shape[:-1],
            independent=self.independent,
        )
