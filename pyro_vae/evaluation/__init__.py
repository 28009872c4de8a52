"""Numbers per datum about a fixed model, each with its Monte Carlo error."""

from pyro_vae.evaluation.annealing import Annealed, Bidirectional, ais, bdmc
from pyro_vae.evaluation.comparison import Comparison, compare
from pyro_vae.evaluation.enumeration import enumerate_log_prob
from pyro_vae.evaluation.gaps import Gaps, gaps
from pyro_vae.evaluation.importance import evaluate
from pyro_vae.evaluation.posterior import PosteriorDraws, posterior_draws
from pyro_vae.evaluation.rate_distortion import RateDistortion, rate_distortion
from pyro_vae.evaluation.scores import Scores

__all__ = [
    "Annealed",
    "Bidirectional",
    "Comparison",
    "Gaps",
    "PosteriorDraws",
    "RateDistortion",
    "Scores",
    "ais",
    "bdmc",
    "compare",
    "enumerate_log_prob",
    "evaluate",
    "gaps",
    "posterior_draws",
    "rate_distortion",
]
