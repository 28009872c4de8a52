"""A Pyro pair that is run on rows: draws, densities and moments of each observation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.utils._pytree import tree_map

from pyro_vae._errors import expected
from pyro_vae._untouched import evaluating
from pyro_vae.data.rows import Conditions, Rows
from pyro_vae.distributions import Space
from pyro_vae.programs.family import family_of
from pyro_vae.programs.owned import Half, Parameters, networks_of
from pyro_vae.programs.requirements import Structure, Whole, structure_of
from pyro_vae.programs.sites import (
    Means,
    Values,
    by_row,
    entry_log_probs,
    log_probs,
    samples,
    states_of_site,
)

__all__ = ["Pair", "tiled"]

_MEANS = 64  # draws whose mean is that of a guide without one in closed form
_SPREAD = 256  # and whose variance is; an error of a tenth


def tiled(given: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Returns what goes with observations for ``size`` rows: theirs, over and over."""
    repeated: dict[str, Any] = tree_map(
        lambda each: each[torch.arange(size, device=each.device) % len(each)], dict(given)
    )
    return repeated


class Pair(nn.Module):
    """A Pyro model and guide that are run on rows of observations, any number at a time.

    Several draws for each observation are so many rows more: rows are independent, so that no
    program needs to know of draws.

    Args:
        model: A Pyro program p(x, z).
        guide: A Pyro program q(z|x).
        observed: Names of the observed sites.
        plate: The plate of the observations.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        observed: tuple[str, ...],
        plate: str,
    ) -> None:
        super().__init__()
        self.observed, self.plate = observed, plate
        self.own = Parameters(networks_of(model, guide))
        self.model = Half(model, "model", self.own, self._arguments, plate)
        self.guide = Half(guide, "guide", self.own, self._arguments, plate)
        self._structure: Structure | None = None
        self._example: Rows | None = None
        self._event_shape = torch.Size()
        self._integers = False
        self._globals: dict[str, Tensor] = {}
        self._shapes: dict[str, torch.Size] = {}
        self._family: tuple[Any, ...] = ()
        self._states: dict[str, tuple[Tensor, int] | None] = {}  # of the discrete latent sites
        self._reads_itself = ""  # the observed site whose distribution depends on x
        self._entries_are_independent = self._guide_has_rsample = False

    @property
    def structure(self) -> Structure:
        """The sites.

        Raises:
            ValueError: If it has not seen data yet.
        """
        if self._structure is None:
            what = "a program that has seen data: `fit` it, or call `program.initialize(x)`"
            raise expected("program", what, "one that has not")
        return self._structure

    @property
    def space(self) -> Space:
        """Where z lives: the latent sites of an observation, each a vector.

        Raises:
            ValueError: If there are global latents, which are to be fixed first.
        """
        if names := self.structure.globals:
            what = "one at a draw of its global latents, each of `program.fixed(S)`"
            raise expected("program", what, f"one with {', '.join(names)}")
        return Space({name: local.as_vector for name, local in self.structure.latent.items()})

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one x."""
        self.structure  # noqa: B018 - refuses a program without data
        return self._event_shape

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        first = next(self.parameters(), None)
        return torch.empty(0).device if first is None else first.device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        first = next((p for p in self.parameters() if p.is_floating_point()), None)
        return torch.get_default_dtype() if first is None else first.dtype

    @property
    def entries_are_independent(self) -> bool:
        """Whether the entries of x are independent given z."""
        return self._entries_are_independent

    @property
    def guide_has_rsample(self) -> bool:
        """Whether every latent site can be drawn with a gradient."""
        return self._guide_has_rsample

    def _arguments(self, x: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Returns what the programs are called with for the rows of x."""
        if self._integers:
            x = x.long()
        if len(self.observed) == 1:
            return (x,), {}
        if not self._shapes:
            what = "`program.joined(sites)`, as there are several observed sites"
            raise expected("x", what, x)
        sizes = [shape.numel() for shape in self._shapes.values()]
        parts = zip(self._shapes.items(), x.split(sizes, 1), strict=True)
        return (), {name: part.reshape(len(x), *shape) for (name, shape), part in parts}

    def look(self, rows: Rows) -> Structure:
        """Runs both programs on some rows, and returns their sites.

        Raises:
            ValueError: If the pair is not what can be judged row by row.
        """
        # An AutoGuide runs the model for itself when it is first called: no trace of that is left.
        with pyro.get_param_store().scope(), torch.no_grad(), evaluating(self):
            with Whole("guide"):
                guided = self._trace(self.guide, rows.x, rows.given, {})
            known = {site["name"]: site["value"] for site in samples(guided)}
            with Whole("model"):
                modelled = self._trace(self.model, rows.x, rows.given, known)
            again = self._trace(self.guide, rows.x, rows.given, {})
        found = structure_of(modelled, guided, self.observed, self.plate, len(rows))
        seen = [modelled.nodes[name] for name in found.observed]
        self._entries_are_independent = all(entry_log_probs(site) is not None for site in seen)
        self._family = family_of(guided, again, found.latent)
        self._states = {
            name: states_of_site(modelled.nodes[name], local)
            for name, local in found.latent.items()
            if local.support.is_discrete
        }
        self._guide_has_rsample = all(guided.nodes[name]["fn"].has_rsample for name in found.latent)
        return found

    def _trace(
        self,
        half: Half,
        x: Tensor,
        given: Mapping[str, Any],
        known: Mapping[str, Tensor],
        anew: bool = False,
    ) -> poutine.Trace:
        """Runs a program with some sites known, and with observed ones drawn anew."""
        program: Any = poutine.uncondition(half) if anew else half
        with Values({**self._globals, **known}):
            return poutine.trace(program).get_trace(x, **given)

    def _placeholder(self, size: int) -> Tensor:
        """Returns observations of whose values nothing depends on."""
        assert self._example is not None
        x = self._example.x
        return x.expand(size, *x.shape[1:])

    def _known(self, z: Tensor) -> dict[str, Tensor]:
        """Returns the values of the latent sites of z, ``(n, D)``."""
        parts = self.space.split(z)
        return {name: local.value(parts[name]) for name, local in self.structure.latent.items()}

    def run_at(self, z: Tensor, rows: Rows) -> poutine.Trace:
        """Runs the model on rows at z, ``(B, D)``."""
        return self._trace(self.model, rows.x, rows.given, self._known(z))

    def run_prior(self, shape: Sequence[int], given: Conditions) -> Tensor:
        """Draws z: ``(*shape, D)``, the last of ``shape`` that of what goes with observations."""
        shape = torch.Size(shape)
        size = shape.numel()
        trace = self._trace(self.model, self._placeholder(size), tiled(given, size), {})
        return self._z_of(trace, size).reshape(*shape, -1)

    @property
    def at_globals(self) -> Mapping[str, Tensor]:
        """The values of the global latents that the program is at, by name."""
        return dict(self._globals)

    def run_whole(self, size: int, given: Conditions) -> tuple[dict[str, Tensor], Tensor]:
        """Draws the global latents from their prior, z, and x of ``size`` observations."""
        self._refuse_reading()
        beside = tiled(given, size)
        nodes = self._trace(self.model, self._placeholder(size), beside, {}, anew=True).nodes
        x = self._x_of({name: nodes[name]["value"] for name in self.observed}, size)
        return {name: nodes[name]["value"] for name in self.structure.globals}, x

    def _refuse_reading(self) -> None:
        """Refuses a model that one run does not simulate."""
        if self._reads_itself:
            what = f"a distribution of {self._reads_itself!r} that does not read x, to simulate it"
            raise expected("model", what, "one that does")

    def run_model(self, z: Tensor, given: Conditions) -> Tensor:
        """Draws x given z, ``(*, D)``: shape ``(*, *event_shape)``."""
        self._refuse_reading()
        shape = z.shape[:-1]
        size = shape.numel()
        known, beside = self._known(z.reshape(size, -1)), tiled(given, size)
        trace = self._trace(self.model, self._placeholder(size), beside, known, anew=True)
        x = self._x_of({name: trace.nodes[name]["value"] for name in self.observed}, size)
        return x.reshape(*shape, *self._event_shape)

    def _x_of(self, values: Mapping[str, Tensor], size: int) -> Tensor:
        """Returns values of the observed sites as rows of x."""
        rows = [
            local.rows(values[name], size).to(self.dtype)
            for name, local in self.structure.observed.items()
        ]
        if len(rows) == 1:
            return rows[0].reshape(size, *self._event_shape)
        return torch.cat([each.reshape(size, -1) for each in rows], 1)

    def density(self, z: Tensor, given: Conditions, x: Tensor | None) -> Tensor:
        """Returns log p(z), or log p(x|z) if x is given, shape ``(*,)`` of z ``(*, D)``."""
        shape = z.shape[:-1]
        size = shape.numel()
        flat = self._placeholder(size) if x is None else x.reshape(size, *self._event_shape)
        known = self._known(z.reshape(size, -1))
        trace = self._trace(self.model, flat, tiled(given, size), known)
        names = self.structure.latent if x is None else self.structure.observed
        return log_probs(trace, names, size).reshape(shape)

    def _run_decoded(self, z: Tensor, given: Conditions, x: Tensor | None) -> poutine.Trace:
        size = z.shape[:-1].numel()
        flat = self._placeholder(size) if x is None else x.reshape(size, *self._event_shape)
        return self._trace(self.model, flat, tiled(given, size), self._known(z.reshape(size, -1)))

    def moment(self, z: Tensor, given: Conditions, which: str) -> Tensor:
        """Returns the ``mean`` or the ``variance`` of p(x|z), shape ``(*, *event_shape)``.

        Raises:
            NotImplementedError: If it has none in closed form.
        """
        trace = self._run_decoded(z, given, None)
        moments = {name: getattr(trace.nodes[name]["fn"], which) for name in self.observed}
        x = self._x_of(moments, z.shape[:-1].numel())
        if not bool(x.isfinite().all()):
            raise NotImplementedError
        return x.reshape(*z.shape[:-1], *self._event_shape)

    def without_mean(self, z: Tensor, given: Conditions) -> str:
        """Returns the name of an observed site whose mean is known not to exist, or nothing."""
        trace = self._run_decoded(z, given, None)
        for name in self.observed:
            with suppress(NotImplementedError):
                if not bool(trace.nodes[name]["fn"].mean.isfinite().all()):
                    return repr(name)
        return ""

    def entry_densities(self, z: Tensor, given: Conditions, x: Tensor) -> Tensor:
        """Returns log p(x_d|z) of each entry, shape ``(*, *event_shape)``."""
        event = len(self._event_shape)
        batch = torch.broadcast_shapes(z.shape[:-1], x.shape[: x.ndim - event])
        z, x = z.expand(*batch, z.shape[-1]), x.expand(*batch, *self._event_shape)
        trace = self._run_decoded(z, given, x)
        found = {name: entry_log_probs(trace.nodes[name]) for name in self.observed}
        known = {name: each for name, each in found.items() if each is not None}
        return self._x_of(known, z.shape[:-1].numel()).reshape(*z.shape[:-1], *self._event_shape)

    def prior_site(self, given: Conditions, size: int) -> Mapping[str, Any]:
        """Returns the model's site of the only latent of ``size`` observations."""
        (name,) = self.structure.latent
        x = self._placeholder(size)
        known = self._known(x.new_zeros(size, self.space.event_shape.numel()))  # nothing is drawn
        site: Mapping[str, Any] = self._trace(self.model, x, tiled(given, size), known).nodes[name]
        return site

    def divergence(self, rows: Rows) -> Tensor:
        """Returns KL(q(z|x) || p(z)), shape ``(B,)``, of one latent site in closed form.

        Raises:
            NotImplementedError: If there are several, or none is known.
        """
        if len(self.structure.latent) > 1:
            raise NotImplementedError
        (name,) = self.structure.latent
        z = self._placeholder(len(rows)).new_zeros(len(rows), self.space.event_shape.numel())
        known = self._known(z)  # nothing is drawn
        q, p = (
            self._trace(half, rows.x, rows.given, known).nodes[name]
            for half in (self.guide, self.model)
        )
        return by_row(q, scale_and_mask(kl_divergence(q["fn"], p["fn"]), mask=q["mask"]), len(rows))

    def run_guide(
        self, shape: Sequence[int], rows: Rows, z: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draws z, ``(*shape, B, D)``, or takes it, and returns it with log q(z|x)."""
        shape = torch.Size((*shape, len(rows)))
        size = shape.numel()
        known = {} if z is None else self._known(z.reshape(size, -1))
        tiled = rows[torch.arange(size, device=rows.x.device) % len(rows)]
        trace = self._trace(self.guide, tiled.x, tiled.given, known)
        if z is None:
            z = self._z_of(trace, size).reshape(*shape, -1)
        return z, log_probs(trace, self.structure.latent, size).reshape(shape)

    def _z_of(self, trace: poutine.Trace, size: int) -> Tensor:
        draws = {
            name: local.rows(trace.nodes[name]["value"], size).reshape(size, -1).to(self.dtype)
            for name, local in self.structure.latent.items()
        }
        return self.space.join(draws)

    def guide_mean(self, rows: Rows) -> Tensor:
        """Returns E[z|x], ``(B, D)``: each site given the means before it, or that of draws."""
        supports = [local.support for local in self.structure.latent.values()]
        if not any(each.is_discrete for each in supports):  # an integer's mean is no integer
            with suppress(NotImplementedError), Means():
                return self._z_of(self._trace(self.guide, rows.x, rows.given, {}), len(rows))
        return self.run_guide((_MEANS,), rows)[0].mean(0)

    def guide_variance(self, rows: Rows) -> Tensor:
        """Returns Var[z|x], ``(B, D)``, of draws where sites depend on each other's."""
        if not self._family:
            return self.run_guide((_SPREAD,), rows)[0].var(0)
        zeros = self._known(rows.x.new_zeros(len(rows), self.space.event_shape.numel()))
        trace = self._trace(self.guide, rows.x, rows.given, zeros)
        parts = {}
        for name, local in self.structure.latent.items():
            variance = trace.nodes[name]["fn"].variance
            parts[name] = local.rows(variance, len(rows)).reshape(len(rows), -1)
        return self.space.join(parts)
