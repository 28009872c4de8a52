"""The path from an initial distribution to p(x, z), and chains that go along it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, get_args

import numpy as np
import pyro
import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae._errors import positive_integer, unknown_name
from pyro_vae.data.rows import Rows
from pyro_vae.evaluation._hmc import Point
from pyro_vae.evaluation._transitions import Initial, Transitions, density
from pyro_vae.programs import Amortized
from pyro_vae.programs.weigh import draws_at_once

__all__ = [
    "Initial",
    "Path",
    "Plan",
    "Ticks",
    "estimate",
    "forward",
    "joined",
    "reverse",
    "shown",
    "warm_up",
]

_STEEPNESS = 4.0  # of the sigmoid that spaces the temperatures, as in Wu et al. (2017)
_SPREAD_DRAWS = 100  # of z, to see the spread of a distribution in each direction
_WARMUP_CHAINS = 8
_WARMUP_TEMPERATURES = 100  # at most: step sizes change slowly along the path
_WARMUP_START = 20  # transitions at the first temperature, from any step size to a fair one
_GAIN = 0.5  # change of log step size for an acceptance that is off by one
# At a like cost, more temperatures with trajectories of two or three steps did better than fewer
# with long ones, and short trajectories want to be accepted more often than the 0.65 of long ones
# (Neal, 2011, section 4.4).
_ACCEPTANCE = 0.8


class Plan:
    """How many chains take which temperatures; refuses what cannot be."""

    def __init__(
        self, num_chains: int, num_temperatures: int, num_leapfrog: int, initial: str
    ) -> None:
        self.num_chains = positive_integer("num_chains", num_chains)
        self.num_leapfrog = positive_integer("num_leapfrog", num_leapfrog)
        self.num_temperatures = T = positive_integer("num_temperatures", num_temperatures)
        if initial not in get_args(Initial):
            raise unknown_name("initial", initial, get_args(Initial))
        sigmoid = (_STEEPNESS * torch.linspace(-1, 1, T + 1, dtype=torch.float64)).sigmoid()
        self.betas = ((sigmoid - sigmoid[0]) / (sigmoid[-1] - sigmoid[0])).tolist()
        # Where step sizes are adapted: the ends, and temperatures between them.
        self.adapted = torch.linspace(0, T, min(T, _WARMUP_TEMPERATURES) + 1).long().tolist()

    @property
    def warmup_transitions(self) -> int:
        return _WARMUP_START + len(self.adapted)

    @property
    def forgetting(self) -> int:
        """Transitions by which reverse chains leave the one draw that they all start at.

        They leave the posterior as it is, and belong to the forward chains too, after the weights
        are complete.
        """
        return max(1, len(self.betas) // 10)

    @property
    def num_gradients(self) -> int:
        estimate = self.num_chains * (1 + (len(self.betas) - 2) * self.num_leapfrog)
        return estimate + _WARMUP_CHAINS * (1 + self.warmup_transitions * self.num_leapfrog)

    def calls(self, both_ways: bool = False) -> dict[int, int]:
        """Returns how often chains of a batch are moved, by how many there are at once."""
        steps = len(self.betas) - 2
        calls = {self.num_chains: 2 * steps + self.forgetting if both_ways else steps}
        calls[_WARMUP_CHAINS] = calls.get(_WARMUP_CHAINS, 0) + self.warmup_transitions
        return calls

    def batches(self, vae: Amortized, rows: Rows) -> list[Rows]:
        """Splits data so that their chains are decoded together in bounded memory."""
        at_once = max(1, draws_at_once(vae, rows.x[:1]) // self.num_chains)
        return list(rows.batches(at_once))


class Path:
    """The distributions from the initial one to p(x, z), given a batch of data."""

    def __init__(
        self, vae: Amortized, rows: Rows, initial: Initial, transitions: Transitions
    ) -> None:
        self.vae, self.rows, self.initial = vae, rows, initial
        self._transitions = transitions
        with torch.no_grad():
            self.features = vae.features(rows)
            with pyro.validation_enabled(False):
                guide = vae.guide_at(self.features, self.rows).sample((_SPREAD_DRAWS,))
                start = guide if initial == "guide" else self._from_prior(_SPREAD_DRAWS)
        smallest = torch.finfo(guide.dtype).tiny ** 0.5
        self._precisions = [z.var(0).clamp_min(smallest).reciprocal() for z in (start, guide)]

    def scale(self, beta: float) -> Tensor:
        """Returns the spread to expect at ``beta``, shape ``(B, *z)``: any positive one is right.

        Precisions of normal distributions add up along the path.
        """
        start, end = self._precisions
        return torch.lerp(start, end, beta).rsqrt()

    def start(self, num_chains: int) -> Point:
        """Draws from the initial distribution."""
        with torch.no_grad(), pyro.validation_enabled(False):
            if self.initial == "prior":
                return self(self._from_prior(num_chains))
            return self(self.vae.guide_at(self.features, self.rows).sample((num_chains,)))

    def __call__(self, z: Tensor) -> Point:
        return density(self.vae, self.features, self.rows, self.initial, z)

    def move(self, point: Point, beta: float, step_size: Tensor) -> tuple[Point, Tensor]:
        """Moves every chain by a transition at ``beta``."""
        given = self.rows, self.features, point, beta, step_size, self.scale(beta)
        return self._transitions(*given)

    def _prior(self) -> Distribution:
        return self.vae.prior_at(self.rows.given)

    def _from_prior(self, count: int) -> Tensor:
        """Draws ``count`` z for each observation."""
        prior = self._prior()
        return prior.sample((count,) if prior.batch_shape else (count, len(self.rows)))


def warm_up(path: Path, plan: Plan, tick: Ticks) -> list[Tensor]:
    """Adapts a step size for each observation at each temperature, on chains that are then dropped.

    Were they adapted on the chains of the estimate, a transition would depend on where its chain
    has been, and the weights would no longer be unbiased.
    """
    point = path.start(_WARMUP_CHAINS)
    log_step = point.base.new_zeros(len(path.rows))
    log_steps = []
    for index in [0] * _WARMUP_START + plan.adapted:
        beta = plan.betas[index]
        point, probability = path.move(point, beta, log_step.exp())
        log_step = log_step + _GAIN * (probability.mean(0) - _ACCEPTANCE)
        log_steps.append(log_step)
        tick()
    known = log_steps[_WARMUP_START:]
    steps = []
    for (i, first), (j, second) in itertools.pairwise(zip(plan.adapted, known, strict=True)):
        steps += [torch.lerp(first, second, k / (j - i)).exp() for k in range(j - i)]
    return [*steps, known[-1].exp()]


def forward(
    path: Path, plan: Plan, steps: list[Tensor], tick: Ticks
) -> tuple[Tensor, list[Tensor]]:
    """Anneals from the start; returns log weights ``(C, B)`` and acceptances ``(B,)``."""
    point = path.start(plan.num_chains)
    log_weights, acceptance = _increment(point, 0.0, plan.betas[1]), []
    for t in range(1, len(plan.betas) - 1):
        beta = plan.betas[t]
        point, probability = path.move(point, beta, steps[t])
        log_weights += _increment(point, beta, plan.betas[t + 1])
        acceptance.append(probability.mean(0))
        tick()
    return log_weights, acceptance


def reverse(path: Path, plan: Plan, steps: list[Tensor], start: Tensor, tick: Ticks) -> Tensor:
    """Goes back from exact posterior draws; returns the logs of inverse weights, ``(C, B)``."""
    point = path(start)
    betas = plan.betas
    for _ in range(plan.forgetting):
        point, _ = path.move(point, 1.0, steps[-1])
        tick()
    log_inverse = -_increment(point, betas[-2], 1.0)
    for t in range(len(betas) - 2, 0, -1):
        # Reversible as it is, so that it is its own reversal.
        point, _ = path.move(point, betas[t], steps[t])
        log_inverse -= _increment(point, betas[t - 1], betas[t])
        tick()
    return log_inverse


def _increment(point: Point, beta: float, following: float) -> Tensor:
    return (following - beta) * point.ratio.cpu().double()


def estimate(log_weights: Tensor) -> dict[str, Tensor]:
    """Returns the log of the mean weight over chains, its error, and their effective number."""
    count = len(log_weights)
    log_mean = log_weights.logsumexp(0) - math.log(count)
    weights = (log_weights - log_mean).exp()  # of mean one
    return {
        "log_marginal": log_mean,
        "mcse": weights.std(0) / math.sqrt(count) if count > 1 else log_mean * math.nan,
        "ess": count / weights.square().mean(0),
    }


def joined(columns: list[dict[str, Tensor]]) -> dict[str, np.ndarray]:
    return {
        name: torch.cat([each[name] for each in columns]).cpu().double().numpy()
        for name in columns[0]
    }


def shown(summary: Mapping[str, Any], *names: str) -> str:
    values = [summary[name] for name in names]
    return " ± ".join("-" if value is None else f"{value:.4g}" for value in values)


class Ticks:
    """Calls ``progress`` with the fraction of the transitions that are done."""

    def __init__(self, progress: Callable[[float], None] | None, total: int) -> None:
        self._progress, self._total, self._count = progress, total, 0

    def __call__(self) -> None:
        self._count += 1
        if self._progress is not None:
            self._progress(self._count / self._total)
