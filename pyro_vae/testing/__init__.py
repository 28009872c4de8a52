"""The contracts that every part keeps, for the parts of this package and for your own.

Each function takes a freshly built part and raises ``AssertionError`` with the reason if it breaks
its contract. They draw random numbers: seed first. Build the part small, one or two entries a
latent or observation, since its density is integrated over a grid.
"""

from pyro_vae.testing.covariates import some_covariates
from pyro_vae.testing.distributions import check_distribution, total_mass
from pyro_vae.testing.guides import check_guide
from pyro_vae.testing.likelihoods import check_likelihood
from pyro_vae.testing.missingness import check_missingness
from pyro_vae.testing.networks import check_network
from pyro_vae.testing.objectives import check_objective
from pyro_vae.testing.parts import check_part
from pyro_vae.testing.priors import check_prior

__all__ = [
    "check_distribution",
    "check_guide",
    "check_likelihood",
    "check_missingness",
    "check_network",
    "check_objective",
    "check_part",
    "check_prior",
    "some_covariates",
    "total_mass",
]
