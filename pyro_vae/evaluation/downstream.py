"""What a fitted model is used for: anomalies by its density, labels by its latent means."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_vae._errors import check_seed, expected, plural, positive_integer
from pyro_vae._untouched import undisturbed
from pyro_vae.data.rows import Numbers, RowsLike
from pyro_vae.evaluation._common import check_arguments
from pyro_vae.evaluation.outliers import (
    entropy_of,
    evaluate_both,
    outlier_scores,
)
from pyro_vae.programs import VAE, Amortized
from pyro_vae.programs.accept import as_tensor, rows_of
from pyro_vae.programs.weigh import observations_at_once

__all__ = ["Anomalies", "Probes", "accuracy", "anomalies", "probe", "probe_features"]


@dataclass(frozen=True, eq=False, repr=False)
class Anomalies:
    """How well scores separate outliers from inliers.

    Attributes:
        inliers: log p(x) of the data that belong, shape ``(N,)``, in nats.
        outliers: log p(x) of the others, shape ``(M,)``.
        entropy: The mean of -log p(x) over the reference data.
        auroc: The probability that an outlier scores above an inlier, by each of the scores of
            :func:`pyro_vae.evaluation.outliers`; ``ratio`` is there with a background.
        standard_error: Of each AUROC, for new inliers and outliers.
        average_precision: The area under precision by recall, AUPR, by each score: at random it is
            the share of outliers.
        num_samples: Draws of z for each log p(x).
    """

    inliers: np.ndarray
    outliers: np.ndarray
    entropy: float
    auroc: dict[str, float]
    standard_error: dict[str, float]
    average_precision: dict[str, float]
    num_samples: int

    def summary(self) -> dict[str, Any]:
        """Returns the areas, their errors and what they are of, ready for JSON."""
        return {
            "auroc": dict(self.auroc),
            "auroc_standard_error": dict(self.standard_error),
            "average_precision": dict(self.average_precision),
            "log_marginal_inliers": float(self.inliers.mean()),
            "log_marginal_outliers": float(self.outliers.mean()),
            "entropy": self.entropy,
            "num_samples": self.num_samples,
        }

    def __repr__(self) -> str:
        lines = [
            f"  AUROC by {name:13} {self.auroc[name]:.3f} ± {self.standard_error[name]:.3f}, "
            f"AUPR {self.average_precision[name]:.3f}"
            for name in self.auroc
        ]
        sizes = f"{len(self.inliers)} inliers, {len(self.outliers)} outliers"
        return "\n".join([f"Anomalies({sizes})", *lines])


@dataclass(frozen=True, eq=False, repr=False)
class Probes:
    """How well the latent means predict labels.

    Attributes:
        accuracy: The share of right answers on data that the classifier did not see, by
            ``neighbours``, by ``linear``, and by ``majority``, which looks at labels alone.
        standard_error: Of each accuracy, for new data to classify.
        num_data: How many observations were classified.
        method: What was held out.
    """

    accuracy: dict[str, float]
    standard_error: dict[str, float]
    num_data: int
    method: str

    def summary(self) -> dict[str, Any]:
        """Returns the accuracies and their errors, ready for JSON."""
        return {
            "accuracy": dict(self.accuracy),
            "accuracy_standard_error": dict(self.standard_error),
            "num_data": self.num_data,
            "method": self.method,
        }

    def __repr__(self) -> str:
        lines = [
            f"  {name:10} {self.accuracy[name]:.3f} ± {self.standard_error[name]:.3f}"
            for name in self.accuracy
        ]
        return "\n".join([f"Probes({plural(self.num_data, 'observation')}, {self.method})", *lines])


def anomalies(
    vae: Amortized,
    inliers: RowsLike,
    outliers: RowsLike,
    *,
    reference: RowsLike,
    background: Amortized | None = None,
    num_samples: int = 1000,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Anomalies:
    r"""Separates outliers from inliers by their density, and by other scores of a model.

    .. math:: s_\text{log marginal}(x) = -\log p(x), \quad
        s_\text{typicality}(x) = |-\log p(x) - \hat H|, \quad
        \hat H = -\frac1N \sum_{n \in \text{reference}} \log p(x_n)

    Smoother data than those of the model often have a higher density than its own: they lie near
    the mode, where hardly any of its mass is. Typicality is made for them, and so is the ratio to
    a background; :func:`pyro_vae.evaluation.outliers` has all scores.

    References:
        Detecting Out-of-Distribution Inputs to Deep Generative Models Using Typicality
        (Nalisnick et al., 2019), https://arxiv.org/abs/1906.02994
        Comparing the Areas under Two or More Correlated Receiver Operating Characteristic Curves
        (DeLong et al., 1988), https://doi.org/10.2307/2531595

    Args:
        vae: The model. What it needs to know of data besides x, conditions and the like, comes with
            them: a :class:`~pyro_vae.data.Rows` each.
        inliers: Held-out data like those of the fit, shape ``(N, *event_shape)``.
        outliers: Data from elsewhere, shape ``(M, *event_shape)``.
        reference: Data like the inliers and none of them, shape ``(K, *event_shape)``, whose mean
            log p(x) is the typical one; for example validation data. Training data are denser than
            held-out ones.
        background: A model of the same data whose log p(x) is the background's.
        num_samples: Draws of z for each log p(x).
        seed: Of the draws: the same seed gives the same scores.
        progress: Called now and then with the fraction that is done.

    Returns:
        AUROC and AUPR of each score, the former with standard errors by DeLong's method.

    Raises:
        ValueError: If data do not suit a model, there are fewer than two inliers or outliers, the
            background has another base measure, or an option is not what it should be.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((4,)))
        >>> found = anomalies(vae, vae.sample(9), torch.ones(5, 4), reference=vae.sample(9))
        >>> sorted(found.auroc)
        ['distortion', 'log_marginal', 'rate', 'typicality']
    """
    seed = check_arguments(vae, seed)
    num_samples = positive_integer("num_samples", num_samples)
    data = {"inliers": inliers, "outliers": outliers, "reference": reference}
    checked = {name: rows_of(vae, x, {}, name) for name, x in data.items()}
    for name in ("inliers", "outliers"):
        if len(checked[name]) < 2:
            raise expected(name, "at least two data", data[name])
    scored = {}
    for i, (name, x) in enumerate(checked.items()):
        beside = None if name == "reference" else background
        scored[name] = evaluate_both(vae, beside, x, num_samples=num_samples, seed=seed)
        if progress is not None:
            progress((i + 1) / len(checked))
    entropy = entropy_of(scored["reference"][0])
    ours, theirs = (
        outlier_scores(scored[name][0], entropy, scored[name][1])
        for name in ("inliers", "outliers")
    )
    found = {name: _auroc(ours[name], theirs[name]) for name in ours}
    return Anomalies(
        inliers=scored["inliers"][0].log_marginal,
        outliers=scored["outliers"][0].log_marginal,
        entropy=entropy,
        auroc={name: area for name, (area, _) in found.items()},
        standard_error={name: error for name, (_, error) in found.items()},
        average_precision={name: _average_precision(ours[name], theirs[name]) for name in ours},
        num_samples=num_samples,
    )


def _auroc(inliers: np.ndarray, outliers: np.ndarray) -> tuple[float, float]:
    """The area under the curve, and its standard error by DeLong's method."""
    below = _share_below(np.sort(inliers), outliers)  # of each outlier, the inliers it beats
    above = _share_below(np.sort(outliers), inliers)
    variance = below.var(ddof=1) / len(below) + above.var(ddof=1) / len(above)
    return float(below.mean()), math.sqrt(variance)


