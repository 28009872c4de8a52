"""The variational autoencoder: a Pyro model and a Pyro guide, composed from parts."""

from __future__ import annotations

import copy
import itertools
import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyro
import torch
from pyro.distributions.constraints import sphere
from pyro.params import param_with_module_name
from torch import Tensor, nn
from torch.distributions import constraints
from torch.utils._pytree import tree_map

from pyro_vae._errors import expected, positive_integer
from pyro_vae._given import Covariates, covariates_of, present, rows
from pyro_vae.data.hot_deck import hot_deck
from pyro_vae.distributions import feasible, labelled, masked
from pyro_vae.guides import Guide
from pyro_vae.guides.relaxed import Relaxed
from pyro_vae.likelihoods import Likelihood
from pyro_vae.networks import MLP, Network
from pyro_vae.networks.network import Standardize
from pyro_vae.priors import Prior

__all__ = ["VAE", "View", "evaluating", "same_space"]

_instances = itertools.count()
# Entries of x simulated at a time: little memory, whatever is asked for. A megabyte stays in the
# cache of a core, which halves the time; an accelerator wants more work for each launch.
_CHUNK = {"cpu": 2**18}
_CHUNK_ELSEWHERE = 2**22
_HOT_DECK = 10_000  # data, about, that are filled to start from


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

    def _check_given(self, cond: Any, mask: Any, batch_shape: Sequence[int]) -> None:
        """Checks what a program is called with, which nobody may have checked yet."""
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
    """Tells whether a tensor can be expanded but for its last dimension, which is as it must be."""
    ours, theirs = shape[::-1], to[::-1]
    pairs = zip(ours[1:], theirs[1:], strict=False)
    fits = all(size in (1, wanted) for size, wanted in pairs)
    return 0 < len(ours) <= len(theirs) and ours[0] == theirs[0] and fits


