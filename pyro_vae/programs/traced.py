"""p(z), q(z|x) and p(x|z) of a Pyro pair as distributions: each is a run of a program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions.kl import kl_divergence, register_kl

from pyro_vae.data.rows import Given, Rows
from pyro_vae.programs.family import Family
from pyro_vae.programs.sites import COUNTLESS

if TYPE_CHECKING:
    from pyro_vae.programs.taker import Taker

__all__ = ["Decoded", "Encoded", "Entries", "Latent"]


class _OfProgram(TorchDistribution):
    """A distribution of which a Pyro program has draws and densities, and no closed form."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, program: Taker, batch_shape: Any, event_shape: torch.Size) -> None:
        self.program = program
        super().__init__(torch.Size(batch_shape), event_shape, validate_args=False)


class Latent(_OfProgram):
    """p(z), or that of each of N conditions.

    Args:
        program: The pair.
        given: What goes with the observations.
        batch_shape: ``(N,)`` where something does, else any.
    """

    has_rsample = False

    def __init__(self, program: Taker, given: Given, batch_shape: Any = ()) -> None:
        self.given = given
        super().__init__(program, batch_shape, program.space.event_shape)

    @property
    def support(self) -> Any:
        """Where z lives."""
        return self.program.space.support

    @property
    def num_states(self) -> int:
        """Joint states of a discrete latent; very many of others, or where they are not known."""
        return COUNTLESS if self.program.has_continuous else self.program.num_states

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Returns the K joint states of a discrete latent, ``(K, *batch_shape, D)``."""
        dtype = self.program.dtype
        parts = {name: each.to(dtype) for name, each in self.program.states().items()}
        states = self.program.space.join(parts)
        states = states.reshape(-1, *(1,) * len(self.batch_shape), states.shape[-1])
        return states.expand(-1, *self.batch_shape, -1) if expand else states

    def expand(self, batch_shape: Any, _instance: Any = None) -> Latent:
        return Latent(self.program, self.given, batch_shape)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.program.run_prior(torch.Size(sample_shape) + self.batch_shape, self.given)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.program.density(value, self.given, None)


class Encoded(_OfProgram):
    """q(z|x) of B rows.

    Args:
        program: The pair.
        rows: The observations.
    """

    def __init__(self, program: Taker, rows: Rows) -> None:
        self.rows = rows
        self._drawn: tuple[Tensor, Tensor] | None = None
        super().__init__(program, (len(rows),), program.space.event_shape)

    @property
    def support(self) -> Any:
        """Where z lives."""
        return self.program.space.support

    @property
    def has_rsample(self) -> bool:
        """Whether every site can be drawn with a gradient."""
        return self.program.guide_has_rsample

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.rsample(sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        z, log_q = self.program.run_guide(torch.Size(sample_shape), self.rows)
        self._drawn = z, log_q  # a flow of the user's may know a density of its own draws alone
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        if self._drawn is not None and value is self._drawn[0]:
            return self._drawn[1]
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        value = value.expand(*shape, value.shape[-1])
        return self.program.run_guide(shape[:-1], self.rows, value)[1]

    @property
    def mean(self) -> Tensor:
        """The mean of each site given the means of those before it, or of draws."""
        return self.program.guide_mean(self.rows)

    @property
    def variance(self) -> Tensor:
        """Of each entry, in closed form where sites depend on x alone; else of draws."""
        return self.program.guide_variance(self.rows)


class Decoded(_OfProgram):
    """p(x|z).

    Args:
        program: The pair.
        z: Shape ``(*, B, D)``.
        given: What goes with B observations.
    """

    def __init__(self, program: Taker, z: Tensor, given: Given) -> None:
        self.z, self.given = z, given
        super().__init__(program, z.shape[:-1], program.event_shape)

    @property
    def support(self) -> Any:
        """Where each entry lives."""
        return self.program.x_support

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        z = self.z.expand(*sample_shape, *self.z.shape)
        return self.program.run_model(z, self.given)

    def log_prob(self, value: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(self.z.shape[:-1], value.shape[: -len(self.event_shape)])
        z = self.z.expand(*shape, self.z.shape[-1])
        return self.program.density(z, self.given, value.expand(*shape, *self.event_shape))

    @property
    def mean(self) -> Tensor:
        """E[x|z]."""
        return self.program.moment(self.z, self.given, "mean")

    @property
    def variance(self) -> Tensor:
        """Of each entry."""
        return self.program.moment(self.z, self.given, "variance")

    def by_entry(self) -> Entries | None:
        """Returns the distribution of single entries, or None where they are dependent."""
        return Entries(self) if self.program.entries_are_independent else None


class Entries(_OfProgram):
    """p(x_d|z) of each entry of x.

    Args:
        decoded: Their joint distribution.
    """

    def __init__(self, decoded: Decoded) -> None:
        self.decoded = decoded
        shape = decoded.batch_shape + decoded.event_shape
        super().__init__(decoded.program, shape, torch.Size())

    def log_prob(self, value: Tensor) -> Tensor:
        z, given = self.decoded.z, self.decoded.given
        return self.program.entry_densities(z, given, value)


@register_kl(Family, Latent)
def _kl_family(q: Family, p: Latent) -> Tensor:
    """Of a single latent site, whose distribution depends on no other draw."""
    if len(q.sites) > 1:
        raise NotImplementedError
    (site,) = q.sites.values()
    (size,) = q.batch_shape
    return torch.as_tensor(kl_divergence(site, p.program.prior_site(p.given, size)["fn"]))


@register_kl(Encoded, Latent)
def _kl_encoded(q: Encoded, p: Latent) -> Tensor:
    """Of a single latent site, whose distribution depends on no other draw."""
    return q.program.divergence(q.rows)
