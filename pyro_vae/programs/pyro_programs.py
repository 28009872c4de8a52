"""The Pyro programs of a VAE, p(x, z) and q(z|x): the one place that calls ``pyro.sample``."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pyro
import torch
from pyro.params import param_with_module_name
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae._errors import expected
from pyro_vae.data.rows import Given, Rows, given_of
from pyro_vae.distributions import feasible, labelled, log_prob_of, masked
from pyro_vae.distributions.joint import draw_sites
from pyro_vae.distributions.space import Relaxation, same_support
from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.missingness import Missingness
from pyro_vae.priors import Prior
from pyro_vae.programs.accept import as_batch, covariates_of
from pyro_vae.programs.view import View

__all__ = ["GuideProgram", "Model", "refuse_missingness"]

_instances = itertools.count()
_NONE: Given = {}


class _Program(nn.Module):
    """A Pyro program that registers its parameters under a name of its own.

    Stock ``SVI`` trains what is in the parameter store and nothing else, silently, and two
    programs of one name would share parameters there. A deep copy therefore gets a new name.
    """

    max_plate_nesting = 1

    def __init__(self, cond_size: int | None) -> None:
        super().__init__()
        self.cond_size = cond_size
        self._named: tuple[weakref.ref[_Program], str] | None = None

    def _register(self) -> None:
        if self._named is None or self._named[0]() is not self:
            name = f"vae{next(_instances)}.{type(self).__name__.lower()}"
            self._named = (weakref.ref(self), name)
        for name, parameter in self.named_parameters():
            # As `pyro.module` does, but a frozen parameter is no reason for a warning.
            if parameter.requires_grad:
                pyro.param(param_with_module_name(self._named[1], name), parameter)

    def _check(self, given: Given, batch_shape: Sequence[int]) -> None:
        """Checks what a program is called with, which nobody may have checked yet."""
        cond, mask = given.get("cond"), given.get("mask")
        if mask is not None and (not isinstance(mask, Tensor) or mask.dtype is not torch.bool):
            raise expected("mask", "a boolean tensor", mask)
        if self.cond_size is None:
            if cond is not None:
                raise expected("cond", "None for a model built without `cond_size`", cond)
            return
        shape = torch.Size((*batch_shape, self.cond_size))
        if not isinstance(cond, Tensor) or not _expands(cond.shape, shape):
            raise expected("cond", f"a tensor of shape {tuple(shape[-2:])}", cond)

    def __getstate__(self) -> dict[str, Any]:
        for parameter in self.parameters():
            # The store leaves a weak reference here at each use, and those cannot be pickled.
            parameter.__dict__.pop("unconstrained", None)
        return self.__dict__ | {"_named": None}


def _expands(shape: torch.Size, to: torch.Size) -> bool:
    """Returns whether a tensor can be expanded in all dimensions but the last, which is fixed."""
    ours, theirs = shape[::-1], to[::-1]
    pairs = zip(ours[1:], theirs[1:], strict=False)
    fits = all(size in (1, wanted) for size, wanted in pairs)
    return 0 < len(ours) <= len(theirs) and ours[0] == theirs[0] and fits


def _batched(network: nn.Module, inputs: Tensor, event_dim: int, cond: Tensor | None) -> Tensor:
    """Calls a network, which knows one batch dimension, on any number of them."""
    batch_shape = inputs.shape[: inputs.ndim - event_dim]
    args = [inputs.reshape(-1, *inputs.shape[inputs.ndim - event_dim :])]
    if cond is not None:
        args.append(cond.expand(*batch_shape, -1).reshape(-1, cond.shape[-1]))
    outputs = network(*args)
    # Half precision is for matrix products; a density needs more digits.
    if outputs.dtype in (torch.float16, torch.bfloat16):
        outputs = outputs.float()
    return outputs.reshape(*batch_shape, *outputs.shape[1:])


class Model(_Program):
    """The generative program p(z) p(x|z): sites ``z`` (or those of the prior) and ``x``.

    With a missingness model it is p(z) p(x|z) p(s|x): there is a site ``mask``, s, and where a mask
    hides entries, these are a latent site, ``x_missing``, beside ``x``.
    """

    _feasible: Tensor

    def __init__(
        self,
        prior: Prior,
        decoder: nn.Module,
        likelihood: Likelihood,
        cond_size: int | None,
        missingness: Missingness | None = None,
    ) -> None:
        super().__init__(cond_size)
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood
        self.missingness = missingness
        some = feasible(likelihood.support, likelihood.event_shape)
        self.register_buffer("_feasible", some, persistent=False)

    @property
    def filler(self) -> Tensor:
        """An observation of the support, in place of values that nobody has seen."""
        return self.likelihood.from_units(self._feasible)

    def decode(self, z: Tensor, given: Given = _NONE) -> Distribution:
        """Returns p(x|z) for z of shape ``(*, *prior.event_shape)``, of what a mask leaves."""
        distribution, mask = self._entries(z, given), given.get("mask")
        return distribution if mask is None else masked(distribution, mask)

    def decode_missing(self, z: Tensor, given: Given) -> Distribution | None:
        """Returns p(x_m|z) of what a mask hides; None where there is no such site."""
        mask = given.get("mask")
        if self.missingness is None or mask is None:
            return None
        return masked(self._entries(z, given), ~mask)

    def _entries(self, z: Tensor, given: Given) -> Distribution:
        """Returns p(x|z) of all entries."""
        return self.likelihood(self.params(z, given), **covariates_of(self.likelihood, given))

    def params(self, z: Tensor, given: Given = _NONE) -> Tensor:
        """Returns what the decoder makes of z, ``(*, *param_shape)``."""
        space = self.prior.space
        inputs = space.decoder_input(z)
        event_dim = len(space.decoded_shape)
        self._check(given, inputs.shape[: inputs.ndim - event_dim])
        params = _batched(self.decoder, inputs, event_dim, given.get("cond"))
        expected_shape = self.likelihood.param_shape
        if params.shape[params.ndim - len(expected_shape) :] != expected_shape:
            got = f"{tuple(params.shape[inputs.ndim - event_dim :])}"
            what = f"outputs of shape {tuple(expected_shape)} an observation"
            raise expected("decoder", what, got)
        return params

    def log_joint(self, z: Tensor, rows: Rows) -> Tensor:
        """Returns log p(x, z) for z of shape ``(*, B, *z)``: shape ``(*, B)``, nats.

        Raises:
            ValueError: If there is a missingness model, as then what is missing is latent, too.
        """
        refuse_missingness(self, "`evaluate` or `draw_weighted`")
        log_likelihood: Tensor = self.decode(z, rows.given).log_prob(rows.x)
        return log_likelihood + self.prior(rows.given.get("cond")).log_prob(z)

    def completed(self, z: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Draws what is missing, x_m, from p(x_m|z), and weighs it.

        Returns:
            All entries, shape ``(*, B, *event_shape)``, and log p(x_o|z) + log p(s|x), shape
            ``(*, B)``: of its exponential the mean over draws is p(x_o, s|z).
        """
        assert self.missingness is not None
        x, mask, entries = rows.x, rows.mask, self._entries(z, rows.given)
        observed = entries
        if mask is not None:
            x, observed = torch.where(mask, x, entries.sample()), masked(entries, mask)
        shown = torch.ones_like(rows.x) if mask is None else mask.to(rows.x)
        log_mask: Tensor = self.missingness(self.likelihood.to_units(x)).log_prob(shown)
        return x, observed.log_prob(rows.x) + log_mask

    def log_likelihood(self, z: Tensor, rows: Rows) -> Tensor:
        """Returns log p(x|z), shape ``(*, B)``, nats; with missingness as :meth:`completed`."""
        if self.missingness is not None:
            return self.completed(z, rows)[1]
        return log_prob_of(self.decode(z, rows.given), rows.x)

    def forward(
        self,
        x: Tensor | None = None,
        *,
        size: int | None = None,
        cond: Tensor | None = None,
        mask: Tensor | None = None,
        covariates: Mapping[str, Tensor] | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Runs the program.

        Args:
            x: Observed data, shape ``(B, *event_shape)``; None simulates.
            size: Number of observations to simulate, if nothing else determines it; 1 if not given.
            cond: What each observation is conditioned on, shape ``(B, cond_size)``.
            mask: Which entries of ``x`` are observed, boolean, of its shape; all if not given.
            covariates: What the likelihood needs to know of each observation, by name, ``(B,)``.
            labels: Taken so that model and guide share a signature; it is the guide that knows.

        Returns:
            The data, observed or simulated. With a missingness model, masks are simulated beside
            them, the site ``mask``, and simulated data have all entries.

        Raises:
            ValueError: If a mask goes with data that are to be simulated, masks and all.
        """
        self._register()
        if x is not None:
            x = as_batch(x, self.likelihood.event_shape, self)
        given = given_of({"cond": cond, "mask": mask, "covariates": covariates})
        of_data = (x, cond, *(covariates or {}).values())
        sized = [len(each) for each in of_data if isinstance(each, Tensor) and each.ndim > 0]
        size = sized[0] if sized else size or 1
        self._check(given, (size,))
        if x is not None and mask is not None:
            x = torch.where(mask, x, self.filler)
        with pyro.plate("data", size, dim=-1):
            z = draw_sites(self.prior(cond), self.prior.space, pyro.sample)
            if cond is not None:  # enumerated states are alike for all data, conditions are not
                batch_shape = z.shape[: z.ndim - len(self.prior.event_shape)]
                batch_shape = torch.broadcast_shapes(batch_shape, (size,))
                z = z.expand(*batch_shape, *self.prior.event_shape)
            if self.missingness is None:
                return pyro.sample("x", self.decode(z, given), obs=x)
            return self._with_mask(self.missingness, z, x, given)

    def _with_mask(
        self, missingness: Missingness, z: Tensor, x: Tensor | None, given: Given
    ) -> Tensor:
        """Observes x and which of its entries are; or simulates both."""
        entries, mask = self._entries(z, given), given.get("mask")
        if mask is None:
            shown = None if x is None else torch.ones_like(x)
            x = complete = pyro.sample("x", entries, obs=x)
        elif x is None:
            raise expected("mask", "None without `x`: masks are simulated, too", mask)
        else:
            shown = mask.to(x)
            missing = pyro.sample("x_missing", masked(entries, ~mask))
            x = pyro.sample("x", masked(entries, mask), obs=x)
            complete = torch.where(mask, x, missing)
        pyro.sample("mask", missingness(self.likelihood.to_units(complete)), obs=shown)
        return x


def refuse_missingness(model: Model, instead: str) -> None:
    """Refuses a model that has a model of what is missing.

    Args:
        model: The model.
        instead: What takes such a model, for the error.

    Raises:
        ValueError: If it has one.
    """
    if model.missingness is not None:
        name = type(model.missingness).__name__
        raise expected("vae", f"a model without `missingness`; with one, {instead}", name)


class GuideProgram(_Program):
    """The inference program q(z|x): site ``z``, or those of the guide, in plate ``data``."""

    def __init__(
        self,
        standardize: nn.Module,
        encoder: nn.Module,
        family: Guide,
        show_mask: bool,
        cond_size: int | None,
    ) -> None:
        super().__init__(cond_size)
        self.standardize = standardize
        self.encoder = encoder
        self.family = family
        self.show_mask = show_mask
        self._view: View | None = None

    def bind(self, view: View) -> None:
        """Takes the view of the model, which guides that refine their parameters need."""
        self._view = view

    @property
    def relaxations(self) -> Mapping[str, Relaxation]:
        """What the objective should do about the discrete sites, by name."""
        sites = self.family.space.items()
        return {name: site.relaxation for name, site in sites if site.relaxation is not None}

    @property
    def label_site(self) -> str:
        """The name of the site that labels are of.

        Raises:
            ValueError: If there is not exactly one categorical site of one group.
        """
        space = self.family.space
        found = [
            name
            for name, site in space.items()
            if same_support(site.support, constraints.one_hot) and site.shape[0] == 1
        ]
        if len(found) != 1:
            what = "a guide with one site that is one categorical variable"
            raise expected("labels", what, space)
        return found[0]

    def features(self, x: Tensor, given: Given = _NONE) -> Tensor:
        """Returns what the family reads, ``(*, *param_shape)``, for x ``(*, event_shape)``.

        These are the variational parameters of each observation, which amortisation makes a
        function. An entry that the mask hides is seen as the mean of the data.
        """
        view = self._bound
        self._check(given, x.shape[: x.ndim - len(view.event_shape)])
        inputs = view.encoder_input(x, given)
        mask = given.get("mask")
        if mask is not None:
            inputs = torch.where(mask, inputs, 0.0)
        features = self.encode_inputs(inputs, given)
        return self.family.refine(features, partial(view.log_joint, x, given))

    def encode_inputs(self, inputs: Tensor, given: Given = _NONE) -> Tensor:
        """Returns what the family reads of inputs as the encoder sees them: standardised."""
        event_dim, mask = len(self._bound.event_shape), given.get("mask")
        if self.show_mask:
            shown = torch.ones_like(inputs) if mask is None else mask.to(inputs).expand_as(inputs)
            inputs = torch.cat([inputs, shown], -event_dim)
        features = _batched(self.encoder, inputs, event_dim, given.get("cond"))
        expected_shape = self.family.param_shape
        if features.shape[inputs.ndim - event_dim :] != expected_shape:
            got = tuple(features.shape[inputs.ndim - event_dim :])
            what = f"outputs of shape {tuple(expected_shape)} an observation"
            raise expected("encoder", what, got)
        return features

    def encode(self, x: Tensor, given: Given = _NONE) -> Distribution:
        """Returns q(z|x) for x of shape ``(*, event_shape)``."""
        return self.family(self.features(x, given))

    def forward(
        self,
        x: Tensor | None = None,
        *,
        size: int | None = None,
        cond: Tensor | None = None,
        mask: Tensor | None = None,
        covariates: Mapping[str, Tensor] | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Runs the program.

        Args:
            x: Observed data, shape ``(B, *event_shape)``.
            size: Taken so that model and guide share a signature; the guide needs ``x``.
            cond: What each observation is conditioned on, shape ``(B, cond_size)``.
            mask: Which entries of ``x`` are observed, boolean, of its shape; all if not given.
            covariates: What the likelihood needs to know of each observation, by name, ``(B,)``.
            labels: The class of each observation, shape ``(B,)``, of the one categorical site; -1
                where it is not known. Where it is, that site is certain.

        Returns:
            One draw of z for each observation.

        Raises:
            ValueError: If there is no ``x`` to condition on, or labels are of no site.
        """
        if x is None:
            raise expected("x", "data, since the guide is q(z|x)", None)
        self._register()
        x = as_batch(x, x.shape[1:], self)
        given = given_of({"cond": cond, "mask": mask, "covariates": covariates})
        distribution = self.encode(x, given)
        drawn: set[str] = set()
        prior = self._bound.prior.space

        def draw(name: str, site: Any) -> Any:
            # There is no closed form of the divergence from a distribution that depends on what
            # is drawn later, given this draw.
            infer: dict[str, Any] = {"closed_form": drawn.issuperset(prior[name].parents or ())}
            if labels is not None and name == self.label_site:
                site, infer["label_log_prob"] = labelled(site, labels)
            drawn.add(name)
            return pyro.sample(name, site, infer=infer)

        with pyro.plate("data", len(x), dim=-1):
            z = draw_sites(distribution, self.family.space, draw)
            # The model has the same distribution of what is missing given z: both densities go.
            if (missing := self._bound.decode_missing(z, given)) is not None:
                pyro.sample("x_missing", missing, infer={"as_in_model": True})
            return z

    @property
    def _bound(self) -> View:
        if self._view is None:
            raise expected("guide", "a program that is part of a VAE", self)
        return self._view
