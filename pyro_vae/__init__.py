"""A VAE is a prior, a guide, a decoder and a likelihood, fitted by an objective."""

from pyro_vae import data, guides, likelihoods, networks, objectives, priors
from pyro_vae.checkpoint import load, save
from pyro_vae.criticism import (
    from_pyro_svi,
    posterior_predictive,
    prior_predictive,
    to_datatree,
)
from pyro_vae.engine import CompiledSVI
from pyro_vae.evaluation import Scores, compare, evaluate
from pyro_vae.programs import VAE
from pyro_vae.selection import select
from pyro_vae.training import Run, fit

__all__ = [
    "VAE",
    "CompiledSVI",
    "Run",
    "Scores",
    "compare",
    "data",
    "evaluate",
    "fit",
    "from_pyro_svi",
    "guides",
    "likelihoods",
    "load",
    "networks",
    "objectives",
    "posterior_predictive",
    "prior_predictive",
    "priors",
    "save",
    "select",
    "to_datatree",
]