def _batched(
    network: nn.Module, inputs: Tensor, event_dim: int, cond: Tensor | None = None
) -> Tensor:
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
    """The generative program p(z) p(x|z): sites ``z`` (or those of the prior) and ``x``."""

    filler: Tensor

    def __init__(
        self, prior: Prior, decoder: nn.Module, likelihood: Likelihood, cond_size: int | None
    ) -> None:
        super().__init__(cond_size)
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood
        # A datum of the support, in place of values that nobody has seen.
        filler = feasible(likelihood.support, likelihood.event_shape)
        self.register_buffer("filler", filler, persistent=False)

    def decode(
        self,
        z: Tensor,
        cond: Tensor | None = None,
        mask: Tensor | None = None,
        covariates: Covariates = None,
    ) -> Any:
        """Returns p(x|z) for z of shape ``(*, *prior.event_shape)``, of what a mask leaves."""
        named = covariates_of(self.likelihood.covariates, covariates)
        inputs = self.prior.decoded(z)
        event_dim = len(self.prior.decoded_shape)
        self._check_given(cond, mask, inputs.shape[: inputs.ndim - event_dim])
        params = _batched(self.decoder, inputs, event_dim, cond)
        expected_shape = self.likelihood.param_shape
        if params.shape[params.ndim - len(expected_shape) :] != expected_shape:
            got = f"{tuple(params.shape[inputs.ndim - event_dim :])}"
            raise expected("decoder", f"outputs of shape {tuple(expected_shape)} a datum", got)
        law = self.likelihood(params, **named)
        return law if mask is None else masked(law, mask)

    def forward(
        self,
        x: Tensor | None = None,
        *,
        size: int | None = None,
        cond: Tensor | None = None,
        mask: Tensor | None = None,
        covariates: Covariates = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Runs the program.

        Args:
            x: Observed data, shape ``(B, *event_shape)``; None simulates.
            size: Number of data to simulate, if nothing else says it; 1 if not given.
            cond: What each datum is conditioned on, shape ``(B, cond_size)``.
            mask: Which entries of ``x`` are observed, boolean, of its shape; all if not given.
            covariates: What the likelihood needs to know of each datum, by name, shape ``(B,)``.
            labels: Taken so that model and guide share a signature; it is the guide that knows.

        Returns:
            The data, observed or simulated.
        """
        self._register()
        if x is not None:
            x = as_batch(x, self.likelihood.event_shape, self)
        of_data = (x, cond, *(covariates or {}).values())
        sized = [len(each) for each in of_data if isinstance(each, Tensor) and each.ndim > 0]
        size = sized[0] if sized else size or 1
        self._check_given(cond, mask, (size,))
        if x is not None and mask is not None:
            x = torch.where(mask, x, self.filler)
        with pyro.plate("data", size, dim=-1):
            draws: dict[str, Tensor] = {}
            for name in self.prior.sites:
                draws[name] = pyro.sample(name, self.prior.site(name, draws, cond))
            z = self.prior.join(draws)
            if cond is not None:  # enumerated states are alike for all data, conditions are not
                batch_shape = z.shape[: z.ndim - len(self.prior.event_shape)]
                batch_shape = torch.broadcast_shapes(batch_shape, (size,))
                z = z.expand(*batch_shape, *self.prior.event_shape)
            law = self.decode(z, cond, mask, covariates)
            return pyro.sample("x", law, obs=x)


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
    def relaxations(self) -> Mapping[str, Relaxed]:
        """What the objective should do about the discrete sites, by name."""
        sites = self.family.sites.items()
        return {name: part for name, part in sites if isinstance(part, Relaxed)}

    @property
    def label_site(self) -> str:
        """The name of the site that labels are of.

        Raises:
            ValueError: If there is not exactly one categorical site of one group.
        """
        parts = self.family.sites.items()
        found = [
            name
            for name, part in parts
            if part.support is constraints.one_hot and part.event_shape[0] == 1
        ]
        if len(found) != 1:
            what = "a guide with one site that is one categorical variable"
            raise expected("labels", what, {name: type(part).__name__ for name, part in parts})
        return found[0]

    def features(
        self,
        x: Tensor,
        event_dim: int,
        cond: Tensor | None = None,
        mask: Tensor | None = None,
        covariates: Covariates = None,
    ) -> Tensor:
        """Returns what the family reads, ``(*, *param_shape)``, for x ``(*, event_shape)``.

        These are the variational parameters of each datum, which amortisation makes a function.
        An entry that the mask hides is seen as the mean of the data.
        """
        self._check_given(cond, mask, x.shape[: x.ndim - event_dim])
        inputs = self.standardize(x if self._view is None else self._view.seen(x, covariates))
        if mask is not None:
            inputs = torch.where(mask, inputs, 0.0)
        features = self.of(inputs, event_dim, cond, mask)
        if self._view is None:
            return features
        log_joint = partial(self._view.log_joint, x, cond=cond, mask=mask, covariates=covariates)
        return self.family.refine(features, log_joint)

    def of(
        self,
        inputs: Tensor,
        event_dim: int,
        cond: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Returns what the family reads of inputs as the encoder sees them: standardised."""
        if self.show_mask:
            seen = torch.ones_like(inputs) if mask is None else mask.to(inputs).expand_as(inputs)
            inputs = torch.cat([inputs, seen], -event_dim)
        features = _batched(self.encoder, inputs, event_dim, cond)
        expected_shape = self.family.param_shape
        if features.shape[inputs.ndim - event_dim :] != expected_shape:
            got = tuple(features.shape[inputs.ndim - event_dim :])
            raise expected("encoder", f"outputs of shape {tuple(expected_shape)} a datum", got)
        return features

    def encode(
        self,
        x: Tensor,
        event_dim: int,
        cond: Tensor | None = None,
        mask: Tensor | None = None,
        covariates: Covariates = None,
    ) -> Any:
        """Returns q(z|x) for x of shape ``(*, event_shape)``."""
        return self.family(self.features(x, event_dim, cond, mask, covariates))

    def forward(
        self,
        x: Tensor | None = None,
        *,
        size: int | None = None,
        cond: Tensor | None = None,
        mask: Tensor | None = None,
        covariates: Covariates = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Runs the program.

        Args:
            x: Observed data, shape ``(B, *event_shape)``.
            size: Taken so that model and guide share a signature; the guide needs ``x``.
            cond: What each datum is conditioned on, shape ``(B, cond_size)``.
            mask: Which entries of ``x`` are observed, boolean, of its shape; all if not given.
            covariates: What the likelihood needs to know of each datum, by name, shape ``(B,)``.
            labels: The class of each datum, shape ``(B,)``, of the one categorical site; -1 where
                it is not known. Where it is, that site is certain.

        Returns:
            One draw of z a datum.

        Raises:
            ValueError: If there is no ``x`` to condition on, or labels are of no site.
        """
        if x is None:
            raise expected("x", "data, since the guide is q(z|x)", None)
        self._register()
        event_shape = x.shape[1:]
        x = as_batch(x, event_shape, self)
        features = self.features(x, len(event_shape), cond, mask, covariates)
        with pyro.plate("data", len(x), dim=-1):
            draws: dict[str, Tensor] = {}
            for name in self.family.order:
                law = self.family.site(name, features, draws)
                # No divergence from a law that depends on what is drawn later, given this draw.
                prior = None if self._view is None else self._view.prior
                infer: dict[str, Any] = {
                    "closed_form": prior is None or draws.keys() >= set(prior.parents(name))
                }
                if labels is not None and name == self.label_site:
                    law, infer["label_log_prob"] = labelled(law, labels)
                draws[name] = pyro.sample(name, law, infer=infer)
            return self.family.join(draws)


class View:
    """What a part that needs more than its arguments may ask of the model it is in.

    Parts get it by ``bind``, and keep it in an attribute whose name begins with an underscore. It
    holds the model without registering it: its parameters are not the part's.

    Args:
        vae: The model.
        site: The one of its latent variables that the part is of; None if it is of all.
    """

    def __init__(self, vae: VAE, site: str | None = None) -> None:
        self.vae = vae
        self.site = site

    def of_site(self, name: str) -> View:
        """Returns the view for a part of a composite: q(z|x) is that of its own site."""
        return View(self.vae, name)

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one x."""
        return self.vae.event_shape

    @property
    def cond_size(self) -> int | None:
        """Entries of one condition, if there is one."""
        return self.vae.cond_size

    @property
    def prior(self) -> Prior:
        """The law p(z)."""
        return self.vae.prior

    @property
    def guide(self) -> Guide:
        """The family q(z|x)."""
        return self.vae.posterior

    def seen(self, x: Tensor, covariates: Covariates) -> Tensor:
        """Returns what an encoder sees of x, before it is standardised: the same shape."""
        likelihood = self.vae.likelihood
        return likelihood.encoder_input(x, **covariates_of(likelihood.covariates, covariates))

    def encode(self, inputs: Tensor) -> Any:
        """Returns q(z|x) for x as the encoder sees it, standardised, ``(K, *event_shape)``."""
        program = self.vae.guide
        parameter = next(program.parameters())
        features = program.of(inputs.to(parameter.dtype), len(self.event_shape))
        if self.site is None:
            return program.family(features)
        return program.family.site(self.site, features, {})

    def log_joint(
        self,
        x: Tensor,
        z: Tensor,
        *,
        cond: Tensor | None = None,
        mask: Tensor | None = None,
        covariates: Covariates = None,
    ) -> Tensor:
        """Returns log p(x, z) for z of shape ``(*, B, *z)``: shape ``(*, B)``, nats."""
        model = self.vae.model
        if mask is not None:
            x = torch.where(mask, x, model.filler)
        log_likelihood = model.decode(z, cond, mask, covariates).log_prob(x)
        return log_likelihood + model.prior.given(cond).log_prob(z)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Inside it, dropout is off and batch statistics stay as they are; the modes then come back."""
    training = [each for each in module.modules() if each.training]
    try:
        for each in training:
            each.training = False
        yield
    finally:
        for each in training:
            each.training = True


def as_batch(x: Tensor, event_shape: torch.Size, module: nn.Module) -> Tensor:
    """Returns ``x`` in the dtype of the module's parameters.

    Raises:
        ValueError: If ``x`` is no batch of real data of that shape.
    """
    wanted = f"a tensor of shape (N{''.join(f', {size}' for size in event_shape)})"
    if not isinstance(x, Tensor) or x.shape[1:] != event_shape or x.ndim == 0:
        raise expected("x", wanted, x)
    if x.is_complex():
        raise expected("x", "real numbers", x)
    parameter = next(module.parameters(), None)
    return x.to(torch.get_default_dtype() if parameter is None else parameter.dtype)


class VAE(nn.Module):
    """Creates a variational autoencoder from a prior, a guide and a likelihood.

    ``vae.model`` and ``vae.guide`` are Pyro programs, called as
    ``(x=None, *, size=None, cond=None, mask=None, covariates=None, labels=None)``, and modules that
    own the parameters; everything in Pyro that takes a model and a guide takes them.

    The package's own networks are sized from what the parts declare; :meth:`initialize`, called by
    :func:`pyro_vae.fit`, then standardises what the encoder sees and starts the decoder at the
    marginal of the data. Any other module is taken as it is: an encoder sees raw ``x`` and ends in
    ``guide.param_shape``, a decoder ends in ``likelihood.param_shape``; with a condition, both are
    called with it as a second argument.

    With ``cond_size`` every law is conditional: p(x, z | c) and q(z | x, c). Data may lack entries:
    a ``mask`` says which are observed, the likelihood is of those alone, and the encoder sees the
    mean of the data in place of the others. A likelihood may need to know something of each datum,
    such as its size factor: ``covariates`` go with the data, by name.
    ``labels`` fix a categorical latent where they are known: the ELBO is then one of log p(x, y).

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014),
        https://arxiv.org/abs/1312.6114
        Learning Structured Output Representation using Deep Conditional Generative Models
        (Sohn et al., 2015), https://papers.nips.cc/paper/5775
        Semi-supervised Learning with Deep Generative Models (Kingma et al., 2014),
        https://arxiv.org/abs/1406.5298
        MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets
        (Mattei and Frellsen, 2019), https://arxiv.org/abs/1812.02633

    Args:
        prior: The law p(z).
        guide: The family q(z|x).
        likelihood: The law p(x|z).
        encoder: Maps ``(B, *x)`` to ``(B, *guide.param_shape)``; an MLP if not given.
        decoder: Maps ``(B, *z)`` to ``(B, *likelihood.param_shape)``; an MLP if not given.
        cond_size: Entries of what each datum is conditioned on; None conditions on nothing.
        show_mask: Whether the encoder sees which entries are observed, stacked below the data
            along their first dimension.

    Raises:
        ValueError: If prior and guide are laws on different spaces, or a part cannot work with
            the others.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(8), pv.guides.Normal(8), pv.likelihoods.Bernoulli((64,)))
        >>> vae.sample(3).shape
        torch.Size([3, 64])
    """

    initialized: Tensor

    def __init__(
        self,
        prior: Prior,
        guide: Guide,
        likelihood: Likelihood,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        cond_size: int | None = None,
        show_mask: bool = False,
    ) -> None:
        super().__init__()
        if cond_size is not None:
            positive_integer("cond_size", cond_size)
        if not isinstance(show_mask, bool):
            raise expected("show_mask", "True or False", show_mask)
        for name, part, kind in (
            ("prior", prior, Prior),
            ("guide", guide, Guide),
            ("likelihood", likelihood, Likelihood),
        ):
            if not isinstance(part, kind):
                raise expected(name, f"a {kind.__name__}", part)
        if not same_space(prior, guide):
            raise ValueError(
                f"`guide`: expected a law on the same space as the prior, "
                f"{_space(prior)}, got {_space(guide)}"
            )
        self.cond_size = cond_size
        encoder = MLP() if encoder is None else encoder
        decoder = MLP() if decoder is None else decoder
        standardize: nn.Module = nn.Identity()
        if isinstance(encoder, Network):
            standardize = Standardize(likelihood.event_shape, counts=likelihood.are_counts)
            first, *rest = likelihood.event_shape
            seen = (2 * first if show_mask else first, *rest)
            encoder.build(seen, guide.param_shape, cond_size or 0)
        if isinstance(decoder, Network):
            decoder.build(prior.decoded_shape, likelihood.param_shape, cond_size or 0)
        self.model = Model(prior, decoder, likelihood, cond_size)
        self.guide = GuideProgram(standardize, encoder, guide, show_mask, cond_size)
        self.register_buffer("initialized", torch.tensor(False))
        view = View(self)
        self.guide.bind(view)
        for part in (prior, guide):
            part.bind(view)

    @property
    def prior(self) -> Prior:
        """The law p(z)."""
        return self.model.prior

    @property
    def posterior(self) -> Guide:
        """The family q(z|x): the part given as ``guide``."""
        return self.guide.family

    @property
    def likelihood(self) -> Likelihood:
        """The law p(x|z)."""
        return self.model.likelihood

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
    def fixed_cond(self) -> bool:
        """Whether this is a model with conditions at one of them, see :meth:`at`."""
        return isinstance(self.encoder, _At)

    def check(self, x: Tensor, argument: str = "x", mask: Tensor | None = None) -> Tensor:
        """Returns data as this model takes them: same dtype and device.

        Args:
            x: Data, shape ``(N, *event_shape)``.
            argument: What to call them in an error.
            mask: Which entries are observed; the others may be anything, and become feasible.

        Raises:
            ValueError: If shape or dtype is wrong, or a value is not finite or outside the
                support of the likelihood.
        """
        try:
            x = as_batch(x, self.event_shape, self)
        except ValueError as error:
            raise ValueError(str(error).replace("`x`", f"`{argument}`", 1)) from None
        if len(x) == 0:
            raise expected(argument, "at least one datum", x)
        if mask is not None:
            x = torch.where(mask.to(x.device), x, self.model.filler.to(x))
        bad = ~(x.isfinite() & self.likelihood.support.check(x))
        if bad.any():
            where = bad.nonzero()[0].tolist()
            part = self.likelihood.entry(where[1:])
            law = f"{type(part).__name__}, {part.support}"
            got = f"{x[bad][0].item():g} at index {where}, {int(bad.sum())} bad in all"
            raise ValueError(f"`{argument}`: expected values in the support of {law}, got {got}")
        return x.to(self.initialized.device)

    def check_given(
        self,
        x: Tensor,
        cond: Tensor | None = None,
        mask: Tensor | None = None,
        covariates: Covariates = None,
        labels: Tensor | None = None,
    ) -> dict[str, Any]:
        """Returns what goes with data, as this model takes it, by the names of the arguments.

        Args:
            x: Data, shape ``(N, *event_shape)``.
            cond: Real numbers, shape ``(N, cond_size)``.
            mask: Booleans of the shape of ``x``.
            covariates: Real numbers by name, shape ``(N,)``.
            labels: Integers from 0, shape ``(N,)``; -1 where the class is not known.

        Raises:
            ValueError: If one is not what it should be, is missing, or has no use in this model.
        """
        size = len(x) if isinstance(x, Tensor) and x.ndim > 0 else 0  # told of by `check`
        cond = self._check_cond(cond, size)
        covariates = self._check_covariates(covariates, size)
        labels = self._check_labels(labels, size)
        if mask is None:
            return present(cond=cond, covariates=covariates, labels=labels)
        shape = (size, *self.event_shape)
        if not isinstance(mask, Tensor) or mask.shape != shape or mask.dtype is not torch.bool:
            raise expected("mask", f"a boolean tensor of shape {shape}", mask)
        self._check_maskable()
        mask = mask.to(self.initialized.device)
        return present(cond=cond, mask=mask, covariates=covariates, labels=labels)

    def used(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what this model has a use for, on its device, of what a data set brings.

        Args:
            given: By the names of the arguments, as :meth:`pyro_vae.data.Dataset.given` has it.
        """
        unused = {"cond"} if self.cond_size is None else set()
        unused |= set() if self.likelihood.covariates else {"covariates"}
        device = self.initialized.device
        kept = {name: value for name, value in given.items() if name not in unused}
        moved: dict[str, Any] = tree_map(lambda value: value.to(device), kept)
        return moved

    def _check_covariates(self, covariates: Covariates, size: int) -> dict[str, Tensor]:
        named = covariates_of(self.likelihood.covariates, covariates)
        for name, value in named.items():
            argument, domain = f"covariates: {name}", self.likelihood.domain_of(name)
            if not isinstance(value, Tensor) or value.shape != (size,) or value.is_complex():
                raise expected(argument, f"a tensor of shape {(size,)}", value)
            value = named[name] = value.to(self.model.filler)
            bad = ~(value.isfinite() & domain.check(value))
            if bad.any():
                got = f"{value[bad][0].item():g}, {int(bad.sum())} bad in all"
                raise expected(argument, f"finite numbers that are {domain}", got)
        return named

    def _check_cond(self, cond: Tensor | None, size: int) -> Tensor | None:
        if self.cond_size is None:
            if cond is not None:
                raise expected("cond", "None for a model built without `cond_size`", cond)
            return None
        shape = (size, self.cond_size)
        if not isinstance(cond, Tensor) or cond.shape != shape or cond.is_complex():
            raise expected("cond", f"a tensor of shape {shape}", cond)
        cond = cond.to(self.model.filler)
        if not cond.isfinite().all():
            raise expected(
                "cond", "finite numbers", f"{int((~cond.isfinite()).sum())} that are not"
            )
        return cond

    def _check_labels(self, labels: Tensor | None, size: int) -> Tensor | None:
        if labels is None:
            return None
        classes = self.posterior.sites[self.guide.label_site].event_shape[1]
        whole = isinstance(labels, Tensor) and not labels.is_floating_point()
        if not whole or labels.shape != (size,):
            raise expected("labels", f"{size} integers, one for each datum", labels)
        if len(bad := labels[(labels < -1) | (labels >= classes)]):
            raise expected("labels", f"classes from 0 to {classes - 1}, or -1", bad[0].item())
        return labels.to(self.initialized.device, torch.long)

    def _check_maskable(self) -> None:
        params = self.model.filler.new_zeros(1, *self.likelihood.param_shape)
        one = self.model.filler.new_ones(self.event_shape, dtype=torch.bool)
        named = {name: params.new_ones(1) for name in self.likelihood.covariates}
        masked(self.likelihood(params, **named), one)

    @torch.no_grad()
    def initialize(
        self, x_train: Tensor, mask: Tensor | None = None, covariates: Covariates = None
    ) -> None:
        """Standardises the encoder's input and starts the decoder at the marginal of the data.

        Done once: a fitted model is left alone.

        Args:
            x_train: Training data, shape ``(N, *event_shape)``.
            mask: Which entries are observed. The others are filled, for this alone, by observed
                values of the same entry, drawn at random.
            covariates: What the likelihood needs to know of each datum, by name, shape ``(N,)``.
        """
        if self.initialized:
            return
        named = covariates_of(self.likelihood.covariates, covariates)
        if mask is not None:
            some = slice(None, None, max(1, len(x_train) // _HOT_DECK))
            x_train = hot_deck(x_train[some], mask[some], self.model.filler)
            named = rows(named, some)
        seen = self.likelihood.encoder_input(x_train, **named)
        if isinstance(self.guide.standardize, Standardize):
            self.guide.standardize.fit(seen)
        self.prior.start(self.guide.standardize(seen))
        params = self.likelihood.init_params(x_train, **named)
        if isinstance(self.decoder, Network):
            self.decoder.start_at(params)
        self.initialized.fill_(True)

    def at(self, cond: Tensor) -> VAE:
        """Returns the model at one condition: p(x, z | c) and q(z | x, c) with c fixed.

        It is a copy without conditions, so that everything that takes a VAE takes it: scores,
        checks, reports of the data of one group.

        Args:
            cond: The condition, shape ``(cond_size,)``.

        Raises:
            ValueError: If the model has no conditions, or this is none.

        Example:
            >>> import pyro_vae as pv
            >>> parts = (
            ...     pv.priors.Conditional(2),
            ...     pv.guides.Normal(2),
            ...     pv.likelihoods.Bernoulli((4,)),
            ... )
            >>> group = pv.VAE(*parts, cond_size=3).at(torch.tensor([0.0, 1.0, 0.0]))
            >>> pv.evaluate(group, torch.ones(5, 4), num_samples=10).log_marginal.shape
            (5,)
        """
        if not isinstance(cond, Tensor) or cond.ndim != 1:
            raise expected("cond", f"a tensor of shape ({self.cond_size},)", cond)
        checked = self._check_cond(cond[None], 1)
        if checked is None:
            raise expected("vae", "a model with conditions", self)
        twin = copy.deepcopy(self)
        encoder, decoder = (_At(net, checked[0]) for net in (twin.encoder, twin.decoder))
        prior = _PriorAt(twin.prior, checked[0]) if twin.prior.conditional else twin.prior
        fixed = VAE(prior, twin.posterior, twin.likelihood, encoder, decoder)
        fixed.guide.standardize = twin.guide.standardize
        fixed.guide.show_mask = self.guide.show_mask
        fixed.initialized.fill_(True)
        return fixed.to(checked).train(self.training)

    def encode(
        self,
        x: Tensor,
        cond: Tensor | None = None,
        mask: Tensor | None = None,
        covariates: Covariates = None,
    ) -> Any:
        """Returns q(z|x), batch shape ``(B,)``, for data of shape ``(B, *event_shape)``."""
        x = as_batch(x, self.event_shape, self)
        with evaluating(self):
            return self.guide.encode(x, len(self.event_shape), cond, mask, covariates)

    @torch.no_grad()
    def classify(
        self,
        x: Tensor,
        cond: Tensor | None = None,
        mask: Tensor | None = None,
        covariates: Covariates = None,
    ) -> Tensor:
        """Returns q(y|x), the probability of each class, shape ``(B, K)``.

        Args:
            x: Data, shape ``(B, *event_shape)``.
            cond: What each datum is conditioned on, shape ``(B, cond_size)``.
            mask: Which entries of ``x`` are observed, of its shape.
            covariates: What the likelihood needs to know of each datum, by name, shape ``(B,)``.

        Raises:
            ValueError: If the guide has not exactly one site that is one categorical variable.

        Example:
            >>> import pyro_vae as pv
            >>> vae = pv.VAE(
            ...     pv.priors.Product([pv.priors.Normal(2), pv.priors.Categorical(1, 3)]),
            ...     pv.guides.Product([pv.guides.Normal(2), pv.guides.GumbelSoftmax(1, 3)]),
            ...     pv.likelihoods.Bernoulli((4,)),
            ... )
            >>> vae.classify(torch.ones(5, 4)).shape
            torch.Size([5, 3])
        """
        given = self.check_given(x, cond, mask, covariates)
        x = self.check(x, mask=given.get("mask"))
        with evaluating(self):
            features = self.guide.features(x, len(self.event_shape), **given)
            law = self.posterior.site(self.guide.label_site, features, {})
        probs: Tensor = law.mean.squeeze(-2)
        return probs

    def decode(
        self,
        z: Tensor,
        cond: Tensor | None = None,
        mask: Tensor | None = None,
        covariates: Covariates = None,
    ) -> Any:
        """Returns p(x|z) for latents of shape ``(*, B, *prior.event_shape)``."""
        with evaluating(self):
            return self.model.decode(z, cond, mask, covariates)

    @torch.no_grad()
    def sample(self, n: int, cond: Tensor | None = None, covariates: Covariates = None) -> Tensor:
        """Draws z from the prior and then x: shape ``(n, *event_shape)``.

        Args:
            n: How many.
            cond: A condition each, shape ``(n, cond_size)``.
            covariates: What the likelihood needs to know of each, by name, shape ``(n,)``.
        """
        cond = self._check_cond(cond, positive_integer("n", n))
        covariates = self._check_covariates(covariates, n)
        with evaluating(self):  # a prior's law may ask networks, too
            z = self.prior.given(cond).expand((n,)).sample()
            return self.decode(z, cond, covariates=covariates).sample()

    @torch.no_grad()
    def reconstruct(
        self,
        x: Tensor,
        cond: Tensor | None = None,
        mask: Tensor | None = None,
        covariates: Covariates = None,
    ) -> Tensor:
        """Returns E[x|z] at z = E[z|x], same shape as ``x``."""
        z = self.encode(x, cond, mask, covariates).mean
        return self.decode(z, cond, covariates=covariates).mean

    @torch.no_grad()
    def log_prob(
        self,
        x: Tensor,
        num_samples: int = 1000,
        cond: Tensor | None = None,
        mask: Tensor | None = None,
        covariates: Covariates = None,
    ) -> Tensor:
        r"""Estimates log p(x) by importance weighting with the guide.

        .. math:: \log \hat p(x) = \log \frac1K \sum_k \frac{p(x \mid z_k) p(z_k)}{q(z_k \mid x)},
            \quad z_k \sim q(z \mid x)

        References:
            Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519

        Args:
            x: Data, shape ``(N, *event_shape)``.
            num_samples: Draws for each datum, K.
            cond: What each datum is conditioned on, shape ``(N, cond_size)``.
            mask: Which entries are observed, of the shape of ``x``: the density is of those.
            covariates: What the likelihood needs to know of each datum, by name, shape ``(N,)``.

        Returns:
            Log-densities in nats, shape ``(N,)``, too low in expectation, and less so as K grows.
        """
        given = self.check_given(x, cond, mask, covariates)
        x = self.check(x, mask=mask)
        estimates = []
        for batch, of_batch in self.batches_given(x, given):
            total = batch.new_full((len(batch),), -math.inf)
            for terms in self.importance(batch, num_samples, **of_batch):
                log_likelihood, log_prior, log_guide = terms
                weights = (log_likelihood + log_prior - log_guide).logsumexp(0)
                total = torch.logaddexp(total, weights)
            estimates.append(total - math.log(num_samples))
        return torch.cat(estimates)

    @torch.no_grad()
    def impute(
        self,
        x: Tensor,
        mask: Tensor,
        *,
        num_samples: int = 1000,
        num_imputations: int | None = None,
        cond: Tensor | None = None,
        covariates: Covariates = None,
    ) -> Tensor:
        r"""Fills the entries that are not observed, given those that are.

        A single imputation is the mean, by self-normalised importance weighting,

        .. math:: \mathrm{E}[x_m \mid x_o] \approx \sum_k \bar w_k \, \mathrm{E}[x_m \mid z_k],
            \quad \bar w_k \propto \frac{p(x_o \mid z_k) \, p(z_k)}{q(z_k \mid x_o)},
            \quad z_k \sim q(z \mid x_o)

        and multiple imputations are draws of p(x_m | x_o), by importance resampling of z.

        References:
            MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets
            (Mattei and Frellsen, 2019), https://arxiv.org/abs/1812.02633
            Multiple Imputation for Nonresponse in Surveys (Rubin, 1987),
            https://doi.org/10.1002/9780470316696

        Args:
            x: Data, shape ``(N, *event_shape)``; what is not observed may be anything, NaN too.
            mask: Which entries are observed, boolean, of the same shape.
            num_samples: Draws of z for each datum, K.
            num_imputations: How many draws to return; None returns the mean.
            cond: What each datum is conditioned on, shape ``(N, cond_size)``.
            covariates: What the likelihood needs to know of each datum, by name, shape ``(N,)``.

        Returns:
            ``x`` where it is observed, and what was imputed elsewhere: shape ``(N, *event_shape)``,
            or ``(num_imputations, N, *event_shape)``.

        Raises:
            ValueError: If an argument is not what it should be, or the entries of x are not
                independent given z.

        Example:
            >>> import pyro_vae as pv
            >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Normal((4,)))
            >>> x = torch.zeros(5, 4)
            >>> vae.impute(x, x == 0, num_imputations=3).shape
            torch.Size([3, 5, 4])
        """
        positive_integer("num_samples", num_samples)
        if num_imputations is not None:
            positive_integer("num_imputations", num_imputations)
        if mask is None:
            raise expected("mask", "which entries are observed", None)
        given = self.check_given(x, cond, mask, covariates)
        x = self.check(x, mask=mask)
        filled = []
        for batch, of_batch in self.batches_given(x, given):
            z, log_weights = self.weighted(batch, num_samples, of_batch)
            weights, observed = log_weights.softmax(0), of_batch.pop("mask")
            if num_imputations is None:
                drawn = self._mean(z, weights, of_batch)
            else:
                index = weights.T.multinomial(num_imputations, replacement=True).T
                chosen = z[index, torch.arange(len(batch), device=z.device)]
                drawn = self.decode(chosen, **of_batch).sample()
            filled.append(torch.where(observed, batch, drawn))
        return torch.cat(filled, 0 if num_imputations is None else 1)

    @torch.no_grad()
    def weighted(
        self, x: Tensor, num_samples: int, given: Mapping[str, Any] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draws z from the guide, and weighs the draws.

        Args:
            x: Data that passed :meth:`check`, shape ``(B, *event_shape)``.
            num_samples: Draws for each datum, K.
            given: What goes with them, as :meth:`check_given` returns it.

        Returns:
            Draws of z, ``(K, B, *z)``, and the logarithms of their importance weights, ``(K, B)``.
        """
        given = given or {}
        with evaluating(self):
            guide, prior = self.encode(x, **given), self.prior.given(given.get("cond"))
            z = guide.sample((num_samples,))
            log_weights = [
                self.decode(part, **given).log_prob(x) + prior.log_prob(part) - guide.log_prob(part)
                for part in z.split(self.draws_at_once(x))
            ]
        return z, torch.cat(log_weights)

    def _mean(self, z: Tensor, weights: Tensor, given: Mapping[str, Any]) -> Tensor:
        total = weights.new_zeros(())
        size = self.draws_at_once(weights.T)
        for part, weight in zip(z.split(size), weights.split(size), strict=True):
            mean = self.decode(part, **given).mean
            total = total + torch.einsum("kb,kb...->b...", weight, mean)
        return total

    def batches_given(
        self, x: Tensor, given: Mapping[str, Any]
    ) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """Splits data as :meth:`batches` does, with what goes with them."""
        start = 0
        for batch in self.batches(x):
            yield batch, rows(given, slice(start, start + len(batch)))
            start += len(batch)

    def batches(self, x: Tensor) -> tuple[Tensor, ...]:
        """Splits data so that :meth:`importance` draws several z for each datum at a time."""
        return x.split(min(1024, max(1, self.draws_at_once(x[:1]) // 4)))

    def draws_at_once(self, x: Tensor) -> int:
        """Returns how many z to decode together for each datum of ``x``."""
        entries = max(self.event_shape.numel(), self.prior.event_shape.numel())
        return max(1, _CHUNK.get(x.device.type, _CHUNK_ELSEWHERE) // (entries * len(x)))

    @torch.no_grad()
    def importance(
        self,
        x: Tensor,
        num_samples: int,
        cond: Tensor | None = None,
        mask: Tensor | None = None,
        covariates: Covariates = None,
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Draws z from the guide, a bounded number at a time.

        Args:
            x: Data that passed :meth:`check`, shape ``(B, *event_shape)``.
            num_samples: Draws for each datum in all.
            cond: What each datum is conditioned on, shape ``(B, cond_size)``.
            mask: Which entries are observed, of the shape of ``x``.
            covariates: What the likelihood needs to know of each datum, by name, shape ``(B,)``.

        Yields:
            ``log p(x|z)``, ``log p(z)`` and ``log q(z|x)``, each of shape ``(S, B)``, whose S add
            up to ``num_samples``.

        Raises:
            ValueError: If ``num_samples`` is not a positive integer.
        """
        left = positive_integer("num_samples", num_samples)
        chunk = self.draws_at_once(x)
        with evaluating(self):
            features = self.guide.features(x, len(self.event_shape), cond, mask, covariates)
        while left > 0:
            count = min(chunk, left)
            yield self.weigh(x, features, count, cond=cond, mask=mask, covariates=covariates)
            left -= count

    def weigh(
        self,
        x: Tensor,
        features: Tensor,
        count: int,
        *,
        cond: Tensor | None = None,
        mask: Tensor | None = None,
        covariates: Covariates = None,
        from_prior: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draws z and returns what an importance weight is made of.

        Args:
            x: Data that passed :meth:`check`, shape ``(B, *event_shape)``.
            features: What the guide reads for them, shape ``(B, *guide.param_shape)``.
            count: Draws for each datum, S.
            cond: What each datum is conditioned on, shape ``(B, cond_size)``.
            mask: Which entries are observed, of the shape of ``x``.
            covariates: What the likelihood needs to know of each datum, by name, shape ``(B,)``.
            from_prior: Draws z from the prior instead of the guide.

        Returns:
            ``log p(x|z)``, ``log p(z)`` and ``log q(z|x)``, each of shape ``(S, B)``.
        """
        with evaluating(self):
            prior, guide = self.prior.given(cond), self.posterior(features)
            proposal = prior.expand((len(x),)) if from_prior else guide
            z = proposal.sample((count,))
            log_likelihood = self.decode(z, cond, mask, covariates).log_prob(x)
            return log_likelihood, prior.log_prob(z), guide.log_prob(z)


class _At(nn.Module):
    """A network that is given one condition with everything."""

    cond: Tensor

    def __init__(self, network: nn.Module, cond: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("cond", cond)

    def forward(self, inputs: Tensor) -> Any:
        return self.network(inputs, self.cond.expand(len(inputs), -1))


class _PriorAt(Prior):
    """A conditional prior at one condition."""

    cond: Tensor

    def __init__(self, law: Prior, cond: Tensor) -> None:
        super().__init__()
        self.law = law
        self.event_shape = law.event_shape
        self.named_sites = law.named_sites
        self.register_buffer("cond", cond)

    @property
    def support(self) -> Any:  # type: ignore[override]
        return self.law.support  # not kept: a copy would have another

    @property
    def sites(self) -> Mapping[str, Prior]:
        return self.law.sites if self.law.named_sites else {"z": self}

    @property
    def decoded_shape(self) -> torch.Size:
        return self.law.decoded_shape

    def decoded(self, z: Tensor) -> Tensor:
        return self.law.decoded(z)

    def parents(self, name: str) -> Sequence[str]:
        return self.law.parents(name)

    def join(self, draws: Mapping[str, Tensor]) -> Tensor:
        return self.law.join(draws)

    def site(self, name: str, earlier: Mapping[str, Tensor], cond: Tensor | None = None) -> Any:
        return self.law.site(name, earlier, self.cond)

    def forward(self) -> Any:
        return self.law(self.cond)


def same_space(prior: Prior, guide: Guide) -> bool:
    """Tells whether a prior and a guide are laws of the same latent variables."""
    if list(prior.sites) != list(guide.sites):
        return False
    pairs = zip(prior.sites.values(), guide.sites.values(), strict=True)
    return all(p.event_shape == q.event_shape and p.support is q.support for p, q in pairs)


def _space(part: Prior | Guide) -> str:
    if len(part.sites) > 1:
        inside = ", ".join(f"{name}: {_space(site)}" for name, site in part.sites.items())
        return f"{type(part).__name__}({inside})"
    arguments = ", ".join(map(str, part.event_shape))
    kinds = {
        constraints.one_hot: "one-hot vectors",
        constraints.boolean: "binary vectors",
        sphere: "unit vectors",
    }
    kind = kinds.get(part.support, "real vectors")
    return f"{type(part).__name__}({arguments}) on {kind}"
