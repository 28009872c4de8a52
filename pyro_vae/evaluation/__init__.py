"""Numbers per observation about a fixed model, each with its Monte Carlo error."""

from pyro_vae.evaluation.annealing import Annealed, ais
from pyro_vae.evaluation.bidirectional import Bidirectional, bdmc
from pyro_vae.evaluation.comparison import Comparison, compare
from pyro_vae.evaluation.downstream import (
    Anomalies,
    Probes,
    accuracy,
    anomalies,
    probe,
    probe_features,
)
from pyro_vae.evaluation.enumeration import enumerate_log_prob
from pyro_vae.evaluation.gaps import Gaps, gaps
from pyro_vae.evaluation.importance import evaluate
from pyro_vae.evaluation.imputation import Imputation, impute
from pyro_vae.evaluation.outliers import Outliers, outliers
from pyro_vae.evaluation.posterior import PosteriorDraws, posterior_draws
from pyro_vae.evaluation.rate_distortion import RateDistortion, rate_distortion
from pyro_vae.evaluation.recommendation import (
    Ranking,
    Recommendations,
    ranking,
    recommend,
    recommendation_scores,
)
from pyro_vae.evaluation.scores import Scores
from pyro_vae.evaluation.summaries import representative
from pyro_vae.evaluation.topics import (
    Completion,
    coherence,
    complete,
    completion,
    diversity,
    top_words,
)

__all__ = [
    "Annealed",
    "Anomalies",
    "Bidirectional",
    "Comparison",
    "Completion",
    "Gaps",
    "Imputation",
    "Outliers",
    "PosteriorDraws",
    "Probes",
    "Ranking",
    "RateDistortion",
    "Recommendations",
    "Scores",
    "accuracy",
    "ais",
    "anomalies",
    "bdmc",
    "coherence",
    "compare",
    "complete",
    "completion",
    "diversity",
    "enumerate_log_prob",
    "evaluate",
    "gaps",
    "impute",
    "outliers",
    "posterior_draws",
    "probe",
    "probe_features",
    "ranking",
    "rate_distortion",
    "recommend",
    "recommendation_scores",
    "representative",
    "top_words",
]
