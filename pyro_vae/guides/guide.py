"""The contract of a guide."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from pyro_vae._deprecated import refuse_old
from pyro_vae.distributions.space import Site, Space
from pyro_vae.part import Part, derived

if TYPE_CHECKING:  # programs are made of parts, and know them
    from pyro_vae.programs.view import View

__all__ = ["Guide"]


class Guide(Part, ABC):
    """The family q(z|x) that an encoder amortises.

    A guide of one latent variable declares ``event_shape`` and ``support``; one of several sets
    ``space`` instead, from which the two follow. Besides, ``param_shape`` and :meth:`forward` must
    be written.

    Attributes:
        event_shape: Shape of one z.
        param_shape: What the encoder must end in.
        support: Where z lives.
        space: The latent variables by name, in the prior's order: ``z`` alone, if not composite.
    """

    param_shape: torch.Size

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        refuse_old(cls, ("sites", "named_sites", "site", "order", "join"))

    event_shape: torch.Size = derived(lambda self: self._declared("event_shape"))  # type: ignore[assignment]
    support: Constraint = derived(lambda self: self._declared("support"))  # type: ignore[assignment]

    @cached_property
    def space(self) -> Space:
        """The latent variables by name, with the shape and the support of each: one, ``z``."""
        return Space({"z": Site(self.event_shape, self.support)})

    def _declared(self, name: str) -> Any:
        """Returns what follows from the space of a composite; others declare it."""
        if type(self).space is Guide.space and "space" not in vars(self):
            own = type(self).__name__
            raise TypeError(f"`{own}`: expected `{name}`, or `space` of a composite, got neither")
        return getattr(self.space, name)

    @abstractmethod
    def forward(self, features: Tensor) -> Distribution:
        """Returns q(z|x).

        Several latent variables are a :class:`pyro_vae.distributions.Joint`, which knows in which
        order they are drawn.

        Args:
            features: What the encoder returned, shape ``(*, B, *param_shape)``.

        Returns:
            A distribution of batch shape ``(*, B)`` and event shape ``event_shape``.
        """

    def bind(self, view: View) -> None:
        """Takes the view of the model that the family is in; most families need none."""

    def refine(self, features: Tensor, log_joint: Callable[[Tensor], Tensor]) -> Tensor:
        """Returns better features than the encoder's; most families leave them as they are.

        Args:
            features: What the encoder returned, shape ``(*, B, *param_shape)``.
            log_joint: From z, shape ``(*, B, *event_shape)``, to log p(x, z) in nats, shape
                ``(*, B)``.
        """
        return features
