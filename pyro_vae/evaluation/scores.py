"""What an evaluation returns: numbers per observation, and their summary."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from pyro_vae._errors import plural
from pyro_vae._html import shown
from pyro_vae.evaluation._common import bits_per_dim
from pyro_vae.evaluation.pareto import SHORTEST_TAIL, k_hat_threshold, tail_length

__all__ = ["EXACT", "FEW_DRAWS", "OF_EACH", "Scores", "jackknife_error"]

EXACT = "exact sum over the states of z"
FEW_DRAWS = 100  # of fewer, a Monte Carlo error is itself uncertain, and its tail unknown
_FEWEST_EFFECTIVE = 100  # draws, where k-hat cannot decide
_HEAVIEST = 0.95  # shape of a tail; towards one, the bias does not fall at all
OF_EACH = ("log_marginal", "mcse", "reconstruction", "kl", "k_hat", "ess", "log_marginal_tenth")
"""The columns of scores: a value for each observation."""
_ALARMING = 0.1  # share of data whose weights are too heavy-tailed for an error to be believed


@dataclass(frozen=True, eq=False, repr=False)
class Scores:
    """Scores of a fixed model, per observation, in nats.

    Two sets of scores are comparable when their base measures agree, and only then.

    Attributes:
        log_marginal: Importance-weighted estimates of log p(x), shape ``(N,)``.
        mcse: Monte Carlo standard errors of ``log_marginal``, by the delta method, shape ``(N,)``.
            Where ``unreliable`` they are too small. Zero where z was summed.
        reconstruction: E_q[log p(x|z)], shape ``(N,)``.
        kl: KL(q(z|x) || p(z)), shape ``(N,)``.
        k_hat: Pareto shapes of the importance weights, shape ``(N,)``; NaN where they cannot be
            had, see :func:`pyro_vae.evaluation.pareto.k_hat`.
        ess: Effective numbers of draws, shape ``(N,)``; NaN where z was summed.
        log_marginal_tenth: What a tenth of the draws gives of log p(x), the mean over the ten parts
            of them, shape ``(N,)``; NaN for fewer than ten draws.
        active_units: Latent units whose posterior mean has a variance over the data above 0.01; a
            one-hot variable is one unit. Of a site that depends on others, as in a hierarchy, it is
            the mean given the means of those, which differs where the dependence is not linear.
        num_samples: Draws of z for each observation, S; where it was summed, its states.
        estimator: How log p(x) was estimated.
        kl_estimator: ``analytic`` or ``sampled``.
        base_measure: What the log-densities are densities of: ``data``, ``split``,
            ``fingerprint``, ``binarize``, ``dequantize``, ``transform``, ``measure``, ``dim``.
        mean_without_draw: Of a program with global latents, whose draws all observations share, the
            mean of ``log_marginal`` over the data without each of these draws, shape
            ``(num_globals,)``; None where each observation has draws of its own.
    """

    log_marginal: np.ndarray
    mcse: np.ndarray
    reconstruction: np.ndarray
    kl: np.ndarray
    k_hat: np.ndarray
    ess: np.ndarray
    log_marginal_tenth: np.ndarray
    active_units: int
    num_samples: int
    estimator: str
    kl_estimator: Literal["analytic", "sampled"]
    base_measure: dict[str, Any]
    mean_without_draw: np.ndarray | None = None

    def of_first(self, count: int) -> Scores:
        """Returns the scores of the first ``count`` observations; units are still those of all."""
        first = {name: getattr(self, name)[:count] for name in OF_EACH}
        return replace(self, **first, mean_without_draw=None)

    @property
    def mean_mcse(self) -> float:
        """Monte Carlo error of the mean of ``log_marginal`` on these data.

        Errors of observations add up as independent ones, but where all share the draws of global
        latents: there it is the jackknife error of the mean itself, NaN of a single draw.
        """
        if self.mean_without_draw is not None:
            return float(jackknife_error(self.mean_without_draw))
        return math.sqrt((self.mcse**2).sum()) / len(self.mcse)

    @property
    def elbo(self) -> np.ndarray:
        """``reconstruction - kl``, shape ``(N,)``."""
        return self.reconstruction - self.kl

    @property
    def k_hat_threshold(self) -> float:
        """Above it the estimate and its error are not to be trusted: min(1 - 1 / log10 S, 0.7)."""
        return k_hat_threshold(self.num_samples)

    @property
    def is_exact(self) -> bool:
        """Whether log p(x) is a sum over all states of z, without draws."""
        return self.estimator == EXACT

    @property
    def unreliable(self) -> np.ndarray:
        """Where the estimate and its error are not to be trusted, boolean, shape ``(N,)``.

        That is where ``k_hat`` is above its threshold. Draws of which many weigh the same, as those
        of a discrete latent do, have no ``k_hat``: there the effective number of draws decides,
        which has to be a hundred, or half of the draws where they are fewer than 200.
        """
        if self.is_exact:
            return np.zeros(len(self.log_marginal), dtype=bool)
        few = ~(self.ess >= min(_FEWEST_EFFECTIVE, self.num_samples / 2))
        return np.where(np.isnan(self.k_hat), few, self.k_hat > self.k_hat_threshold)

    @property
    def bias(self) -> np.ndarray:
        r"""How much too low each log p(x) may be, nats, shape ``(N,)``.

        The logarithm of a mean of weights is too low in expectation, by Jensen's inequality, and
        that of a tenth of the draws by more: what ten times the draws have gained,
        :math:`g = \log \hat p_S - \log \hat p_{S/10}`, says what is still to come. Where the bias
        falls as :math:`S^{-a}` that is :math:`g / (10^a - 1)`, and weights with a Pareto tail of
        shape k have :math:`a = \min(1, 1 / k - 1)`. Of so few draws neither is sure, so this is
        twice as much, and g at least. The shape is the median over the data: that of one
        observation goes up with what it has gained by chance, and so only the mean over the data
        counts. A mode of the posterior that no draw has found is not in it.
        """
        if self.is_exact:
            return np.zeros(len(self.log_marginal))
        known = self.k_hat[~np.isnan(self.k_hat)]
        k = np.clip(np.median(known) if len(known) else 0.5, 0.5, _HEAVIEST)
        still = max(1.0, 2 / (10 ** (1 / k - 1) - 1))
        return np.asarray(still * (self.log_marginal - self.log_marginal_tenth))

    @property
    def notes(self) -> list[str]:
        """What to bear in mind about these estimates, a sentence each."""
        notes = []
        if not self.is_exact and self.num_samples < FEW_DRAWS:
            notes.append(
                f"of {plural(self.num_samples, 'draw')} the Monte Carlo error is itself unreliable"
                f": `num_samples` (--num-samples) of {FEW_DRAWS} or more"
            )
        if (share := self.unreliable.mean()) > _ALARMING and self.num_samples >= FEW_DRAWS:
            notes.append(
                f"k-hat is too high on {share:.0%} of the data: log p(x) is probably too low and "
                'its Monte Carlo error too small; `proposal="defensive"` (--proposal defensive) or '
                "more draws help"
            )
        return notes

    def summary(self) -> dict[str, Any]:
        """Returns the means over the data and their errors, ready for JSON.

        What is not finite is None. ``mcse`` is the Monte Carlo error of the mean of
        ``log_marginal`` on these data, ``standard_error`` its error as an estimate for data to
        come, given the draws of global latents where there are some, ``bias`` how much too low it
        may be. ``bits_per_dim`` is there for discrete data only. ``k_hat_above_threshold`` is the
        share of the data that are unreliable.
        """
        size = len(self.log_marginal)
        known = self.k_hat[~np.isnan(self.k_hat)]
        values = {
            "log_marginal": self.log_marginal.mean(),
            "elbo": self.elbo.mean(),
            "reconstruction": self.reconstruction.mean(),
            "kl": self.kl.mean(),
            "mcse": self.mean_mcse,
            "standard_error": self.log_marginal.std(ddof=1) / size**0.5 if size > 1 else math.nan,
            "k_hat_median": np.median(known) if len(known) else math.nan,
            "k_hat_above_threshold": (
                self.unreliable.mean()
                if self.is_exact or tail_length(self.num_samples) >= SHORTEST_TAIL
                else math.nan
            ),
            "bias": self.bias.mean(),
        }
        if self.base_measure["measure"] == "counting":
            values["bits_per_dim"] = bits_per_dim(-values["log_marginal"], self.base_measure)
        return {name: float(v) if np.isfinite(v) else None for name, v in values.items()} | {
            "active_units": self.active_units,
            "num_samples": self.num_samples,
            "estimator": self.estimator,
            "notes": self.notes,
            "base_measure": dict(self.base_measure),
        }

    def __repr__(self) -> str:
        known = self.summary()
        shown = {
            name: "-" if value is None else f"{value:.4g}"
            for name, value in known.items()
            if value is None or isinstance(value, float)
        }
        drawn = "all states of z" if self.is_exact else f"{plural(self.num_samples, 'sample')}"
        tail = (
            f"  k-hat     {shown['k_hat_median']} in the median, "
            f"{shown['k_hat_above_threshold']} of data above {self.k_hat_threshold:.2g}\n"
        )
        return (
            f"Scores({plural(len(self.log_marginal), 'observation')}, {drawn}, nats per "
            "observation)\n"
            f"  log p(x)  {shown['log_marginal']} ± {shown['standard_error']} over data, "
            f"{'a sum without draws' if self.is_exact else '± ' + shown['mcse'] + ' Monte Carlo'}\n"
            f"  ELBO      {shown['elbo']} = {shown['reconstruction']} - KL {shown['kl']} "
            f"({self.kl_estimator})\n"
            f"{'' if self.is_exact else tail}"
            f"  units     {self.active_units} active"
        )

    def _repr_html_(self) -> str:
        known, measure = self.summary(), self.base_measure

        def cells(name: str, *errors: str) -> list[str]:
            values = [known[each] for each in (name, *errors)]
            return ["–" if value is None else f"{value:.4g}" for value in values]

        nothing = ["", ""]
        rows = [
            ["log p(x)", *cells("log_marginal", "standard_error", "mcse")],
            ["ELBO", *cells("elbo"), *nothing],
            ["reconstruction", *cells("reconstruction"), *nothing],
            [f"KL ({self.kl_estimator})", *cells("kl"), *nothing],
        ]
        if "bits_per_dim" in known:
            rows.append(["bits per dimension", *cells("bits_per_dim"), *nothing])
        rows.append(["active units", str(self.active_units), *nothing])
        if not self.is_exact:
            (above,) = cells("k_hat_above_threshold")
            rows += [
                ["k-hat, median", *cells("k_hat_median"), *nothing],
                [f"k-hat, share above {self.k_hat_threshold:.2g}", above, *nothing],
            ]
        what = f"{measure['split'] or 'held-out'} data of {measure['data'] or 'an array'}"
        drawn = "all states of z" if self.is_exact else f"{plural(self.num_samples, 'sample')} each"
        note = f"nats per observation; {drawn}; ± is one standard error"
        title = f"Scores: {plural(len(self.log_marginal), 'observation')}, {what}"
        head = ("", "mean", "± over data", "± Monte Carlo")
        return shown(title, head, rows, notes=[note])


def jackknife_error(without: np.ndarray) -> np.ndarray:
    """Returns the jackknife's standard error from estimates without each draw, along axis 0."""
    return np.asarray(np.sqrt((len(without) - 1) * without.var(0)))
