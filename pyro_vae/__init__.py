"""A VAE is a prior, a guide, a decoder and a likelihood, fitted by an objective."""

from pyro_vae import data, guides, likelihoods, networks, objectives, priors
from pyro_vae.evaluation import Scores, evaluate
from pyro_vae.vae import VAE

__all__ = [
    "VAE",
    "Scores",
    "data",
    "evaluate",
    "guides",
    "likelihoods",
    "networks",
    "objectives",
    "priors",
]
