"""Annealed importance sampling of log p(x) per datum, and its error from both sides."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyro
import torch
from torch import Tensor

from pyro_vae._errors import positive_integer, unknown_name
from pyro_vae.evaluation._common import (
    check_arguments,
    check_unbounded,
    describe,
    finite,
    summarize,
    undisturbed,
)
from pyro_vae.evaluation._hmc import Point, transition
from pyro_vae.vae import VAE

__all__ = ["Annealed", "Bidirectional", "ais", "bdmc"]

Initial = Literal["guide", "prior"]

_STEEPNESS = 4.0  # of the sigmoid that spaces the temperatures, as in Wu et al. (2017)
_SPREAD_DRAWS = 100  # of z, to see how far a law reaches in each direction
_WARMUP_CHAINS = 8
_WARMUP_TEMPERATURES = 100  # at most: step sizes change slowly along the path
_WARMUP_START = 20  # transitions at the first temperature, from any step size to a fair one
_GAIN = 0.5  # change of log step size for an acceptance that is off by one
# At a like cost, more temperatures with trajectories of two or three steps did better than fewer
# with long ones, and short trajectories want to be accepted more often than the 0.65 of long ones
# (Neal, 2011, section 4.4).
_ACCEPTANCE = 0.8


@dataclass(frozen=True, eq=False, repr=False)
class Annealed:
    """Annealed estimates of log p(x) of a fixed model, per datum, in nats.

    Attributes:
        log_marginal: Estimates of log p(x), too low in expectation, shape ``(N,)``.
        mcse: Monte Carlo standard errors of ``log_marginal``, by the delta method over chains,
            shape ``(N,)``. Where ``ess`` is of a few chains they are too small.
        ess: Effective numbers of chains, shape ``(N,)``.
        acceptance: Mean acceptance probabilities of the transitions, shape ``(N,)``.
        step_size: Mean step sizes, in units of the guide's spread, shape ``(N,)``.
        num_chains: Chains for each datum.
        num_temperatures: Steps from the initial law to p(x, z).
        num_leapfrog: Leapfrog steps of a transition.
        num_gradients: Gradients of log p(x, z) for each datum, warm-up included.
        initial: Where the chains started.
        base_measure: As in :class:`pyro_vae.evaluation.Scores`.
    """

    log_marginal: np.ndarray
    mcse: np.ndarray
    ess: np.ndarray
    acceptance: np.ndarray
    step_size: np.ndarray
    num_chains: int
    num_temperatures: int
    num_leapfrog: int
    num_gradients: int
    initial: Initial
    base_measure: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """Returns the means over the data and their errors, ready for JSON.

        What is not finite is None. The names are those of
        :meth:`pyro_vae.evaluation.Scores.summary` where the meaning is the same.
        """
        return summarize(
            self.log_marginal,
            self.mcse,
            self.base_measure,
            ess_median=np.median(self.ess),
            ess_min=self.ess.min(),
            acceptance=self.acceptance.mean(),
            step_size=self.step_size.mean(),
        ) | {
            "num_chains": self.num_chains,
            "num_temperatures": self.num_temperatures,
            "num_leapfrog": self.num_leapfrog,
            "num_gradients": self.num_gradients,
            "estimator": f"annealed importance sampling from the {self.initial}",
        }

    def __repr__(self) -> str:
        return (
            f"Annealed({len(self.log_marginal)} data, {self.num_chains} chains from the "
            f"{self.initial}, {self.num_temperatures} temperatures, nats per datum)\n"
            f"  log p(x)    {_shown(self.summary(), 'log_marginal', 'standard_error')} over data, "
            f"± {_shown(self.summary(), 'mcse')} Monte Carlo\n"
            f"  chains      {np.median(self.ess):.3g} effective in the median, "
            f"{self.ess.min():.3g} at the least\n"
            f"  acceptance  {self.acceptance.mean():.2f}"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Bidirectional:
    """Bounds of log p(x) from both sides, per simulated datum, in nats.

    Attributes:
        lower: Forward estimates of log p(x), too low in expectation, shape ``(N,)``.
        upper: Reverse estimates, too high in expectation, shape ``(N,)``.
        lower_mcse: Monte Carlo standard errors of ``lower``, by the delta method over chains.
        upper_mcse: The same of ``upper``. All reverse chains of a datum start at its one true z
            and are taken to be independent: too small where they have not forgotten it.
        lower_ess: Effective numbers of forward chains.
        upper_ess: Effective numbers of reverse chains.
        x: The data, shape ``(N, *event_shape)``.
        num_chains: Chains for each datum, each way.
        num_temperatures: Steps from the initial law to p(x, z).
        num_leapfrog: Leapfrog steps of a transition.
        initial: Where the forward chains started.
    """

    lower: np.ndarray
    upper: np.ndarray
    lower_mcse: np.ndarray
    upper_mcse: np.ndarray
    lower_ess: np.ndarray
    upper_ess: np.ndarray
    x: Tensor
    num_chains: int
    num_temperatures: int
    num_leapfrog: int
    initial: Initial

    @property
    def gap(self) -> np.ndarray:
        """``upper - lower``: bounds the error of either in expectation, shape ``(N,)``."""
        return self.upper - self.lower

    @property
    def gap_mcse(self) -> np.ndarray:
        """Monte Carlo standard errors of ``gap``, shape ``(N,)``."""
        return np.hypot(self.lower_mcse, self.upper_mcse)

    def summary(self) -> dict[str, Any]:
        """Returns the means over the data and their errors, ready for JSON.

        What is not finite is None. ``gap_standard_error`` is that of the mean gap over data, which
        holds whether or not the reverse chains are independent.
        """
        size = len(self.lower)
        errors = {"lower": self.lower_mcse, "upper": self.upper_mcse, "gap": self.gap_mcse}
        values: dict[str, Any] = {}
        for name, mcse in errors.items():
            values[name] = getattr(self, name).mean()
            values[f"{name}_mcse"] = math.sqrt((mcse**2).sum()) / size
        values["gap_standard_error"] = self.gap.std(ddof=1) / size**0.5 if size > 1 else math.nan
        values["lower_ess_median"] = np.median(self.lower_ess)
        values["upper_ess_median"] = np.median(self.upper_ess)
        return finite(values) | {
            "num_data": size,
            "num_chains": self.num_chains,
            "num_temperatures": self.num_temperatures,
            "num_leapfrog": self.num_leapfrog,
            "initial": self.initial,
        }

    def __repr__(self) -> str:
        known = self.summary()
        return (
            f"Bidirectional({len(self.lower)} simulated data, {self.num_chains} chains each way, "
            f"{self.num_temperatures} temperatures, nats per datum)\n"
            f"  log p(x)  from {_shown(known, 'lower', 'lower_mcse')} "
            f"to {_shown(known, 'upper', 'upper_mcse')}\n"
            f"  gap       {_shown(known, 'gap', 'gap_standard_error')} over data"
        )


def ais(
    vae: VAE,
    x: Tensor,
    *,
    num_chains: int = 16,
    num_temperatures: int = 300,
    num_leapfrog: int = 3,
    initial: Initial = "guide",
    seed: int = 0,
    base_measure: Mapping[str, Any] | None = None,
    progress: Callable[[float], None] | None = None,
) -> Annealed:
    r"""Scores a model by annealed importance sampling with Hamiltonian transitions.

    .. math:: \log f_\beta(z) = (1 - \beta) \log q_0(z) + \beta \log p(x, z), \quad
        \log w = \sum_t (\beta_t - \beta_{t-1}) \log \frac{p(x, z_{t-1})}{q_0(z_{t-1})}

    The chains start at the guide, or at the prior, and every ``z_t`` comes from ``z_{t-1}`` by a
    transition that leaves ``f_{beta_t}`` invariant. The mean of w over chains is unbiased for p(x)
    whatever the step sizes, the guide and the number of temperatures are. The temperatures are
    sigmoidal. Step sizes are adapted per datum and temperature on chains of their own, in units
    of the guide's spread, and then stay as they are.

    References:
        Annealed Importance Sampling (Neal, 2001), https://arxiv.org/abs/physics/9803008
        On the Quantitative Analysis of Decoder-Based Generative Models (Wu et al., 2017),
        https://arxiv.org/abs/1611.04273

    Args:
        vae: The model, its latent unbounded and real.
        x: Data, shape ``(N, *event_shape)``.
        num_chains: Chains for each datum.
        num_temperatures: Steps from the initial law to p(x, z); 1 is importance weighting.
        num_leapfrog: Leapfrog steps of a transition.
        initial: ``guide`` or ``prior``. A guide that has the posterior's modes is the shorter way,
            and at the same cost by far the better one; the prior has all the modes.
        seed: Of the draws: the same seed gives the same estimates.
        base_measure: As in :func:`pyro_vae.evaluate`.
        progress: Called now and then with the fraction that is done.

    Returns:
        Estimates per datum; ``summary()`` has their means and errors.

    Raises:
        ValueError: If the latent is discrete or bounded, the data do not suit the model, or an
            option is not what it should be.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> annealed = ais(vae, torch.ones(5, 4), num_chains=8, num_temperatures=10)
        >>> annealed.log_marginal.shape, annealed.summary()["estimator"]
        ((5,), 'annealed importance sampling from the guide')
    """
    check_arguments(vae, seed)
    plan = _Plan(num_chains, num_temperatures, num_leapfrog, initial)
    check_unbounded(vae)
    data = vae.check(x)
    described = describe(vae, x, base_measure)
    columns = []
    with undisturbed(vae, seed, data.device):
        batches = plan.batches(vae, data)
        tick = _Ticks(progress, len(batches) * (plan.warmup_transitions + num_temperatures - 1))
        for batch in batches:
            path = _Path(vae, batch, initial)
            steps = _warm_up(path, plan, tick)
            log_weights, acceptance = _forward(path, plan, steps, tick)
            columns.append(_estimate(log_weights) | _chains(acceptance, steps))
    return Annealed(
        **_joined(columns),
        num_chains=num_chains,
        num_temperatures=num_temperatures,
        num_leapfrog=num_leapfrog,
        num_gradients=plan.num_gradients,
        initial=initial,
        base_measure=described,
    )


def bdmc(
    vae: VAE,
    size: int,
    *,
    num_chains: int = 16,
    num_temperatures: int = 300,
    num_leapfrog: int = 3,
    initial: Initial = "guide",
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Bidirectional:
    r"""Bounds log p(x) of simulated data from both sides: how far :func:`ais` can be off.

    .. math:: \mathbb E \log \tfrac1C \textstyle\sum_c w_c \le \log p(x) \le
        \mathbb E \left[-\log \tfrac1C \textstyle\sum_c 1 / \tilde w_c\right]

    Data come from the model, each with the z behind it, which is an exact draw of its posterior.
    The forward chains are those of :func:`ais`; the reverse ones start at that z and go the same
    way back, with the same temperatures and step sizes. What holds for data of the model need not
    hold for others: a model that fits badly is simulated well by itself.

    References:
        Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo (Grosse et al., 2015),
        https://arxiv.org/abs/1511.02543
        On the Quantitative Analysis of Decoder-Based Generative Models (Wu et al., 2017),
        https://arxiv.org/abs/1611.04273

    Args:
        vae: The model, its latent unbounded and real.
        size: Data to simulate, N.
        num_chains: Chains for each datum, each way.
        num_temperatures: Steps from the initial law to p(x, z).
        num_leapfrog: Leapfrog steps of a transition.
        initial: ``guide`` or ``prior``, as in :func:`ais`.
        seed: Of the data and the draws.
        progress: Called now and then with the fraction that is done.

    Returns:
        Bounds per datum; ``summary()`` has their means and errors.

    Raises:
        ValueError: If the latent is discrete or bounded, or an option is not what it should be.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> bounds = bdmc(vae, 5, num_chains=8, num_temperatures=10)
        >>> bounds.gap.shape, bounds.x.shape
        ((5,), torch.Size([5, 4]))
    """
    check_arguments(vae, seed)
    positive_integer("size", size)
    plan = _Plan(num_chains, num_temperatures, num_leapfrog, initial)
    check_unbounded(vae)
    columns = []
    with undisturbed(vae, seed, vae.initialized.device):
        with torch.no_grad():
            z = vae.prior().sample((size,))
            x = vae.decode(z).sample()
        batches = plan.batches(vae, x)
        each = plan.warmup_transitions + 2 * (num_temperatures - 1) + plan.forgetting
        tick = _Ticks(progress, len(batches) * each)
        for batch, truth in zip(batches, z.split(len(batches[0])), strict=True):
            path = _Path(vae, batch, initial)
            steps = _warm_up(path, plan, tick)
            lower = _estimate(_forward(path, plan, steps, tick)[0])
            start = truth.expand(num_chains, *truth.shape)
            inverse = _estimate(_reverse(path, plan, steps, start, tick))
            columns.append(
                {
                    "lower": lower["log_marginal"],
                    "lower_mcse": lower["mcse"],
                    "lower_ess": lower["ess"],
                    "upper": -inverse["log_marginal"],
                    "upper_mcse": inverse["mcse"],
                    "upper_ess": inverse["ess"],
                }
            )
    return Bidirectional(
        **_joined(columns),
        x=x,
        num_chains=num_chains,
        num_temperatures=num_temperatures,
        num_leapfrog=num_leapfrog,
        initial=initial,
    )


class _Plan:
    """How many chains take which temperatures; refuses what cannot be."""

    def __init__(
        self, num_chains: int, num_temperatures: int, num_leapfrog: int, initial: str
    ) -> None:
        self.num_chains = positive_integer("num_chains", num_chains)
        self.num_leapfrog = positive_integer("num_leapfrog", num_leapfrog)
        T = positive_integer("num_temperatures", num_temperatures)
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

    def batches(self, vae: VAE, x: Tensor) -> tuple[Tensor, ...]:
        """Splits data so that their chains are decoded together in bounded memory."""
        return x.split(max(1, vae.draws_at_once(x[:1]) // self.num_chains))


class _Path:
    """The laws from the initial one to p(x, z), given a batch of data."""

    def __init__(self, vae: VAE, x: Tensor, initial: Initial) -> None:
        self.vae, self.x, self.initial = vae, x, initial
        with torch.no_grad():
            self.features = vae.guide.features(x, len(vae.event_shape))
            draws = (_SPREAD_DRAWS, len(x))
            with pyro.validation_enabled(False):
                guide = vae.posterior(self.features).sample(draws[:1])
                start = guide if initial == "guide" else vae.prior().sample(draws)
        smallest = torch.finfo(guide.dtype).tiny ** 0.5
        self._precisions = [z.var(0).clamp_min(smallest).reciprocal() for z in (start, guide)]

    def scale(self, beta: float) -> Tensor:
        """Returns the spread to expect at ``beta``, shape ``(B, *z)``: any positive one is right.

        Precisions of normal laws add up along the path.
        """
        start, end = self._precisions
        return torch.lerp(start, end, beta).rsqrt()

    def start(self, num_chains: int) -> Point:
        """Draws from the initial law."""
        with torch.no_grad(), pyro.validation_enabled(False):
            law = self._law()
            batch = () if self.initial == "guide" else (len(self.x),)
            return self(law.sample((num_chains, *batch)))

    def __call__(self, z: Tensor) -> Point:
        # Parameters may require gradients: only those by z are computed, and none is accumulated.
        # Validation would raise where a trajectory diverges; a transition rejects that instead.
        with torch.enable_grad(), pyro.validation_enabled(False):
            z = z.detach().requires_grad_()
            base = self._law().log_prob(z)
            log_likelihood = self.vae.model.decode(z).log_prob(self.x)
            if self.initial == "guide":
                ratio = log_likelihood + self.vae.prior().log_prob(z) - base
            else:
                ratio = log_likelihood
            (base_gradient,) = torch.autograd.grad(base.sum(), z, retain_graph=True)
            (ratio_gradient,) = torch.autograd.grad(ratio.sum(), z)
        return Point(z.detach(), base.detach(), ratio.detach(), base_gradient, ratio_gradient)

    def _law(self) -> Any:
        vae = self.vae
        return vae.posterior(self.features) if self.initial == "guide" else vae.prior()


def _warm_up(path: _Path, plan: _Plan, tick: _Ticks) -> list[Tensor]:
    """Adapts a step size for each datum at each temperature, on chains that are then dropped.

    Were they adapted on the chains of the estimate, a transition would depend on where its chain
    has been, and the weights would no longer be unbiased.
    """
    point = path.start(_WARMUP_CHAINS)
    log_step = point.base.new_zeros(len(path.x))
    log_steps = []
    for index in [0] * _WARMUP_START + plan.adapted:
        beta = plan.betas[index]
        point, probability = transition(
            path, point, beta, log_step.exp(), path.scale(beta), plan.num_leapfrog
        )
        log_step = log_step + _GAIN * (probability.mean(0) - _ACCEPTANCE)
        log_steps.append(log_step)
        tick()
    known = log_steps[_WARMUP_START:]
    steps = []
    for (i, first), (j, second) in itertools.pairwise(zip(plan.adapted, known, strict=True)):
        steps += [torch.lerp(first, second, k / (j - i)).exp() for k in range(j - i)]
    return [*steps, known[-1].exp()]


def _forward(
    path: _Path, plan: _Plan, steps: list[Tensor], tick: _Ticks
) -> tuple[Tensor, list[Tensor]]:
    """Anneals from the initial law; returns log weights ``(C, B)`` and acceptances ``(B,)``."""
    point = path.start(plan.num_chains)
    log_weights, acceptance = _increment(point, 0.0, plan.betas[1]), []
    for t in range(1, len(plan.betas) - 1):
        beta = plan.betas[t]
        point, probability = transition(
            path, point, beta, steps[t], path.scale(beta), plan.num_leapfrog
        )
        log_weights += _increment(point, beta, plan.betas[t + 1])
        acceptance.append(probability.mean(0))
        tick()
    return log_weights, acceptance


def _reverse(path: _Path, plan: _Plan, steps: list[Tensor], start: Tensor, tick: _Ticks) -> Tensor:
    """Goes back from exact posterior draws; returns the logs of inverse weights, ``(C, B)``."""
    point = path(start)
    betas, L = plan.betas, plan.num_leapfrog
    for _ in range(plan.forgetting):
        point, _ = transition(path, point, 1.0, steps[-1], path.scale(1.0), L)
        tick()
    log_inverse = -_increment(point, betas[-2], 1.0)
    for t in range(len(betas) - 2, 0, -1):
        # Reversible as it is, so that it is its own reversal.
        point, _ = transition(path, point, betas[t], steps[t], path.scale(betas[t]), L)
        log_inverse -= _increment(point, betas[t - 1], betas[t])
        tick()
    return log_inverse


def _increment(point: Point, beta: float, following: float) -> Tensor:
    return (following - beta) * point.ratio.cpu().double()


def _estimate(log_weights: Tensor) -> dict[str, Tensor]:
    """Returns the log of the mean weight over chains, its error, and their effective number."""
    count = len(log_weights)
    log_mean = log_weights.logsumexp(0) - math.log(count)
    weights = (log_weights - log_mean).exp()  # of mean one
    return {
        "log_marginal": log_mean,
        "mcse": weights.std(0) / math.sqrt(count) if count > 1 else log_mean * math.nan,
        "ess": count / weights.square().mean(0),
    }


def _chains(acceptance: list[Tensor], steps: list[Tensor]) -> dict[str, Tensor]:
    none = torch.full_like(steps[0], math.nan)
    return {
        "acceptance": torch.stack(acceptance).mean(0) if acceptance else none,
        "step_size": torch.stack(steps[1:-1]).mean(0) if acceptance else none,
    }


def _joined(columns: list[dict[str, Tensor]]) -> dict[str, np.ndarray]:
    return {
        name: torch.cat([each[name] for each in columns]).cpu().double().numpy()
        for name in columns[0]
    }


def _shown(summary: Mapping[str, Any], *names: str) -> str:
    values = [summary[name] for name in names]
    return " ± ".join("-" if value is None else f"{value:.4g}" for value in values)


class _Ticks:
    """Calls ``progress`` with the fraction of the transitions that are done."""

    def __init__(self, progress: Callable[[float], None] | None, total: int) -> None:
        self._progress, self._total, self._count = progress, total, 0

    def __call__(self) -> None:
        self._count += 1
        if self._progress is not None:
            self._progress(self._count / self._total)
