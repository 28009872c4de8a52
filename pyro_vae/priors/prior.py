"""The contract of a prior."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from pyro_vae._deprecated import refuse_old, take_cond
from pyro_vae.distributions.space import Site, Space
from pyro_vae.part import Part, derived

if TYPE_CHECKING:  # programs are made of parts, and know them
    from pyro_vae.programs.view import View

__all__ = ["Prior"]


class Prior(Part, ABC):
    """The prior p(z), or p(z|c) given a condition.

    A prior of one latent variable declares ``event_shape`` and ``support``; one of several sets
    ``space`` instead, from which the two follow. :meth:`forward` alone must be written.

    Attributes:
        event_shape: Shape of one z.
        support: Where z lives. A guide must draw from the same space.
        space: The latent variables by name, in generative order: ``z`` alone, if not composite.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        refuse_old(
            cls,
            (
                "sites",
                "named_sites",
                "site",
                "parents",
                "join",
                "decoded",
                "decoded_shape",
                "given",
            ),
        )
        take_cond(cls)

    event_shape: torch.Size = derived(lambda self: self._declared("event_shape"))  # type: ignore[assignment]
    support: Constraint = derived(lambda self: self._declared("support"))  # type: ignore[assignment]

    @cached_property
    def space(self) -> Space:
        """The latent variables by name, with the shape and the support of each: one, ``z``."""
        return Space({"z": Site(self.event_shape, self.support)})

    def _declared(self, name: str) -> Any:
        """Returns what follows from the space of a composite; others declare it."""
        if type(self).space is Prior.space and "space" not in vars(self):
            own = type(self).__name__
            raise TypeError(f"`{own}`: expected `{name}`, or `space` of a composite, got neither")
        return getattr(self.space, name)

    @abstractmethod
    def forward(self, cond: Tensor | None = None) -> Distribution:
        """Returns p(z), a distribution of batch shape ``()`` and event shape ``event_shape``.

        Several latent variables are a :class:`pyro_vae.distributions.Joint`.

        Args:
            cond: What each observation is conditioned on, shape ``(B, cond_size)``. A prior that
                depends on it has batch shape ``(B,)``; others do not look at it.
        """

    def bind(self, view: View) -> None:
        """Takes the view of the model that the prior is in; most priors need none.

        Raises:
            ValueError: If the prior cannot be in this model, as one without conditions or with
                another guide.
        """

    def start(self, x_train: Tensor) -> None:
        """Starts the prior's own parameters from training data.

        Args:
            x_train: As the encoder sees them, standardised, shape ``(N, *event_shape of x)``.
        """
