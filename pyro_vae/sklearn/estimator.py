"""What the estimators have in common: how a table becomes a fitted model, and what it is asked."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from pyro.infer import ELBO as PyroELBO  # noqa: N811 - an acronym in both
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data
from torch import Tensor

from pyro_vae import guides, likelihoods, objectives, priors
from pyro_vae._errors import expected, is_number, positive_integer
from pyro_vae._terminal import say
from pyro_vae._untouched import undisturbed
from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.networks import MLP
from pyro_vae.objectives import Objective
from pyro_vae.objectives.importance import Importance
from pyro_vae.part import named_part
from pyro_vae.priors import Prior
from pyro_vae.programs import VAE
from pyro_vae.training import fit

__all__ = ["FLOATS", "Named", "RandomState", "VAEEstimator", "new_seed"]

Named: TypeAlias = str | Mapping[str, Any]
RandomState: TypeAlias = int | np.random.RandomState | None

FLOATS = (np.float64, np.float32)
_LARGEST_SEED = 2**31 - 1


class VAEEstimator(BaseEstimator):
    """The base class of the estimators, which say what a fitted model is for.

    Attributes:
        vae_: The fitted model, on the CPU and in evaluation mode; of float64, or float32 if the
            training data were.
        history_: What there is to say of each epoch, by name, as in :class:`pyro_vae.Run`.
        n_iter_: Epochs that were run.
        n_features_in_: Columns of the training data.
        feature_names_in_: Their names, if all of them are strings.
    """

    vae_: VAE
    history_: dict[str, list[float]]
    n_iter_: int
    n_features_in_: int
    feature_names_in_: np.ndarray

    latent_dim: int
    hidden: Sequence[int]
    likelihood: Named | Likelihood
    prior: Named | Prior
    guide: Named | Guide
    objective: Named | PyroELBO | None
    epochs: int
    batch_size: int
    learning_rate: float
    validation_fraction: float
    patience: int | None
    compile: bool | Literal["auto"]
    device: torch.device | str | None
    random_state: RandomState
    verbose: bool

    def _validated(self, X: Any, **options: Any) -> np.ndarray:
        """Returns a table as floating-point numbers; with ``reset``, of any width."""
        return validate_data(self, X, dtype=FLOATS, **options)

    def _fit(self, X: np.ndarray, objective: PyroELBO | None = None) -> None:
        """Fits a model to a table, in which NaN is what nobody observed.

        Args:
            X: Shape ``(n_samples, n_features)``.
            objective: Instead of the ELBO, where the user has chosen none.
        """
        chosen = _part("objective", self.objective, objectives, Objective)
        random = check_random_state(self.random_state)
        weights, training, draws = (new_seed(random) for _ in range(3))
        objective = objective if chosen is None else chosen
        held_out, observed = self._held_out(len(X)), ~np.isnan(X)
        if held_out is not None and isinstance(objective, Importance):
            warnings.warn(
                "`validation_fraction`: the best epoch is that of the highest ELBO, which "
                f"{type(objective).__name__} does not maximise: 0 takes the last one",
                stacklevel=3,
            )
        vae = self._composed(X, weights).to(torch.tensor(X[:0]).dtype)
        run = fit(
            vae,
            X,
            objective=objective,
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self._lr(),
            validation=held_out,
            mask=None if observed.all() else observed,
            seed=training,
            device=self.device,
            compile=self.compile,
            patience=None if held_out is None else self.patience,
            on_epoch=self._report if self.verbose else None,
            progress=False,
        )
        # There it can be pickled, and unpickled anywhere.
        self.vae_ = run.vae.cpu()
        self.history_ = {name: list(values) for name, values in run.history.items()}
        self.n_iter_ = len(self.history_["epoch"])
        self._seed = draws

    def _composed(self, X: np.ndarray, seed: int) -> VAE:
        """Returns a model of parts of its own: those that were given stay as they are."""
        dim = positive_integer("latent_dim", self.latent_dim)
        hidden = self.hidden
        if isinstance(hidden, str) or not isinstance(hidden, Sequence):
            raise expected("hidden", "a sequence of widths, such as (64, 64)", hidden)
        if isinstance(self.likelihood, str) and self.likelihood == "auto":
            likelihood: Any = likelihoods.suggest(X).build(X.shape[1:])
        else:
            shape = {"event_shape": X.shape[1:]}
            likelihood = _part("likelihood", self.likelihood, likelihoods, Likelihood, **shape)
        return VAE(
            _part("prior", self.prior, priors, Prior, dim=dim),
            _part("guide", self.guide, guides, Guide, dim=dim),
            likelihood,
            MLP(tuple(hidden)),
            MLP(tuple(reversed(hidden))),
            seed=seed,
        )

    def _held_out(self, size: int) -> float | None:
        """The fraction of rows for validation, rounded up to whole rows; None for none."""
        fraction = self.validation_fraction
        if not is_number(fraction) or not 0 <= fraction < 1:
            raise expected("validation_fraction", "a number from 0 to less than 1", fraction)
        rows = min(math.ceil(fraction * size), size - 1)
        return rows / size if rows > 0 else None

    def _lr(self) -> float:
        if not is_number(self.learning_rate) or not 0 < self.learning_rate < math.inf:
            raise expected("learning_rate", "a positive number", self.learning_rate)
        return self.learning_rate

    def _report(self, line: Mapping[str, float]) -> None:
        known = {"loss": "loss", "elbo": "ELBO", "validation_elbo": "validation ELBO"}
        said = ", ".join(f"{known[name]} {line[name]:.4g}" for name in known if name in line)
        say(f"[{type(self).__name__}] epoch {int(line['epoch'])} of {self.epochs}: {said}")

    def _tensor(self, X: np.ndarray) -> Tensor:
        """Returns a table in the precision of the model."""
        return torch.tensor(X, dtype=next(self.vae_.parameters()).dtype)

    def _row_by_row(self, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Returns what a function that draws random numbers makes of each row by itself.

        Each row has a generator of its own, seeded by its values. A result is thus the same, bit
        for bit, whichever rows are beside it, and the Monte Carlo errors of two rows are
        independent, which those of one seed for all would not be: their mean has less error.

        Args:
            x: Rows, shape ``(N, n_features)``; what is missing is NaN.
            function: From one row, ``(1, n_features)``, to a tensor of shape ``(1, *)``.
        """
        # Zero has a sign, and NaN a payload, that is no part of a value.
        alike = torch.where(x.isnan(), torch.nan, x + 0.0).numpy()
        found = []
        for row, values in zip(x.split(1), alike, strict=True):
            seed = zlib.crc32(values.tobytes(), self._seed)
            with undisturbed(self.vae_, seed, row.device):
                found.append(function(row))
        return torch.cat(found)


def new_seed(random: np.random.RandomState) -> int:
    """Returns a seed for generators of torch, drawn from one of NumPy's."""
    return int(random.randint(_LARGEST_SEED))


def _part(argument: str, given: Any, package: Any, base: type, **defaults: Any) -> Any:
    """Returns a part given by name, with options or without; or a copy of one that is built.

    Args:
        argument: What to call it in an error.
        given: A name, a mapping of ``class`` and options, a part, or None.
        package: Where the names are from.
        base: What parts of this kind are.
        **defaults: Options that those have which take them.
    """
    exported = {name: getattr(package, name) for name in package.__all__}
    known = {name: each for name, each in exported.items() if base in _bases(each)}
    name = given.get("class") if isinstance(given, Mapping) else given
    if isinstance(name, str) and name in known:
        taken = inspect.signature(known[name]).parameters
        defaults = {option: value for option, value in defaults.items() if option in taken}
    return named_part(argument, copy.deepcopy(given), known, **defaults)


def _bases(each: object) -> tuple[type, ...]:
    return each.__mro__[1:] if isinstance(each, type) else ()
