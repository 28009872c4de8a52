"""The contract of a likelihood."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.constraints import Constraint

from pyro_vae._deprecated import adopt, renamed
from pyro_vae._errors import expected
from pyro_vae.part import Part

__all__ = ["Likelihood"]

_THINNED = 1000  # observations that are enough to start from
_ITERATIONS = 100  # of L-BFGS
_DOMAINS: dict[str, Constraint] = {"size_factor": constraints.positive}


def thinned(x_train: Tensor) -> Tensor:
    """Returns about a thousand observations, spread evenly: enough to start from."""
    return x_train[:: max(1, len(x_train) // _THINNED)]


def a_shape(event_shape: Sequence[int]) -> Sequence[int]:
    """Returns an event shape, which is no number of entries.

    Raises:
        ValueError: If it is a number.
    """
    if isinstance(event_shape, int):
        raise expected("event_shape", f"a shape, such as ({event_shape},)", event_shape)
    return event_shape


def several_entries(event_shape: Sequence[int]) -> Sequence[int]:
    """Returns an event shape of two entries or more, for likelihoods of dependent entries.

    Raises:
        ValueError: If it has fewer.
    """
    if torch.Size(event_shape).numel() < 2:
        raise expected("event_shape", "two or more entries", tuple(event_shape))
    return event_shape


class Likelihood(Part, ABC):
    """The distribution p(x|z) of one observation, given what the decoder returned.

    Attributes:
        event_shape: Shape of one x.
        param_shape: What the decoder must end in: ``num_params`` parameters stacked along the
            first event dimension.
        support: Where each entry of x lives.
        measure: What the density is taken against; only discrete data have bits per dimension.
        covariates: Names of what the distribution depends on besides z: arguments of these names,
            shape ``(B,)``, which are columns beside x in data sets.
        remedy: What makes values of the support of others, for the error about them.

    Args:
        event_shape: Shape of one x, at least one dimension.
        num_params: Parameters the decoder gives for each entry of x.

    Raises:
        ValueError: If the shape is empty or a size is not positive.
    """

    support: Constraint
    measure: Literal["counting", "lebesgue", "mixed"]
    covariates: tuple[str, ...] = ()
    remedy: str = ""

    def __init__(self, event_shape: Sequence[int], num_params: int = 1) -> None:
        super().__init__()
        if len(a_shape(event_shape)) == 0 or any(size < 1 for size in event_shape):
            raise expected("event_shape", "one or more positive sizes", tuple(event_shape))
        self.event_shape = torch.Size(event_shape)
        self.param_shape = torch.Size((num_params * event_shape[0], *event_shape[1:]))
        self.num_params = num_params

    @property
    def are_counts(self) -> Tensor:
        """Which entries are counts, of which an encoder sees logarithms: shape ``event_shape``."""
        return torch.tensor(self.support is constraints.nonnegative_integer).expand(
            self.event_shape
        )

    @property
    def are_angles(self) -> Tensor:
        """Which entries are angles, whose mean is a direction: shape ``event_shape``."""
        return torch.zeros(self.event_shape, dtype=torch.bool)

    @property
    def words(self) -> tuple[tuple[str, ...], ...]:
        """For each entry in order the names of its levels, if it has some; empty if none has."""
        return ()

    @property
    def base_measure(self) -> str:
        """What densities are taken against, in words that agree only where they compare."""
        return self.measure

    def counted(self, x: Tensor) -> Tensor | None:
        """Returns which entries the density is of, boolean, of x's shape; None if of all.

        Args:
            x: Data, shape ``(N, *event_shape)``.
        """
        return None

    def entry(self, index: Sequence[int]) -> Likelihood:
        """Returns the likelihood of one entry of x: this one, unless entries differ.

        Args:
            index: Of the entry, an integer for each dimension of x.
        """
        return self

    def domain_of(self, covariate: str) -> Constraint:
        """Returns where a covariate lives: size factors are positive, others are real."""
        return _DOMAINS.get(covariate, constraints.real)

    def encoder_input(self, x: Tensor, **covariates: Tensor) -> Tensor:
        """Returns what an encoder sees of x before it is standardised, of the same shape.

        Args:
            x: Data, shape ``(*, B, *event_shape)``.
            covariates: Those that the likelihood declares, by name, shape ``(B,)`` each.
        """
        return x

    def take_units(self, x_train: Tensor) -> Tensor:
        """Takes the units that it works in from training data, where it has any.

        Args:
            x_train: Training data, shape ``(N, *event_shape)``.

        Returns:
            Which entries are mean zero and variance one in these units, shape ``event_shape``.
        """
        return x_train.new_zeros(self.event_shape, dtype=torch.bool)

    def standardized(self, inputs: Tensor) -> Tensor:
        """Returns the encoder's input, where it is data themselves in the units of those.

        Args:
            inputs: What :meth:`encoder_input` returned, shape ``(*, B, *event_shape)``; what is
                returned has the same.
        """
        return inputs

    def to_units(self, x: Tensor) -> Tensor:
        """Returns data ``x``, shape ``(*, *event_shape)``, in the units of this likelihood."""
        return x

    def from_units(self, u: Tensor) -> Tensor:
        """Returns data in their own units, the inverse of :meth:`to_units`.

        Args:
            u: Data in the units of this likelihood, shape ``(*, *event_shape)``.
        """
        return u

    @property
    def fits_scale(self) -> bool:
        """Whether a learned scale has its optimum in closed form: :meth:`fit_scale`."""
        return False

    def fit_scale(
        self, x: Tensor, params: Tensor, mask: Tensor | None = None, weights: Tensor | None = None
    ) -> None:
        """Sets learned scales to their maximum-likelihood values, where they have a closed form.

        With z drawn from the guide, this is the maximum of the evidence lower bound in the scales.

        Args:
            x: Data, shape ``(N, *event_shape)``.
            params: What the decoder returned for draws of z, shape ``(*, N, *param_shape)``.
            mask: Which entries are observed, of the shape of ``x``; all if not given.
            weights: Of the draws, shape ``(*, N)``; alike if not given.

        Raises:
            ValueError: If no scale has a closed form.
        """
        what = "one with a scale that is shared, per-channel or per-dimension"
        raise expected("likelihood", what, self)

    law_of = renamed("law_of", "entry")
    seen = renamed("seen", "encoder_input")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        adopt(cls, "law_of", "entry")
        adopt(cls, "seen", "encoder_input")

    def split(self, params: Tensor) -> tuple[Tensor, ...]:
        """Returns one tensor a parameter, ``(*, B, *event_shape)`` each.

        Args:
            params: All of them, stacked along the first dimension of an event,
                ``(*, B, *param_shape)``.
        """
        return params.chunk(self.num_params, -len(self.event_shape))

    @torch.enable_grad()
    def maximised(self, start: Tensor, x_train: Tensor) -> Tensor:
        """Returns the maximum-likelihood parameters of data, as if there were no z.

        For distributions whose parameters do not follow from moments.

        Args:
            start: Where to begin, shape ``param_shape``.
            x_train: Training data, shape ``(N, *event_shape)``, of which about a thousand are used.

        Returns:
            Parameters, shape ``param_shape``.
        """
        x = thinned(x_train)
        params = start.detach().clone().requires_grad_()
        optimizer = torch.optim.LBFGS([params], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = -self(params).log_prob(x).mean()
            value.backward(inputs=[params])
            return value

        optimizer.step(loss)
        return params.detach()

    @abstractmethod
    def init_params(self, x_train: Tensor) -> Tensor:
        """Fits the distribution to all data at once, as if there were no z.

        Sets the likelihood's own parameters to that fit as well. A likelihood with covariates takes
        them as keywords.

        Args:
            x_train: Training data, shape ``(N, *event_shape)``.

        Returns:
            Where the decoder's last bias starts, shape ``param_shape``.
        """

    @abstractmethod
    def forward(self, params: Tensor) -> Distribution:
        """Returns p(x|z). A likelihood with covariates takes them as keywords.

        Args:
            params: What the decoder returned, shape ``(*, B, *param_shape)``.

        Returns:
            A distribution of batch shape ``(*, B)`` and event shape ``event_shape``.
        """
