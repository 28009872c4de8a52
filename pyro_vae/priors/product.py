"""The product of several priors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

import pyro_vae.priors as package
from pyro_vae._errors import expected
from pyro_vae.distributions.joint import Joint
from pyro_vae.distributions.space import Site, Space, site_names
from pyro_vae.part import named_part
from pyro_vae.priors.prior import Prior

if TYPE_CHECKING:  # programs are made of parts, and know them
    from pyro_vae.programs.view import View

__all__ = ["Product"]


class Product(Prior):
    r"""Creates independent latent variables, each with a distribution of its own.

    .. math:: p(z) = \prod_i p_i(z_i)

    The sites are ``z1``, ``z2`` and so on; one z is all of them, flattened and joined. Continuous
    and discrete variables may stand side by side.

    References:
        Learning Disentangled Joint Continuous and Discrete Representations (Dupont, 2018),
        https://arxiv.org/abs/1804.00104

    Args:
        parts: The priors, at least two, none of them composite itself; or mappings of
            ``class`` and options.

    Raises:
        ValueError: If they are not.

    Example:
        >>> from pyro_vae import priors
        >>> prior = Product([priors.Normal(3), priors.Categorical(1, 10)])
        >>> list(prior.space), prior.event_shape
        (['z1', 'z2'], torch.Size([13]))
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        super().__init__()
        if isinstance(parts, str) or not isinstance(parts, Sequence) or len(parts) < 2:
            raise expected("parts", "two or more priors", parts)
        known = {name: getattr(package, name) for name in package.__all__ if name != "Prior"}
        parts = [named_part("parts", part, known) for part in parts]
        if not all(isinstance(part, Prior) and len(part.space) == 1 for part in parts):
            raise expected("parts", "priors, none of them composite", parts)
        # What rebuilds it is the parts as they were built, options and all.
        self._arguments = self._arguments | {"parts": parts}
        self.parts = nn.ModuleList(parts)
        sites = [Site(part.event_shape, part.support, parents=()) for part in parts]
        self.space = Space(dict(zip(site_names(len(parts)), sites, strict=True)))

    @property
    def _named_parts(self) -> dict[str, Prior]:
        return dict(zip(self.space, self.parts, strict=True))  # type: ignore[arg-type]

    def bind(self, view: View) -> None:
        for name, part in self._named_parts.items():
            part.bind(view.of_site(name))

    def start(self, x_train: Tensor) -> None:
        for part in self._named_parts.values():
            part.start(x_train)

    def forward(self, cond: Tensor | None = None) -> Distribution:
        """Returns p(z), event shape ``(D,)``."""
        each = {name: part(cond) for name, part in self._named_parts.items()}
        batch_shape = torch.broadcast_shapes(*(one.batch_shape for one in each.values()))
        return Joint(
            lambda name, _: each[name], self.space, batch_shape=batch_shape, independent=True
        )
