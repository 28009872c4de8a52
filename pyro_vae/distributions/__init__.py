r"""Distributions and transforms that Pyro and PyTorch lack, one a file.

Those of Pyro are used wherever they do; here is what they leave out: densities that stay finite
where theirs overflow (relaxed categoricals in log space, a beta at its ends), variables that are
enumerated jointly, several latent variables as one, levels and counts with a mean, tables whose
columns differ, units of data, directions in any dimension, and normalising flows:

.. math:: \log p(f(u)) = \log p(u) - \log |\det \partial f / \partial u|
"""

from pyro_vae.distributions.angles import AngleSupport, NaturalVonMises
from pyro_vae.distributions.autoregressive_levels import AutoregressiveLevels
from pyro_vae.distributions.autoregressive_maps import Autoregressive
from pyro_vae.distributions.columns import Columns, ColumnSupport
from pyro_vae.distributions.compositions import CompositionSupport, EdgedDirichlet
from pyro_vae.distributions.discretized_logistic import DiscretizedLogistic
from pyro_vae.distributions.divergence import closed_kl
from pyro_vae.distributions.edged_beta import EdgedBeta
from pyro_vae.distributions.entries import (
    by_entry,
    feasible,
    log_prob_of,
    log_prob_of_binary,
    masked,
    sample_of,
)
from pyro_vae.distributions.enumeration import MAX_ENUMERATED
from pyro_vae.distributions.exp_relaxed_categorical import ExpRelaxedCategorical
from pyro_vae.distributions.grouped_one_hot_categorical import GroupedOneHotCategorical, labelled
from pyro_vae.distributions.in_units import InUnits, robust_units_of, units_of
from pyro_vae.distributions.joint import Joint, draw_sites, site_of
from pyro_vae.distributions.joint_bernoulli import JointBernoulli
from pyro_vae.distributions.levels import Levels
from pyro_vae.distributions.logit_relaxed_bernoulli import LogitRelaxedBernoulli
from pyro_vae.distributions.mean_gamma import MeanGamma
from pyro_vae.distributions.normal import (
    NormalMixture,
    are_diagonal,
    diagonal_normal,
    log_probs_of_each,
    mixture,
)
from pyro_vae.distributions.normalizing_flow import NormalizingFlow
from pyro_vae.distributions.positive_parameters import SCALE_FLOOR, inverse_positive, positive
from pyro_vae.distributions.power_spherical import PowerSpherical
from pyro_vae.distributions.space import Relaxation, Site, Space, same_support, site_names
from pyro_vae.distributions.spherical_uniform import SphericalUniform
from pyro_vae.distributions.steep_continuous_bernoulli import SteepContinuousBernoulli
from pyro_vae.distributions.total_multinomial import TotalMultinomial, TotalSupport
from pyro_vae.distributions.zero_inflated import ZeroInflated

__all__ = [
    "MAX_ENUMERATED",
    "SCALE_FLOOR",
    "AngleSupport",
    "Autoregressive",
    "AutoregressiveLevels",
    "ColumnSupport",
    "Columns",
    "CompositionSupport",
    "DiscretizedLogistic",
    "EdgedBeta",
    "EdgedDirichlet",
    "ExpRelaxedCategorical",
    "GroupedOneHotCategorical",
    "InUnits",
    "Joint",
    "JointBernoulli",
    "Levels",
    "LogitRelaxedBernoulli",
    "MeanGamma",
    "NaturalVonMises",
    "NormalMixture",
    "NormalizingFlow",
    "PowerSpherical",
    "Relaxation",
    "Site",
    "Space",
    "SphericalUniform",
    "SteepContinuousBernoulli",
    "TotalMultinomial",
    "TotalSupport",
    "ZeroInflated",
    "are_diagonal",
    "by_entry",
    "closed_kl",
    "diagonal_normal",
    "draw_sites",
    "feasible",
    "inverse_positive",
    "labelled",
    "log_prob_of",
    "log_prob_of_binary",
    "log_probs_of_each",
    "masked",
    "mixture",
    "positive",
    "robust_units_of",
    "same_support",
    "sample_of",
    "site_names",
    "site_of",
    "units_of",
]
