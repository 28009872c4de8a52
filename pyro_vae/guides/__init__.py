"""Guides q(z|x): ``forward(features)`` returns a distribution. One family a file."""

from pyro_vae.guides.guide import Guide
from pyro_vae.guides.gumbel_softmax import GumbelSoftmax
from pyro_vae.guides.normal import Normal

__all__ = ["Guide", "GumbelSoftmax", "Normal"]
