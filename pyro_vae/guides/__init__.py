"""Guides q(z|x): ``forward(features)`` returns a distribution. One family a file."""

from pyro_vae.guides.flow import Flow
from pyro_vae.guides.full_normal import FullNormal
from pyro_vae.guides.guide import Guide
from pyro_vae.guides.gumbel_softmax import GumbelSoftmax
from pyro_vae.guides.hierarchy import Hierarchy
from pyro_vae.guides.hyperspherical import Hyperspherical
from pyro_vae.guides.low_rank_normal import LowRankNormal
from pyro_vae.guides.normal import Normal
from pyro_vae.guides.product import Product
from pyro_vae.guides.relaxed_bernoulli import RelaxedBernoulli
from pyro_vae.guides.semi_amortized import SemiAmortized

__all__ = [
    "Flow",
    "FullNormal",
    "Guide",
    "GumbelSoftmax",
    "Hierarchy",
    "Hyperspherical",
    "LowRankNormal",
    "Normal",
    "Product",
    "RelaxedBernoulli",
    "SemiAmortized",
]
