"""Annealed importance sampling of log p(x), per observation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from pyro_vae._errors import plural
from pyro_vae._untouched import undisturbed
from pyro_vae.data.rows import GivenLike, RowsLike
from pyro_vae.evaluation._common import (
    check_arguments,
    check_ignorable,
    check_unbounded,
    measured,
    summarize,
)
from pyro_vae.evaluation._path import (
    Initial,
    Path,
    Plan,
    Ticks,
    estimate,
    forward,
    joined,
    shown,
    warm_up,
)
from pyro_vae.evaluation._transitions import Transitions
from pyro_vae.programs import Amortized

__all__ = ["Annealed", "ais"]


@dataclass(frozen=True, eq=False, repr=False)
class Annealed:
    """Annealed estimates of log p(x) of a fixed model, per observation, in nats.

    Attributes:
        log_marginal: Estimates of log p(x), too low in expectation, shape ``(N,)``.
        mcse: Monte Carlo standard errors of ``log_marginal``, by the delta method over chains,
            shape ``(N,)``. Where ``ess`` is of a few chains they are too small.
        ess: Effective numbers of chains, shape ``(N,)``.
        acceptance: Mean acceptance probabilities of the transitions, shape ``(N,)``.
        step_size: Mean step sizes, in units of the guide's spread, shape ``(N,)``.
        num_chains: Chains for each observation.
        num_temperatures: Steps from the initial distribution to p(x, z).
        num_leapfrog: Leapfrog steps of a transition.
        num_gradients: Gradients of log p(x, z) for each observation, warm-up included.
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
            f"Annealed({plural(len(self.log_marginal), 'observation')}, "
            f"{plural(self.num_chains, 'chain')} from the {self.initial}, "
            f"{self.num_temperatures} temperatures, nats per observation)\n"
            f"  log p(x)    {shown(self.summary(), 'log_marginal', 'standard_error')} over data, "
            f"± {shown(self.summary(), 'mcse')} Monte Carlo\n"
            f"  chains      {np.median(self.ess):.3g} effective in the median, "
            f"{self.ess.min():.3g} at the least\n"
            f"  acceptance  {self.acceptance.mean():.2f}"
        )


def ais(
    vae: Amortized,
    x: RowsLike,
    *,
    num_chains: int = 16,
    num_temperatures: int = 300,
    num_leapfrog: int = 3,
    initial: Initial = "guide",
    seed: int = 0,
    base_measure: Mapping[str, Any] | None = None,
    progress: Callable[[float], None] | None = None,
    **given: Unpack[GivenLike],
) -> Annealed:
    r"""Scores a model by annealed importance sampling with Hamiltonian transitions.

    .. math:: \log f_\beta(z) = (1 - \beta) \log q_0(z) + \beta \log p(x, z), \quad
        \log w = \sum_t (\beta_t - \beta_{t-1}) \log \frac{p(x, z_{t-1})}{q_0(z_{t-1})}

    The chains start at the guide, or at the prior, and every ``z_t`` comes from ``z_{t-1}`` by a
    transition that leaves ``f_{beta_t}`` invariant. The mean of w over chains is unbiased for p(x)
    whatever the step sizes, the guide and the number of temperatures are. The temperatures are
    sigmoidal. Step sizes are adapted per observation and temperature on chains of their own, in
    units of the guide's spread, and then stay as they are.

    References:
        Annealed Importance Sampling (Neal, 2001), https://arxiv.org/abs/physics/9803008
        On the Quantitative Analysis of Decoder-Based Generative Models (Wu et al., 2017),
        https://arxiv.org/abs/1611.04273

    Args:
        vae: The model, its latent unbounded and real.
        x: Data, shape ``(N, *event_shape)``.
        num_chains: Chains for each observation.
        num_temperatures: Steps from the initial distribution to p(x, z); 1 is importance weighting.
        num_leapfrog: Leapfrog steps of a transition.
        initial: ``guide`` or ``prior``. A guide that has the posterior's modes is the shorter way,
            and at the same cost by far the better one; the prior has all the modes.
        seed: Of the draws: the same seed gives the same estimates.
        base_measure: As in :func:`pyro_vae.evaluate`.
        progress: Called now and then with the fraction that is done.
        **given: What goes with the data (:class:`~pyro_vae.data.Given`): estimates are of log
            p(x|c), and of what a mask leaves.

    Returns:
        Estimates per observation; ``summary()`` has their means and errors.

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
    seed = check_arguments(vae, seed)
    check_ignorable(vae)
    plan = Plan(num_chains, num_temperatures, num_leapfrog, initial)
    num_chains, num_temperatures = plan.num_chains, plan.num_temperatures
    rows, described = measured(vae, x, given, base_measure)
    check_unbounded(vae)
    columns = []
    with undisturbed(vae, seed, rows.x.device):
        batches = plan.batches(vae, rows)
        calls = plan.calls()
        move = Transitions(vae, initial, plan.num_leapfrog, batches, calls)
        tick = Ticks(progress, len(batches) * (plan.warmup_transitions + num_temperatures - 1))
        for batch in batches:
            path = Path(vae, batch, initial, move)
            steps = warm_up(path, plan, tick)
            log_weights, acceptance = forward(path, plan, steps, tick)
            columns.append(estimate(log_weights) | _chains(acceptance, steps))
    return Annealed(
        **joined(columns),
        num_chains=num_chains,
        num_temperatures=num_temperatures,
        num_leapfrog=plan.num_leapfrog,
        num_gradients=plan.num_gradients,
        initial=initial,
        base_measure=described,
    )


def _chains(acceptance: list[Tensor], steps: list[Tensor]) -> dict[str, Tensor]:
    none = torch.full_like(steps[0], math.nan)
    return {
        "acceptance": torch.stack(acceptance).mean(0) if acceptance else none,
        "step_size": torch.stack(steps[1:-1]).mean(0) if acceptance else none,
    }
