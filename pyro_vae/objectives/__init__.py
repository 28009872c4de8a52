"""Objectives: traces in, one loss out. One objective a file."""

from pyro_vae.objectives.elbo import ELBO, Terms
from pyro_vae.objectives.enumerated import Enumerated
from pyro_vae.objectives.iwae import IWAE
from pyro_vae.objectives.mmd import MMD
from pyro_vae.objectives.objective import Objective
from pyro_vae.objectives.relaxation import relaxed
from pyro_vae.objectives.renyi import Renyi
from pyro_vae.objectives.total_correlation import TotalCorrelation

__all__ = [
    "ELBO",
    "IWAE",
    "MMD",
    "Enumerated",
    "Objective",
    "Renyi",
    "Terms",
    "TotalCorrelation",
    "relaxed",
]
