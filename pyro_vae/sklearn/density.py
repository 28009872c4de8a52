"""A density estimator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from pyro.infer import ELBO as PyroELBO  # noqa: N811 - an acronym in both
from sklearn.base import DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.priors import Prior
from pyro_vae.sklearn.estimator import Named, RandomState, VAEEstimator, new_seed

__all__ = ["VAEDensity"]


class VAEDensity(DensityMixin, VAEEstimator):
    r"""Estimates the density of a table by a variational autoencoder.

    .. math:: \log p(x) \approx \log \frac1K \sum_{k=1}^{K}
        \frac{p(x \mid z_k) \, p(z_k)}{q(z_k \mid x)}, \quad z_k \sim q(z \mid x)

    Densities are those of the data as they come, in nats: after a ``StandardScaler`` they are of
    what it returns, and the model needs none. :meth:`score` is their mean, which a grid search
    maximises; a fit that overfits has a lower one on held-out rows. Two likelihoods can be compared
    where both are densities, or both probabilities of discrete data.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014),
        https://arxiv.org/abs/1312.6114
        Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519

    Args:
        latent_dim: Dimension of z, of priors and guides that are given by name.
        hidden: Widths of the hidden layers of the encoder; the decoder has them in reverse.
        likelihood: p(x|z): a name of :mod:`pyro_vae.likelihoods`, a mapping of ``class`` and
            options, or a likelihood; ``auto`` takes what suits the training data
            (:func:`pyro_vae.likelihoods.suggest`), which may be another in each fold of a search.
        prior: p(z), likewise.
        guide: The family q(z|x), likewise, on the same space as the prior.
        objective: What to minimise, likewise, or any of Pyro's; the ELBO if not given.
        epochs: Passes over the training rows, at most.
        batch_size: Rows a step.
        learning_rate: Of Adam.
        validation_fraction: Share of the rows, rounded up, that is held out to choose the epoch, by
            the ELBO: where another objective does not raise that, set 0, which takes the last one.
        patience: Epochs without a better validation ELBO after which to stop; None never stops.
            Of no effect without validation rows.
        num_samples: Draws of z for each row that is scored, K. Estimates are too low in
            expectation, and less so as it grows.
        compile: Whether training steps are compiled, which takes longer than most fits to tables;
            ``auto`` decides by the work ahead.
        device: Where to train: the CPU is faster for small networks; None takes a GPU if there is
            one.
        random_state: Of the weights, the validation rows, the batches and all draws, those of
            :meth:`score_samples` too. With an integer, each fit is the same.
        verbose: Whether to print a line an epoch.

    Attributes:
        vae_: The fitted :class:`pyro_vae.VAE`, on the CPU; of float64, or float32 if the training
            data were.
        history_: Loss, ELBO and more of each epoch, by name.
        n_iter_: Epochs that were run.
        n_features_in_: Columns of the training data.
        feature_names_in_: Their names, where all are strings.

    Example:
        >>> import numpy as np
        >>> X = np.random.default_rng(0).normal(size=(200, 3)) * [1.0, 10.0, 100.0]
        >>> density = VAEDensity(2, epochs=20, random_state=0).fit(X)
        >>> density.score_samples(X).shape, density.sample(5).shape
        ((200,), (5, 3))
        >>> -12.0 < density.score(X) < -10.0  # nats; the data's own is about -11.2
        True
    """

    def __init__(
        self,
        latent_dim: int = 8,
        *,
        hidden: Sequence[int] = (64, 64),
        likelihood: Named | Likelihood = "Normal",
        prior: Named | Prior = "Normal",
        guide: Named | Guide = "Normal",
        objective: Named | PyroELBO | None = None,
        epochs: int = 200,
        batch_size: int = 128,
        learning_rate: float = 2e-3,
        validation_fraction: float = 0.1,
        patience: int | None = 20,
        num_samples: int = 200,
        compile: bool | Literal["auto"] = False,
        device: torch.device | str | None = "cpu",
        random_state: RandomState = None,
        verbose: bool = False,
    ) -> None:
        self.latent_dim = latent_dim
        self.hidden = hidden
        self.likelihood = likelihood
        self.prior = prior
        self.guide = guide
        self.objective = objective
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.num_samples = num_samples
        self.compile = compile
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fits the model to a table.

        Args:
            X: Shape ``(n_samples, n_features)``, at least two rows.
            y: Not used.

        Returns:
            The estimator itself, fitted.

        Raises:
            ValueError: If the data or an argument are not what they should be.
        """
        self._fit(self._validated(X, ensure_min_samples=2))
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """Returns log p(x) of each row, shape ``(n_samples,)``, in nats.

        The same row has the same score in every call, whichever rows are beside it.

        Args:
            X: Shape ``(n_samples, n_features)``.
        """
        check_is_fitted(self)
        x = self._tensor(self._validated(X, reset=False))
        scores = self._row_by_row(x, lambda row: self.vae_.log_prob(row, self.num_samples))
        return scores.double().numpy()

    def score(self, X: Any, y: Any = None) -> float:
        """Returns the mean of log p(x), in nats a row: higher is better.

        Args:
            X: Shape ``(n_samples, n_features)``.
            y: Not used.
        """
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: RandomState = None) -> np.ndarray:
        """Draws rows from the model, shape ``(n_samples, n_features)``.

        Args:
            n_samples: How many.
            random_state: Of the draws: the same integer draws the same.
        """
        check_is_fitted(self)
        seed = new_seed(check_random_state(random_state))
        return self.vae_.sample(n_samples, seed=seed).numpy()
