"""The classifier two-sample test: can a classifier distinguish draws from data?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.stats import rankdata
from torch import Tensor

from pyro_vae._errors import expected

__all__ = ["TwoSample", "classify"]

_LEAF = 20  # rows of a leaf, at least, where there are enough of them


@dataclass(frozen=True, eq=False, repr=False)
class TwoSample:
    """What :func:`classify` returns, all of it on data that the classifier was not trained on.

    Attributes:
        auc: Area under the ROC curve; one half where data and replicates look alike.
        accuracy: Mean of the shares of data and of replicates classified rightly.
        p_value: Of an area this large by chance (Mann-Whitney).
        low: Where the central 95% of such areas begin by chance.
        high: Where they end.
        false_positive_rate: Of the ROC curve, shape ``(P,)``.
        true_positive_rate: Of the ROC curve, shape ``(P,)``.
        index: Which of the data were tested, the least like a replicate first, shape ``(T,)``.
        replicate_index: The same of the replicates, the least like an observation first.
        auc_low: Where the interval of 95% of the area begins, over data and replicates tested, or
            over groups of these.
        auc_high: Where it ends.
    """

    auc: float
    accuracy: float
    p_value: float
    low: float
    high: float
    false_positive_rate: np.ndarray
    true_positive_rate: np.ndarray
    index: np.ndarray
    replicate_index: np.ndarray
    auc_low: float
    auc_high: float

    def summary(self) -> dict[str, Any]:
        """Returns the figures and the ten observations least like replicates, ready for JSON."""
        return {
            "auc": self.auc,
            "auc_low": self.auc_low,
            "auc_high": self.auc_high,
            "accuracy": self.accuracy,
            "p_value": self.p_value,
            "most_telling": self.index[:10].tolist(),
        }


def classify(
    x: Tensor,
    replicates: Tensor,
    *,
    seed: int = 0,
    classifier: Any = None,
    groups: Tensor | None = None,
) -> TwoSample:
    """Trains a classifier on half of the data and of the replicates, and tests it on the others.

    Given what it learned from one half, the classifier is a fixed function of the other. Under the
    null hypothesis all data and replicates are independent draws of one distribution: those tested
    are exchangeable with one another, and the area has the mean and the variance of Mann and
    Whitney. With ``groups`` an observation is exchangeable with its own replicates alone, such as
    those of its own condition, and independent of other groups: these are in one half together, as
    a classifier that knew a condition from the other half would know its label, and mean and
    variance are of permutations within groups. The p-value takes the area to be normal, and is
    exact but for that. Data that share a draw of what replicates have other draws of, such as
    parameters, are not exchangeable with these, and p is not to be trusted.

    References:
        Revisiting Classifier Two-Sample Tests (Lopez-Paz and Oquab, 2017),
        https://arxiv.org/abs/1610.06545

    Args:
        x: Data, shape ``(N, *event_shape)``, N at least 4.
        replicates: Draws of the model, shape ``(M, *event_shape)``, M at least 4. They cost
            nothing: more of them than data make the test sharper.
        seed: Of the halves.
        classifier: A scikit-learn classifier with ``predict_proba``; boosted trees if none.
        groups: For which of the data each replicate was drawn, shape ``(M,)``, equally many for
            each; for none in particular if None.

    Raises:
        ValueError: If shapes differ, there are too few, or some have more replicates than others.

    Example:
        >>> import torch
        >>> same = classify(torch.randn(200, 3), torch.randn(400, 3))
        >>> other = classify(torch.randn(200, 3) + 1, torch.randn(400, 3))
        >>> same.p_value > 0.01 > 1e-6 > other.p_value
        True
    """
    # Slow to import, and few need it.
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score, roc_curve

    if replicates.shape[1:] != x.shape[1:]:
        raise expected("replicates", f"draws of shape (M, {tuple(x.shape[1:])})", replicates)
    if min(len(x), len(replicates)) < 4:
        raise expected("x", "at least 4 observations and 4 replicates", x)
    counts = None if groups is None else torch.bincount(groups, minlength=len(x)).tolist()
    if counts is not None and (len(counts) > len(x) or len({*counts}) > 1):
        raise expected("groups", "equally many replicates of each of the data", groups)
    if classifier is None:
        # No early stopping: it would set data apart of which there are few. And leaves that hold
        # 20 rows, as they do unless told, could not part 10 data from as many replicates.
        fewest = min(len(x), len(replicates)) // 2
        classifier = HistGradientBoostingClassifier(
            max_iter=50,
            max_leaf_nodes=15,
            min_samples_leaf=max(1, min(_LEAF, fewest // 2)),
            early_stopping=False,
            random_state=seed,
        )
    generator = np.random.default_rng(seed)
    learned, tested = [], []
    for each in (x, replicates) if groups is None else (x,):
        order = generator.permutation(len(each))
        learned.append(order[: len(order) // 2])
        tested.append(order[len(order) // 2 :])
    if groups is not None:
        seen = np.isin(groups.cpu().numpy(), learned[0])
        learned.append(np.flatnonzero(seen))
        tested.append(np.flatnonzero(~seen))
    flat = [each.flatten(1).cpu().numpy() for each in (x, replicates)]
    features = np.concatenate([values[rows] for values, rows in zip(flat, learned, strict=True)])
    label = np.repeat([1, 0], [len(rows) for rows in learned])
    # Weights of both kinds add up alike, so that one half is where the classifier is undecided.
    weight = np.repeat([1 / len(rows) for rows in learned], [len(rows) for rows in learned])
    classifier.fit(features, label, sample_weight=weight / weight.mean())

    data, drawn = (
        classifier.predict_proba(values[rows])[:, 1]
        for values, rows in zip(flat, tested, strict=True)
    )
    truth = np.repeat([1, 0], [len(data), len(drawn)])
    scores = np.concatenate([data, drawn])
    false_positives, true_positives, _ = roc_curve(truth, scores)
    auc = float(roc_auc_score(truth, scores))
    if groups is None:
        spread = _spread(scores, len(data), len(drawn))
    else:
        group = np.concatenate([tested[0], groups.cpu().numpy()[tested[1]]])
        spread = _spread_within(scores, group, len(data), len(drawn))
    inflated = 1.0 if groups is None else _inflation(data, drawn, group)
    low, high = _interval(auc, len(data), len(drawn), inflated)
    return TwoSample(
        auc=auc,
        accuracy=float(((data > 0.5).mean() + (drawn <= 0.5).mean()) / 2),
        p_value=math.erfc((auc - 0.5) / spread / math.sqrt(2)) / 2,
        low=0.5 - 1.96 * spread,
        high=0.5 + 1.96 * spread,
        false_positive_rate=false_positives,
        true_positive_rate=true_positives,
        index=tested[0][np.argsort(-data)],
        replicate_index=tested[1][np.argsort(drawn)],
        auc_low=low,
        auc_high=high,
    )


def _inflation(data: np.ndarray, drawn: np.ndarray, group: np.ndarray) -> float:
    """By how much groups change the variance of the area, against as many independent rows.

    The share of replicates below an observation, and of data above a replicate, are what each adds
    to the area: their variance over groups, of which each has one observation and its replicates,
    against that over rows.

    References:
        Nonparametric Analysis of Clustered ROC Curve Data (Obuchowski, 1997),
        https://doi.org/10.2307/2533958

    Args:
        data: Scores of the data, shape ``(n,)``.
        drawn: Scores of their replicates, shape ``(m,)``.
        group: Of both, first of the data, shape ``(n + m,)``; each has as many replicates.
    """
    above = _share_below(drawn, data)[np.argsort(group[: len(data)], kind="stable")]
    below = 1 - _share_below(data, drawn)[np.argsort(group[len(data) :], kind="stable")]
    rows = above.var(ddof=1) / len(data) + below.var(ddof=1) / len(drawn)
    together = above + below.reshape(len(data), -1).mean(1)
    groups = together.var(ddof=1) / len(data)
    # Of an area near one there is too little of either to be compared.
    least = 1 / (len(data) * len(drawn)) ** 2
    return float(groups / rows) if min(groups, rows) > least else 1.0


def _share_below(of: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Which share of some scores is below each of others, ties counted by half."""
    ordered = np.sort(of)
    both = np.searchsorted(ordered, at, "left") + np.searchsorted(ordered, at, "right")
    return both / (2 * len(of))


