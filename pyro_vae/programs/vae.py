"""The variational autoencoder: a Pyro model and a Pyro guide, composed from parts."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Unpack, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae._deprecated import by_name
from pyro_vae._errors import check_seed, expected, positive_integer
from pyro_vae._untouched import evaluating, seeded, undisturbed
from pyro_vae.data.hot_deck import hot_deck
from pyro_vae.data.rows import ConditionsLike, GivenLike, Numbers, Rows, RowsLike
from pyro_vae.data.source import Stream
from pyro_vae.distributions import by_entry
from pyro_vae.distributions.joint import site_of
from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.missingness import Missingness
from pyro_vae.missingness.missingness import missingness_of
from pyro_vae.networks import MLP, Network
from pyro_vae.networks.network import Standardize
from pyro_vae.priors import Prior
from pyro_vae.programs import weigh
from pyro_vae.programs.accept import (
    accepted,
    as_batch,
    as_tensor,
    checked_given,
    cond_of,
    covariates_of,
    decodable,
    encodable,
    rows_of,
    unlabelled,
    used,
)
from pyro_vae.programs.composition import weights_of
from pyro_vae.programs.encoders import built
from pyro_vae.programs.imputing import Imputing
from pyro_vae.programs.pyro_programs import GuideProgram, Model
from pyro_vae.programs.streamed import features_of, streamed
from pyro_vae.programs.view import ModelView

__all__ = ["VAE"]

_CONDITION = "_vae_condition"  # the buffer of a module that is at one condition
_HOT_DECK = 10_000  # observations, about, that are filled to start from
_positional = by_name("cond", "mask", "covariates")


class VAE(Imputing):
    """Creates a variational autoencoder from a prior, a guide and a likelihood.

    ``vae.model`` and ``vae.guide`` are Pyro programs, called as
    ``(x=None, *, size=None, cond=None, mask=None, covariates=None, labels=None)``, and modules that
    own the parameters; everything in Pyro that takes a model and a guide takes them.

    The package's own networks are sized from what the parts declare; :meth:`initialize`, called by
    :func:`pyro_vae.fit`, then standardises what the encoder sees and starts the decoder at the
    marginal of the data. Any other module is taken as it is: an encoder sees raw ``x``, or log x of
    positive likelihoods, and ends in ``guide.param_shape``, a decoder ends in
    ``likelihood.param_shape``; with a condition, both are called with it as a second argument.

    What goes with each observation is given by the names of :class:`pyro_vae.data.Given`. With
    ``cond_size`` every distribution is conditional: p(x, z | c) and q(z | x, c). Data may lack
    entries: a ``mask`` has which are observed, the likelihood is of those alone, and the encoder
    sees the mean of the data in place of the others. A likelihood may need to know something of
    each observation, such as its size factor: ``covariates`` go with the data, by name. ``labels``
    fix a categorical latent where they are known: the ELBO is then one of log p(x, y).

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014),
        https://arxiv.org/abs/1312.6114
        Learning Structured Output Representation using Deep Conditional Generative Models
        (Sohn et al., 2015), https://papers.nips.cc/paper/5775
        Semi-supervised Learning with Deep Generative Models (Kingma et al., 2014),
        https://arxiv.org/abs/1406.5298
        MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets
        (Mattei and Frellsen, 2019), https://arxiv.org/abs/1812.02633
        not-MIWAE: Deep Generative Modelling with Missing not at Random Data
        (Ipsen, Mattei and Frellsen, 2021), https://arxiv.org/abs/2006.12871

    Args:
        prior: The prior p(z).
        guide: The family q(z|x).
        likelihood: The likelihood p(x|z).
        encoder: Maps ``(B, *x)`` to ``(B, *guide.param_shape)``; an MLP if not given.
        decoder: Maps ``(B, *z)`` to ``(B, *likelihood.param_shape)``; an MLP if not given.
        cond_size: Entries of what each observation is conditioned on; None conditions on nothing.
        show_mask: Whether the encoder sees which entries are observed, stacked below the data
            along their first dimension.
        standardize: Whether our networks work in units of the training data: the encoder sees them
            at mean zero and variance one, and real-valued likelihoods have the mean and the scale
            that the decoder returns in these units. The density is that of the data as they are.
        seed: Of the weights that are drawn here: those of the package's own networks, and of parts
            that are sized here. What has weights already keeps them, and so do the generators of
            the caller their states. None draws from these.
        missingness: The distribution p(s|x) of which entries are observed, for data that are
            missing not at random: a :class:`pyro_vae.missingness.Missingness`, or the word
            ``self-masking``. None ignores it, which is right for data missing at random.

    Raises:
        ValueError: If prior and guide are distributions on different spaces, or a part cannot work
            with the others.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(8), pv.guides.Normal(8), pv.likelihoods.Bernoulli((64,)))
        >>> vae.sample(3).shape
        torch.Size([3, 64])
    """

    def __init__(
        self,
        prior: Prior,
        guide: Guide,
        likelihood: Likelihood,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        cond_size: int | None = None,
        show_mask: bool = False,
        standardize: bool = True,
        seed: int | None = None,
        missingness: Missingness | str | None = None,
    ) -> None:
        super().__init__()
        self.cond_size = _checked(prior, guide, likelihood, cond_size, show_mask)
        if not isinstance(standardize, bool):
            raise expected("standardize", "True or False", standardize)
        self.standardize = standardize
        encoder = MLP() if encoder is None else encoder
        decoder = MLP() if decoder is None else decoder
        if encoder is decoder and isinstance(decoder, Network):
            raise expected("decoder", "a network of its own, not that of the encoder", decoder)
        missing = missingness_of(missingness, likelihood.event_shape)
        if missing is not None:
            _check_draws(likelihood)
        with seeded(None if seed is None else check_seed("seed", seed)):
            inputs = built(encoder, prior, guide, likelihood, self.cond_size, show_mask)
            if isinstance(decoder, Network):
                decoder.check_role("decoder")
                shape = prior.space.decoded_shape
                decoder.build(shape, likelihood.param_shape, self.cond_size or 0)
            self.model = Model(prior, decoder, likelihood, self.cond_size, missing)
            self.guide = GuideProgram(inputs, encoder, guide, show_mask, self.cond_size)
            self.register_buffer("initialized", torch.tensor(False))
            view = ModelView(self)
            self.guide.bind(view)
            for part in (prior, guide):
                part.bind(view)
        self._drawn = weights_of(decoder) if isinstance(decoder, Network) else None

    def accepts(self, rows: Rows, argument: str = "x") -> Rows:
        """Returns data as this model takes them: same dtype and device.

        Args:
            rows: Observations, shape ``(N, *event_shape)``, and what goes with them. What a mask
                hides may be anything, and becomes feasible.
            argument: What to call the observations in an error.

        Raises:
            ValueError: If something is not what it should be, is missing, or has no use in this
                model; or if a value is not finite or outside the support of the likelihood.
        """
        return accepted(self, rows, argument)

    def uses(self, rows: Rows) -> Rows:
        """Returns what this model has a use for of the rows of a data set, on its device."""
        return used(self, rows).to(self.initialized.device)

    @torch.no_grad()
    @by_name("mask", "covariates")
    def initialize(self, x_train: Numbers, **given: Unpack[GivenLike]) -> None:
        """Standardises the encoder's input and starts the decoder at the marginal of the data.

        Done once: a fitted model is left alone. Entries that are not observed are filled, for this
        alone, by observed values of the same entry, drawn at random.

        Args:
            x_train: Training data, shape ``(N, *event_shape)``.
            **given: What goes with them (:class:`~pyro_vae.data.Given`).
        """
        self.notice_masks(as_tensor(given.get("mask"), "mask"))
        if self.initialized:
            return
        x = as_batch(as_tensor(x_train, "x_train"), self.event_shape, self).to(
            self.initialized.device
        )
        _start(self, Rows(x, unlabelled(given)))
        self.initialized.fill_(True)

    def at(self, cond: Numbers) -> VAE:
        """Returns the model at one condition: p(x, z | c) and q(z | x, c) with c fixed.

        Args:
            cond: The condition, shape ``(cond_size,)``.

        Raises:
            ValueError: If the model has no conditions, or this is none.

        Example:
            >>> import pyro_vae as pv
            >>> likelihood = pv.likelihoods.Bernoulli((4,))
            >>> parts = pv.priors.Conditional(2), pv.guides.Normal(2), likelihood
            >>> group = pv.VAE(*parts, cond_size=3).at(torch.tensor([0.0, 1.0, 0.0]))
            >>> pv.evaluate(group, torch.ones(5, 4), num_samples=10).log_marginal.shape
            (5,)
        """
        one = as_tensor(cond, "cond")
        if not isinstance(one, Tensor) or one.ndim != 1:
            raise expected("cond", f"a tensor of shape ({self.cond_size},)", cond)
        checked = cond_of(self, one[None], 1)
        if checked is None:
            raise expected("vae", "a model with conditions", self)
        return _fixed(copy.deepcopy(self), checked[0])

    @property
    def fixed_cond(self) -> bool:
        """Whether this is a model at one of its conditions, see :meth:`at`."""
        return hasattr(self.prior, _CONDITION)

    @_positional
    def encode(self, x: RowsLike | Stream, **given: Unpack[GivenLike]) -> Distribution:
        """Returns q(z|x), batch shape ``(B,)``.

        Of a :class:`~pyro_vae.data.Stream`, or an array that is mapped to a file and larger than a
        quarter of free memory, some rows are read at a time, and nothing has a gradient.

        Args:
            x: Data, shape ``(B, *event_shape)``.
            **given: What goes with them (:class:`~pyro_vae.data.Given`).
        """
        if (elsewhere := streamed(self, x, given)) is not None:
            found: Distribution = self.guide_family(features_of(elsewhere))
            return found
        rows = encodable(self, cast(RowsLike, x), given)
        with evaluating(self):
            return self.guide.encode(rows.x, rows.given)

    @torch.no_grad()
    @_positional
    def classify(self, x: RowsLike, **given: Unpack[GivenLike]) -> Tensor:
        """Returns q(y|x), the probability of each class, shape ``(B, K)``.

        Args:
            x: Data, shape ``(B, *event_shape)``.
            **given: What goes with them (:class:`~pyro_vae.data.Given`).

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
        rows = rows_of(self, x, given)
        with evaluating(self):
            distribution = self.guide.encode(rows.x, rows.given)
            probs: Tensor = site_of(distribution, self.guide.label_site).mean.squeeze(-2)
        return probs

    @_positional
    def decode(self, z: Numbers, **given: Unpack[GivenLike]) -> Distribution:
        """Returns p(x|z), batch shape ``(*, B)``.

        Args:
            z: Latents, shape ``(*, B, *prior.event_shape)``.
            **given: What goes with each of B observations (:class:`~pyro_vae.data.Given`).
        """
        latents, checked = decodable(self, as_tensor(z, "z"), unlabelled(given))
        with evaluating(self):
            return self.model.decode(latents, checked)

    @torch.no_grad()
    @by_name("cond", "covariates")
    def sample(self, n: int, *, seed: int | None = None, **given: Unpack[ConditionsLike]) -> Tensor:
        """Draws z from the prior and then x: shape ``(n, *event_shape)``.

        Args:
            n: How many.
            seed: The same seed draws the same; None draws from torch's generators.
            **given: A condition for each, and covariates (:class:`~pyro_vae.data.Conditions`).

        Raises:
            ValueError: If ``n`` is not a positive integer, ``seed`` none from 0 on, or what goes
                with the draws does not suit the model.
        """
        n, seed = positive_integer("n", n), None if seed is None else check_seed("seed", seed)
        checked = checked_given(self, given, n)
        self._warn_if_unfitted()
        with undisturbed(self, seed, self.initialized.device):  # a prior may ask networks, too
            z = self.prior(checked.get("cond")).expand((n,)).sample()
            return self.model.decode(z, checked).sample()

    @torch.no_grad()
    @_positional
    def reconstruct(self, x: RowsLike, **given: Unpack[GivenLike]) -> Tensor:
        """Returns E[x|z] at z = E[z|x], same shape as ``x``.

        Args:
            x: Data, shape ``(B, *event_shape)``.
            **given: What goes with them (:class:`~pyro_vae.data.Given`).
        """
        rows = rows_of(self, x, given)
        with evaluating(self):
            z = self.guide.encode(rows.x, rows.given).mean
            return self.model.decode(z, rows.without("mask").given).mean

    @torch.no_grad()
    @_positional
    def log_prob(self, x: RowsLike, num_samples: int = 1000, **given: Unpack[GivenLike]) -> Tensor:
        r"""Estimates log p(x) by importance weighting with the guide.

        .. math:: \log \hat p(x) = \log \frac1K \sum_k \frac{p(x \mid z_k) p(z_k)}{q(z_k \mid x)},
            \quad z_k \sim q(z \mid x)

        References:
            Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519

        Args:
            x: Data, shape ``(N, *event_shape)``.
            num_samples: Draws for each observation, K.
            **given: What goes with them (:class:`~pyro_vae.data.Given`); with a mask, log p of what
                is observed, and of the mask itself with a missingness model.

        Returns:
            Log-densities in nats, shape ``(N,)``, too low in expectation, and less so as K grows.
        """
        rows = rows_of(self, x, given)
        with evaluating(self):
            return weigh.log_marginal(self, rows, num_samples)

    def log_joint(self, z: Tensor, rows: Rows) -> Tensor:
        """Returns log p(x, z), shape ``(*, B)``, nats, differentiable in z.

        Args:
            z: Shape ``(*, B, *prior.event_shape)``.
            rows: B observations that the model accepted.
        """
        with evaluating(self):
            return self.model.log_joint(z, rows)

    @torch.no_grad()
    def draw_weighted(self, rows: Rows, count: int) -> weigh.WeightedDraws:
        """Draws z from the guide, with what their importance weights are made of.

        Args:
            rows: B observations that the model accepted.
            count: Draws for each.

        Raises:
            ValueError: If ``count`` is not a positive integer.
        """
        with evaluating(self):
            return weigh.draw_weighted(self, rows, positive_integer("count", count))


