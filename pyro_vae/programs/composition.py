"""The parts of a model by the names that a modeller has for them; and was it ever fitted?"""

from __future__ import annotations

import inspect
import logging
import reprlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from pyro_vae._deprecated import renamed_property
from pyro_vae._errors import plural
from pyro_vae._html import shown
from pyro_vae._untouched import evaluating
from pyro_vae.data.rows import Conditions, Given, Rows
from pyro_vae.distributions.space import Space
from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.missingness import Missingness
from pyro_vae.part import Part
from pyro_vae.priors import Prior
from pyro_vae.programs.accept import checked_given, simulated_given
from pyro_vae.programs.pyro_programs import GuideProgram, Model

__all__ = ["Composition", "composed_of", "named", "weights_of"]

log = logging.getLogger("pyro_vae")


class Composition(nn.Module):
    """What a model is composed of; :class:`pyro_vae.VAE` puts it together.

    Attributes:
        model: The Pyro program p(x, z).
        guide: The Pyro program q(z|x).
        cond_size: Entries of one condition, if there is one.
        initialized: Whether the model was started at data.
    """

    model: Model
    guide: GuideProgram
    cond_size: int | None
    initialized: Tensor
    # The decoder's weights as they were drawn, see `weights_of`; None once that is of no interest.
    _drawn: int | None = None

    @property
    def prior(self) -> Prior:
        """The prior p(z)."""
        return self.model.prior

    @property
    def guide_family(self) -> Guide:
        """The family q(z|x): the part given as ``guide``."""
        return self.guide.family

    posterior = renamed_property("posterior", "guide_family")

    @property
    def likelihood(self) -> Likelihood:
        """The likelihood p(x|z)."""
        return self.model.likelihood

    @property
    def missingness(self) -> Missingness | None:
        """The missingness model p(s|x), if there is one."""
        return self.model.missingness

    @property
    def encoder(self) -> nn.Module:
        """The network behind q(z|x)."""
        return self.guide.encoder

    @property
    def decoder(self) -> nn.Module:
        """The network behind p(x|z)."""
        return self.model.decoder

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one x."""
        return self.likelihood.event_shape

    @property
    def space(self) -> Space:
        """Where z lives."""
        return self.prior.space

    @property
    def x_support(self) -> Constraint:
        """Where each entry of x lives."""
        return self.likelihood.support

    @property
    def base_measure(self) -> str:
        """What densities of x are taken against, and those of the mask, if there is a model."""
        masks = "" if self.missingness is None else ", and counting for the mask"
        return f"{self.likelihood.base_measure}{masks}"

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.initialized.device

    @property
    def takes(self) -> frozenset[str]:
        """The names of :class:`pyro_vae.data.Given` that the model has a use for."""
        known = {"cond": self.cond_size is not None, "covariates": bool(self.likelihood.covariates)}
        return frozenset({"mask", "labels", *(name for name, used in known.items() if used)})

    @property
    def is_ignorable(self) -> bool:
        """Whether there is no model of what is missing."""
        return self.missingness is None

    def prior_at(self, given: Conditions) -> Any:
        """Returns p(z), of batch shape ``()``, or p(z|c) of each condition, ``(N,)``."""
        return self.prior(given.get("cond"))

    def features(self, rows: Rows) -> Tensor:
        """Returns what the guide's family reads, shape ``(B, *param_shape)``."""
        return self.guide.features(rows.x, rows.given)

    def guide_at(self, features: Tensor, rows: Rows) -> Any:
        """Returns q(z|x), batch shape ``(B,)``, from what :meth:`features` returned."""
        return self.guide_family(features)

    def infer(self, rows: Rows) -> Any:
        """Returns q(z|x), batch shape ``(B,)``, of rows that the model accepted."""
        return self.guide.encode(rows.x, rows.given)

    def log_likelihood(self, z: Tensor, rows: Rows) -> Tensor:
        """Returns log p(x|z), shape ``(*, B)``, nats; of what is observed and the mask, if any."""
        return self.model.log_likelihood(z, rows)

    def hidden(self, x: Tensor, given: Given) -> Tensor:
        """Hides the entries of replicates ``(*, N, *event_shape)`` that are hidden in the data."""
        mask = given.get("mask")
        return x if mask is None else torch.where(mask, x, self.model.filler)

    @torch.no_grad()
    def simulate(self, size: int | Given, count: int = 1) -> Rows:
        """Draws z from the prior and then x: ``count`` data sets, one after the other.

        Args:
            size: Observations in each, or what goes with each of them.
            count: How many.
        """
        given: Given = {} if isinstance(size, int) else size
        length = (
            size
            if isinstance(size, int)
            else next(map(len, Rows(self.initialized, given).tensors().values()))
        )
        repeated = Rows(self.initialized.expand(length), given)[
            torch.arange(length).repeat(count)
        ].given
        with evaluating(self):
            z = self.prior_at(repeated).expand((count * length,)).sample()
            return Rows(self.hidden(self.model.decode(z, repeated).sample(), repeated), repeated)

    @torch.no_grad()
    def replicate(self, rows: Rows, count: int) -> Tensor:
        """Draws z from q(z|x) and then x: shape ``(count, B, *event_shape)``."""
        with evaluating(self):
            z = self.infer(rows).sample((count,))
            return self.hidden(self.model.decode(z, rows.given).sample(), rows.given)

    def conditions(self, given: Mapping[str, Any], size: int) -> Given:
        """Returns the conditions and covariates of ``size`` observations to be simulated."""
        return checked_given(self, given, size)

    def like(self, given: Mapping[str, Any]) -> Given:
        """Returns what goes with data that are to be simulated like some observed ones."""
        return simulated_given(self, given)

    @property
    def has_globals(self) -> bool:
        """Whether there are latent variables that all observations share: none."""
        return False

    def fixed(self, count: int, seed: int = 0) -> Sequence[Self]:
        """Returns the model itself, as it has no global latents."""
        return (self,)

    def _repr_html_(self) -> str:
        parts: dict[str, tuple[nn.Module, object]] = {
            "prior": (self.prior, f"z {tuple(self.prior.event_shape)}"),
            "guide": (self.guide_family, f"z {tuple(self.guide_family.event_shape)}"),
            "encoder": (self.encoder, f"→ {tuple(self.guide_family.param_shape)}"),
            "decoder": (self.decoder, f"→ {tuple(self.likelihood.param_shape)}"),
            "likelihood": (self.likelihood, f"x {tuple(self.likelihood.event_shape)}"),
        }
        if self.missingness is not None:
            parts["missingness"] = (self.missingness, f"mask {tuple(self.event_shape)}")
        rows = [
            (role, named(part), shape, f"{sum(p.numel() for p in part.parameters()):,}")
            for role, (part, shape) in parts.items()
        ]
        sites = ", ".join(f"{name} {tuple(site.shape)}" for name, site in self.space.items())
        notes = [f"latent variables: {sites}"]
        if self.cond_size is not None:
            notes.append(f"given a condition of {plural(self.cond_size, 'entry')}")
        if self.likelihood.covariates:
            notes.append(f"covariates: {', '.join(self.likelihood.covariates)}")
        parameter = next(self.parameters(), self.initialized)
        total = sum(p.numel() for p in self.parameters())
        kind = str(parameter.dtype).removeprefix("torch.")
        notes.append(f"{plural(total, 'parameter')}, {kind}, on {parameter.device}")
        return shown(
            "VAE", ("part", "what it is", "shape", "parameters"), rows, notes=notes, text=3
        )

    def _warn_if_unfitted(self) -> None:
        """Warns, once, if the decoder still has the very weights that were drawn for it.

        However a model came by other weights, by a fit, a file or by hand, there is nothing to say.
        """
        drawn, self._drawn = self._drawn, None
        if drawn is None or self.initialized or weights_of(self.decoder) != drawn:
            return
        log.warning("sample: the decoder has the weights that it began with: fit the model first")


