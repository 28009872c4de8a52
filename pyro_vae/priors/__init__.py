"""Priors p(z): ``forward()`` returns a distribution. One law a file."""

from pyro_vae.priors.categorical import Categorical
from pyro_vae.priors.normal import Normal
from pyro_vae.priors.prior import Prior

__all__ = ["Categorical", "Normal", "Prior"]
