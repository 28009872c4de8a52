"""Several stochastic layers, inferred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae._errors import expected, unknown_name
from pyro_vae.distributions import diagonal_normal
from pyro_vae.guides.guide import Guide
from pyro_vae.guides.normal import Normal
from pyro_vae.joint import Joint, NormalGiven, join_sites, site_names, split_sites

__all__ = ["Hierarchy"]


class Hierarchy(Guide):
    r"""Creates a guide of stochastic layers, for the prior of the same name.

    ``ladder`` goes down as the prior does, and shares its path: each layer is the normalised
    product of two normal laws, what the encoder says of it and what the prior says given the layer
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
        >>> list(guide.order), guide.param_shape, guide(torch.zeros(5, 16)).event_shape
        (['z1', 'z2'], torch.Size([16]), torch.Size([12]))
    """

    support = constraints.real_vector
    named_sites = True

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
        self._shapes = {name: torch.Size([dim]) for name, dim in zip(names, dims, strict=True)}
        self.event_shape = torch.Size([sum(dims)])
        seen = dims if direction == "ladder" else dims[-1:]
        self._features = {
            name: torch.Size([2 * dim]) for name, dim in zip(names[-len(seen) :], seen, strict=True)
        }
        self.param_shape = torch.Size([2 * sum(seen)])
        up = [] if direction == "ladder" else list(zip(dims[1:], dims, strict=False))
        self.above = nn.ModuleList(NormalGiven(below, dim, hidden) for below, dim in up)
        self._sites = {name: Normal(shape[0]) for name, shape in self._shapes.items()}
        self._view: Any = None

    @property
    def sites(self) -> Mapping[str, Guide]:
        """The layers by name, each as the space it lives on."""
        return self._sites

    @property
    def order(self) -> Sequence[str]:
        names = list(self._shapes)
        return names if self.direction == "ladder" else names[::-1]

    def bind(self, view: Any) -> None:
        self._view = view

    def site(self, name: str, features: Tensor, earlier: Mapping[str, Tensor]) -> Any:
        names = list(self._shapes)
        index = names.index(name)
        if self.direction == "bottom-up" and name != "z1":
            return self.above[index](earlier[names[index + 1]])
        said = diagonal_normal(split_sites(features, self._features)[name])
        if self.direction == "bottom-up" or index == 0:
            return said
        if self._view is None:
            raise expected("guide", "one that is part of a VAE, whose prior it shares", self)
        prior = self._view.prior.site(name, earlier)
        # Precisions of normal laws add up, and so do means weighted by them.
        precision, before = said.variance.reciprocal(), prior.variance.reciprocal()
        variance = (precision + before).reciprocal()
        loc = variance * (precision * said.mean + before * prior.mean)
        return dist.Normal(loc, variance.sqrt()).to_event(1)

    def join(self, draws: Mapping[str, Tensor]) -> Tensor:
        return join_sites(draws, self._shapes)

    def forward(self, features: Tensor) -> Any:
        """Returns q(z|x), event shape ``(sum of dims,)``, from ``(*, B, *param_shape)``."""

        def law(name: str, earlier: Mapping[str, Tensor]) -> Any:
            return self.site(name, features, earlier)

        batch_shape = features.shape[:-1]
        return Joint(law, self._shapes, self.support, order=self.order, batch_shape=batch_shape)
