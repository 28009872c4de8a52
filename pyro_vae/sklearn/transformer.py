"""A transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from pyro.infer import ELBO as PyroELBO  # noqa: N811 - an acronym in both
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from pyro_vae._errors import expected
from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.priors import Prior
from pyro_vae.sklearn.estimator import FLOATS, Named, RandomState, VAEEstimator

__all__ = ["VAETransformer"]

_AT_ONCE = 4096  # rows


class VAETransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, VAEEstimator):
    r"""Maps rows of a table to latent variables by a variational autoencoder, and back.

    .. math:: \mathrm{transform}(x) = \mathrm{E}_q[z \mid x], \quad
        \mathrm{inverse\_transform}(z) = \mathrm{E}[x \mid z]

    A linear model would be probabilistic PCA. Latent dimensions that the model has no use for are
    close to zero for all rows; they have no order, and no fixed sign.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014),
        https://arxiv.org/abs/1312.6114
        Probabilistic Principal Component Analysis (Tipping and Bishop, 1999),
        https://doi.org/10.1111/1467-9868.00196

    Args:
        latent_dim: Dimension of z, of priors and guides that are given by name.
        hidden: Widths of the hidden layers of the encoder; the decoder has them in reverse.
        likelihood: p(x|z): a name of :mod:`pyro_vae.likelihoods`, a mapping of ``class`` and
            options, or a likelihood; ``auto`` takes what suits the training data
            (:func:`pyro_vae.likelihoods.suggest`).
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
        compile: Whether training steps are compiled, which takes longer than most fits to tables;
            ``auto`` decides by the work ahead.
        device: Where to train: the CPU is faster for small networks; None takes a GPU if there is
            one.
        random_state: Of the weights, the validation rows, the batches and all draws. With an
            integer, each fit is the same.
        verbose: Whether to print a line an epoch.

    Attributes:
        vae_: The fitted :class:`pyro_vae.VAE`, on the CPU; of float64, or float32 if the training
            data were, and so are the latent variables.
        history_: Loss, ELBO and more of each epoch, by name.
        n_iter_: Epochs that were run.
        n_features_in_: Columns of the training data.
        feature_names_in_: Their names, where all are strings.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(300, 1)) * [1.0, -2.0, 3.0] + 0.1 * rng.normal(size=(300, 3))
        >>> transformer = VAETransformer(1, epochs=30, random_state=0)
        >>> z = transformer.fit_transform(X)
        >>> z.shape, transformer.get_feature_names_out()
        ((300, 1), array(['vaetransformer0'], dtype=object))
        >>> bool(np.square(transformer.inverse_transform(z) - X).mean() < 0.1)
        True
    """

    _n_features_out: int

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
        self._n_features_out = self.vae_.prior.event_shape.numel()
        return self

    @torch.no_grad()
    def transform(self, X: Any) -> np.ndarray:
        """Returns E[z|x] by the guide, shape ``(n_samples, latent_dim)``.

        A latent of another shape, such as one-hot variables, is flattened.

        Args:
            X: Shape ``(n_samples, n_features)``.
        """
        check_is_fitted(self)
        x = self._tensor(self._validated(X, reset=False))
        means = [self.vae_.encode(some).mean.flatten(1) for some in x.split(_AT_ONCE)]
        return torch.cat(means).numpy()

    @torch.no_grad()
    def inverse_transform(self, X: Any) -> np.ndarray:
        """Returns E[x|z] by the decoder, shape ``(n_samples, n_features)``.

        Args:
            X: Latent variables, shape ``(n_samples, latent_dim)``.

        Raises:
            ValueError: If they are not as wide as those that :meth:`transform` returns.
        """
        check_is_fitted(self)
        z = self._tensor(check_array(X, dtype=FLOATS))
        if z.shape[1] != self._n_features_out:
            raise expected("X", f"latent variables of {self._n_features_out} columns", z)
        z = z.reshape(-1, *self.vae_.prior.event_shape)
        return torch.cat([self.vae_.decode(some).mean for some in z.split(_AT_ONCE)]).numpy()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
