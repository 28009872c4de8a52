"""Other names of the field for parts, so that a mistake is answered with the name used here."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pyro_vae._errors import unknown_name

__all__ = ["SYNONYMS", "unknown_part"]

SYNONYMS: dict[str, str] = {
    "Normal": "gaussian diagonal diagonal-normal diagonal-gaussian standard-normal mean-field mse",
    "FullNormal": "multivariate-normal multivariate-gaussian full-rank full-covariance",
    "LowRankNormal": "low-rank low-rank-multivariate-normal",
    "Mixture": "gmm mog mixture-of-gaussians mixture-of-normals gaussian-mixture",
    "Hyperspherical": "von-mises-fisher vmf sphere power-spherical uniform-on-sphere",
    "Flow": "normalizing-flow normalising-flow real-nvp maf iaf",
    "Hierarchy": "hierarchical ladder",
    "VampPrior": "vamp",
    "Laplace": "double-exponential mae",
    "StudentT": "t student cauchy",
    "Categorical": "softmax one-hot one-hot-categorical cross-entropy discrete",
    "GumbelSoftmax": "concrete relaxed-one-hot-categorical categorical one-hot discrete",
    "RelaxedBernoulli": "bernoulli binary-concrete",
    "Bernoulli": "binary bce binary-cross-entropy",
    "DiscretizedLogistic": "logistic discretised-logistic",
    "Gamma": "exponential",
    "NegativeBinomial": "nb gamma-poisson",
    "ZeroInflatedNegativeBinomial": "zinb",
    "ZeroInflatedPoisson": "zip",
    "Ordinal": "ordered ordered-logistic cumulative-logit",
    "Dirichlet": "compositional simplex",
    "VonMises": "circular angular",
    "MLP": "dense linear fc feed-forward fully-connected",
    "ConvEncoder": "cnn conv convolutional conv-decoder",
    "ConvDecoder": "cnn conv convolutional deconv transposed-convolution conv-encoder",
    "ELBO": "trace-elbo vae beta-vae",
    "IWAE": "iwelbo importance-weighted",
    "MMD": "wae info-vae mmd-vae",
    "TotalCorrelation": "beta-tcvae tc-vae factor-vae",
    "Renyi": "alpha vr vr-bound renyi-elbo",
    "Enumerated": "trace-enum-elbo enum",
}
"""What each part is also called, by its name here; of several with one synonym, the first that
fits a role."""


def unknown_part(flag: str, name: object, known: Iterable[str]) -> ValueError:
    """An error about the name of a part, with the one that it may be another word for.

    Args:
        flag: The option.
        name: What came.
        known: The parts that the option takes.

    Example:
        >>> print(unknown_part("--prior", "Gaussian", ["Laplace", "Normal"]))
        `--prior`: expected one of Laplace, Normal, got 'Gaussian' (did you mean 'Normal'?)
    """
    names = list(known)
    word = _plain(str(name))
    meant = [each for each, words in SYNONYMS.items() if word in map(_plain, words.split())]
    return unknown_name(flag, name, names, meant=next((m for m in meant if m in names), None))


def _plain(word: str) -> str:
    return re.sub(r"[\W_]", "", word).lower()
