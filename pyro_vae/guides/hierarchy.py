"""Several stochastic layers, inferred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae._errors import expected, unknown_name
from pyro_vae.distributions import diagonal_normal
from pyro_vae.distributions.joint import Joint
from pyro_vae.distributions.space import Site, Space, site_names
from pyro_vae.guides.guide import Guide
from pyro_vae.networks.normal_given import NormalGiven

if TYPE_CHECKING:  # programs are made of parts, and know them
    from pyro_vae.programs.view import View

__all__ = ["Hierarchy"]


class Hierarchy(Guide):
    r"""Creates a guide of stochastic layers, for the prior of the same name.

    ``ladder`` goes down as the prior does, and shares its path: each layer is the normalised
    product of two normal distributions, that of the encoder and that of the prior given the layer
    above.

    .. math:: q(z_i \mid z_{i+1}, x) \propto \mathcal{N}(z_i \mid \hat\mu_i(x), \hat\sigma_i^2(x))
        \, p(z_i \mid z_{i+1})

    ``bottom-up`` goes the other way: the encoder gives the lowest layer, and small networks of the
    guide's own each layer from the one below.

    .. math:: q(z \mid x) = q(z_1 \mid x) \prod_{i=2}^{L} q(z_i \mid z_{i-1})

    References:
        Ladder Variational Autoencoders (Sonderby et al., 2016), https://arxiv.org/abs/1602.02282
        Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519

    Args:
        dims: Dimensions of the layers, from the top to the one that the decoder sees.
        direction: ``ladder`` or ``bottom-up``.
        hidden: Widths of the hidden layers of the networks of ``bottom-up``.

    Raises:
        ValueError: If there are fewer than two layers, a size is not positive, or the direction is
            unknown.

    Example:
        >>> guide = Hierarchy([4, 8], direction="bottom-up")
        >>> (
        ...     guide(torch.zeros(5, 16)).order,
        ...     guide.param_shape,
        ...     guide(torch.zeros(5, 16)).event_shape,
        ... )
        (['z1', 'z2'], torch.Size([16]), torch.Size([12]))
    """

    def __init__(
        self,
        dims: Sequence[int],
        direction: Literal["ladder", "bottom-up"] = "ladder",
        hidden: Sequence[int] = (64,),
    ) -> None:
        super().__init__()
        if len(dims) < 2 or any(dim < 1 for dim in dims):
            raise expected("dims", "two or more positive sizes", dims)
        if direction not in ("ladder", "bottom-up"):
            raise unknown_name("direction", direction, ("ladder", "bottom-up"))
        if any(width < 1 for width in hidden):
            raise expected("hidden", "positive widths", hidden)
        self.direction = direction
        names = site_names(len(dims))[::-1]
        # The layer that each is drawn after: the one above it, or the one below.
        after = [None, *names] if direction == "ladder" else [*names[1:], None]
        self.space = Space(
            {
                name: Site(
                    torch.Size([dim]), constraints.real_vector, () if parent is None else (parent,)
                )
                for name, dim, parent in zip(names, dims, after, strict=False)
            }
        )
        read = dims if direction == "ladder" else dims[-1:]
        self._features = Space(
            {
                name: Site(torch.Size([2 * dim]), constraints.real_vector)
                for name, dim in zip(names[-len(read) :], read, strict=True)
            }
        )
        self.param_shape = self._features.event_shape
        up = [] if direction == "ladder" else list(zip(dims[1:], dims, strict=False))
        self.above = nn.ModuleList(NormalGiven(below, dim, hidden) for below, dim in up)
        self._view: View | None = None

    def bind(self, view: View) -> None:
        self._view = view

    def forward(self, features: Tensor) -> Distribution:
        """Returns q(z|x), event shape ``(sum of dims,)``, from ``(*, B, *param_shape)``."""
        own = self._features.split(features)
        names = list(self.space)

        def ladder(name: str, earlier: Mapping[str, Tensor]) -> Distribution:
            encoded = diagonal_normal(own[name])
            if not self.space[name].parents:
                return encoded
            if self._view is None:
                raise expected("guide", "one that is part of a VAE, whose prior it shares", self)
            prior = self._view.prior().site(name, earlier)
            # Precisions of normal distributions add up, and so do means weighted by them.
            precision, before = encoded.variance.reciprocal(), prior.variance.reciprocal()
            variance = (precision + before).reciprocal()
            loc = variance * (precision * encoded.mean + before * prior.mean)
            return dist.Normal(loc, variance.sqrt()).to_event(1)

        def bottom_up(name: str, earlier: Mapping[str, Tensor]) -> Distribution:
            if not self.space[name].parents:
                return diagonal_normal(own[name])
            index = names.index(name)
            return self.above[index](earlier[names[index + 1]])

        down = self.direction == "ladder"
        return Joint(
            ladder if down else bottom_up,
            self.space,
            order=names if down else names[::-1],
            batch_shape=features.shape[:-1],
        )
