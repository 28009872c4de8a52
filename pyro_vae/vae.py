"""The variational autoencoder: a Pyro model and a Pyro guide, composed from parts."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.params import param_with_module_name
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae._errors import expected, positive_integer
from pyro_vae.guides import Guide
from pyro_vae.guides.relaxed import Relaxed
from pyro_vae.likelihoods import Likelihood
from pyro_vae.networks import MLP, Network
from pyro_vae.networks.network import Standardize
from pyro_vae.priors import Prior

__all__ = ["VAE", "evaluating"]

_instances = itertools.count()
# Entries of x simulated at a time: little memory, whatever is asked for. A megabyte stays in the
# cache of a core, which halves the time; an accelerator wants more work for each launch.
_CHUNK = {"cpu": 2**18}
_CHUNK_ELSEWHERE = 2**22


class _Program(nn.Module):
    """A Pyro program that registers its parameters under a name of its own.

    Stock ``SVI`` trains what is in the parameter store and nothing else, silently, and two
    programs of one name would share parameters there. A deep copy therefore gets a new name.
    """

    max_plate_nesting = 1

    def __init__(self) -> None:
        super().__init__()
        self._named: tuple[weakref.ref[_Program], str] | None = None

    def _register(self) -> None:
        if self._named is None or self._named[0]() is not self:
            name = f"vae{next(_instances)}.{type(self).__name__.lower()}"
            self._named = (weakref.ref(self), name)
        for name, parameter in self.named_parameters():
            # As `pyro.module` does, but a frozen parameter is no reason for a warning.
            if parameter.requires_grad:
                pyro.param(param_with_module_name(self._named[1], name), parameter)

    def __getstate__(self) -> dict[str, Any]:
        for parameter in self.parameters():
            # The store leaves a weak reference here at each use, and those cannot be pickled.
            parameter.__dict__.pop("unconstrained", None)
        return self.__dict__ | {"_named": None}


def _batched(network: nn.Module, inputs: Tensor, event_dim: int) -> Tensor:
    """Calls a network, which knows one batch dimension, on any number of them."""
    batch_shape = inputs.shape[: inputs.ndim - event_dim]
    outputs = network(inputs.reshape(-1, *inputs.shape[inputs.ndim - event_dim :]))
    # Half precision is for matrix products; a density needs more digits.
    if outputs.dtype in (torch.float16, torch.bfloat16):
        outputs = outputs.float()
    return outputs.reshape(*batch_shape, *outputs.shape[1:])


class Model(_Program):
    """The generative program p(z) p(x|z): sites ``z`` and ``x`` in plate ``data``."""

    def __init__(self, prior: Prior, decoder: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood

    def decode(self, z: Tensor) -> Any:
        """Returns p(x|z) for z of shape ``(*, event_shape)``."""
        params = _batched(self.decoder, z, len(self.prior.event_shape))
        expected_shape = self.likelihood.param_shape
        if params.shape[params.ndim - len(expected_shape) :] != expected_shape:
            got = f"{tuple(params.shape[z.ndim - len(self.prior.event_shape) :])}"
            raise expected("decoder", f"outputs of shape {tuple(expected_shape)} a datum", got)
        return self.likelihood(params)

    def forward(self, x: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """Runs the program.

        Args:
            x: Observed data, shape ``(B, *event_shape)``; None simulates.
            size: Number of data to simulate; 1 if neither is given.

        Returns:
            The data, observed or simulated.
        """
        self._register()
        if x is not None:
            x = as_batch(x, self.likelihood.event_shape, self)
        batch = (size or 1) if x is None else len(x)
        with pyro.plate("data", batch, dim=-1):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.decode(z), obs=x)


class GuideProgram(_Program):
    """The inference program q(z|x): site ``z`` in plate ``data``."""

    def __init__(self, standardize: nn.Module, encoder: nn.Module, family: Guide) -> None:
        super().__init__()
        self.standardize = standardize
        self.encoder = encoder
        self.family = family

    @property
    def relaxation(self) -> Relaxed | None:
        """What the objective should do about a discrete z, if it is discrete."""
        return self.family if isinstance(self.family, Relaxed) else None

    def features(self, x: Tensor, event_dim: int) -> Tensor:
        """Returns what the family reads, ``(*, *param_shape)``, for x ``(*, event_shape)``.

        These are the variational parameters of each datum, which amortisation makes a function.
        """
        features = _batched(self.encoder, self.standardize(x), event_dim)
        expected_shape = self.family.param_shape
        if features.shape[x.ndim - event_dim :] != expected_shape:
            got = tuple(features.shape[x.ndim - event_dim :])
            raise expected("encoder", f"outputs of shape {tuple(expected_shape)} a datum", got)
        return features

    def encode(self, x: Tensor, event_dim: int) -> Any:
        """Returns q(z|x) for x of shape ``(*, event_shape)``."""
        return self.family(self.features(x, event_dim))

    def forward(self, x: Tensor | None = None, *, size: int | None = None) -> Tensor:
        """Runs the program.

        Args:
            x: Observed data, shape ``(B, *event_shape)``.
            size: Taken so that model and guide share a signature; the guide needs ``x``.

        Returns:
            One draw of z a datum.

        Raises:
            ValueError: If there is no ``x`` to condition on.
        """
        if x is None:
            raise expected("x", "data, since the guide is q(z|x)", None)
        self._register()
        event_shape = x.shape[1:]
        x = as_batch(x, event_shape, self)
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.encode(x, len(event_shape)))


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

    ``vae.model`` and ``vae.guide`` are Pyro programs, called as ``(x=None, *, size=None)``, and
    modules that own the parameters; everything in Pyro that takes a model and a guide takes them.

    The package's own networks are sized from what the parts declare; :meth:`initialize`, called by
    :func:`pyro_vae.fit`, then standardises what the encoder sees and starts the decoder at the
    marginal of the data. Any other module is taken as it is: an encoder sees raw ``x`` and ends in
    ``guide.param_shape``, a decoder ends in ``likelihood.param_shape``.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014),
        https://arxiv.org/abs/1312.6114

    Args:
        prior: The law p(z).
        guide: The family q(z|x).
        likelihood: The law p(x|z).
        encoder: Maps ``(B, *x)`` to ``(B, *guide.param_shape)``; an MLP if not given.
        decoder: Maps ``(B, *z)`` to ``(B, *likelihood.param_shape)``; an MLP if not given.

    Raises:
        ValueError: If prior and guide are laws on different spaces.

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
    ) -> None:
        super().__init__()
        for name, part, kind in (
            ("prior", prior, Prior),
            ("guide", guide, Guide),
            ("likelihood", likelihood, Likelihood),
        ):
            if not isinstance(part, kind):
                raise expected(name, f"a {kind.__name__}", part)
        if prior.event_shape != guide.event_shape or prior.support is not guide.support:
            raise ValueError(
                f"`guide`: expected a law on the same space as the prior, "
                f"{_space(prior)}, got {_space(guide)}"
            )
        encoder = MLP() if encoder is None else encoder
        decoder = MLP() if decoder is None else decoder
        standardize: nn.Module = nn.Identity()
        if isinstance(encoder, Network):
            standardize = Standardize(likelihood.event_shape, counts=likelihood.are_counts)
            encoder.build(likelihood.event_shape, guide.param_shape)
        if isinstance(decoder, Network):
            decoder.build(prior.event_shape, likelihood.param_shape)
        self.model = Model(prior, decoder, likelihood)
        self.guide = GuideProgram(standardize, encoder, guide)
        self.register_buffer("initialized", torch.tensor(False))

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

    def check(self, x: Tensor, argument: str = "x") -> Tensor:
        """Returns data as this model takes them: same dtype and device.

        Args:
            x: Data, shape ``(N, *event_shape)``.
            argument: What to call them in an error.

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
        bad = ~(x.isfinite() & self.likelihood.support.check(x))
        if bad.any():
            where = bad.nonzero()[0].tolist()
            part = self.likelihood.law_of(where[1:])
            law = f"{type(part).__name__}, {part.support}"
            got = f"{x[bad][0].item():g} at index {where}, {int(bad.sum())} bad in all"
            raise ValueError(f"`{argument}`: expected values in the support of {law}, got {got}")
        return x.to(self.initialized.device)

    @torch.no_grad()
    def initialize(self, x_train: Tensor) -> None:
        """Standardises the encoder's input and starts the decoder at the marginal of the data.

        Done once: a fitted model is left alone.

        Args:
            x_train: Training data, shape ``(N, *event_shape)``.
        """
        if self.initialized:
            return
        if isinstance(self.guide.standardize, Standardize):
            self.guide.standardize.fit(x_train)
        params = self.likelihood.init_params(x_train)
        if isinstance(self.decoder, Network):
            self.decoder.start_at(params)
        self.initialized.fill_(True)

    def encode(self, x: Tensor) -> Any:
        """Returns q(z|x), batch shape ``(B,)``, for data of shape ``(B, *event_shape)``."""
        x = as_batch(x, self.event_shape, self)
        with evaluating(self):
            return self.guide.encode(x, len(self.event_shape))

    def decode(self, z: Tensor) -> Any:
        """Returns p(x|z) for latents of shape ``(*, B, *prior.event_shape)``."""
        with evaluating(self):
            return self.model.decode(z)

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """Draws z from the prior and then x: shape ``(n, *event_shape)``."""
        z = self.prior().sample((positive_integer("n", n),))
        return self.decode(z).sample()

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Returns E[x|z] at z = E[z|x], same shape as ``x``."""
        return self.decode(self.encode(x).mean).mean

    @torch.no_grad()
    def log_prob(self, x: Tensor, num_samples: int = 1000) -> Tensor:
        r"""Estimates log p(x) by importance weighting with the guide.

        .. math:: \log \hat p(x) = \log \frac1K \sum_k \frac{p(x \mid z_k) p(z_k)}{q(z_k \mid x)},
            \quad z_k \sim q(z \mid x)

        References:
            Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519

        Args:
            x: Data, shape ``(N, *event_shape)``.
            num_samples: Draws for each datum, K.

        Returns:
            Log-densities in nats, shape ``(N,)``, too low in expectation, and less so as K grows.
        """
        x = self.check(x)
        estimates = []
        for batch in self.batches(x):
            total = batch.new_full((len(batch),), -math.inf)
            for log_likelihood, log_prior, log_guide in self.importance(batch, num_samples):
                weights = (log_likelihood + log_prior - log_guide).logsumexp(0)
                total = torch.logaddexp(total, weights)
            estimates.append(total - math.log(num_samples))
        return torch.cat(estimates)

    def batches(self, x: Tensor) -> tuple[Tensor, ...]:
        """Splits data so that :meth:`importance` draws several z for each datum at a time."""
        return x.split(min(1024, max(1, self.draws_at_once(x[:1]) // 4)))

    def draws_at_once(self, x: Tensor) -> int:
        """Returns how many z to decode together for each datum of ``x``."""
        entries = max(self.event_shape.numel(), self.prior.event_shape.numel())
        return max(1, _CHUNK.get(x.device.type, _CHUNK_ELSEWHERE) // (entries * len(x)))

    @torch.no_grad()
    def importance(self, x: Tensor, num_samples: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Draws z from the guide, a bounded number at a time.

        Args:
            x: Data that passed :meth:`check`, shape ``(B, *event_shape)``.
            num_samples: Draws for each datum in all.

        Yields:
            ``log p(x|z)``, ``log p(z)`` and ``log q(z|x)``, each of shape ``(S, B)``, whose S add
            up to ``num_samples``.

        Raises:
            ValueError: If ``num_samples`` is not a positive integer.
        """
        left = positive_integer("num_samples", num_samples)
        chunk = self.draws_at_once(x)
        with evaluating(self):
            features = self.guide.features(x, len(self.event_shape))
        while left > 0:
            count = min(chunk, left)
            yield self.weigh(x, features, count)
            left -= count

    def weigh(
        self, x: Tensor, features: Tensor, count: int, *, from_prior: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draws z and returns what an importance weight is made of.

        Args:
            x: Data that passed :meth:`check`, shape ``(B, *event_shape)``.
            features: What the guide reads for them, shape ``(B, *guide.param_shape)``.
            count: Draws for each datum, S.
            from_prior: Draws z from the prior instead of the guide.

        Returns:
            ``log p(x|z)``, ``log p(z)`` and ``log q(z|x)``, each of shape ``(S, B)``.
        """
        prior, guide = self.prior(), self.posterior(features)
        z = prior.sample((count, len(x))) if from_prior else guide.sample((count,))
        return self.decode(z).log_prob(x), prior.log_prob(z), guide.log_prob(z)


def _space(part: Prior | Guide) -> str:
    arguments = ", ".join(map(str, part.event_shape))
    kinds = {constraints.one_hot: "one-hot vectors", constraints.boolean: "binary vectors"}
    kind = kinds.get(part.support, "real vectors")
    return f"{type(part).__name__}({arguments}) on {kind}"
