"""The product of several guides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import pyro_vae.guides as room
from pyro_vae._errors import expected
from pyro_vae.guides.guide import Guide
from pyro_vae.joint import Joint, join_sites, joint_support, site_names, split_sites
from pyro_vae.part import named_part

__all__ = ["Product"]


class Product(Guide):
    r"""Creates a guide of variables that are independent given x, each of a family of its own.

    .. math:: q(z \mid x) = \prod_i q_i(z_i \mid x)

    Discrete ones are relaxed each as it asks; at most one of them by enumeration.

    References:
        Learning Disentangled Joint Continuous and Discrete Representations (Dupont, 2018),
        https://arxiv.org/abs/1804.00104

    Args:
        parts: The families, in the order of the prior's parts, none of them composite itself:
            guides, or mappings of ``class`` and options.

    Raises:
        ValueError: If they are fewer than two, or composite.

    Example:
        >>> from pyro_vae import guides
        >>> guide = Product([guides.Normal(3), guides.GumbelSoftmax(1, 10)])
        >>> guide.param_shape, guide(torch.zeros(5, 16)).event_shape
        (torch.Size([16]), torch.Size([13]))
    """

    named_sites = True

    def __init__(self, parts: Sequence[Any]) -> None:
        super().__init__()
        if isinstance(parts, str) or not isinstance(parts, Sequence) or len(parts) < 2:
            raise expected("parts", "two or more guides", parts)
        known = {name: getattr(room, name) for name in room.__all__ if name != "Guide"}
        parts = [named_part("parts", part, known) for part in parts]
        if not all(isinstance(part, Guide) and not part.named_sites for part in parts):
            raise expected("parts", "guides, none of them composite", parts)
        # What rebuilds it is the parts as they were built, options and all.
        self._arguments = self._arguments | {"parts": parts}
        self.parts = nn.ModuleList(parts)
        self._shapes = {name: part.event_shape for name, part in self.sites.items()}
        self._features = {name: part.param_shape for name, part in self.sites.items()}
        self.event_shape = torch.Size([sum(shape.numel() for shape in self._shapes.values())])
        self.param_shape = torch.Size([sum(shape.numel() for shape in self._features.values())])
        self.support = joint_support(self.sites)

    @property
    def sites(self) -> Mapping[str, Guide]:
        return dict(zip(site_names(len(self.parts)), self.parts, strict=True))  # type: ignore[arg-type]

    def site(self, name: str, features: Tensor, earlier: Mapping[str, Tensor]) -> Any:
        return self.sites[name](split_sites(features, self._features)[name])

    def join(self, draws: Mapping[str, Tensor]) -> Tensor:
        return join_sites(draws, self._shapes)

    def bind(self, view: Any) -> None:
        for part in self.sites.values():
            part.bind(view)

    def forward(self, features: Tensor) -> Any:
        """Returns q(z|x), event shape ``(D,)``, from features of shape ``(*, B, *param_shape)``."""

        def law(name: str, earlier: Mapping[str, Tensor]) -> Any:
            return self.site(name, features, earlier)

        batch_shape = features.shape[:-1]
        return Joint(law, self._shapes, self.support, batch_shape=batch_shape, independent=True)
