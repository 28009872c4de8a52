"""What every program that is fitted and judged offers: a VAE, or any amortised Pyro pair."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeGuard, Unpack

import torch
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from pyro_vae.data.rows import Conditions, ConditionsLike, Given, GivenLike, Numbers, Rows, RowsLike
from pyro_vae.distributions import Space
from pyro_vae.programs.weigh import WeightedDraws

__all__ = ["Amortized", "Refit", "is_amortized"]


class Amortized(Protocol):
    """What every program that is fitted and judged offers.

    It is p(x, z), with z ~ q(z|x), of observations that are independent of each other. Verbs know
    no more of it than this. Rows are observations that it accepted; z is one array an observation,
    see :class:`pyro_vae.distributions.Space`.

    Attributes:
        model: The Pyro program p(x, z), called with x and what goes with it.
        guide: The Pyro program q(z|x), called alike.
    """

    model: Any
    guide: Any

    @property
    def space(self) -> Space:
        """Where z lives."""

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one x."""

    @property
    def x_support(self) -> Constraint:
        """Where each entry of x lives."""

    @property
    def base_measure(self) -> str:
        """What densities of x are taken against."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    def takes(self) -> frozenset[str]:
        """The names of :class:`pyro_vae.data.Given` that the program has a use for."""

    @property
    def has_globals(self) -> bool:
        """Whether there are latent variables that all observations share, see :meth:`fixed`."""

    @property
    def is_ignorable(self) -> bool:
        """Whether there is no model of what is missing."""

    def accepts(self, rows: Rows, argument: str = "x") -> Rows:
        """Returns data as the program takes them; the one place that checks."""

    def uses(self, rows: Rows) -> Rows:
        """Returns what the program has a use for of the rows of a data set, on its device."""

    def initialize(self, x_train: Numbers, **given: Unpack[GivenLike]) -> None:
        """Starts the program at training data, once."""

    def prior_at(self, given: Conditions) -> Any:
        """Returns p(z), of batch shape ``()``, or that of each of N conditions, ``(N,)``."""

    def features(self, rows: Rows) -> Tensor:
        """Returns what q(z|x) of each row is made of, shape ``(B, *)``; of no width if not one."""

    def guide_at(self, features: Tensor, rows: Rows) -> Any:
        """Returns q(z|x), batch shape ``(B,)``, from what :meth:`features` returned."""

    def infer(self, rows: Rows) -> Any:
        """Returns q(z|x), batch shape ``(B,)``."""

    def encode(self, x: RowsLike, **given: Unpack[GivenLike]) -> Any:
        """Returns q(z|x) of data that are checked first."""

    def decode(self, z: Numbers, **given: Unpack[GivenLike]) -> Any:
        """Returns p(x|z) for z of shape ``(*, B, *space.event_shape)``."""

    def sample(self, n: int, *, seed: int | None = None, **given: Unpack[ConditionsLike]) -> Tensor:
        """Draws z from the prior and then x: shape ``(n, *event_shape)``."""

    def reconstruct(self, x: RowsLike, **given: Unpack[GivenLike]) -> Tensor:
        """Returns E[x|z] at z = E[z|x]."""

    def log_likelihood(self, z: Tensor, rows: Rows) -> Tensor:
        """Returns log p(x|z), shape ``(*, B)``, nats, differentiable in z."""

    def log_joint(self, z: Tensor, rows: Rows) -> Tensor:
        """Returns log p(x, z), shape ``(*, B)``, nats, differentiable in z."""

    def draw_weighted(self, rows: Rows, count: int) -> WeightedDraws:
        """Draws z from the guide, with what their importance weights are made of."""

    def simulate(self, size: int | Given, count: int = 1) -> Rows:
        """Draws z from the prior and then x: ``count`` data sets, one after the other."""

    def replicate(self, rows: Rows, count: int) -> Tensor:
        """Draws z from q(z|x) and then x: shape ``(count, B, *event_shape)``."""

    def hidden(self, x: Tensor, given: Given) -> Tensor:
        """Hides the entries of replicates that are hidden in the data."""

    def conditions(self, given: Mapping[str, Any], size: int) -> Given:
        """Returns what goes with ``size`` observations that are to be simulated, checked."""

    def like(self, given: Mapping[str, Any]) -> Given:
        """Returns what goes with data that are to be simulated like some observed ones."""

    def fixed(self, count: int, seed: int = 0) -> Sequence[Amortized]:
        """Returns one program for each draw of the global latents; itself where there are none."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yields what is trained."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yields what is trained, by name."""

    def modules(self) -> Iterator[nn.Module]:
        """Yields all modules."""

    def state_dict(self) -> dict[str, Tensor]:
        """Returns all tensors that a file must have."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Takes over what :meth:`state_dict` returned."""

    def train(self, mode: bool = True) -> Any:
        """Sets training mode."""

    def eval(self) -> Any:
        """Sets evaluation mode."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Moves it to a device or to a precision."""


Refit: TypeAlias = Callable[[Rows, int], Amortized]
"""From rows and a seed to a program that is fitted to them, such as :meth:`pyro_vae.Run.refit`.

Who judges a program does not fit it, and takes such a function where it has to be fitted anew.
"""


def is_amortized(value: object) -> TypeGuard[Amortized]:
    """Returns whether a value offers what is fitted and judged.

    Its class is asked, as a program without data has no space yet.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> is_amortized(vae), is_amortized(vae.model)
        (True, False)
    """
    offered = [name for name in vars(Amortized) if not name.startswith("_")]
    return all(hasattr(type(value), name) for name in offered)
