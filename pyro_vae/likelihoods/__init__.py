"""Likelihoods p(x|z): ``forward(params)`` returns a distribution. One family a file."""

from pyro_vae.likelihoods.autoregressive import Autoregressive
from pyro_vae.likelihoods.bernoulli import Bernoulli
from pyro_vae.likelihoods.beta import Beta
from pyro_vae.likelihoods.beta_binomial import BetaBinomial
from pyro_vae.likelihoods.categorical import Categorical
from pyro_vae.likelihoods.continuous_bernoulli import ContinuousBernoulli
from pyro_vae.likelihoods.dirichlet import Dirichlet
from pyro_vae.likelihoods.discretized_logistic import DiscretizedLogistic
from pyro_vae.likelihoods.gamma import Gamma
from pyro_vae.likelihoods.laplace import Laplace
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.likelihoods.log_normal import LogNormal
from pyro_vae.likelihoods.mixed import Mixed
from pyro_vae.likelihoods.multinomial import Multinomial
from pyro_vae.likelihoods.negative_binomial import NegativeBinomial
from pyro_vae.likelihoods.normal import Normal
from pyro_vae.likelihoods.ordinal import Ordinal
from pyro_vae.likelihoods.poisson import Poisson
from pyro_vae.likelihoods.student_t import StudentT
from pyro_vae.likelihoods.suggestion import suggest
from pyro_vae.likelihoods.von_mises import VonMises
from pyro_vae.likelihoods.zero_inflated_negative_binomial import ZeroInflatedNegativeBinomial
from pyro_vae.likelihoods.zero_inflated_poisson import ZeroInflatedPoisson

__all__ = [
    "Autoregressive",
    "Bernoulli",
    "Beta",
    "BetaBinomial",
    "Categorical",
    "ContinuousBernoulli",
    "Dirichlet",
    "DiscretizedLogistic",
    "Gamma",
    "Laplace",
    "Likelihood",
    "LogNormal",
    "Mixed",
    "Multinomial",
    "NegativeBinomial",
    "Normal",
    "Ordinal",
    "Poisson",
    "StudentT",
    "VonMises",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
    "suggest",
]