def _checked(
    prior: Prior, guide: Guide, likelihood: Likelihood, cond_size: int | None, show_mask: bool
) -> int | None:
    """Refuses what no model is made of, and returns the entries of a condition."""
    if cond_size is not None:
        cond_size = positive_integer("cond_size", cond_size)
    if not isinstance(show_mask, bool):
        raise expected("show_mask", "True or False", show_mask)
    for name, part, kind in (
        ("prior", prior, Prior),
        ("guide", guide, Guide),
        ("likelihood", likelihood, Likelihood),
    ):
        if not isinstance(part, kind):
            raise expected(name, f"a {kind.__name__}", part)
    if prior.space != guide.space:
        raise ValueError(
            "`guide`: expected a distribution on the same space as the prior "
            f"{type(prior).__name__}({prior.space}), got {type(guide).__name__}({guide.space})"
        )
    return cond_size


def _check_draws(likelihood: Likelihood) -> None:
    """Refuses a likelihood whose draws of what is missing would pass no gradient.

    Raises:
        ValueError: If it is one, or its entries are dependent given z.
    """
    ones = {name: torch.ones(1) for name in likelihood.covariates}
    d = likelihood(torch.zeros(1, *likelihood.param_shape), **ones)
    if by_entry(d, len(likelihood.event_shape)) is None or not d.has_rsample:
        what = "None, or a likelihood of independent entries whose draws pass gradients, such as"
        named = "Normal, StudentT, LogNormal, Gamma or Beta"
        raise expected("missingness", f"{what} {named}", type(likelihood).__name__)


