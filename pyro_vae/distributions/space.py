"""Where z lives: latent variables by name, with their shapes, supports and parents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyro_vae._errors import expected, unknown_name

__all__ = ["Mode", "Relaxation", "Site", "Space", "same_support", "site_names"]

Mode = Literal["concrete", "enumerate", "soft", "straight-through"]


@dataclass(frozen=True, slots=True)
class Relaxation:
    """What a discrete site of a guide asks of the objective, which alone relaxes it.

    Attributes:
        mode: How the objective takes gradients.
        temperature: Temperature at the first optimiser step.
        min_temperature: Where the annealing stops.
        anneal_rate: Rate of the exponential decay per optimiser step; 0 keeps the temperature.

    Raises:
        ValueError: If a temperature is not positive, the rate is negative, or the mode is unknown.
    """

    mode: Mode
    temperature: float
    min_temperature: float
    anneal_rate: float

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise unknown_name("mode", self.mode, get_args(Mode))
        if not 0 < self.min_temperature <= self.temperature:
            limits = f"{self.min_temperature} and {self.temperature}"
            raise expected("temperature", "0 < min_temperature <= temperature", limits)
        if self.anneal_rate < 0:
            raise expected("anneal_rate", "a number >= 0", self.anneal_rate)

    def temperature_at(self, step: Tensor) -> Tensor:
        """Returns the temperature after ``step`` optimiser steps, both of shape ``()``."""
        annealed = self.temperature * torch.exp(-self.anneal_rate * step)
        return annealed.clamp_min(self.min_temperature)


@dataclass(frozen=True, slots=True)
class Site:
    """One latent variable.

    Attributes:
        shape: Of one draw.
        support: Where it lives.
        parents: The sites on whose draws its distribution depends; in a space, all before it if
            not given, which is always safe.
        relaxation: What a discrete site of a guide asks of the objective.
    """

    shape: torch.Size
    support: Constraint
    parents: tuple[str, ...] | None = None
    relaxation: Relaxation | None = None


class Space(Mapping[str, Site]):
    """Creates the space of z: its sites by name, in the order of the entries of z.

    A single site is z as it is; several are flattened and joined into one vector. Two spaces are
    equal if names, shapes and supports are: parents and the order of drawing are not compared, as
    a guide may draw from the bottom up what the prior draws from the top down.

    Args:
        sites: The latent variables, one at least.
        decoded: The names of those that the decoder receives, in the order of the sites; all if
            not given.

    Raises:
        ValueError: If there is no site, or one of the decoded is unknown.

    Example:
        >>> vector = Site(torch.Size([2]), constraints.real_vector)
        >>> space = Space({"a": vector, "b": vector}, decoded=("b",))
        >>> space.event_shape, space.decoded_shape
        (torch.Size([4]), torch.Size([2]))
    """

    # Without a dictionary of its own there is nothing that could change.
    __slots__ = ("_sites", "decoded")
    decoded: tuple[str, ...]

    def __init__(self, sites: Mapping[str, Site], decoded: Sequence[str] | None = None) -> None:
        if not sites:
            raise expected("sites", "one latent variable or more", sites)
        self._sites: dict[str, Site] = {}
        for name, site in sites.items():
            parents = tuple(self._sites) if site.parents is None else site.parents
            self._sites[name] = replace(site, parents=parents)
        self.decoded = tuple(self._sites if decoded is None else decoded)
        for name in self.decoded:
            if name not in self._sites:
                raise unknown_name("decoded", name, self._sites)

    def __getitem__(self, name: str) -> Site:
        return self._sites[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Space):
            return NotImplemented
        return list(self) == list(other) and all(
            ours.shape == theirs.shape and same_support(ours.support, theirs.support)
            for ours, theirs in zip(self.values(), other.values(), strict=True)
        )

    __hash__ = None  # type: ignore[assignment]

    def __deepcopy__(self, memo: object) -> Space:
        return self  # nothing in it changes

    def __repr__(self) -> str:
        return f"Space({{{self}}})"

    def __str__(self) -> str:
        return ", ".join(f"{name}: {_in_words(site)}" for name, site in self.items())

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one z."""
        return self._joined(tuple(self))

    @property
    def support(self) -> Constraint:
        """Where z lives."""
        if len(self) == 1:
            return next(iter(self.values())).support
        if all(same_support(site.support, constraints.real_vector) for site in self.values()):
            return constraints.real_vector
        return _SideBySide(self)

    @property
    def decoded_shape(self) -> torch.Size:
        """Shape of what the decoder receives of one z."""
        return self._joined(self.decoded)

    def decoder_input(self, z: Tensor) -> Tensor:
        """Returns what the decoder receives of z, shape ``(*, *decoded_shape)``."""
        if len(self.decoded) == len(self):
            return z
        return self.flatten(self.split(z), self.decoded)

    def split(self, z: Tensor) -> dict[str, Tensor]:
        """Splits z, ``(*, *event_shape)``, into its sites, each ``(*, *shape)``."""
        if len(self) == 1:
            return dict.fromkeys(self, z)
        parts = z.split([site.shape.numel() for site in self.values()], -1)
        named = zip(self.items(), parts, strict=True)
        return {name: part.reshape(*z.shape[:-1], *site.shape) for (name, site), part in named}

    def join(self, draws: Mapping[str, Tensor]) -> Tensor:
        """Joins draws of the sites into one z, ``(*, *event_shape)``."""
        if len(self) == 1:
            return draws[next(iter(self))]
        return self.flatten(draws, tuple(self))

    def flatten(self, draws: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
        """Joins the draws of some sites, one or more, each flattened: shape ``(*, D)``."""
        flat = [draws[name].flatten(draws[name].ndim - len(self[name].shape)) for name in names]
        batch = torch.broadcast_shapes(*(part.shape[:-1] for part in flat))
        return torch.cat([part.expand(*batch, -1) for part in flat], -1)

    def _joined(self, names: Sequence[str]) -> torch.Size:
        if len(self) == 1:
            return self[names[0]].shape
        return torch.Size([sum(self[name].shape.numel() for name in names)])


class _SideBySide(Constraint):
    """Several supports side by side, each flattened."""

    event_dim = 1

    def __init__(self, space: Space) -> None:
        self.space = space
        self.is_discrete = all(site.support.is_discrete for site in space.values())
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Returns for each z whether all its sites are in their supports."""
        parts = self.space.split(value)
        flags = []
        for name, site in self.space.items():
            flag = site.support.check(parts[name])
            flags.append(flag.reshape(*value.shape[:-1], -1).all(-1))
        return torch.stack(flags).all(0)


def site_names(number: int) -> list[str]:
    """Returns ``z1``, ``z2`` and so on."""
    return [f"z{i + 1}" for i in range(number)]


def same_support(ours: Any, theirs: Any) -> bool:
    """Returns whether two supports are the same kind of set with the same bounds.

    Copies of a constraint are other objects, which torch does not compare.

    Example:
        >>> import copy
        >>> same_support(copy.deepcopy(constraints.real_vector), constraints.real_vector)
        True
    """
    if ours is theirs:
        return True
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, Constraint):
        return same_support(vars(ours), vars(theirs))
    if isinstance(ours, Mapping) and not isinstance(ours, Space):
        return ours.keys() == theirs.keys() and all(
            same_support(ours[name], theirs[name]) for name in ours
        )
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(same_support, ours, theirs))
    return bool(ours == theirs)


_KINDS = {
    "_OneHot": "one-hot vectors",
    "_Boolean": "binary vectors",
    "_Sphere": "unit vectors",
}


def _in_words(site: Site) -> str:
    kind = _KINDS.get(type(site.support).__name__, "real vectors")
    return f"{tuple(site.shape)} {kind}"
