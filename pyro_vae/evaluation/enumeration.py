"""The marginal likelihood of a small discrete latent, summed exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor

from pyro_vae._errors import expected
from pyro_vae._untouched import undisturbed
from pyro_vae.data.rows import GivenLike, Rows, RowsLike
from pyro_vae.distributions import MAX_ENUMERATED
from pyro_vae.engine.by_rows import Report, in_turn
from pyro_vae.evaluation._common import check_ignorable, states_of
from pyro_vae.evaluation._draws import Draws
from pyro_vae.programs import Amortized, Program
from pyro_vae.programs.accept import rows_of
from pyro_vae.programs.streamed import StreamedRows
from pyro_vae.programs.weigh import draws_at_once, observations_at_once

__all__ = ["enumerate_log_prob", "enumerated", "is_summed", "num_mixed", "summed_terms"]

_MOST_MIXED = 32  # joint states at each of which continuous sites are drawn, which costs as much


@torch.no_grad()
def enumerate_log_prob(vae: Amortized, x: RowsLike, **given: Unpack[GivenLike]) -> Tensor:
    r"""Sums over all states of a discrete latent.

    .. math:: \log p(x) = \log \sum_z p(x \mid z) \, p(z)

    References:
        Pyro: Deep Universal Probabilistic Programming (Bingham et al., 2019),
        https://arxiv.org/abs/1810.09538

    Args:
        vae: A model with a discrete latent.
        x: Data, shape ``(N, *event_shape)``.
        **given: What goes with them (:class:`~pyro_vae.data.Given`).

    Returns:
        Exact log-densities in nats, shape ``(N,)``.

    Raises:
        ValueError: If the latent is continuous or has too many joint states, or the data do not
            suit the model.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(
        ...     pv.priors.Categorical(2, 3),
        ...     pv.guides.GumbelSoftmax(2, 3),
        ...     pv.likelihoods.Bernoulli((4,)),
        ... )
        >>> enumerate_log_prob(vae, torch.ones(5, 4)).shape
        torch.Size([5])
    """
    check_ignorable(vae)
    if not vae.space.support.is_discrete:
        raise expected("vae", "a discrete latent, whose states can be listed", vae.space)
    rows, log_probs = rows_of(vae, x, given), []
    if isinstance(vae, Program) and _number_of_states(vae, rows) > MAX_ENUMERATED:
        what = f"a latent of at most {MAX_ENUMERATED:,} joint states; `evaluate` draws others"
        raise expected("vae", what, vae.space)
    for batch in rows.batches(observations_at_once(vae, rows.x)):
        prior = vae.prior_at(batch.given)
        total = batch.x.new_full((len(batch),), -math.inf)
        for _, log_likelihood, log_prior in _terms(vae, prior, batch, draws_at_once(vae, batch.x)):
            total = torch.logaddexp(total, (log_likelihood + log_prior).logsumexp(0))
        log_probs.append(total)
    return torch.cat(log_probs)


class Enumerated(NamedTuple):
    """Exact scores of N observations, float64 on the CPU.

    Attributes:
        log_marginal: log p(x), shape ``(N,)``.
        reconstruction: E_q[log p(x|z)], shape ``(N,)``.
        kl: KL(q(z|x) || p(z)), shape ``(N,)``.
        mean: E[z|x] by the guide, shape ``(N, *event_shape)``.
        num_states: Joint states of the latent.
    """

    log_marginal: Tensor
    reconstruction: Tensor
    kl: Tensor
    mean: Tensor
    num_states: int


def is_summed(vae: Amortized, rows: Rows | StreamedRows, most: int) -> bool:
    """Returns whether the latent is discrete and has no more joint states than ``most``."""
    if not vae.is_ignorable or not vae.space.support.is_discrete:
        return False
    return bool(_number_of_states(vae, rows) <= min(most, MAX_ENUMERATED))


def num_mixed(vae: Amortized) -> int:
    """Returns the joint states of discrete sites that are summed beside draws of others; 0 if none.

    That is so of a :class:`pyro_vae.Program` with both, whose discrete sites have few states.
    """
    if not isinstance(vae, Program) or not vae.has_continuous:
        return 0
    return vae.num_states if 1 < vae.num_states <= _MOST_MIXED else 0


def summed_terms(vae: Amortized, rows: Rows, count: int) -> tuple[Tensor, Tensor, Tensor]:
    r"""Draws continuous sites at each state of the discrete ones, and sums over these.

    .. math:: w_s = \sum_k \frac{p(x, k, z_{ks})}{q(z_{ks} \mid k, x)}, \quad
        z_{ks} \sim q(z \mid k, x)

    Sites that the guide draws after a discrete one know its state, those that it draws before do
    not: either way the mean of a weight is p(x).

    Args:
        vae: A program for which :func:`num_mixed` is not 0.
        rows: The observations.
        count: Draws at each state, S.

    Returns:
        The logarithm of the weights, log p(x|z), and log q(z|x) - log p(z), the latter two averaged
        over the states by their probabilities in the guide, each of shape ``(S, B)``, float64.
    """
    assert isinstance(vae, Program)
    terms = (each.cpu().double() for each in vae.run_states(rows, count))
    log_likelihood, log_prior, log_others, log_state = terms
    log_weights = (log_likelihood + log_prior - log_others).logsumexp(0)
    log_ratio = log_others + log_state - log_prior
    return log_weights, _expected(log_state, log_likelihood), _expected(log_state, log_ratio)


def _number_of_states(vae: Amortized, rows: Rows | StreamedRows) -> int:
    number: int = vae.prior_at(rows[:1].given).num_states
    return number


def enumerated(
    vae: Amortized,
    rows: Rows | StreamedRows,
    max_memory: int | None,
    seed: int,
    progress: Callable[[float], None] | None,
) -> Enumerated:
    """Scores rows that the model accepted, by sums over all states of its latent.

    Args:
        vae: The model.
        rows: The rows.
        max_memory: As :func:`~pyro_vae.evaluation.evaluate` takes it.
        seed: Of what the guide draws, if it does.
        progress: Called with the fraction that is done.
    """
    num_states = _number_of_states(vae, rows)
    with undisturbed(vae, seed, vae.device):
        # The plan of as many draws is that of the states.
        plan = Draws(vae, rows, num_states, "guide", max_memory)

    def score(batch: Rows, report: Report) -> tuple[Tensor, Tensor]:
        prior, guide = vae.prior_at(batch.given), vae.infer(batch)
        total = torch.full((len(batch),), -math.inf, dtype=torch.float64)
        reconstruction = kl = torch.zeros(len(batch), dtype=torch.float64)
        for z, log_likelihood, log_prior in _terms(vae, prior, batch, plan.counts[False][0]):
            terms = (log_likelihood, log_prior, guide.log_prob(z))
            likelihood, p, q = (each.cpu().double() for each in terms)
            total = torch.logaddexp(total, (likelihood + p).logsumexp(0))
            reconstruction = reconstruction + _expected(q, likelihood)
            kl = kl + _expected(q, q - p)
        report(1.0)
        return torch.stack([total, reconstruction, kl]), guide.mean.cpu().double()

    def draw(batch: Rows) -> Tensor:
        mean: Tensor = vae.infer(batch).mean
        return mean

    found = in_turn(vae, rows, plan.batch, seed, score, draw, progress)
    columns, means = zip(*found, strict=True)
    log_marginal, reconstruction, kl = torch.cat(columns, 1)
    return Enumerated(log_marginal, reconstruction, kl, torch.cat(means), num_states)


def _expected(log_prob: Tensor, values: Tensor) -> Tensor:
    """The sum over states of values times their probabilities; of what cannot be, nothing."""
    terms = log_prob.exp() * values
    return torch.where(log_prob == -math.inf, 0.0, terms).sum(0)


def _terms(
    vae: Amortized, prior: Any, rows: Rows, at_once: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields states of the latent, log p(x|z) and log p(z), ``(K, B)`` each, a chunk at a time."""
    for z in states_of(prior, rows).split(at_once):
        log_prior = prior.log_prob(z)
        log_likelihood = vae.decode(z, **rows.given).log_prob(rows.x)
        yield z, log_likelihood, log_prior.expand_as(log_likelihood)
