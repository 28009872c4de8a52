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

from pyro_vae.criticism._measures import Statistic, kurtosis
from pyro_vae.criticism._of_tables import WORDS, Expanded
from pyro_vae.criticism._replicates import cycled, draw_prior, prior_of, simulate
from pyro_vae.data.entries import Entry
from pyro_vae.data.rows import Given, Rows
from pyro_vae.distributions import MAX_ENUMERATED, by_entry
from pyro_vae.evaluation._common import states_of
from pyro_vae.programs import Amortized
from pyro_vae.programs.adaptive import AdaptiveMixture, adapts, moments
from pyro_vae.programs.composition import Composition
from pyro_vae.programs.weigh import draws_at_once, encoded

__all__ = ["Halves", "halve", "infer", "is_hopeless", "residual_statistics", "residuals"]

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
_PILOT = 40  # observations that show whether far too many have
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
            yield columns(in_units(vae.decode(chunk, **rows.given).sample()).flatten(2))

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


def infer(vae: Amortized, rows: Rows, halves: Halves, num_draws: int) -> tuple[Tensor, str]:
    r"""Draws z given the first half of the features of each observation.

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
        num_draws: Draws of z per observation; a hundred more are drawn for the residuals.

    Returns:
        Draws, shape ``(100 + num_draws, N, *prior.event_shape)``, and why they are not to be
        trusted, empty if they are.
    """
    z, weights, few = _weighted(vae, rows, halves)
    note = ""
    if few > _SHARE:
        note = f"fewer than {_FEW:g} effective draws of z for {few:.0%} of the data"
    index = torch.multinomial(weights.T, _REFERENCE + num_draws, replacement=True)
    return z[index.T, torch.arange(len(rows), device=rows.x.device)], note


def is_hopeless(vae: Amortized, rows: Rows, halves: Halves) -> bool:
    """Whether a few observations show that too many have too few effective draws of z.

    By more than three standard errors: :func:`infer` on all of them would only say so.
    """
    _, _, few = _weighted(vae, rows[:_PILOT], halves)
    return few > _SHARE + 3 * math.sqrt(_SHARE * (1 - _SHARE) / len(rows[:_PILOT]))


def _weighted(vae: Amortized, rows: Rows, halves: Halves) -> tuple[Tensor, Tensor, float]:
    """Returns draws, their weights ``(S, N)``, and the share of rows with few effective ones."""
    if adapts(vae):
        z, log_weights = _continuous(vae, rows, halves)
        exact = False
    else:
        z, log_weights, exact = _elsewhere(vae, rows, halves)
    weights = log_weights.softmax(0)
    few = (1 / weights.square().sum(0) < _FEW).double().mean().item()
    return z, weights, 0.0 if exact else few


def _log_likelihood(vae: Amortized, rows: Rows, halves: Halves, z: Tensor) -> Tensor:
    """Of the given features, shape ``(S, N)``."""
    parts: list[Tensor] = []
    validated = is_validation_enabled()
    # Nothing is drawn here: how many are taken together changes results by rounding alone.
    for chunk in z.split(_TOGETHER * draws_at_once(vae, rows.x)):
        # The first chunk shows whether parameters and data are valid; of thousands that costs much.
        with pyro.validation_enabled(validated and not parts):
            entries = by_entry(vae.decode(chunk, **rows.given), len(vae.event_shape))
            assert entries is not None  # it was so for the halves
            if parts and type(entries) is dist.Bernoulli:
                parts.append(_of_binary(entries.logits, rows.x, halves.num_given))
            else:
                parts.append((entries.log_prob(rows.x) * halves.given).flatten(2).sum(-1))
    return torch.cat(parts)


def _of_binary(logits: Tensor, x: Tensor, count: int) -> Tensor:
    r"""Log-probabilities of the first entries of binary x, summed: shape ``(S, N)``.

    .. math:: \log p(x_d) = -\max(t_d, 0) - \log(1 + e^{-|t_d|}), \quad
        t_d = (1 - 2 x_d) \, \mathrm{logit}_d

    A logarithm takes a tenth of the time of ``log1p``, and loses 6e-8 an entry, which is less than
    the rounding of a sum of hundreds.

    Args:
        logits: Shape ``(S, N, *event_shape)``.
        x: Shape ``(N, *event_shape)``.
        count: How many entries.
    """
    turned = logits.flatten(2)[..., :count] * (1 - 2 * x.flatten(1)[:, :count])
    above = turned.clamp_min(0).sum(-1)
    return -(above + turned.abs_().neg_().exp_().add_(1).log_().sum(-1))


def _half_seen(vae: Amortized, rows: Rows, halves: Halves) -> Any:
    """The guide, of data whose other half is what the model expects on the whole."""
    drawn = simulate(vae, 1, _EXPECTED, cycled(rows.given, _EXPECTED))[0]
    expectation = drawn.mean(0)
    for each in halves.tested:
        if each.shares:  # levels have no mean: the commonest
            expectation.view(-1)[each.index] = drawn.flatten(1)[:, each.index].mode().values
    return encoded(vae, torch.where(halves.given, rows.x, expectation), rows.given)


def _elsewhere(vae: Amortized, rows: Rows, halves: Halves) -> tuple[Tensor, Tensor, bool]:
    """Of latents that are not all real vectors, where proposals cannot adapt by moments."""
    prior = prior_of(vae, rows.given)
    if vae.space.support.is_discrete and prior.num_states <= min(_STATES, MAX_ENUMERATED):
        states = states_of(prior, rows)
        log_weights = _log_likelihood(vae, rows, halves, states) + prior.log_prob(states)
        return states.expand(-1, len(rows), *prior.event_shape), log_weights, True
    guide = _half_seen(vae, rows, halves)
    z = torch.cat([guide.sample((_LAST,)), draw_prior(prior, _LAST, len(rows))])
    log_prior = prior.log_prob(z)
    log_proposal = torch.logaddexp(guide.log_prob(z), log_prior) - math.log(2)
    return z, _log_likelihood(vae, rows, halves, z) + log_prior - log_proposal, False


def _continuous(vae: Amortized, rows: Rows, halves: Halves) -> tuple[Tensor, Tensor]:
    prior, shape = prior_of(vae, rows.given), vae.space.event_shape
    start = _half_seen(vae, rows, halves).sample((_FIRST,)).flatten(2)
    mean = start.mean(0)
    covariance = torch.diag_embed(2 * start.var(0) + 1e-6)
    for size in (*[_FIRST] * _ROUNDS, _LAST):
        z, log_prior, log_proposal = AdaptiveMixture(prior, mean, covariance, shape).draw(size)
        log_weights = _log_likelihood(vae, rows, halves, z) + log_prior - log_proposal
        mean, covariance = moments(z.flatten(2), log_weights, covariance)
    return z, log_weights
