"""Priors p(z): ``forward()`` returns a distribution. One distribution a file."""

from pyro_vae.priors.bernoulli import Bernoulli
from pyro_vae.priors.categorical import Categorical
from pyro_vae.priors.conditional import Conditional
from pyro_vae.priors.flow import Flow
from pyro_vae.priors.hierarchy import Hierarchy
from pyro_vae.priors.hyperspherical import Hyperspherical
from pyro_vae.priors.laplace import Laplace
from pyro_vae.priors.logistic_normal import LogisticNormal
from pyro_vae.priors.mixture import Mixture
from pyro_vae.priors.normal import Normal
from pyro_vae.priors.prior import Prior
from pyro_vae.priors.product import Product
from pyro_vae.priors.student_t import StudentT
from pyro_vae.priors.vamp_prior import VampPrior

__all__ = [
    "Bernoulli",
    "Categorical",
    "Conditional",
    "Flow",
    "Hierarchy",
    "Hyperspherical",
    "Laplace",
    "LogisticNormal",
    "Mixture",
    "Normal",
    "Prior",
    "Product",
    "StudentT",
    "VampPrior",
]
