"""Small models of the parts that a test is about."""

from __future__ import annotations

from typing import Any

import pyro_vae as pv
from pyro_vae import likelihoods, networks


def small(prior: Any, guide: Any, likelihood: Any = None, **options: Any) -> pv.VAE:
    """A model of four entries, or of the likelihood that is given, in float64."""
    likelihood = likelihoods.Bernoulli((4,)) if likelihood is None else likelihood
    both = {"encoder": networks.MLP((8,)), "decoder": networks.MLP((8,))}
    return pv.VAE(prior, guide, likelihood, **both, **options).double()


MIXED = [{"class": "Normal", "dim": 2}, {"class": "Categorical", "groups": 1, "classes": 3}]
