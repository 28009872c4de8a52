"""The estimators against scikit-learn's own checks, of which none is expected to fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from pyro_vae.sklearn import VAEDensity, VAEImputer, VAETransformer

# The checks are about the interface, for which a few steps of a few units do.
_FEW: dict[str, Any] = {"latent_dim": 2, "hidden": (4,), "epochs": 2}
_ALL = parametrize_with_checks(
    [
        VAEDensity(**_FEW, num_samples=5),
        VAETransformer(**_FEW),
        VAEImputer(**_FEW, num_samples=5),
    ]
)
# A list, as pytest 9 refuses the generator that scikit-learn 1.6 has here.
_NAMES, _CASES = _ALL.args[0], list(_ALL.args[1])


@pytest.mark.parametrize(_NAMES, _CASES, **_ALL.kwargs)
def test_scikit_learn_accepts(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)
