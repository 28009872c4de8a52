"""Other names of the field, so that a mistake is answered with the name used here."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pyro_vae._errors import unknown_name

__all__ = ["OPTIONS", "SYNONYMS", "meant_option", "unknown_part"]

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
    "TemporalConvEncoder": "tcn conv1d temporal-conv temporal",
    "TemporalConvDecoder": "tcn conv1d temporal-conv temporal",
    "ELBO": "trace-elbo vae beta-vae",
    "IWAE": "iwelbo importance-weighted",
    "MMD": "wae info-vae mmd-vae",
    "TotalCorrelation": "beta-tcvae tc-vae factor-vae",
    "Renyi": "alpha vr vr-bound renyi-elbo",
    "Enumerated": "trace-enum-elbo enum",
}
"""What each part is also called, by its name here; of several with one synonym, the first that
fits a role."""

OPTIONS: dict[str, str] = {
    "--lr": "learning-rate step-size eta",
    "--batch-size": "batch bs minibatch minibatch-size batches",
    "--epochs": "epoch num-epochs n-epochs max-epochs iterations num-iterations steps num-steps",
    "--latent-dim": "latent latents latent-size latent-dims dim z-dim dim-z n-latent num-latents "
    "n-components components",
    "--weight-decay": "l2 decay regularisation regularization wd",
    "--clip-norm": "clip grad-clip gradient-clip gradient-clipping max-grad-norm clip-grad-norm",
    "--patience": "early-stopping early-stop",
    "--schedule": "scheduler lr-schedule lr-scheduler",
    "--out": "output out-dir output-dir dir save-dir folder",
    "--num-samples": "samples n-samples n draws num-importance-samples",
    "--num-draws": "draws replicates n-draws num-replicates",
    "--num-imputations": "imputations m n-imputations",
    "--device": "gpu cuda accelerator",
    "--seed": "random-state random-seed rng",
    "--compile": "jit",
    "--encoder.hidden": "hidden hidden-dim hidden-dims hidden-size hidden-sizes hidden-units "
    "layers width widths",
    "--encoder.dropout": "dropout dropout-rate",
    "--objective.beta": "beta kl-weight",
    "--objective.num-particles": "particles num-particles n-particles",
    "--cond": "condition conditions conditional condition-on",
    "--na-values": "na nan missing-values null-values",
    "--sep": "separator delimiter delim",
    "--missing": "impute allow-missing",
    "--program": "model guide module",
    "--data-root": "root data-dir",
    "--max-data": "max-rows max-observations subsample",
    "--time": "time-column",
    "--group": "groups group-by",
    "--label": "target y labels",
}
"""What options are also called, without their hyphens, by their names here."""


def meant_option(flag: str, flags: Iterable[str]) -> str | None:
    """Returns the option that another name of the field is meant for; None if none is known.

    Args:
        flag: What was typed.
        flags: The options that the command has.

    Example:
        >>> meant_option("--learningrate", ["--epochs", "--lr"])
        '--lr'
    """
    word, known = _plain(flag), set(flags)
    found = (each for each, words in OPTIONS.items() if word in map(_plain, words.split()))
    return next((each for each in found if each in known), None)


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
