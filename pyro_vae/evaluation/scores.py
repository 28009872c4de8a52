"""What an evaluation returns: numbers per observation, and their summary."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pyro_vae._html import shown
from pyro_vae.evaluation.pareto import k_hat_threshold

__all__ = ["Scores"]


@dataclass(frozen=True, eq=False, repr=False)
class Scores:
    """Scores of a fixed model, per observation, in nats.

    Two sets of scores are comparable when their base measures agree, and only then.

    Attributes:
        log_marginal: Importance-weighted estimates of log p(x), shape ``(N,)``.
        mcse: Monte Carlo standard errors of ``log_marginal``, by the delta method, shape ``(N,)``.
            Where ``k_hat`` is above its threshold they are too small.
        reconstruction: E_q[log p(x|z)], shape ``(N,)``.
        kl: KL(q(z|x) || p(z)), shape ``(N,)``.
        k_hat: Pareto shapes of the importance weights, shape ``(N,)``; NaN where they cannot be
            had, see :func:`pyro_vae.evaluation.pareto.k_hat`.
        ess: Effective numbers of draws, shape ``(N,)``.
        active_units: Latent units whose posterior mean has a variance over the data above 0.01; a
            one-hot variable is one unit. Of a site that depends on others, as in a hierarchy, it is
            the mean given the means of those, which differs where the dependence is not linear.
        num_samples: Draws of z for each observation, S.
        estimator: How log p(x) was estimated.
        kl_estimator: ``analytic`` or ``sampled``.
        base_measure: What the log-densities are densities of: ``data``, ``split``,
            ``fingerprint``, ``binarize``, ``dequantize``, ``transform``, ``measure``, ``dim``.
    """

    log_marginal: np.ndarray
    mcse: np.ndarray
    reconstruction: np.ndarray
    kl: np.ndarray
    k_hat: np.ndarray
    ess: np.ndarray
    active_units: int
    num_samples: int
    estimator: str
    kl_estimator: Literal["analytic", "sampled"]
    base_measure: dict[str, Any]

    @property
    def elbo(self) -> np.ndarray:
        """``reconstruction - kl``, shape ``(N,)``."""
        return self.reconstruction - self.kl

    @property
    def k_hat_threshold(self) -> float:
        """Above it the estimate and its error are not to be trusted: min(1 - 1 / log10 S, 0.7)."""
        return k_hat_threshold(self.num_samples)

    def summary(self) -> dict[str, Any]:
        """Returns the means over the data and their errors, ready for JSON.

        What is not finite is None. ``mcse`` is the Monte Carlo error of the mean of
        ``log_marginal`` on these data, ``standard_error`` its error as an estimate for data to
        come. ``bits_per_dim`` is there for discrete data only.
        """
        size = len(self.log_marginal)
        known = self.k_hat[~np.isnan(self.k_hat)]
        values = {
            "log_marginal": self.log_marginal.mean(),
            "elbo": self.elbo.mean(),
            "reconstruction": self.reconstruction.mean(),
            "kl": self.kl.mean(),
            "mcse": math.sqrt((self.mcse**2).sum()) / size,
            "standard_error": self.log_marginal.std(ddof=1) / size**0.5 if size > 1 else math.nan,
            "k_hat_median": np.median(known) if len(known) else math.nan,
            "k_hat_above_threshold": (
                (known > self.k_hat_threshold).mean() if len(known) else math.nan
            ),
        }
        if self.base_measure["measure"] == "counting":
            nats = -values["log_marginal"]
            values["bits_per_dim"] = nats / (self.base_measure["dim"] * math.log(2))
        return {name: float(v) if np.isfinite(v) else None for name, v in values.items()} | {
            "active_units": self.active_units,
            "num_samples": self.num_samples,
            "estimator": self.estimator,
            "base_measure": dict(self.base_measure),
        }

    def __repr__(self) -> str:
        known = self.summary()
        shown = {
            name: "-" if value is None else f"{value:.4g}"
            for name, value in known.items()
            if value is None or isinstance(value, float)
        }
        return (
            f"Scores({len(self.log_marginal)} observations, {self.num_samples} samples, "
            "nats per observation)\n"
            f"  log p(x)  {shown['log_marginal']} ± {shown['standard_error']} over data, "
            f"± {shown['mcse']} Monte Carlo\n"
            f"  ELBO      {shown['elbo']} = {shown['reconstruction']} - KL {shown['kl']} "
            f"({self.kl_estimator})\n"
            f"  k-hat     {shown['k_hat_median']} in the median, "
            f"{shown['k_hat_above_threshold']} of data above {self.k_hat_threshold:.2g}\n"
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
        (above,) = cells("k_hat_above_threshold")
        rows += [
            ["active units", str(self.active_units), *nothing],
            ["k-hat, median", *cells("k_hat_median"), *nothing],
            [f"k-hat, share above {self.k_hat_threshold:.2g}", above, *nothing],
        ]
        what = f"{measure['split'] or 'held-out'} data of {measure['data'] or 'an array'}"
        note = f"nats per observation; {self.num_samples:,} samples each; ± is one standard error"
        title = f"Scores: {len(self.log_marginal):,} observations, {what}"
        head = ("", "mean", "± over data", "± Monte Carlo")
        return shown(title, head, rows, notes=[note])
