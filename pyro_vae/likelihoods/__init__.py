"""Likelihoods p(x|z): ``forward(params)`` returns a distribution. One law a file."""

from pyro_vae.likelihoods.bernoulli import Bernoulli
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.likelihoods.normal import Normal
from pyro_vae.likelihoods.poisson import Poisson

__all__ = ["Bernoulli", "Likelihood", "Normal", "Poisson"]
