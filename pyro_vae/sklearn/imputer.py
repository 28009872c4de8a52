"""An imputer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from pyro.infer import ELBO as PyroELBO  # noqa: N811 - an acronym in both
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from pyro_vae._errors import expected
from pyro_vae._terminal import shown
from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Categorical, Likelihood
from pyro_vae.objectives import IWAE
from pyro_vae.priors import Prior
from pyro_vae.sklearn.estimator import Named, RandomState, VAEEstimator

__all__ = ["VAEImputer"]

_PARTICLES = 20  # of MIWAE's objective, as in the paper's experiments


class VAEImputer(OneToOneFeatureMixin, TransformerMixin, VAEEstimator):
    r"""Fills the missing entries of a table, NaN, given those that are observed.

    .. math:: \mathrm{E}[x_m \mid x_o] \approx \sum_k \bar w_k \, \mathrm{E}[x_m \mid z_k],
        \quad \bar w_k \propto \frac{p(x_o \mid z_k) \, p(z_k)}{q(z_k \mid x_o)},
        \quad z_k \sim q(z \mid x_o)

    The model is fitted to the observed entries alone, where they are missing at random. Columns of
    real numbers are filled by their conditional mean, as above, counts and ordered levels by the
    nearest whole number, and those of ``Categorical`` by the most probable level. Observed entries
    stay as they are. Columns without any observed value in the training data are left out, or with
    ``keep_empty_features`` filled by 0, as ``SimpleImputer`` does.

    References:
        MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets
        (Mattei and Frellsen, 2019), https://arxiv.org/abs/1812.02633

    Args:
        latent_dim: Dimension of z, of priors and guides that are given by name.
        hidden: Widths of the hidden layers of the encoder; the decoder has them in reverse.
        likelihood: p(x|z): a name of :mod:`pyro_vae.likelihoods`, a mapping of ``class`` and
            options, or a likelihood, of the columns that are not left out; ``auto`` takes what
            suits the training data (:func:`pyro_vae.likelihoods.suggest`).
        prior: p(z), likewise.
        guide: The family q(z|x), likewise, on the same space as the prior.
        objective: What to minimise, likewise, or any of Pyro's; ``IWAE`` of 20 draws if not given,
            which is MIWAE.
        epochs: Passes over the training rows, at most.
        batch_size: Rows a step.
        learning_rate: Of Adam.
        validation_fraction: Share of the rows, rounded up, that is held out to choose the epoch, by
            the ELBO, which ``IWAE`` does not raise: with 0 it is the last one.
        patience: Epochs without a better validation ELBO after which to stop; None never stops.
            Of no effect without validation rows.
        num_samples: Draws of z for each row that is filled.
        keep_empty_features: Whether columns without any observed value in the training data are
            returned.
        compile: Whether training steps are compiled, which takes longer than most fits to tables;
            ``auto`` decides by the work ahead.
        device: Where to train: the CPU is faster for small networks; None takes a GPU if there is
            one.
        random_state: Of the weights, the validation rows, the batches and all draws, those of
            :meth:`transform` too. With an integer, each fit is the same.
        verbose: Whether to print a line an epoch.

    Attributes:
        vae_: The fitted :class:`pyro_vae.VAE` of the columns that are not left out, on the CPU; of
            float64, or float32 if the training data were.
        history_: Loss, ELBO and more of each epoch, by name.
        n_iter_: Epochs that were run.
        n_features_in_: Columns of the training data.
        feature_names_in_: Their names, where all are strings.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(300, 1)) * [1.0, -2.0, 3.0] + 0.1 * rng.normal(size=(300, 3))
        >>> imputer = VAEImputer(1, epochs=30, random_state=0)
        >>> filled = imputer.fit_transform(np.where(rng.random(X.shape) < 0.2, np.nan, X))
        >>> bool(np.square(filled - X).mean() < 0.1)
        True
        >>> imputer.transform([[1.0, np.nan, np.nan]]).round()
        array([[ 1., -2.,  3.]])
    """

    _observed: np.ndarray

    def __init__(
        self,
        latent_dim: int = 8,
        *,
        hidden: Sequence[int] = (64, 64),
        likelihood: Named | Likelihood = "Normal",
        prior: Named | Prior = "Normal",
        guide: Named | Guide = "Normal",
        objective: Named | PyroELBO | None = None,
        epochs: int = 100,
        batch_size: int = 128,
        learning_rate: float = 2e-3,
        validation_fraction: float = 0.0,
        patience: int | None = None,
        num_samples: int = 200,
        keep_empty_features: bool = False,
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
        self.keep_empty_features = keep_empty_features
        self.compile = compile
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fits the model to the observed entries of a table.

        Args:
            X: Shape ``(n_samples, n_features)``, at least two rows; NaN is missing.
            y: Not used.

        Returns:
            The estimator itself, fitted.

        Raises:
            ValueError: If the data or an argument are not what they should be.
        """
        X = self._validated(X, ensure_min_samples=2, ensure_all_finite="allow-nan")
        self._observed = ~np.isnan(X).all(0)
        if not self._observed.any():
            raise expected("X", "at least one entry that is observed", X)
        if not isinstance(self.keep_empty_features, bool):
            raise expected("keep_empty_features", "True or False", self.keep_empty_features)
        if not (self._observed.all() or self.keep_empty_features):
            names = OneToOneFeatureMixin.get_feature_names_out(self)[~self._observed]
            warnings.warn(
                f"`X`: columns without any observed value are left out: {shown(', '.join(names))}; "
                "`keep_empty_features` keeps them",
                stacklevel=2,
            )
        self._fit(X[:, self._observed], IWAE(_PARTICLES))
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Returns the table with its missing entries filled.

        What is imputed in a row is the same in every call, whichever rows are beside it.

        Args:
            X: Shape ``(n_samples, n_features)``; NaN is missing.
        """
        check_is_fitted(self)
        X = self._validated(X, reset=False, ensure_all_finite="allow-nan", copy=True)
        known, missing = X[:, self._observed], np.isnan(X[:, self._observed])
        lacking = missing.any(1)
        if lacking.any():
            filled = self._row_by_row(self._tensor(known[lacking]), self._filled).numpy()
            known[lacking] = np.where(missing[lacking], filled, known[lacking])
        if not self.keep_empty_features:
            return known
        X[:, self._observed] = known
        X[np.isnan(X)] = 0.0  # of columns of which nothing is known
        return X

    def _filled(self, row: Tensor) -> Tensor:
        """Returns one row, shape ``(1, n_features)``, filled by values that its columns have."""
        entries = [self.vae_.likelihood.entry((i,)) for i in range(row.shape[1])]
        whole = torch.tensor([each.measure == "counting" for each in entries])
        classes = torch.tensor([isinstance(each, Categorical) for each in entries])
        mask, count = ~row.isnan(), self.num_samples
        filled = self.vae_.impute(row, mask, num_samples=count)
        filled = torch.where(whole & ~mask, filled.round(), filled)
        if (classes & ~mask).any():
            draws = self.vae_.impute(row, mask, num_samples=count, num_imputations=count)
            filled = torch.where(classes & ~mask, draws.mode(0).values, filled)
        return filled

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Returns the names of the columns that :meth:`transform` returns.

        Args:
            input_features: Names of the columns of the data, if they have none of their own.

        Returns:
            Names, shape ``(n_features_out,)``.
        """
        names = super().get_feature_names_out(input_features)
        return names if self.keep_empty_features else names[self._observed]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
