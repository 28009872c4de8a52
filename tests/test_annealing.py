"""Annealing against closed forms, its transitions against the laws that they must leave alone."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from linear import LinearGaussian

from pyro_vae.evaluation.annealing import ais


@pytest.mark.parametrize("initial", ["guide", "prior"])
def test_annealing_is_exact_within_its_error(initial: Literal["guide", "prior"]) -> None:
    """From a guide that is half as wide again as the posterior, and from the prior."""
    model = LinearGaussian(factor=1.5, bias=1.0)
    x = model.vae.sample(60)
    annealed = ais(
        model.vae,
        x,
        num_chains=32,
        num_temperatures={"guide": 20, "prior": 60}[initial],
        initial=initial,
    )
    error = annealed.log_marginal - model.log_prob(x).numpy()
    summary = annealed.summary()
    assert 0 < summary["mcse"] < 0.05
    assert abs(error.mean()) < 3 * summary["mcse"] + (annealed.mcse**2).mean() / 2
    assert (np.abs(error) < 4 * annealed.mcse).mean() > 0.95
    assert annealed.acceptance.min() > 0.6
