"""What a part that needs more than its arguments may ask of the model it is in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae._errors import expected
from pyro_vae.data.rows import Given, Rows
from pyro_vae.distributions.joint import site_of
from pyro_vae.guides import Guide
from pyro_vae.networks.network import Standardize
from pyro_vae.priors import Prior
from pyro_vae.programs.accept import covariates_of

if TYPE_CHECKING:
    from pyro_vae.programs.vae import VAE

__all__ = ["ModelView", "View"]


class View(Protocol):
    """What a part that needs more than its arguments may ask of the model it is in.

    Parts get it by ``bind``, and keep it in an attribute whose name begins with an underscore.
    """

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one x."""

    @property
    def cond_size(self) -> int | None:
        """Entries of one condition, if there is one."""

    @property
    def prior(self) -> Prior:
        """The prior p(z)."""

    @property
    def guide(self) -> Guide:
        """The family q(z|x)."""

    def of_site(self, name: str) -> View:
        """Returns the view for a part of a composite: q(z|x) is that of its own site."""

    def encoder_input(self, x: Tensor, given: Given) -> Tensor:
        """Returns what the encoder sees of x: the same shape, standardised for our networks."""

    def encode(self, inputs: Tensor) -> Distribution:
        """Returns q(z|x) for x as the encoder sees it, standardised, ``(K, *event_shape)``."""

    def decode_missing(self, z: Tensor, given: Given) -> Distribution | None:
        """Returns p(x_m|z) of what a mask hides, if the model has a site of it."""

    def log_joint(self, x: Tensor, given: Given, z: Tensor) -> Tensor:
        """Returns log p(x, z) for z of shape ``(*, B, *z)``: shape ``(*, B)``, nats."""


class ModelView:
    """Creates the view of a VAE.

    It holds the model without registering it: its parameters are not the part's.

    Args:
        vae: The model.
        site: The one of its latent variables that the part is of; None if it is of all.
    """

    def __init__(self, vae: VAE, site: str | None = None) -> None:
        self.vae = vae
        self.site = site

    def of_site(self, name: str) -> ModelView:
        return ModelView(self.vae, name)

    @property
    def event_shape(self) -> torch.Size:
        return self.vae.event_shape

    @property
    def cond_size(self) -> int | None:
        return self.vae.cond_size

    @property
    def prior(self) -> Prior:
        return self.vae.prior

    @property
    def guide(self) -> Guide:
        return self.vae.guide_family

    def encoder_input(self, x: Tensor, given: Given) -> Tensor:
        likelihood = self.vae.likelihood
        inputs = likelihood.encoder_input(x, **covariates_of(likelihood, given))
        standardize = self.vae.guide.standardize
        if isinstance(standardize, Standardize):
            inputs = standardize(likelihood.standardized(inputs))
        return inputs

    def encode(self, inputs: Tensor) -> Distribution:
        program = self.vae.guide
        parameter = next(program.parameters())
        distribution = program.family(program.encode_inputs(inputs.to(parameter.dtype)))
        return distribution if self.site is None else site_of(distribution, self.site)

    def decode_missing(self, z: Tensor, given: Given) -> Distribution | None:
        return self.vae.model.decode_missing(z, given)

    def log_joint(self, x: Tensor, given: Given, z: Tensor) -> Tensor:
        if self.vae.missingness is not None:
            what = "one that does not refine itself, where there is `missingness`"
            raise expected("guide", what, type(self.guide).__name__)
        mask = given.get("mask")
        if mask is not None:
            x = torch.where(mask, x, self.vae.model.filler)
        return self.vae.model.log_joint(z, Rows(x, given))