def _interval(
    auc: float, num_data: int, num_drawn: int, inflation: float = 1.0
) -> tuple[float, float]:
    """The areas that one of so many pairs does not reject: where (A - auc)^2 = 1.96^2 V(A).

    V is the variance of Hanley and McNeil, of exponential scores, at A itself: so there is an
    interval at an area of one, where an estimate of the variance is zero. Where rows come in
    groups it is ``inflation`` times as large.

    References:
        Confidence intervals for an effect size measure based on the Mann-Whitney statistic,
        Part 2 (Newcombe, 2006), method 5, https://doi.org/10.1002/sim.2324
    """
    pairs, half = num_data * num_drawn, (num_data + num_drawn) / 2 - 1

    def excess(area: float) -> float:
        varied = 1 + half * ((1 - area) / (2 - area) + area / (1 + area))
        return (area - auc) ** 2 - 1.96**2 * inflation * area * (1 - area) * varied / pairs

    low = brentq(excess, 0.0, min(auc, 1 - 1e-9)) if auc > 0 else 0.0
    high = brentq(excess, max(auc, 1e-9), 1.0) if auc < 1 else 1.0
    # No area that so few pairs can have is nearer to the ends than half of a pair.
    return max(low, 0.5 / pairs), min(high, 1 - 0.5 / pairs)


def _spread(scores: np.ndarray, num_data: int, num_drawn: int) -> float:
    """Standard deviation of the area by chance: that of Mann and Whitney, corrected for ties."""
    size = num_data + num_drawn
    ties = np.unique(scores, return_counts=True)[1].astype(float)
    varied = size + 1 - (ties**3 - ties).sum() / (size * (size - 1))
    # Where all scores are equal the area is one half, and no spread is too small for that.
    return math.sqrt(max(varied, 1.0) / (12 * num_data * num_drawn))


def _spread_within(scores: np.ndarray, group: np.ndarray, num_data: int, num_drawn: int) -> float:
    """The same where each of the data changes places with its own replicates alone.

    The area is a sum of the ranks of the data, of which each is one of those of its group.
    """
    ranks = rankdata(scores)[np.argsort(group, kind="stable")].reshape(num_data, -1)
    return math.sqrt(max(float(ranks.var(1).sum()), 1.0)) / (num_data * num_drawn)
