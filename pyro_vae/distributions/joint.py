"""Several latent variables as one distribution: sites, each given those drawn before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions.kl import register_kl

from pyro_vae._errors import expected
from pyro_vae.distributions.enumeration import MAX_ENUMERATED
from pyro_vae.distributions.space import Space

__all__ = ["Joint", "draw_sites", "site_of"]


class Joint(TorchDistribution):
    """Creates the joint distribution of several sites, each given those drawn before it.

    Args:
        site: From a site's name and the draws before it to its distribution.
        space: The sites.
        order: Their names in the order in which they are drawn; that of ``space`` if not given.
        batch_shape: Of the distributions.
        independent: Whether no distribution depends on another site's draw.

    Example:
        >>> from pyro.distributions import Normal, constraints
        >>> from pyro_vae.distributions import Site
        >>> def site(name, earlier):
        ...     loc = torch.zeros(2) if name == "a" else earlier["a"]
        ...     return Normal(loc, 1.0).to_event(1)
        >>> two = Site(torch.Size([2]), constraints.real_vector)
        >>> Joint(site, Space({"a": two, "b": two})).sample((5,)).shape
        torch.Size([5, 4])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        site: Callable[[str, Mapping[str, Tensor]], Any],
        space: Space,
        *,
        order: Sequence[str] | None = None,
        batch_shape: Any = (),
        independent: bool = False,
    ) -> None:
        self.site = site
        self.space = space
        self.order = list(space if order is None else order)
        self.independent = independent
        super().__init__(torch.Size(batch_shape), space.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """Where z lives."""
        return self.space.support

    @property
    def has_rsample(self) -> bool:
        """Whether every site can be drawn with a gradient."""
        return all(each.has_rsample for each in self._at_means().values())

    def draw(self, draw: Callable[[str, Any], Tensor]) -> Tensor:
        """Returns one z, of which ``draw`` makes each site of its name and its distribution."""
        draws: dict[str, Tensor] = {}
        for name in self.order:
            draws[name] = draw(name, self.site(name, draws))
        return self.space.join(draws)

    def _given(self, value: Callable[[str, Any], Tensor]) -> dict[str, Any]:
        """Returns the distributions of all sites, each given the values of those before it."""
        found: dict[str, Any] = {}

        def keep(name: str, distribution: Any) -> Tensor:
            found[name] = distribution
            return value(name, distribution)

        self.draw(keep)
        return found

    def _at_means(self) -> dict[str, Any]:
        return self._given(lambda _, distribution: distribution.mean)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            return self.draw(lambda _, distribution: distribution.expand(shape).sample())

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        return self.draw(lambda _, distribution: distribution.expand(shape).rsample())

    def log_prob(self, value: Tensor) -> Tensor:
        draws = self.space.split(value)
        found = self._given(lambda name, _: draws[name])
        total = sum(each.log_prob(draws[name]) for name, each in found.items())
        return torch.as_tensor(total).expand(
            torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        )

    @property
    def mean(self) -> Tensor:
        """The mean of each site given the means before it: the mean itself where independent."""
        return self.draw(lambda _, each: each.mean.expand(self.batch_shape + each.event_shape))

    @property
    def variance(self) -> Tensor:
        """The variance of each site given the means of those before it."""
        variances = {
            name: each.variance.expand(self.batch_shape + each.event_shape)
            for name, each in self._at_means().items()
        }
        return self.space.join(variances)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Joint:
        return Joint(
            self.site,
            self.space,
            order=self.order,
            batch_shape=batch_shape,
            independent=self.independent,
        )

    @property
    def has_enumerate_support(self) -> bool:
        """Whether all sites are discrete, and none depends on another."""
        return self.independent and all(
            each.has_enumerate_support for each in self._at_means().values()
        )

    @property
    def num_states(self) -> int:
        """How many joint states there are, where all sites are discrete: none is listed.

        Raises:
            NotImplementedError: If a site is continuous.
        """
        if not self.has_enumerate_support:
            raise NotImplementedError
        return math.prod(map(_number_of_states, self._at_means().values()))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Lists the joint states, shape ``(S, *batch_shape, D)``.

        Raises:
            NotImplementedError: If a site is continuous.
            ValueError: If there are more than ``MAX_ENUMERATED`` of them.
        """
        if (number := self.num_states) > MAX_ENUMERATED:
            raise expected("prior", f"at most {MAX_ENUMERATED} joint states", number)
        found = self._at_means()
        states = [found[name].enumerate_support(expand=False).flatten(1) for name in self.space]
        index = torch.cartesian_prod(*[torch.arange(len(each)) for each in states])
        index = index.reshape(number, len(states))
        joint = torch.cat([each[index[:, i]] for i, each in enumerate(states)], -1)
        batch = self.batch_shape if expand else (1,) * len(self.batch_shape)
        return joint.reshape(number, *(1,) * len(batch), -1).expand(-1, *batch, -1)


def _number_of_states(distribution: Any) -> int:
    known = getattr(distribution, "num_states", None)
    return len(distribution.enumerate_support(expand=False)) if known is None else known


@register_kl(Joint, Joint)
def _kl_joint(p: Joint, q: Joint) -> Tensor:
    """The sum of the sites' divergences, where they are independent."""
    if not (p.independent and q.independent) or p.space != q.space:
        raise NotImplementedError
    total = sum(
        torch.distributions.kl_divergence(p.site(name, {}), q.site(name, {})) for name in p.space
    )
    return torch.as_tensor(total).expand(torch.broadcast_shapes(p.batch_shape, q.batch_shape))


def draw_sites(distribution: Any, space: Space, draw: Callable[[str, Any], Tensor]) -> Tensor:
    """Returns one z, of which ``draw`` makes each site of its name and its distribution."""
    if isinstance(distribution, Joint):
        return distribution.draw(draw)
    if len(space) > 1:
        what = f"a Joint of {', '.join(space)}, as its `space` has them"
        raise expected("forward", what, type(distribution).__name__)
    (name,) = space
    return draw(name, distribution)


def site_of(distribution: Any, name: str, earlier: Mapping[str, Tensor] | None = None) -> Any:
    """Returns the distribution of one site, given draws of those before it."""
    return (
        distribution.site(name, earlier or {}) if isinstance(distribution, Joint) else distribution
    )