def _average_precision(inliers: np.ndarray, outliers: np.ndarray) -> float:
    """The area under precision by recall; what ties is found together."""
    from sklearn.metrics import average_precision_score  # slow to import, and few need it

    labels = np.repeat([0, 1], [len(inliers), len(outliers)])
    # By their ranks, since scikit-learn takes no infinity.
    ranks = np.unique(np.concatenate([inliers, outliers]), return_inverse=True)[1]
    return float(average_precision_score(labels, ranks))


def _share_below(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    below, up_to = np.searchsorted(ordered, values), np.searchsorted(ordered, values, "right")
    return (below + up_to) / (2 * len(ordered))  # a tie is half a win


def probe(
    vae: Amortized,
    x: RowsLike,
    labels: ArrayLike | Tensor,
    *,
    test: RowsLike | None = None,
    test_labels: ArrayLike | Tensor | None = None,
    folds: int = 5,
    neighbours: int = 10,
    seed: int = 0,
) -> Probes:
    """Classifies data by their latent means E[z|x]: k nearest neighbours, and a linear probe.

    The model never saw the labels: what its latent space knows of them is by its own doing. The
    linear probe is logistic regression on standardised means; distances are those of z as it is.
    For one-hot latents the means are the probabilities of the classes.

    References:
        Understanding intermediate layers using linear classifier probes (Alain and Bengio, 2016),
        https://arxiv.org/abs/1610.01644
        Nearest neighbor pattern classification (Cover and Hart, 1967),
        https://doi.org/10.1109/TIT.1967.1053964

    Args:
        vae: The model.
        x: Data, shape ``(N, *event_shape)``; :class:`~pyro_vae.data.Rows` where the model needs to
            know more of them.
        labels: Integers, shape ``(N,)``.
        test: Data to classify, shape ``(M, *event_shape)``, the classifiers fitted to ``x``. If
            not given, ``x`` is cross-validated.
        test_labels: Their labels, shape ``(M,)``.
        folds: Of the cross-validation, stratified.
        neighbours: How many neighbours vote.
        seed: Of the folds.

    Returns:
        Accuracies, and their binomial standard errors.

    Raises:
        ValueError: If data do not suit the model, labels do not suit the data or are all the
            same, or an option is not what it should be.

    Example:
        >>> import pyro_vae as pv
        >>> data = pv.data.load("digits")
        >>> vae = pv.VAE(
        ...     pv.priors.Normal(8), pv.guides.Normal(8), pv.likelihoods.Bernoulli(data.event_shape)
        ... )
        >>> found = probe(vae, data.test, data.labels["test"])
        >>> found.num_data, sorted(found.accuracy)
        (360, ['linear', 'majority', 'neighbours'])
    """
    seed = check_arguments(vae, seed)
    folds = positive_integer("folds", folds)
    neighbours = positive_integer("neighbours", neighbours)
    known = _checked_labels(labels, len(rows_of(vae, x, {})), test is None, folds, neighbours)
    if (test is None) != (test_labels is None):
        raise expected("test_labels", "labels for `test`, both or neither", test_labels)
    means = _means(vae, x, "x", seed)
    if test is None:
        return _probed(means, known, None, None, folds, neighbours, seed)
    held_out = _means(vae, test, "test", seed)
    truth = _labels("test_labels", test_labels, len(held_out))
    return _probed(means, known, held_out, truth, folds, neighbours, seed)


def probe_features(
    features: Mapping[str, Numbers],
    labels: ArrayLike | Tensor,
    *,
    components: int | None = None,
    folds: int = 5,
    neighbours: int = 10,
    seed: int = 0,
) -> dict[str, Probes]:
    """Classifies data by features of other kinds, as :func:`probe` does by latent means.

    References:
        Understanding intermediate layers using linear classifier probes (Alain and Bengio, 2016),
        https://arxiv.org/abs/1610.01644

    Args:
        features: Arrays of shape ``(N, D)`` by name, which are standardised.
        labels: Integers, shape ``(N,)``.
        components: Of each array, classify by so many principal components, too; they are those of
            the data that the classifiers are fitted to.
        folds: Of the cross-validation, stratified.
        neighbours: How many neighbours vote.
        seed: Of the folds.

    Returns:
        Accuracies by the names of features, and by ``PCA of NAME``.

    Raises:
        ValueError: If labels do not suit the data or are all the same, or an option is not what it
            should be.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> found = probe_features({"x": rng.normal(size=(40, 3))}, np.arange(40) % 2, components=2)
        >>> sorted(found), found["x"].num_data
        (['PCA of x', 'x'], 40)
    """
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    folds, seed = positive_integer("folds", folds), check_seed("seed", seed)
    neighbours = positive_integer("neighbours", neighbours)
    found: dict[str, Probes] = {}
    for name, given in features.items():
        values = as_tensor(given, f"features: {name}")
        if not isinstance(values, Tensor) or values.ndim != 2:
            raise expected(f"features: {name}", "numbers of shape (N, D)", given)
        x = values.detach().cpu().double().numpy()
        known = _checked_labels(labels, len(x), True, folds, neighbours)
        found[name] = _probed(x, known, None, None, folds, neighbours, seed, [StandardScaler()])
        if components is not None:
            size = min(positive_integer("components", components), x.shape[1])
            steps = [StandardScaler(), PCA(size, random_state=seed)]
            found[f"PCA of {name}"] = _probed(x, known, None, None, folds, neighbours, seed, steps)
    return found


def _checked_labels(
    labels: Any, size: int, crossed: bool, folds: int, neighbours: int
) -> np.ndarray:
    """Returns labels of so many data, enough of each for what is to be done with them."""
    known = _labels("labels", labels, size)
    counts = np.unique(known, return_counts=True)[1]
    if len(counts) < 2:
        raise expected("labels", "at least two different ones", labels)
    if crossed and not 2 <= folds <= np.min(counts):
        what = f"2 to {np.min(counts)}, the number of data of the rarest label"
        raise expected("folds", what, folds)
    smallest = size if not crossed else size - math.ceil(size / folds)
    if neighbours > smallest:
        raise expected("neighbours", f"at most {smallest}, the data there are", neighbours)
    return known


def _probed(
    x: np.ndarray,
    known: np.ndarray,
    held_out: np.ndarray | None,
    truth: np.ndarray | None,
    folds: int,
    neighbours: int,
    seed: int,
    steps: Sequence[Any] = (),
) -> Probes:
    """Classifies data by features, cross-validated or held out."""
    # Slow to import, and few need it.
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifiers = {
        "neighbours": make_pipeline(*steps, KNeighborsClassifier(neighbours)),
        "linear": make_pipeline(*steps, StandardScaler(), LogisticRegression(max_iter=5000)),
    }
    values, counted = np.unique(known, return_counts=True)
    crossed = held_out is None or truth is None
    if held_out is None or truth is None:
        truth = known
        splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
        answers = {k: cross_val_predict(c, x, known, cv=splits) for k, c in classifiers.items()}
    else:
        answers = {k: c.fit(x, known).predict(held_out) for k, c in classifiers.items()}
    answers["majority"] = np.full(len(truth), values[np.argmax(counted)])
    accuracy = {name: float((each == truth).mean()) for name, each in answers.items()}
    return Probes(
        accuracy=accuracy,
        standard_error={k: math.sqrt(p * (1 - p) / len(truth)) for k, p in accuracy.items()},
        num_data=len(truth),
        method=f"{folds}-fold cross-validated" if crossed else "held out",
    )


def accuracy(
    vae: Amortized, x: RowsLike, labels: ArrayLike | Tensor, **given: Any
) -> tuple[float, float]:
    """Returns the share of data whose most probable class under q(y|x) is theirs, and its error.

    Args:
        vae: A model with one categorical latent, fitted to some labels.
        x: Data, shape ``(N, *event_shape)``.
        labels: Their classes, integers of shape ``(N,)``.
        given: What goes with the data, as in :meth:`pyro_vae.VAE.classify`.

    Returns:
        The accuracy, and its standard error over data.

    Raises:
        ValueError: If data or labels do not suit the model or each other.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(
        ...     pv.priors.Categorical(1, 3),
        ...     pv.guides.GumbelSoftmax(1, 3),
        ...     pv.likelihoods.Bernoulli((4,)),
        ... )
        >>> share, error = accuracy(vae, torch.ones(5, 4), [0, 1, 2, 0, 1])
        >>> 0 <= share <= 1
        True
    """
    if not isinstance(vae, VAE):
        raise expected("vae", "a VAE with a categorical latent; of a Program, `probe`", vae)
    chosen = vae.classify(x, **given).argmax(-1).cpu().numpy()
    share = float((chosen == _labels("labels", labels, len(chosen))).mean())
    return share, (share * (1 - share) / len(chosen)) ** 0.5


def _labels(name: str, labels: ArrayLike | Tensor | None, size: int) -> np.ndarray:
    values = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if values.shape != (size,) or values.dtype.kind not in "iu":
        raise expected(name, f"{size} integers, one for each observation", labels)
    return values


@torch.no_grad()
def _means(vae: Amortized, x: RowsLike, argument: str, seed: int) -> np.ndarray:
    rows = rows_of(vae, x, {}, argument)
    with undisturbed(vae, seed, rows.x.device):
        batches = rows.batches(observations_at_once(vae, rows.x))
        means = torch.cat([vae.encode(each.x, **each.given).mean for each in batches])
    return means.flatten(1).cpu().double().numpy()