def _start(vae: VAE, rows: Rows) -> None:
    """Standardises what the encoder sees of the rows, and starts prior and decoder at them."""
    if vae.missingness is not None:
        everything = torch.ones_like(rows.x, dtype=torch.bool)
        vae.missingness.start(everything if rows.mask is None else rows.mask.to(rows.x.device))
    if (mask := rows.mask) is not None:
        some = slice(None, None, max(1, len(rows) // _HOT_DECK))
        rows, mask = rows[some], mask[some]
        rows = replace(rows, x=hot_deck(rows.x, mask, vae.model.filler))
    likelihood, standardize = vae.likelihood, vae.guide.standardize
    covariates = covariates_of(likelihood, rows.given)
    done = torch.zeros(vae.event_shape, dtype=torch.bool, device=rows.x.device)
    if vae.standardize and isinstance(vae.decoder, Network):
        done = likelihood.take_units(rows.x)
    # What nobody asks for is not made: it is as large as the data.
    starts, fits = (
        type(vae.prior).start is not Prior.start,
        vae.standardize and not bool(done.all()),
    )
    if starts or (fits and isinstance(standardize, Standardize)):
        inputs = likelihood.encoder_input(rows.x, **covariates)
        if isinstance(standardize, Standardize):
            inputs = likelihood.standardized(inputs)
            if vae.standardize:
                standardize.fit(inputs, done)
        if starts:
            vae.prior.start(standardize(inputs))
    params = likelihood.init_params(rows.x, **covariates)
    if isinstance(vae.decoder, Network):
        vae.decoder.start_at(params)


def _fixed(vae: VAE, condition: Tensor) -> VAE:
    """Lets prior and networks of a model know the condition that the programs no longer take."""
    for module in (vae.prior, vae.encoder, vae.decoder):
        module.register_buffer(_CONDITION, condition, persistent=False)
        module.register_forward_pre_hook(_condition, with_kwargs=True)
    vae.cond_size = vae.model.cond_size = vae.guide.cond_size = None
    return vae


def _condition(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Gives a prior, or a network after its input, the condition at which its model is."""
    condition = getattr(module, _CONDITION)
    if isinstance(module, Prior):
        return (condition,), {}
    return (args[0], condition.expand(len(args[0]), -1)), kwargs
