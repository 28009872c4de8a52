"""Draws of z and what their importance weights are made of, a bounded number at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae._errors import positive_integer
from pyro_vae._untouched import evaluating
from pyro_vae.data.rows import Given, Rows

if TYPE_CHECKING:
    from pyro_vae.programs.protocol import Amortized
    from pyro_vae.programs.vae import VAE

__all__ = [
    "WeightedDraws",
    "chunk_sizes",
    "draw_weighted",
    "draws_at_once",
    "encoded",
    "imputed",
    "in_chunks",
    "log_marginal",
    "observations_at_once",
]

# Entries of x simulated at a time: little memory, whatever is asked for. A megabyte stays in the
# cache of a core, which halves the time; an accelerator wants more work for each launch.
_CHUNK = {"cpu": 2**18}
_CHUNK_ELSEWHERE = 2**22
_HELD = 2**22  # entries of x that are held where each draw of z has an x of its own


@dataclass(frozen=True)
class WeightedDraws:
    """Draws of z for each of B observations, and their log-densities in nats.

    Attributes:
        z: Shape ``(S, B, *event_shape)``.
        log_likelihood: log p(x|z), shape ``(S, B)``. With a missingness model log p(x_o, s|z, x_m)
            at a draw of x_m given z.
        log_prior: log p(z), shape ``(S, B)``.
        log_guide: log q(z|x), shape ``(S, B)``.
    """

    z: Tensor
    log_likelihood: Tensor
    log_prior: Tensor
    log_guide: Tensor

    @property
    def log_weights(self) -> Tensor:
        """Logarithms of the importance weights of draws from the guide, shape ``(S, B)``."""
        return self.log_likelihood + self.log_prior - self.log_guide


def encoded(vae: Amortized, x: Tensor, given: Given) -> Distribution:
    """Returns q(z|x) of what the model simulated, or expects, which is not checked.

    An expectation is no observation of a discrete likelihood, and a simulation may be rounded to
    the edge of its support.
    """
    with evaluating(vae):
        guide: Distribution = vae.infer(Rows(x, given))
    return guide


def chunk_sizes(total: int, at_once: int) -> list[int]:
    """Splits a number into chunks of ``at_once`` and a last one of what is left.

    Example:
        >>> chunk_sizes(7, 3)
        [3, 3, 1]
    """
    return [min(at_once, total - start) for start in range(0, total, at_once)]


def draws_at_once(vae: Amortized, x: Tensor) -> int:
    """Returns how many z to decode together for each observation of ``x``."""
    entries = max(vae.event_shape.numel(), vae.space.event_shape.numel())
    return max(1, _CHUNK.get(x.device.type, _CHUNK_ELSEWHERE) // (entries * len(x)))


def observations_at_once(vae: Amortized, x: Tensor) -> int:
    """Returns how many observations to take together, so that each has several z at a time."""
    return min(1024, max(1, draws_at_once(vae, x[:1]) // 4))


def draw_weighted(
    vae: Amortized,
    rows: Rows,
    count: int,
    *,
    features: Tensor | None = None,
    from_prior: bool = False,
) -> WeightedDraws:
    """Draws z and returns what an importance weight is made of.

    Args:
        vae: The model, in evaluation mode.
        rows: Observations that it accepted.
        count: Draws for each observation, S.
        features: What the guide reads for them, shape ``(B, *param_shape)``, if that is known;
            the draws are then decoded all at once.
        from_prior: Draws z from the prior instead of the guide.
    """
    known = features is not None
    if features is None:
        features = vae.features(rows)
    prior, guide = vae.prior_at(rows.given), vae.guide_at(features, rows)
    z = (prior.expand((len(rows),)) if from_prior else guide).sample((count,))
    # Not split, it is the very tensor whose way through a flow the flow still knows.
    parts = [z] if known else z.split(draws_at_once(vae, rows.x))
    terms = [
        (
            vae.log_likelihood(part, rows),
            prior.log_prob(part),
            guide.log_prob(part),
        )
        for part in parts
    ]
    return WeightedDraws(z, *(torch.cat(each) for each in zip(*terms, strict=True)))


def log_marginal(vae: Amortized, rows: Rows, num_samples: int) -> Tensor:
    """Estimates log p(x) of each row by importance weighting with the guide, shape ``(N,)``."""
    num_samples = positive_integer("num_samples", num_samples)
    estimates = []
    for batch in rows.batches(observations_at_once(vae, rows.x)):
        total = batch.x.new_full((len(batch),), -math.inf)
        for draws in in_chunks(vae, batch, num_samples):
            total = torch.logaddexp(total, draws.log_weights.logsumexp(0))
        estimates.append(total - math.log(num_samples))
    return torch.cat(estimates)


def imputed(vae: VAE, rows: Rows, num_samples: int, num_imputations: int | None) -> Tensor:
    """Returns masked rows filled: by their mean, or ``num_imputations`` times by draws."""
    if vae.missingness is not None:
        return _imputed_jointly(vae, rows, num_samples, num_imputations)
    filled = []
    for batch in rows.batches(observations_at_once(vae, rows.x)):
        draws, others = draw_weighted(vae, batch, num_samples), batch.without("mask")
        weights = draws.log_weights.softmax(0)
        if num_imputations is None:
            values = _mean(vae, draws.z, weights, others)
        else:
            index = weights.T.multinomial(num_imputations, replacement=True).T
            chosen = draws.z[index, torch.arange(len(batch), device=index.device)]
            values = vae.model.decode(chosen, others.given).sample()
        assert batch.mask is not None
        filled.append(torch.where(batch.mask, batch.x, values))
    return torch.cat(filled, 0 if num_imputations is None else 1)


def _imputed_jointly(vae: VAE, rows: Rows, num_samples: int, num_imputations: int | None) -> Tensor:
    """As :func:`imputed`, where weights depend on what is drawn of x, too."""
    filled, entries = [], vae.event_shape.numel()
    held = max(1, _HELD // (num_samples * entries))
    for batch in rows.batches(min(held, observations_at_once(vae, rows.x))):
        prior, guide = vae.prior(batch.given.get("cond")), vae.guide.encode(batch.x, batch.given)
        parts = []
        for count in chunk_sizes(num_samples, draws_at_once(vae, batch.x)):
            z = guide.sample((count,))
            x, log_likelihood = vae.model.completed(z, batch)
            parts.append((x, log_likelihood + prior.log_prob(z) - guide.log_prob(z)))
        x, log_weights = (torch.cat(each) for each in zip(*parts, strict=True))
        weights = log_weights.softmax(0)
        if num_imputations is None:
            values = torch.einsum("kb,kb...->b...", weights, x)
            assert batch.mask is not None  # where it has an entry, values are that up to rounding
            filled.append(torch.where(batch.mask, batch.x, values))
        else:
            index = weights.T.multinomial(num_imputations, replacement=True).T
            filled.append(x[index, torch.arange(len(batch), device=index.device)])
    return torch.cat(filled, 0 if num_imputations is None else 1)


def in_chunks(vae: Amortized, rows: Rows, num_samples: int) -> Iterator[WeightedDraws]:
    """Yields draws from the guide, a bounded number at a time, ``num_samples`` in all."""
    features = vae.features(rows)
    for count in chunk_sizes(num_samples, draws_at_once(vae, rows.x)):
        yield draw_weighted(vae, rows, count, features=features)


def _mean(vae: VAE, z: Tensor, weights: Tensor, rows: Rows) -> Tensor:
    total = cosine = sine = weights.new_zeros(())
    size, angles = draws_at_once(vae, rows.x), vae.likelihood.are_angles.to(rows.x.device)
    for part, weight in zip(z.split(size), weights.split(size), strict=True):
        d = vae.model.decode(part, rows.given)
        total = total + torch.einsum("kb,kb...->b...", weight, d.mean)
        if angles.any():  # of unit vectors, whose mean is 1 - variance long: else -π and π make 0
            length = 1 - d.variance
            cosine = cosine + torch.einsum("kb,kb...->b...", weight, length * d.mean.cos())
            sine = sine + torch.einsum("kb,kb...->b...", weight, length * d.mean.sin())
    return torch.where(angles, torch.atan2(sine, cosine), total) if angles.any() else total
