"""How unlikely each observation is, among held-out ones: log p(x), its error and a p-value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyro_vae._errors import expected, plural, positive_integer
from pyro_vae.data.rows import RowsLike
from pyro_vae.evaluation._common import check_arguments
from pyro_vae.evaluation.importance import evaluate
from pyro_vae.programs import Amortized
from pyro_vae.programs.accept import rows_of

__all__ = ["Outliers", "outliers"]


@dataclass(frozen=True, eq=False, repr=False)
class Outliers:
    """How unlikely observations are under a model, and among others.

    Attributes:
        log_marginal: Importance-weighted estimates of log p(x), shape ``(N,)``, in nats.
        mcse: Their Monte Carlo standard errors, shape ``(N,)``.
        p_value: Of each, that it is like the reference data, shape ``(N,)``.
        reference: log p(x) of the reference data, shape ``(M,)``.
        num_samples: Draws of z for each log p(x).
    """

    log_marginal: np.ndarray
    mcse: np.ndarray
    p_value: np.ndarray
    reference: np.ndarray
    num_samples: int

    @property
    def order(self) -> np.ndarray:
        """The places of the observations, the most unlikely first, shape ``(N,)``."""
        return np.argsort(self.log_marginal, kind="stable")

    def discoveries(self, rate: float = 0.05) -> int:
        """Returns how many observations the Benjamini-Hochberg procedure calls outliers.

        References:
            Controlling the False Discovery Rate (Benjamini and Hochberg, 1995),
            https://doi.org/10.1111/j.2517-6161.1995.tb02031.x

        Args:
            rate: The expected share of those that are none.
        """
        size = len(self.p_value)
        below = np.sort(self.p_value) <= rate * np.arange(1, size + 1) / size
        return int(below.nonzero()[0].max(initial=-1)) + 1

    def summary(self) -> dict[str, Any]:
        """Returns what the observations and the reference are like, ready for JSON."""
        return {
            "num_data": len(self.log_marginal),
            "num_reference": len(self.reference),
            "log_marginal": float(self.log_marginal.mean()),
            "log_marginal_reference": float(self.reference.mean()),
            "smallest_p_value": float(self.p_value.min()),
            "discoveries": self.discoveries(),
            "num_samples": self.num_samples,
        }

    def __repr__(self) -> str:
        known = self.summary()
        return (
            f"Outliers({plural(known['num_data'], 'observation')}, "
            f"{known['num_reference']:,} for reference)\n"
            f"  log p(x)     {known['log_marginal']:.4g}, of the reference "
            f"{known['log_marginal_reference']:.4g}\n"
            f"  outliers     {known['discoveries']} at a false discovery rate of 5%\n"
            f"  p-values     {known['smallest_p_value']:.2g} and more"
        )


def outliers(
    vae: Amortized,
    x: RowsLike,
    *,
    reference: RowsLike | None = None,
    num_samples: int = 1000,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Outliers:
    r"""Ranks observations by -log p(x), and compares each with held-out ones.

    .. math:: p(x) = \frac{1 + \#\{m : \log \hat p(x_m) \le \log \hat p(x)\}}{1 + M}

    It is a p-value if the reference is drawn as x is when x is no outlier, and the model has seen
    neither: its chance to be below any level is at most that level, whatever the model is.

    References:
        Testing for Outliers with Conformal p-values (Bates et al., 2023),
        https://arxiv.org/abs/2104.08279

    Args:
        vae: The model.
        x: Data, shape ``(N, *event_shape)``; :class:`~pyro_vae.data.Rows` where the model needs to
            know more of them.
        reference: Held-out data like those of the fit, shape ``(M, *event_shape)``; the other
            observations of ``x`` if not given.
        num_samples: Draws of z for each log p(x).
        seed: Of the draws: the same seed gives the same scores.
        progress: Called now and then with the fraction that is done.

    Returns:
        log p(x), its error and a p-value of each observation.

    Raises:
        ValueError: If data do not suit the model, there is no reference, or an option is not what
            it should be.

    Example:
        >>> import pyro_vae as pv, torch
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> found = outliers(vae, torch.ones(5, 4), reference=vae.sample(9), num_samples=10)
        >>> found.p_value.shape, found.order.shape
        ((5,), (5,))
    """
    seed = check_arguments(vae, seed)
    num_samples = positive_integer("num_samples", num_samples)
    rows = rows_of(vae, x, {})
    if reference is None and len(rows) < 2:
        raise expected("x", "at least two observations, or a `reference`", x)
    known: dict[str, Any] = {"num_samples": num_samples, "seed": seed}
    scores = evaluate(vae, rows, **known, progress=progress)
    if reference is None:
        # Each is one of those that it is compared with.
        other, count, size = scores.log_marginal, 0, len(rows)
    else:
        held_out = rows_of(vae, reference, {}, "reference")
        other = evaluate(vae, held_out, **known, progress=progress).log_marginal
        count, size = 1, len(other) + 1
    below = np.searchsorted(np.sort(other), scores.log_marginal, side="right")
    return Outliers(scores.log_marginal, scores.mcse, (below + count) / size, other, num_samples)
