r"""Missingness p(s|x): ``forward(x)`` returns the distribution of the mask. One family a file.

.. math:: p(x_o, s) = \int p(z) \, p(x_o, x_m \mid z) \, p(s \mid x_o, x_m) \, dx_m \, dz

s has which entries are observed, x_o those that are, x_m the others. Where p(s|x) depends on x_o
alone, data are missing at random: it is a factor that neither z nor x_m know of, and a model
without one is right. Where it depends on x_m, too, they are missing not at random, and a model
without one is biased.
"""

from pyro_vae.missingness.missingness import Missingness
from pyro_vae.missingness.self_masking import SelfMasking

__all__ = ["Missingness", "SelfMasking"]
