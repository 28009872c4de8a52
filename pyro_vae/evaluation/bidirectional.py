"""Bidirectional Monte Carlo: how far annealed estimates can be off, from both sides."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from pyro_vae._errors import plural, positive_integer
from pyro_vae._untouched import undisturbed
from pyro_vae.data.rows import ConditionsLike, Rows
from pyro_vae.evaluation._common import check_arguments, check_ignorable, check_unbounded, finite
from pyro_vae.evaluation._path import (
    Initial,
    Path,
    Plan,
    Ticks,
    estimate,
    forward,
    joined,
    reverse,
    shown,
    warm_up,
)
from pyro_vae.evaluation._transitions import Transitions
from pyro_vae.programs import Amortized

__all__ = ["Bidirectional", "bdmc"]


@dataclass(frozen=True, eq=False, repr=False)
class Bidirectional:
    """Bounds of log p(x) from both sides, per simulated observation, in nats.

    Attributes:
        lower: Forward estimates of log p(x), too low in expectation, shape ``(N,)``.
        upper: Reverse estimates, too high in expectation, shape ``(N,)``.
        lower_mcse: Monte Carlo standard errors of ``lower``, shape ``(N,)``, by the delta method
            over chains.
        upper_mcse: The same of ``upper``, shape ``(N,)``. All reverse chains of an observation
            start at its one true z and are taken to be independent: too small where they have not
            forgotten it.
        lower_ess: Effective numbers of forward chains, shape ``(N,)``.
        upper_ess: Effective numbers of reverse chains, shape ``(N,)``.
        x: The data, shape ``(N, *event_shape)``.
        num_chains: Chains for each observation, each way.
        num_temperatures: Steps from the initial distribution to p(x, z).
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
            f"Bidirectional({plural(len(self.lower), 'simulated observation')}, "
            f"{plural(self.num_chains, 'chain')} each way, "
            f"{plural(self.num_temperatures, 'temperature')}, "
            "nats per observation)\n"
            f"  log p(x)  from {shown(known, 'lower', 'lower_mcse')} "
            f"to {shown(known, 'upper', 'upper_mcse')}\n"
            f"  gap       {shown(known, 'gap', 'gap_standard_error')} over data"
        )


def bdmc(
    vae: Amortized,
    size: int,
    *,
    num_chains: int = 16,
    num_temperatures: int = 300,
    num_leapfrog: int = 3,
    initial: Initial = "guide",
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    **given: Unpack[ConditionsLike],
) -> Bidirectional:
    r"""Bounds log p(x) of simulated data from both sides: how far ``ais`` can be off.

    .. math:: \mathbb E \log \tfrac1C \textstyle\sum_c w_c \le \log p(x) \le
        \mathbb E \left[-\log \tfrac1C \textstyle\sum_c 1 / \tilde w_c\right]

    Data come from the model, each with the z behind it, which is an exact draw of its posterior.
    The forward chains are those of ``ais``; the reverse ones start at that z and go the same
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
        num_chains: Chains for each observation, each way.
        num_temperatures: Steps from the initial distribution to p(x, z).
        num_leapfrog: Leapfrog steps of a transition.
        initial: ``guide`` or ``prior``, as in :func:`pyro_vae.evaluation.ais`.
        seed: Of the data and the draws.
        progress: Called now and then with the fraction that is done.
        **given: A condition for each, and covariates (:class:`~pyro_vae.data.Conditions`).

    Returns:
        Bounds per observation; ``summary()`` has their means and errors.

    Raises:
        ValueError: If the latent is discrete or bounded, or an option is not what it should be.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> bounds = bdmc(vae, 5, num_chains=8, num_temperatures=10)
        >>> bounds.gap.shape, bounds.x.shape
        ((5,), torch.Size([5, 4]))
    """
    seed = check_arguments(vae, seed)
    check_ignorable(vae)
    size = positive_integer("size", size)
    plan = Plan(num_chains, num_temperatures, num_leapfrog, initial)
    num_chains, num_temperatures = plan.num_chains, plan.num_temperatures
    check_unbounded(vae)
    columns = []
    checked = vae.conditions(given, size)
    with undisturbed(vae, seed, vae.device):
        with torch.no_grad():
            prior = vae.prior_at(checked)
            z = prior.sample(() if prior.batch_shape else (size,))
            x = vae.decode(z, **checked).sample()
        batches = plan.batches(vae, Rows(x, checked))
        each = plan.warmup_transitions + 2 * (num_temperatures - 1) + plan.forgetting
        calls = plan.calls(both_ways=True)
        move = Transitions(vae, initial, plan.num_leapfrog, batches, calls)
        tick = Ticks(progress, len(batches) * each)
        for batch, truth in zip(batches, z.split(len(batches[0])), strict=True):
            path = Path(vae, batch, initial, move)
            steps = warm_up(path, plan, tick)
            lower = estimate(forward(path, plan, steps, tick)[0])
            start = truth.expand(num_chains, *truth.shape)
            inverse = estimate(reverse(path, plan, steps, start, tick))
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
        **joined(columns),
        x=x,
        num_chains=num_chains,
        num_temperatures=num_temperatures,
        num_leapfrog=plan.num_leapfrog,
        initial=initial,
    )
