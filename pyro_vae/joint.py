"""Several latent variables as one: sites with names of their own, each given those before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.kl import register_kl

from pyro_vae._errors import expected
from pyro_vae.distributions import MAX_ENUMERATED, diagonal_normal, inverse_positive
from pyro_vae.networks import MLP

__all__ = ["Joint", "NormalGiven", "join_sites", "joint_support", "site_names", "split_sites"]


def site_names(number: int) -> list[str]:
    """Returns ``z1``, ``z2`` and so on."""
    return [f"z{i + 1}" for i in range(number)]


class NormalGiven(nn.Module):
    """A diagonal normal law whose parameters a small network makes of a vector.

    It starts near the standard normal law, whatever the vector.

    Args:
        size: Entries of the vector.
        dim: Entries of the normal variable.
        hidden: Widths of the network's hidden layers.
    """

    def __init__(self, size: int, dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.size = size
        self.network = MLP(hidden)
        self.network.build((size,), (2 * dim,))
        start = torch.zeros(2, dim)
        start[1] = inverse_positive(torch.ones(dim))
        self.network.start_at(start)

    def forward(self, given: Tensor) -> Any:
        """Returns the law given vectors of shape ``(*, size)``, batch shape ``(*)``."""
        flat = self.network(given.reshape(-1, given.shape[-1]))
        return diagonal_normal(flat.reshape(*given.shape[:-1], -1))


class _Sites(constraints.Constraint):
    """Several supports side by side, each flattened."""

    event_dim = 1

    def __init__(self, supports: Mapping[str, Any], shapes: Mapping[str, torch.Size]) -> None:
        self.supports = supports
        self.shapes = shapes
        self.is_discrete = all(support.is_discrete for support in supports.values())

    def check(self, value: Tensor) -> Tensor:
        """Tells of each z whether all its sites are in their supports."""
        parts = split_sites(value, self.shapes)
        flags = []
        for name, support in self.supports.items():
            flag = support.check(parts[name])
            flags.append(flag.reshape(*value.shape[:-1], -1).all(-1))
        return torch.stack(flags).all(0)


def split_sites(z: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Splits z, ``(*, D)``, into its sites, each ``(*, *shape)``."""
    parts = z.split([shape.numel() for shape in shapes.values()], -1)
    named = zip(shapes.items(), parts, strict=True)
    return {name: part.reshape(*z.shape[:-1], *shape) for (name, shape), part in named}