def composed_of(vae: Composition) -> dict[str, nn.Module]:
    """Returns the parts of a model by the names of their arguments, a missingness model if any."""
    parts: dict[str, nn.Module] = {
        "prior": vae.prior,
        "guide": vae.guide_family,
        "likelihood": vae.likelihood,
        "encoder": vae.encoder,
        "decoder": vae.decoder,
    }
    return parts if vae.missingness is None else parts | {"missingness": vae.missingness}


def named(part: nn.Module) -> str:
    """Returns the class of a part, with the arguments that are not the defaults.

    Example:
        >>> from pyro_vae import networks, priors
        >>> named(priors.Normal(2)), named(networks.MLP((64,))), named(nn.Linear(2, 3))
        ('Normal(dim=2)', 'MLP(hidden=(64,))', 'Linear')
    """
    if not isinstance(part, Part):
        return type(part).__name__
    parameters = inspect.signature(type(part).__init__).parameters
    chosen = []
    for name, value in part._arguments.items():
        written = _written(value)
        if written != _written(parameters[name].default):
            chosen.append(f"{name}={written}")
    return f"{type(part).__name__}({', '.join(chosen)})"


def _written(value: object) -> str:
    if isinstance(value, nn.Module):
        return named(value)
    if isinstance(value, list | tuple) and any(isinstance(each, nn.Module) for each in value):
        return f"[{', '.join(map(_written, value))}]"
    return reprlib.repr(tuple(value) if isinstance(value, torch.Size) else value)


def weights_of(module: nn.Module) -> int | None:
    """Returns a number that stands for the weights of a module, on any device and in float64 too.

    Versions of tensors would miss what is written to ``parameter.data``.

    Returns:
        A checksum; None where there are no numbers, or none yet, as in lazy layers.
    """
    found, parameters = 0, list(module.parameters())
    try:
        for parameter in parameters:
            values = parameter.detach().to("cpu", torch.float32).contiguous()
            found = zlib.crc32(values.numpy().data, found)
    except ValueError:
        return None
    return found if parameters else None
