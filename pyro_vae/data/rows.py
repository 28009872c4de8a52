"""Observations and what goes with each of them: conditions, masks, covariates, labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypedDict, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from pyro_vae._errors import expected
from pyro_vae.data.axes import axes_of, keep_axes
from pyro_vae.data.protocols import Container

__all__ = [
    "Conditions",
    "ConditionsLike",
    "Given",
    "GivenLike",
    "Numbers",
    "Rows",
    "RowsLike",
    "given_of",
]

NO_WEIGHTS = "none, as no objective takes weights of observations: each counts alike"
"""What an error about weights says, which are never dropped in silence."""

Numbers: TypeAlias = Tensor | np.ndarray | list[Any] | Container
"""Observations as numbers, of shape ``[number of observations, *event_shape]``, in any form."""
"""What becomes a tensor: one, an array, a list of numbers or of lists of them, or a container."""


class Conditions(TypedDict, total=False):
    """What each of N observations is given, whether it is seen or simulated.

    Attributes:
        cond: What each observation is conditioned on, shape ``(N, cond_size)``.
        covariates: What the likelihood needs to know of each observation, by the names that it
            declares, such as ``{"size_factor": s}``: shape ``(N,)`` each.
    """

    cond: Tensor | None
    covariates: Mapping[str, Tensor] | None


class Given(Conditions, total=False):
    """What goes with each of N observations; every function that takes one takes these.

    Attributes:
        mask: Which entries of x are observed, boolean, of the shape of x; all if not given.
        labels: The class of each observation, integers of shape ``(N,)``, -1 where it is not known.
    """

    mask: Tensor | None
    labels: Tensor | None


class ConditionsLike(TypedDict, total=False):
    """As :class:`Conditions`, of whatever becomes a tensor; this is what functions take."""

    cond: Numbers | None
    covariates: Mapping[str, Numbers] | None


class GivenLike(ConditionsLike, total=False):
    """As :class:`Given`, of whatever becomes a tensor; this is what functions take."""

    mask: Numbers | None
    labels: Numbers | None


@dataclass(frozen=True, eq=False)
class Rows:
    """Creates a record of observations and of what goes with them.

    Args:
        x: The observations, shape ``(N, *event_shape)``.
        given: What goes with each, see :class:`Given`; nothing is None in it, nor empty.

    Example:
        >>> rows = Rows(torch.zeros(5, 3), {"covariates": {"size_factor": torch.ones(5)}})
        >>> len(rows[:2]), rows[:2].given["covariates"]["size_factor"].shape
        (2, torch.Size([2]))
    """

    x: Tensor
    given: Given = field(default_factory=Given)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> Rows:
        """Returns some of the rows: ``index`` is a slice, a tensor or an array."""
        return Rows(
            self.x[index], cast(Given, tree_map(lambda each: each[index], dict(self.given)))
        )

    @property
    def mask(self) -> Tensor | None:
        """Which entries are observed, shape ``(N, *event_shape)``; None if all are."""
        return self.given.get("mask")

    @property
    def conditions(self) -> Conditions:
        """What each row is given, seen or simulated: :class:`Conditions`, no mask and no labels."""
        return cast(Conditions, self.without("mask", "labels").given)

    @property
    def num_labels(self) -> int:
        """How many rows have a label."""
        labels = self.given.get("labels")
        return 0 if labels is None else int((labels >= 0).sum())

    def to(self, device: torch.device | str) -> Rows:
        """Returns the same rows on a device."""
        moved = tree_map(lambda each: each.to(device), dict(self.given))
        x = self.x.to(device)
        if x is not self.x:
            keep_axes(x, axes_of(self.x))
        return Rows(x, cast(Given, moved))

    def without(self, *names: str) -> Rows:
        """Returns the rows without some of what goes with them.

        Args:
            names: Keys of :class:`Given`; those that are not there do no harm.
        """
        kept = {name: value for name, value in self.given.items() if name not in names}
        return Rows(self.x, cast(Given, kept))

    def batches(self, size: int) -> Iterator[Rows]:
        """Yields the rows, in order, in batches of at most ``size``."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def tensors(self) -> dict[str, Tensor]:
        """Returns what goes with x by its own names: ``cond``, ``mask``, those of covariates.

        The first dimension of each is that of the rows, ``(N, *)``.
        """
        named: dict[str, Tensor] = {}
        for name, value in self.given.items():
            named |= value if isinstance(value, Mapping) else {name: cast(Tensor, value)}
        return named

    def flatten(self) -> tuple[list[Tensor], TreeSpec]:
        """Returns all tensors, ``(N, *)`` each, x first, and what else :meth:`unflatten` needs."""
        leaves, structure = tree_flatten((self.x, dict(self.given)))
        return leaves, structure

    @classmethod
    def unflatten(cls, tensors: list[Tensor] | tuple[Tensor, ...], structure: TreeSpec) -> Rows:
        """Returns the rows that :meth:`flatten` took apart.

        Args:
            tensors: As they came from it, or others in their place, shape ``(N, *)`` each.
            structure: What came with them.
        """
        return cls(*tree_unflatten(list(tensors), structure))


RowsLike: TypeAlias = Numbers | Rows
"""Observations alone, or with what goes with each of them."""
"""Observations alone, or with what goes with them."""


def given_of(values: Mapping[str, Any]) -> Given:
    """Returns those of some values that are there: neither None nor empty mappings.

    Example:
        >>> given_of({"cond": None, "covariates": {}})
        {}

    Raises:
        TypeError: If a name is none of :class:`Given`.
        ValueError: If there are weights.
    """
    if values.get("weights") is not None:
        raise expected("weights", NO_WEIGHTS, values["weights"])
    if unknown := values.keys() - Given.__optional_keys__:
        raise TypeError(f"got an unexpected keyword argument '{min(unknown)}'")
    present = {
        name: value
        for name, value in values.items()
        if not (value is None or (isinstance(value, Mapping) and not value))
    }
    return cast(Given, present)
