"""Trees of draws: labelled, of the law they should have, never the observed data themselves."""

from __future__ import annotations

import numpy as np
import torch
from pyro.infer import Predictive
from torch import nn

import pyro_vae as pv


def _normal(dim: int = 3, latent: int = 2) -> pv.VAE:
    return pv.VAE(
        pv.priors.Normal(latent),
        pv.guides.Normal(latent),
        pv.likelihoods.Normal((dim,), scale=0.5),
        decoder=nn.Linear(latent, dim),
    )


def test_replicates_are_not_the_observed_data() -> None:
    """Pyro's own `Predictive` hands back what its model observes; fails when we do as it does."""
    vae = _normal()
    x = vae.sample(20)
    with torch.no_grad():
        echoed = Predictive(vae.model, guide=vae.guide, num_samples=5)(x)["x"]
    assert torch.equal(echoed, x.expand(5, -1, -1))
    replicated = pv.posterior_predictive(vae, x, num_draws=5)["posterior_predictive"]["x"].values
    assert not (replicated == x.numpy()).any()
    assert len(np.unique(replicated)) == replicated.size
