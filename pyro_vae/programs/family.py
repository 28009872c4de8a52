"""q(z|x) of a Pyro guide as a family: distributions of the numbers that the guide makes of x."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import transform_to

from pyro_vae.distributions import Space
from pyro_vae.programs.sites import Local

__all__ = ["Family", "family_of"]


@dataclass(frozen=True)
class _Member:
    """The distribution of one site: its class, and the shapes of its parameters.

    Attributes:
        local: The site.
        kind: The class of the distribution.
        shapes: Of the parameters, by name, of one observation.
        event_dim: Dimensions that were declared to be of the event.
    """

    local: Local
    kind: type[Any]
    shapes: Mapping[str, torch.Size]
    event_dim: int

    def numbers(self, d: Any) -> Tensor:
        """Returns the unconstrained parameters of a distribution, ``(B, P)``."""
        base, size = _base(d), d.batch_shape[0]
        parts = []
        for name, shape in self.shapes.items():
            value = getattr(base, name).expand(size, *shape)
            parts.append(transform_to(_domain(base, name)).inv(value).reshape(size, -1))
        return torch.cat(parts, 1)

    @property
    def width(self) -> int:
        """Numbers that the parameters of an observation are."""
        return sum(shape.numel() for shape in self.shapes.values())

    def distribution(self, numbers: Tensor) -> Any:
        """Returns the distribution of those numbers, batch shape ``(*, B)``."""
        parts = numbers.split([shape.numel() for shape in self.shapes.values()], -1)
        given = {}
        for (name, shape), part in zip(self.shapes.items(), parts, strict=True):
            domain = self.kind.arg_constraints[name]
            given[name] = transform_to(domain)(part.reshape(*part.shape[:-1], *shape))
        return self.kind(**given).to_event(self.event_dim)


class Family(TorchDistribution):
    """q(z|x) whose sites depend on x alone, from unconstrained parameters of each observation.

    Args:
        members: The sites.
        space: Where z lives.
        numbers: Shape ``(B, P)``.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, members: Sequence[_Member], space: Space, numbers: Tensor) -> None:
        parts = numbers.split([member.width for member in members], -1)
        pairs = zip(members, parts, strict=True)
        self.sites = {member.local.name: member.distribution(part) for member, part in pairs}
        self.members, self.space = members, space
        super().__init__(numbers.shape[:-1], space.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """Where z lives."""
        return self.space.support

    @property
    def has_rsample(self) -> bool:
        """Whether every site can be drawn with a gradient."""
        return all(each.has_rsample for each in self.sites.values())

    def _joined(self, values: Mapping[str, Tensor]) -> Tensor:
        batch = {n: v.ndim - len(self.sites[n].event_shape) for n, v in values.items()}
        return self.space.join({n: v.reshape(*v.shape[: batch[n]], -1) for n, v in values.items()})

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self._joined({n: d.sample(sample_shape) for n, d in self.sites.items()})

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self._joined({n: d.rsample(sample_shape) for n, d in self.sites.items()})

    def log_prob(self, value: Tensor) -> Tensor:
        parts, total = self.space.split(value), torch.zeros(())
        for name, d in self.sites.items():
            own = parts[name].reshape(*value.shape[:-1], *d.event_shape)
            total = total + d.log_prob(own)
        return total

    @property
    def mean(self) -> Tensor:
        """E[z|x]."""
        return self._joined({name: d.mean for name, d in self.sites.items()})


def _base(d: Any) -> Any:
    while isinstance(d, torch.distributions.Independent):
        d = d.base_dist
    return d


def _domain(base: Any, name: str) -> Any:
    return type(base).arg_constraints[name]


def family_of(
    guide: poutine.Trace, again: poutine.Trace, latent: Mapping[str, Local]
) -> tuple[_Member, ...]:
    """Returns the family of a guide; nothing if it is not made of numbers of each observation.

    Args:
        guide: A run of the guide.
        again: Another run on the same rows, with other draws.
        latent: The latent sites.
    """
    members = []
    for name, local in latent.items():
        d = guide.nodes[name]["fn"]
        base = _base(d)
        if local.dim != -1 or len(d.batch_shape) != 1 or guide.nodes[name]["mask"] is not None:
            return ()
        if local.support.is_discrete or type(base).__name__ not in _PLAIN:
            return ()
        event_dim = len(d.event_shape) - len(base.event_shape)
        shapes = {}
        for parameter in _PLAIN[type(base).__name__]:
            value = getattr(base, parameter)
            other = getattr(_base(again.nodes[name]["fn"]), parameter)
            if not torch.equal(value, other):
                return ()  # it depends on what was drawn before
            domain = base.arg_constraints[parameter]
            shape = base.batch_shape[1:] + value.shape[value.ndim - domain.event_dim :]
            shapes[parameter] = torch.Size(shape)
        members.append(_Member(local, type(base), shapes, event_dim))
    return tuple(members)


# Distributions that their parameters make, and that a step of an optimiser may move anywhere.
_PLAIN = {
    "Normal": ("loc", "scale"),
    "Laplace": ("loc", "scale"),
    "LogNormal": ("loc", "scale"),
    "StudentT": ("df", "loc", "scale"),
    "Gamma": ("concentration", "rate"),
    "Beta": ("concentration1", "concentration0"),
    "MultivariateNormal": ("loc", "scale_tril"),
}