def join_sites(draws: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> Tensor:
    """Joins draws of the sites into one z, ``(*, D)``."""
    flat = [draws[name].flatten(draws[name].ndim - len(shape)) for name, shape in shapes.items()]
    batch = torch.broadcast_shapes(*(part.shape[:-1] for part in flat))
    return torch.cat([part.expand(*batch, -1) for part in flat], -1)


class Joint(TorchDistribution):
    """Creates the joint law of several sites, each given those drawn before it, as one vector.

    Args:
        law: From a site's name and the draws before it to its law.
        shapes: Event shape of each site, in the order of the entries of z.
        support: Where z lives.
        order: The names in the order in which they are drawn; that of ``shapes`` if not given.
        batch_shape: Of the laws.
        independent: Whether no law depends on another's draw.

    Example:
        >>> from pyro.distributions import Normal
        >>> def law(name, earlier):
        ...     loc = torch.zeros(2) if name == "a" else earlier["a"]
        ...     return Normal(loc, 1.0).to_event(1)
        >>> two = torch.Size([2])
        >>> Joint(law, {"a": two, "b": two}, constraints.real_vector).sample((5,)).shape
        torch.Size([5, 4])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        law: Callable[[str, Mapping[str, Tensor]], Any],
        shapes: Mapping[str, torch.Size],
        support: Any,
        *,
        order: Sequence[str] | None = None,
        batch_shape: Any = (),
        independent: bool = False,
    ) -> None:
        self.law = law
        self.shapes = dict(shapes)
        self._support = support
        self.order = list(self.shapes if order is None else order)
        self.independent = independent
        size = sum(shape.numel() for shape in self.shapes.values())
        super().__init__(torch.Size(batch_shape), torch.Size([size]), validate_args=False)

    @property
    def support(self) -> Any:
        """Where z lives."""
        return self._support

    @property
    def has_rsample(self) -> bool:
        """Whether every site can be drawn with a gradient."""
        return all(law.has_rsample for law in self._walk(lambda law, _: law.mean).values())

    def _walk(self, draw: Callable[[Any, str], Tensor]) -> dict[str, Any]:
        """Returns the laws of all sites, each given what ``draw`` made of those before it."""
        draws: dict[str, Tensor] = {}
        laws = {}
        for name in self.order:
            laws[name] = self.law(name, draws)
            draws[name] = draw(laws[name], name)
        return laws

    def _drawn(self, draw: Callable[[Any], Tensor]) -> Tensor:
        draws: dict[str, Tensor] = {}
        for name in self.order:
            draws[name] = draw(self.law(name, draws))
        return join_sites(draws, self.shapes)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            return self._drawn(lambda law: law.expand(shape).sample())

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        return self._drawn(lambda law: law.expand(shape).rsample())

    def log_prob(self, value: Tensor) -> Tensor:
        draws = split_sites(value, self.shapes)
        laws = self._walk(lambda _, name: draws[name])
        total = sum(law.log_prob(draws[name]) for name, law in laws.items())
        return torch.as_tensor(total).expand(
            torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        )

    @property
    def mean(self) -> Tensor:
        """The mean of each site given the means before it: the mean itself where independent."""
        return self._drawn(lambda law: law.mean.expand(self.batch_shape + law.event_shape))

    @property
    def variance(self) -> Tensor:
        """The variance of each site given the means of those before it."""
        laws = self._walk(lambda law, _: law.mean)
        variances = {
            name: law.variance.expand(self.batch_shape + law.event_shape)
            for name, law in laws.items()
        }
        return join_sites(variances, self.shapes)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Joint:
        return Joint(
            self.law,
            self.shapes,
            self._support,
            order=self.order,
            batch_shape=batch_shape,
            independent=self.independent,
        )

    @property
    def has_enumerate_support(self) -> bool:
        """Whether all sites are discrete, and none depends on another."""
        if not self.independent:
            return False
        return all(
            law.has_enumerate_support for law in self._walk(lambda law, _: law.mean).values()
        )

    @property
    def num_states(self) -> int:
        """How many joint states there are, where all sites are discrete: none is listed.

        Raises:
            NotImplementedError: If a site is continuous.
        """
        if not self.has_enumerate_support:
            raise NotImplementedError
        laws = self._walk(lambda law, _: law.mean).values()
        return math.prod(map(_number_of_states, laws))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Lists the joint states, shape ``(S, *batch_shape, D)``.

        Raises:
            NotImplementedError: If a site is continuous.
            ValueError: If there are more than ``MAX_ENUMERATED`` of them.
        """
        if (number := self.num_states) > MAX_ENUMERATED:
            raise expected("prior", f"at most {MAX_ENUMERATED} joint states", number)
        laws = self._walk(lambda law, _: law.mean)
        states = [laws[name].enumerate_support(expand=False).flatten(1) for name in self.shapes]
        index = torch.cartesian_prod(*[torch.arange(len(each)) for each in states])
        index = index.reshape(number, len(states))
        joint = torch.cat([each[index[:, i]] for i, each in enumerate(states)], -1)
        batch = self.batch_shape if expand else (1,) * len(self.batch_shape)
        return joint.reshape(number, *(1,) * len(batch), -1).expand(-1, *batch, -1)


def _number_of_states(law: Any) -> int:
    known = getattr(law, "num_states", None)
    return len(law.enumerate_support(expand=False)) if known is None else known


@register_kl(Joint, Joint)
def _kl_joint(p: Joint, q: Joint) -> Tensor:
    """The sum of the sites' divergences, where they are independent."""
    if not (p.independent and q.independent) or p.shapes != q.shapes:
        raise NotImplementedError
    total = sum(
        torch.distributions.kl_divergence(p.law(name, {}), q.law(name, {})) for name in p.shapes
    )
    return torch.as_tensor(total).expand(torch.broadcast_shapes(p.batch_shape, q.batch_shape))


def joint_support(parts: Mapping[str, Any]) -> Any:
    """Returns where the joint z of several sites lives.

    Args:
        parts: Priors or guides by the name of their site.
    """
    if all(part.support is constraints.real_vector for part in parts.values()):
        return constraints.real_vector
    supports = {name: part.support for name, part in parts.items()}
    return _Sites(supports, {name: part.event_shape for name, part in parts.items()})
