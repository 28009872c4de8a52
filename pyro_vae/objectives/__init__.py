"""Objectives: traces in, one loss out. One objective a file."""

from pyro_vae.objectives.elbo import ELBO, Terms
from pyro_vae.objectives.enumerated import Enumerated
from pyro_vae.objectives.iwae import IWAE
from pyro_vae.objectives.objective import Objective
from pyro_vae.objectives.relaxation import relaxed
from pyro_vae.objectives.renyi import Renyi

__all__ = ["ELBO", "IWAE", "Enumerated", "Objective", "Renyi", "Terms", "relaxed"]
