"""The parts of a model by the names that a modeller has for them; and was it ever fitted?"""

from __future__ import annotations

import inspect
import logging
import reprlib
import zlib

import torch
from torch import Tensor, nn

from pyro_vae._deprecated import renamed_property
from pyro_vae._html import shown
from pyro_vae.distributions.space import Space
from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.missingness import Missingness
from pyro_vae.part import Part
from pyro_vae.priors import Prior
from pyro_vae.programs.pyro_programs import GuideProgram, Model

__all__ = ["Composition", "named", "weights_of"]

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
            notes.append(f"given a condition of {self.cond_size} entries")
        if self.likelihood.covariates:
            notes.append(f"covariates: {', '.join(self.likelihood.covariates)}")
        parameter = next(self.parameters(), self.initialized)
        total = sum(p.numel() for p in self.parameters())
        kind = str(parameter.dtype).removeprefix("torch.")
        notes.append(f"{total:,} parameters, {kind}, on {parameter.device}")
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
