"""Draws of z and what their importance weights are made of, a bounded number at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae._errors import positive_integer
from pyro_vae._untouched import evaluating
from pyro_vae.data.rows import Given, Rows

if TYPE_CHECKING:
    from pyro_vae.programs.protocol import Amortized

__all__ = [
    "WeightedDraws",
    "chunk_sizes",
    "draw_weighted",
    "draws_at_once",
    "encoded",
    "in_chunks",
    "log_marginal",
    "observations_at_once",
    "proposed",
]

# Entries of x simulated at a time: little memory, whatever is asked for. A megabyte stays in the
# cache of a core, which halves the time; an accelerator wants more work for each launch.
_CHUNK = {"cpu": 2**18}
_CHUNK_ELSEWHERE = 2**22


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
    prior, guide, z = proposed(
        vae, rows, count, vae.features(rows) if features is None else features, from_prior
    )
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


def proposed(
    vae: Amortized, rows: Rows, count: int, features: Tensor, from_prior: bool
) -> tuple[Any, Any, Tensor]:
    """Returns p(z), q(z|x), and draws of one of them: all that :func:`draw_weighted` draws.

    Args:
        vae: As there, and so are the others. With a missingness model it draws x, too.
        rows: Observations.
        count: Draws for each of them.
        features: What the guide reads for them.
        from_prior: Whether z is drawn from the prior.
    """
    prior, guide = vae.prior_at(rows.given), vae.guide_at(features, rows)
    return prior, guide, (prior.expand((len(rows),)) if from_prior else guide).sample((count,))


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


def in_chunks(vae: Amortized, rows: Rows, num_samples: int) -> Iterator[WeightedDraws]:
    """Yields draws from the guide, a bounded number at a time, ``num_samples`` in all."""
    features = vae.features(rows)
    for count in chunk_sizes(num_samples, draws_at_once(vae, rows.x)):
        yield draw_weighted(vae, rows, count, features=features)
