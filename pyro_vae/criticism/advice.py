"""What to swap when a check fails: one sentence."""

from __future__ import annotations

from types import ModuleType

from torch.distributions import constraints

from pyro_vae import likelihoods, priors
from pyro_vae.programs import Amortized
from pyro_vae.programs.composition import Composition

__all__ = ["advise", "alternatives"]


def advise(vae: Amortized, statistic: str, observed_is_higher: bool) -> str:
    """Returns one sentence on a failed check; empty for a statistic that is not ours.

    It names a class only where the package has it.

    Args:
        vae: The model that failed.
        statistic: Name of the test statistic.
        observed_is_higher: Whether the observed value lies above the replicated ones.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Poisson((4,)))
        >>> advise(vae, "dispersion", observed_is_higher=True)[:34]
        'variance exceeds what Poisson lets'
    """
    name = statistic.removeprefix("residual ")
    if name == "spread" and vae.x_support is constraints.nonnegative_integer:
        name = "dispersion"
    likelihood = "the likelihood"
    if isinstance(vae, Composition):
        likelihood = type(vae.likelihood).__name__
    counts = vae.x_support is constraints.nonnegative_integer
    real = not vae.x_support.is_discrete
    heavy = _named(likelihoods, "StudentT", "a Student-t likelihood")
    dispersed = "NegativeBinomial" in likelihood
    zero = "ZeroInflated"
    if counts:
        zero = "ZeroInflatedNegativeBinomial" if dispersed else "ZeroInflatedPoisson"
    inflated = _named(likelihoods, zero, "a zero-inflated likelihood")
    mixture = alternatives(priors, {"Mixture": "a mixture prior", "VampPrior": "a VampPrior"})
    negative_binomial = _named(likelihoods, "NegativeBinomial", "a negative binomial likelihood")
    extreme = negative_binomial if counts else heavy
    positive = {"Gamma": "a gamma likelihood", "LogNormal": "a log-normal likelihood"}
    skewed = f"{alternatives(likelihoods, positive)} where they are positive"
    scale = "a scale of its own for each entry (scale='per-dimension' or 'predicted')"
    higher = {
        "mean": "the data lie above the model here: fit longer, or a richer decoder",
        "dispersion": f"variance exceeds what {likelihood} lets a mean have: {negative_binomial}",
        "spread": f"the data vary more than {likelihood} does: {scale}, or more latent dimensions"
        if real
        else "the data vary more about their expectation than the model predicts: more "
        "latent dimensions, or a richer decoder",
        "skewness": f"the data lean to one side: transform them, or {skewed}",
        "tails": f"tails heavier than {likelihood}'s: {heavy}",
        "zeros": f"more zeros than {likelihood} gives: {inflated}",
        "marginals": "the shape of this marginal is not reproduced: another likelihood, or "
        f"{mixture} where it has several modes",
        "extremes": f"more extreme values than {likelihood} gives: {extreme}",
        "correlation": "entries vary together more than z makes them: more latent dimensions, or "
        "a richer decoder",
        "neighbours": "entries side by side vary together more than z makes them: a convolutional "
        "or autoregressive decoder, or more latent dimensions",
        "totals": "data differ in overall size more than the model predicts: more latent "
        f"dimensions, or {mixture}",
        "distances": f"the data lie wider apart than draws: {mixture}, or more latent dimensions",
        "classifier": "a classifier distinguishes draws from data: look at the examples that it "
        "is surest of",
        "latent marginals": f"the data are not where the prior is along this unit: {mixture}",
        "latent classes": "the data use the classes unequally: a prior with learned probabilities",
        "latent distance": f"aggregated posterior and prior differ: {mixture}",
        "latent holes": f"the prior puts mass where no observation is encoded: {mixture}",
    }
    lower = higher | {
        "mean": "the data lie below the model here: fit longer, or a richer decoder",
        "dispersion": f"variance is below what {likelihood} gives a mean: a likelihood with less "
        "of it, such as a binomial likelihood",
        "spread": f"the data vary less than {likelihood} does: {scale}"
        if real
        else "the data vary less about their expectation than the model predicts: fit longer",
        "tails": f"tails lighter than {likelihood}'s: a bounded likelihood, or {mixture} where "
        "the data have several modes",
        "zeros": f"fewer zeros than {likelihood} gives: a likelihood without its excess of them",
        "extremes": f"fewer extreme values than {likelihood} gives: "
        + (scale if real else "a likelihood with less variance"),
        "correlation": "the model makes entries vary together more than they do: fewer latent "
        "dimensions, or fit longer",
        "neighbours": "the model makes neighbours vary together more than they do: a decoder with "
        "more detail, or fit longer",
        "totals": "data differ in overall size less than the model predicts: fit longer, or a "
        "richer decoder",
        "distances": "the data lie closer together than draws: "
        + (f"the likelihood adds noise that they do not have; {scale}, or " if real else "")
        + "a richer decoder",
        "latent distance": "aggregated posterior and prior agree better than the model's own "
        "draws: fit longer",
        "latent holes": "the data fill the prior better than the model's own draws: fit longer",
    }
    return (higher if observed_is_higher else lower).get(name, "")


def _named(package: ModuleType, name: str, otherwise: str) -> str:
    role = package.__name__.rpartition(".")[2]
    return f"{role}.{name}" if name in package.__all__ else otherwise


def alternatives(package: ModuleType, names: dict[str, str]) -> str:
    """Names the classes that a subpackage has, and describes the others in words."""
    return " or ".join(_named(package, name, otherwise) for name, otherwise in names.items())
