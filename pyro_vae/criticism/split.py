"""Split-feature checks: z inferred from one half of the features, the other half tested."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.util import is_validation_enabled
from torch import Tensor

from pyro_vae._untouched import evaluating
from pyro_vae.criticism._measures import Statistic, kurtosis
from pyro_vae.criticism._of_tables import WORDS, Expanded
from pyro_vae.criticism._replicates import cycled, draw_prior, prior_of, simulate
from pyro_vae.data.entries import Entry
from pyro_vae.data.rows import Given, Rows
from pyro_vae.distributions import MAX_ENUMERATED, by_entry, log_prob_of_binary, sample_of
from pyro_vae.evaluation._common import states_of
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.networks import MLP
from pyro_vae.programs import Amortized
from pyro_vae.programs.adaptive import AdaptiveMixture, adapts, moments
from pyro_vae.programs.composition import Composition
from pyro_vae.programs.weigh import draws_at_once, encoded

__all__ = ["Halves", "Inference", "halve", "residual_statistics", "residuals"]

_ROUNDS, _FIRST, _LAST = (
    4,
    300,
    1500,
)  # rounds that adapt the proposal, and draws per observation in each
_REFERENCE = 100  # draws that residuals are centred and scaled by
_EXPECTED = 500  # draws that the expectation of the model is taken of
_STATES = 4096  # joint states of a discrete latent that are summed over
_FEW = 100.0  # effective draws, of fewer p-values are not to be trusted
_SHARE = 0.05  # of the data may have fewer
_LATENTS = 1000  # of more, a covariance for each observation takes all memory
_BLOCK = 40  # observations whose z are inferred together: far too many hopeless ones show soon
_TOGETHER = 4  # times as many draws as are simulated at a time are weighed together


@dataclass(frozen=True)
class Halves:
    """Which features z is inferred from, and which are tested.

    Attributes:
        given: Shape ``event_shape``, True where z is inferred from.
        tested: The others.
        columns: What is tested of them: levels without an order one by one.
    """

    given: Tensor
    tested: tuple[Entry, ...]
    columns: Expanded

    @property
    def num_given(self) -> int:
        """How many features z is inferred from: the first."""
        return self.given.numel() - len(self.tested)


def halve(vae: Amortized, entries: tuple[Entry, ...], given: Given, share: int = 2) -> Halves | str:
    """Gives the first half of the features and tests the rest; or returns why it cannot.

    Args:
        vae: The model.
        entries: The entries of x.
        given: What goes with the data.
        share: One feature in so many is given: fewer than half leave more of z open.
    """
    size = vae.event_shape.numel()
    if size < share:
        return "one feature cannot be halved" if size < 2 else f"{size} features are too few"
    if (latents := vae.space.event_shape.numel()) > _LATENTS:
        return f"{latents:,} latents are too many to be inferred from half of x"
    one = cycled(given, 1)
    if (
        by_entry(vae.decode(draw_prior(prior_of(vae, one), 2, 1), **one), len(vae.event_shape))
        is None
    ):
        name = type(vae.likelihood).__name__ if isinstance(vae, Composition) else "the model"
        return f"{name} does not factorise over the entries of x"
    first = torch.arange(size, device=vae.device) < size // share
    tested = entries[size // share :]
    many = any(each.shares and len(each.levels) > WORDS for each in tested)
    drawn = simulate(vae, 1, _EXPECTED, cycled(given, _EXPECTED))[0].flatten(1) if many else None
    return Halves(first.reshape(vae.event_shape), tested, Expanded(drawn, tested))


def residual_statistics(halves: Halves) -> tuple[Statistic, ...]:
    """Statistics of residuals ``(R, N, D)``: (x - E[x | half]) / sd[x | half]."""
    names = halves.columns.names
    of = tuple((each,) for each in halves.columns.of)
    chosen = [
        Statistic("residual mean", lambda e: e.mean(1), names, of),
        Statistic("residual spread", lambda e: e.square().mean(1).sqrt(), names, of),
        Statistic("residual tails", kurtosis),
    ]
    # The columns of a table are in no order, in which some would be side by side.
    if len(names) > 1 and all(each.field is None and not each.shares for each in halves.tested):
        chosen.append(
            Statistic("residual neighbours", lambda e: (e[..., 1:] * e[..., :-1]).mean((1, 2)))
        )
    return tuple(chosen)


def residuals(vae: Amortized, rows: Rows, halves: Halves, z: Tensor) -> Iterator[Tensor]:
    """Yields the residuals of the data, ``(1, N, D)``, then of replicates, ``(R, N, D)`` in chunks.

    The draws that centre and scale them are others than those tested, so that observed and
    replicated are treated alike.

    Args:
        vae: The model.
        rows: Data, with what goes with them. Residuals of hidden entries are zero.
        halves: Which features are tested.
        z: Draws given the first half, shape ``(S, N, *prior.event_shape)``; the first hundred
            serve to centre and scale.
    """
    columns = halves.columns
    tested = torch.tensor([each.index for each in columns.of], device=rows.x.device)
    seen = None if rows.mask is None else rows.mask.flatten(1)[:, tested]

    # Residuals have no units, but for the least scale.
    in_units = vae.likelihood.to_units if isinstance(vae, Composition) else Tensor.clone

    def replicate(draws: Tensor) -> Iterator[Tensor]:
        for chunk in draws.split(draws_at_once(vae, rows.x)):
            yield columns(in_units(sample_of(vae.decode(chunk, **rows.given))).flatten(2))

    def standardized(x: Tensor) -> Tensor:
        residual = (x - mean) / scale
        return residual if seen is None else torch.where(seen, residual, 0.0)

    reference = torch.cat(list(replicate(z[:_REFERENCE])))
    mean, variance = reference.mean(0), reference.var(0)
    # As if one more draw had the spread that the feature has in the mean: a hundred draws that are
    # all alike do not show that there is none.
    shrunk = (_REFERENCE * variance + variance.mean(0)) / (_REFERENCE + 1)
    scale = shrunk.sqrt().clamp_min(1e-3 * (1e-3 + mean.abs()))
    yield standardized(columns(in_units(rows.x).flatten(1)))[None]
    for drawn in replicate(z[_REFERENCE:]):
        yield standardized(drawn)


class Inference:
    r"""z given the first half of the features of each observation, inferred block by block.

    .. math:: z \sim p(z \mid x_A) \propto p(z) \prod_{d \in A} p(x_d \mid z)

    A small discrete latent is summed over. Otherwise by importance resampling: proposals start
    from the guide's view of the observation, its other half filled with the model's means, and
    adapt to the weights; a share of them is from the prior. Nothing of the tested half enters.

    References:
        Adaptive Multiple Importance Sampling (Cornuet et al., 2012),
        https://arxiv.org/abs/0907.1254

    Args:
        vae: The model.
        rows: Data, with what goes with them.
        halves: Which features are given.
    """

    def __init__(self, vae: Amortized, rows: Rows, halves: Halves) -> None:
        self._vae, self._rows, self._halves = vae, rows, halves
        self._expectation: Tensor | None = None
        self._z: list[Tensor] = []
        self._weights: list[Tensor] = []
        self._seen = self._few = 0  # observations

    @property
    def is_hopeless(self) -> bool:
        """Whether too many of all observations have too few effective draws, as far as is seen.

        Those still to come can make them no fewer: what is True stays so.
        """
        return self._few > _SHARE * len(self._rows)

    def until_hopeless(self) -> bool:
        """Infers z of further observations until all are seen or it is hopeless, and says which."""
        while self._seen < len(self._rows) and not self.is_hopeless:
            self._next()
        return self.is_hopeless

    def draws(self, num_draws: int) -> tuple[Tensor, str]:
        """Draws z of all observations; where it is hopeless, of those alone that show it.

        From too few effective draws no verdict follows, of however many observations: so more of
        them are not worth their time.

        Args:
            num_draws: Draws of z per observation; a hundred more are drawn for the residuals.

        Returns:
            Draws of the first M observations, shape ``(100 + num_draws, M, *prior.event_shape)``,
            and why they are not to be trusted, empty if they are.
        """
        note = ""
        if self.until_hopeless():
            share, whole = self._few / self._seen, self._seen == len(self._rows)
            of = "the data" if whole else f"the first {self._seen} data, which alone are looked at"
            note = f"fewer than {_FEW:g} effective draws of z for {share:.0%} of {of}"
        z, weights = torch.cat(self._z, 1), torch.cat(self._weights, 1)
        index = torch.multinomial(weights.T, _REFERENCE + num_draws, replacement=True)
        return z[index.T, torch.arange(self._seen, device=z.device)], note

    def _next(self) -> None:
        """Draws and weighs z of the next block of observations."""
        vae, halves = self._vae, self._halves
        rows = self._rows[self._seen : self._seen + _BLOCK]
        self._seen += len(rows)
        prior, exact = prior_of(vae, rows.given), False
        if vae.space.support.is_discrete and prior.num_states <= min(_STATES, MAX_ENUMERATED):
            z, log_weights = _summed(vae, rows, halves, prior)
            exact = True
        else:
            if self._expectation is None:
                self._expectation = _expected(vae, self._rows, halves)
            seen = torch.where(halves.given, rows.x, self._expectation)
            weigh = _continuous if adapts(vae) else _elsewhere
            z, log_weights = weigh(vae, rows, halves, prior, encoded(vae, seen, rows.given))
        weights = log_weights.softmax(0)
        self._few += 0 if exact else int((1 / weights.square().sum(0) < _FEW).sum())
        self._z.append(z)
        self._weights.append(weights)


def _log_likelihood(vae: Amortized, rows: Rows, halves: Halves, z: Tensor) -> Tensor:
    """Of the given features, shape ``(S, N)``."""
    parts: list[Tensor] = []
    validated = is_validation_enabled()
    # Nothing is drawn here: how many are taken together changes results by rounding alone.
    for chunk in z.split(_TOGETHER * draws_at_once(vae, rows.x)):
        # The first chunk shows whether parameters and data are valid; of thousands that costs much.
        with pyro.validation_enabled(validated and not parts):
            logits = _first_logits(vae, rows, halves.num_given, chunk) if parts else None
            if logits is None:
                entries = by_entry(vae.decode(chunk, **rows.given), len(vae.event_shape))
                assert entries is not None  # it was so for the halves
                if type(entries) is not dist.Bernoulli:
                    parts.append((entries.log_prob(rows.x) * halves.given).flatten(2).sum(-1))
                    continue
                logits = entries.logits.flatten(2)[..., : halves.num_given]
            x = rows.x.flatten(1)[:, : halves.num_given]
            parts.append(log_prob_of_binary(logits, x, 1))
    return torch.cat(parts)


def _first_logits(vae: Amortized, rows: Rows, count: int, z: Tensor) -> Tensor | None:
    """The logits of the first features alone, ``(S, N, count)``; None where all are computed.

    The last layer of a decoder of images, which makes a logit of each pixel, is most of its work.
    """
    if rows.given or not isinstance(vae, Composition):
        return None
    if type(vae.decoder) is not MLP or type(vae.likelihood) is not Bernoulli:
        return None
    with evaluating(vae):
        inputs = vae.space.decoder_input(z.flatten(0, 1))
        return vae.decoder.first_outputs(count, inputs).reshape(*z.shape[:2], count)


def _expected(vae: Amortized, rows: Rows, halves: Halves) -> Tensor:
    """What the model expects of x on the whole, shape ``event_shape``."""
    drawn = simulate(vae, 1, _EXPECTED, cycled(rows.given, _EXPECTED))[0]
    expectation = drawn.mean(0)
    for each in halves.tested:
        if each.shares:  # levels have no mean: the commonest
            expectation.view(-1)[each.index] = drawn.flatten(1)[:, each.index].mode().values
    return expectation


def _summed(vae: Amortized, rows: Rows, halves: Halves, prior: Any) -> tuple[Tensor, Tensor]:
    """All states of a discrete latent."""
    states = states_of(prior, rows)
    log_weights = _log_likelihood(vae, rows, halves, states) + prior.log_prob(states)
    return states.expand(-1, len(rows), *prior.event_shape), log_weights


def _elsewhere(
    vae: Amortized, rows: Rows, halves: Halves, prior: Any, guide: Any
) -> tuple[Tensor, Tensor]:
    """Of latents that are not all real vectors, where proposals cannot adapt by moments."""
    z = torch.cat([guide.sample((_LAST,)), draw_prior(prior, _LAST, len(rows))])
    log_prior = prior.log_prob(z)
    log_proposal = torch.logaddexp(guide.log_prob(z), log_prior) - math.log(2)
    return z, _log_likelihood(vae, rows, halves, z) + log_prior - log_proposal


def _continuous(
    vae: Amortized, rows: Rows, halves: Halves, prior: Any, guide: Any
) -> tuple[Tensor, Tensor]:
    shape = vae.space.event_shape
    start = guide.sample((_FIRST,)).flatten(2)
    mean = start.mean(0)
    covariance = torch.diag_embed(2 * start.var(0) + 1e-6)
    for size in (*[_FIRST] * _ROUNDS, _LAST):
        z, log_prior, log_proposal = AdaptiveMixture(prior, mean, covariance, shape).draw(size)
        log_weights = _log_likelihood(vae, rows, halves, z) + log_prior - log_proposal
        mean, covariance = moments(z.flatten(2), log_weights, covariance)
    return z, log_weights
