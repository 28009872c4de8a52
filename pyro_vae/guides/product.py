"""The product of several guides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import pyro_vae.guides as room
from pyro_vae._errors import expected
from pyro_vae.guides.guide import Guide
from pyro_vae.guides.relaxed import Relaxed
from pyro_vae.joint import Joint, join_sites, joint_support, site_names, split_sites
from pyro_vae.part import named_part

__all__ = ["Product"]


class Product(Guide):
    r"""Creates a guide of several variables, each of a family of its own.

    .. math:: q(z \mid x) = \prod_i q_i(z_i \mid x)

    They are independent given x, unless told otherwise: then the discrete ones, y, are drawn first
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
        >>> from pyro_vae import guides
        >>> guide = Product([guides.Normal(3), guides.GumbelSoftmax(1, 10)])
        >>> guide.param_shape, guide(torch.zeros(5, 16)).event_shape
        (torch.Size([16]), torch.Size([13]))
    """

    named_sites = True

    def __init__(self, parts: Sequence[Any], independent: bool = True) -> None:
        super().__init__()
        if isinstance(parts, str) or not isinstance(parts, Sequence) or len(parts) < 2:
            raise expected("parts", "two or more guides", parts)
        known = {name: getattr(room, name) for name in room.__all__ if name != "Guide"}
        parts = [named_part("parts", part, known) for part in parts]
        if not all(isinstance(part, Guide) and not part.named_sites for part in parts):
            raise expected("parts", "guides, none of them composite", parts)
        states = [part for part in parts if isinstance(part, Relaxed) and part.mode == "enumerate"]
        if len(states) > 1:
            raise expected("parts", "at most one whose states are enumerated", parts)
        # What rebuilds it is the parts as they were built, options and all.
        self._arguments = self._arguments | {"parts": parts}
        self.parts = nn.ModuleList(parts)
        self._shapes = {name: part.event_shape for name, part in self.sites.items()}
        self._features = {name: part.param_shape for name, part in self.sites.items()}
        self.event_shape = torch.Size([sum(shape.numel() for shape in self._shapes.values())])
        self.param_shape = torch.Size([sum(shape.numel() for shape in self._features.values())])
        self.independent = independent
        discrete = [name for name, part in self.sites.items() if part.support.is_discrete]
        others = [name for name in self.sites if name not in discrete]
        if not independent and not (discrete and others):
            raise expected("parts", "discrete and continuous ones, to be dependent", parts)
        if any(type(part).refine is not Guide.refine for part in parts) and not independent:
            raise expected("independent", "True where a family refines its parameters", False)
        self._order = list(self.sites) if independent else discrete + others
        self._seen = {name: self._shapes[name] for name in discrete}
        entries = sum(shape.numel() for shape in self._seen.values())
        self.shifts = nn.ModuleDict()
        for name in others if not independent else ():
            shift = nn.Linear(entries, self._features[name].numel(), bias=False)
            nn.init.zeros_(shift.weight)  # it starts as an independent guide
            self.shifts[name] = shift

    @property
    def support(self) -> Any:  # type: ignore[override]
        # Not kept: a copy of the model would have a copy, and supports are told by identity.
        return joint_support(self.sites)

    @property
    def sites(self) -> Mapping[str, Guide]:
        return dict(zip(site_names(len(self.parts)), self.parts, strict=True))  # type: ignore[arg-type]

    @property
    def order(self) -> Sequence[str]:
        return self._order

    def site(self, name: str, features: Tensor, earlier: Mapping[str, Tensor]) -> Any:
        own = split_sites(features, self._features)[name]
        if name in self.shifts:
            shift = self.shifts[name](join_sites(earlier, self._seen))
            own = own + shift.reshape(*shift.shape[:-1], *self._features[name])
        return self.sites[name](own)

    def join(self, draws: Mapping[str, Tensor]) -> Tensor:
        return join_sites(draws, self._shapes)

    def bind(self, view: Any) -> None:
        for name, part in self.sites.items():
            part.bind(view.of_site(name))

    def refine(self, features: Tensor, log_joint: Callable[[Tensor], Tensor]) -> Tensor:
        """Returns features of which each family has refined its own, given draws of the others."""
        own = split_sites(features, self._features)
        for name, part in self.sites.items():

            def of_own(z: Tensor, name: str = name) -> Tensor:
                others = {
                    other: self.sites[other](own[other].detach()).sample()
                    for other in own
                    if other != name
                }
                return log_joint(self.join(others | {name: z}))

            own[name] = part.refine(own[name], of_own)
        return join_sites(own, self._features)

    def forward(self, features: Tensor) -> Any:
        """Returns q(z|x), event shape ``(D,)``, from features of shape ``(*, B, *param_shape)``."""

        def law(name: str, earlier: Mapping[str, Tensor]) -> Any:
            return self.site(name, features, earlier)

        return Joint(
            law,
            self._shapes,
            self.support,
            order=self.order,
            batch_shape=features.shape[:-1],
            independent=self.independent,
        )
