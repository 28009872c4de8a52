"""The product of several priors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import pyro_vae.priors as room
from pyro_vae._errors import expected
from pyro_vae.joint import Joint, join_sites, joint_support, site_names
from pyro_vae.part import named_part
from pyro_vae.priors.prior import Prior

__all__ = ["Product"]


class Product(Prior):
    r"""Creates independent latent variables, each with a law of its own.

    .. math:: p(z) = \prod_i p_i(z_i)

    The sites are ``z1``, ``z2`` and so on; one z is all of them, flattened and joined. Continuous
    and discrete variables may stand side by side.

    References:
        Learning Disentangled Joint Continuous and Discrete Representations (Dupont, 2018),
        https://arxiv.org/abs/1804.00104

    Args:
        parts: The laws, at least two, none of them composite itself: priors, or mappings of
            ``class`` and options.

    Raises:
        ValueError: If they are not.

    Example:
        >>> from pyro_vae import priors
        >>> prior = Product([priors.Normal(3), priors.Categorical(1, 10)])
        >>> list(prior.sites), prior.event_shape
        (['z1', 'z2'], torch.Size([13]))
    """

    named_sites = True

    def __init__(self, parts: Sequence[Any]) -> None:
        super().__init__()
        if isinstance(parts, str) or not isinstance(parts, Sequence) or len(parts) < 2:
            raise expected("parts", "two or more priors", parts)
        known = {name: getattr(room, name) for name in room.__all__ if name != "Prior"}
        parts = [named_part("parts", part, known) for part in parts]
        if not all(isinstance(part, Prior) and not part.named_sites for part in parts):
            raise expected("parts", "priors, none of them composite", parts)
        # What rebuilds it is the parts as they were built, options and all.
        self._arguments = self._arguments | {"parts": parts}
        self.parts = nn.ModuleList(parts)
        self._shapes = {name: part.event_shape for name, part in self.sites.items()}
        self.event_shape = torch.Size([sum(shape.numel() for shape in self._shapes.values())])
        self.conditional = any(part.conditional for part in parts)

    @property
    def support(self) -> Any:  # type: ignore[override]
        # Not kept: a copy of the model would have a copy, and supports are told by identity.
        return joint_support(self.sites)

    @property
    def sites(self) -> Mapping[str, Prior]:
        return dict(zip(site_names(len(self.parts)), self.parts, strict=True))  # type: ignore[arg-type]

    def site(self, name: str, earlier: Mapping[str, Tensor], cond: Tensor | None = None) -> Any:
        return self.sites[name].given(cond)

    def parents(self, name: str) -> Sequence[str]:
        return ()

    def join(self, draws: Mapping[str, Tensor]) -> Tensor:
        return join_sites(draws, self._shapes)

    def bind(self, view: Any) -> None:
        for name, part in self.sites.items():
            part.bind(view.of_site(name))

    def start(self, x_train: Tensor) -> None:
        for part in self.sites.values():
            part.start(x_train)

    def forward(self, cond: Tensor | None = None) -> Any:
        """Returns p(z), event shape ``(D,)``."""
        law = partial(self.site, cond=cond)
        batch_shape = () if cond is None or not self.conditional else cond.shape[:-1]
        return Joint(law, self._shapes, self.support, batch_shape=batch_shape, independent=True)
