"""How unlikely each observation is, among held-out ones: log p(x), its error and a p-value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from pyro_vae._errors import expected, plural, positive_integer
from pyro_vae.data.rows import Rows, RowsLike
from pyro_vae.evaluation._common import check_arguments
from pyro_vae.evaluation.comparison import check_comparable
from pyro_vae.evaluation.importance import evaluate
from pyro_vae.evaluation.scores import Scores
from pyro_vae.programs import Amortized
from pyro_vae.programs.accept import rows_of
from pyro_vae.programs.protocol import is_amortized

__all__ = [
    "OutlierScore",
    "Outliers",
    "entropy_of",
    "evaluate_both",
    "outlier_scores",
    "outliers",
]

OutlierScore: TypeAlias = Literal["log_marginal", "typicality", "distortion", "rate", "ratio"]


@dataclass(frozen=True, eq=False, repr=False)
class Outliers:
    """How unlikely observations are under a model, and among others.

    Attributes:
        log_marginal: Importance-weighted estimates of log p(x), shape ``(N,)``, in nats.
        mcse: Their Monte Carlo standard errors, shape ``(N,)``.
        scores: By name, shape ``(N,)`` each, in nats, higher for what is more of an outlier;
            :func:`outliers` has what they are. ``ratio`` is there with a background.
        score: Which of them ranks, and has the p-values.
        p_value: Of each, that it is like the reference data, shape ``(N,)``.
        reference: log p(x) of the reference data, shape ``(M,)``.
        num_samples: Draws of z for each log p(x).
    """

    log_marginal: np.ndarray
    mcse: np.ndarray
    scores: dict[str, np.ndarray]
    score: OutlierScore
    p_value: np.ndarray
    reference: np.ndarray
    num_samples: int

    @property
    def order(self) -> np.ndarray:
        """The places of the observations, the greatest outlier first, shape ``(N,)``."""
        return np.argsort(-self.scores[self.score], kind="stable")

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
            "score": self.score,
            "log_marginal": float(self.log_marginal.mean()),
            "log_marginal_reference": float(self.reference.mean()),
            "smallest_p_value": float(self.p_value.min()),
            "discoveries": self.discoveries(),
            "num_samples": self.num_samples,
        }

    def __repr__(self) -> str:
        known = self.summary()
        by = "" if self.score == "log_marginal" else f", by {self.score}"
        return (
            f"Outliers({plural(known['num_data'], 'observation')}, "
            f"{known['num_reference']:,} for reference{by})\n"
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
    score: OutlierScore = "log_marginal",
    background: Amortized | None = None,
    num_samples: int = 1000,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Outliers:
    r"""Ranks observations by -log p(x) or another score, and compares each with held-out ones.

    .. math:: p(x) = \frac{1 + \#\{m : s(x_m) \ge s(x)\}}{1 + M}

    It is a p-value if the reference is drawn as x is when x is no outlier, and the model has seen
    neither: its chance to be below any level is at most that level, whatever the model is. The
    scores s are

    .. math::
        s_\text{log marginal} &= -\log \hat p(x), &
        s_\text{typicality} &= |{-\log \hat p(x)} - \hat H|, \\
        s_\text{distortion} &= -\mathrm{E}_q[\log p(x \mid z)], &
        s_\text{rate} &= \mathrm{KL}(q(z \mid x) \,\|\, p(z)), \\
        s_\text{ratio} &= \log \hat p_0(x) - \log \hat p(x), &
        \hat H &= -\frac1M \sum_m \log \hat p(x_m).

    Data that are simpler than those of the fit often have a higher p(x) than these. Typicality
    asks how far log p(x) is from its mean, above or below; a ratio, how much denser x is under the
    model than under a background p₀, that of data which have the same surroundings and not the same
    structure, such as rows of the fit whose entries are mixed in part with those of others. For the
    p-value of its typicality x is one of the M + 1 observations whose mean it is compared with, so
    that the reference has no advantage.

    References:
        Testing for Outliers with Conformal p-values (Bates et al., 2023),
        https://arxiv.org/abs/2104.08279
        Detecting Out-of-Distribution Inputs to Deep Generative Models Using Typicality
        (Nalisnick et al., 2019), https://arxiv.org/abs/1906.02994
        Likelihood Ratios for Out-of-Distribution Detection (Ren et al., 2019),
        https://arxiv.org/abs/1906.02845

    Args:
        vae: The model.
        x: Data, shape ``(N, *event_shape)``; :class:`~pyro_vae.data.Rows` where the model needs to
            know more of them.
        reference: Held-out data like those of the fit, shape ``(M, *event_shape)``; the other
            observations of ``x`` if not given.
        score: What ranks the observations; all scores are among the results.
        background: A model of the same data whose log p(x) is the background's, for ``ratio``.
        num_samples: Draws of z for each log p(x).
        seed: Of the draws: the same seed gives the same scores.
        progress: Called now and then with the fraction that is done.

    Returns:
        log p(x), its error, all scores and a p-value of each observation.

    Raises:
        ValueError: If data do not suit a model, there is no reference, the background has another
            base measure, or an option is not what it should be.

    Example:
        >>> import pyro_vae as pv, torch
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> found = outliers(vae, torch.ones(5, 4), reference=vae.sample(9), num_samples=10)
        >>> found.p_value.shape, found.order.shape, sorted(found.scores)
        ((5,), (5,), ['distortion', 'log_marginal', 'rate', 'typicality'])
    """
    seed = check_arguments(vae, seed)
    num_samples = positive_integer("num_samples", num_samples)
    if score not in get_args(OutlierScore):
        raise expected("score", f"one of {', '.join(get_args(OutlierScore))}", score)
    if score == "ratio" and background is None:
        raise expected("background", "a model of the background, which `ratio` is of", background)
    rows = rows_of(vae, x, {})
    if reference is None and len(rows) < 2:
        raise expected("x", "at least two observations, or a `reference`", x)
    how: dict[str, Any] = {"num_samples": num_samples, "seed": seed, "progress": progress}
    found, beside = evaluate_both(vae, background, rows, **how)
    if reference is None:
        # Each is one of those that it is compared with.
        other, other_beside, count = found, beside, 0
    else:
        held_out = rows_of(vae, reference, {}, "reference")
        needed = background if score == "ratio" else None
        other, other_beside = evaluate_both(vae, needed, held_out, **how)
        count = 1
    entropy = entropy_of(other)
    own = outlier_scores(found, entropy, beside)
    if score == "typicality":
        above = _less_typical(found.log_marginal, other.log_marginal, count)
    else:
        ordered = np.sort(outlier_scores(other, entropy, other_beside)[score])
        above = len(ordered) - np.searchsorted(ordered, own[score], side="left")
    return Outliers(
        log_marginal=found.log_marginal,
        mcse=found.mcse,
        scores=own,
        score=score,
        p_value=(above + count) / (len(other.log_marginal) + count),
        reference=other.log_marginal,
        num_samples=num_samples,
    )


def evaluate_both(
    vae: Amortized, background: Amortized | None, rows: Rows, **how: Any
) -> tuple[Scores, Scores | None]:
    """Returns the scores of rows under a model, and under a background if there is one.

    Raises:
        ValueError: If the background is no model of the same data, in the same units.
    """
    if background is not None and not is_amortized(background):
        raise expected("background", "a VAE, or a Program", background)
    found = _with_a_density(evaluate(vae, rows, **how))
    if background is None:
        return found, None
    known = rows_of(background, background.uses(rows), {}, "background")
    beside = evaluate(background, known, **how)
    measures = {"vae": found.base_measure, "background": beside.base_measure}
    check_comparable(measures, "background")
    return found, beside


def _with_a_density(scores: Scores) -> Scores:
    """Returns them with none where log p(x) is no number, as of what overflows in a network."""
    known = scores.log_marginal
    return replace(scores, log_marginal=np.where(np.isnan(known), -np.inf, known))


def entropy_of(reference: Scores) -> float:
    """Returns the mean of -log p(x), in nats, of the observations that have any density."""
    known = reference.log_marginal
    return -float(known[np.isfinite(known)].mean())


def outlier_scores(
    found: Scores, entropy: float, background: Scores | None
) -> dict[str, np.ndarray]:
    """Returns what may rank observations, by name: higher for what is more of an outlier.

    Args:
        found: Scores under the model.
        entropy: The mean of -log p(x) of data like those of the fit, in nats.
        background: Scores of the same observations under a background, for their ratio.
    """
    scores = {
        "log_marginal": -found.log_marginal,
        "typicality": np.abs(-found.log_marginal - entropy),
        "distortion": -found.reconstruction,
        "rate": found.kl,
    }
    if background is not None:
        # What is too far away for a float has no density under the background either.
        known = np.isfinite(found.log_marginal)
        theirs = np.where(known, background.log_marginal, np.inf)
        scores["ratio"] = theirs - found.log_marginal
    return {name: np.where(np.isnan(each), np.inf, each) for name, each in scores.items()}


def _less_typical(log_probs: np.ndarray, reference: np.ndarray, count: int) -> np.ndarray:
    """Returns of each observation how many of the reference are as far from the mean, or farther.

    Args:
        log_probs: Of the observations, shape ``(N,)``.
        reference: Of the reference, shape ``(M,)``.
        count: How often each observation is in the mean beside the reference: 0 or 1.
    """
    finite, ordered = reference[np.isfinite(reference)], np.sort(reference)
    # What has no density is further from any mean than what has some.
    known = np.isfinite(log_probs)
    held = np.where(known, log_probs, 0.0)
    mean = (finite.sum() + count * held) / (len(finite) + count)
    mirrored = np.where(known, 2 * mean - held, np.inf)
    below = np.searchsorted(ordered, np.minimum(log_probs, mirrored), side="right")
    above = np.searchsorted(ordered, np.maximum(log_probs, mirrored), side="left")
    # Both ends are the same for an observation at the mean, than which none is more typical.
    return np.where(log_probs == mirrored, len(ordered), below + len(ordered) - above)
