"""The contract of a missingness model."""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

import pyro_vae.missingness as package
from pyro_vae._errors import expected
from pyro_vae.part import Part, named_part

__all__ = ["Missingness", "missingness_of", "words"]


class Missingness(Part, ABC):
    """The distribution p(s|x) of which entries of one observation are observed, given all of them.

    Attributes:
        event_shape: Shape of one x, and of its mask.

    Args:
        event_shape: Shape of one x, at least one dimension.

    Raises:
        ValueError: If the shape is empty or a size is not positive.
    """

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__()
        if len(event_shape) == 0 or any(size < 1 for size in event_shape):
            raise expected("event_shape", "one or more positive sizes", tuple(event_shape))
        self.event_shape = torch.Size(event_shape)

    @abstractmethod
    def start(self, mask: Tensor) -> None:
        """Fits the distribution to masks, as if they did not depend on x.

        Args:
            mask: Which entries of the training data are observed, ``(N, *event_shape)``, boolean.
        """

    @abstractmethod
    def forward(self, x: Tensor) -> Distribution:
        """Returns p(s|x).

        Args:
            x: All entries, observed or not, in the units of the likelihood (of real and positive
                data; of others as they are), shape ``(*, B, *event_shape)``.

        Returns:
            A distribution of batch shape ``(*, B)`` and event shape ``event_shape``, of masks that
            are 1 where an entry is observed and 0 elsewhere.
        """


def words() -> dict[str, type[Missingness]]:
    """Returns the families by the words that stand for them.

    Example:
        >>> sorted(words())
        ['self-masking']
    """
    families = (getattr(package, name) for name in package.__all__)
    return {
        re.sub(r"(?<=[a-z])(?=[A-Z])", "-", family.__name__).lower(): family
        for family in families
        if not inspect.isabstract(family)
    }


def missingness_of(given: Any, event_shape: Sequence[int]) -> Missingness | None:
    """Returns a missingness model that was given by its word or as a part; None is none.

    Raises:
        ValueError: If it is neither, or of data of another shape.
    """
    if given is None:
        return None
    part = named_part("missingness", given, words(), event_shape=tuple(event_shape))
    if not isinstance(part, Missingness):
        raise expected("missingness", f"None, {' or '.join(words())}, or a Missingness", part)
    if part.event_shape != torch.Size(event_shape):
        what = f"one of data of shape {tuple(event_shape)}, as the likelihood is"
        raise expected("missingness", what, tuple(part.event_shape))
    return part
