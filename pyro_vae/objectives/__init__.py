"""Objectives: traces in, one loss out."""

from pyro_vae.objectives.elbo import ELBO, Terms
from pyro_vae.objectives.objective import Objective
from pyro_vae.objectives.relaxation import relaxed

__all__ = ["ELBO", "Objective", "Terms", "relaxed"]
