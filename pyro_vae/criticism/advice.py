"""What to swap when a check fails: one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from torch.distributions import constraints

from pyro_vae import likelihoods, priors
from pyro_vae.criticism._entries import likelihood_of, support_of
from pyro_vae.data.entries import Entry
from pyro_vae.programs import Amortized

__all__ = ["advise", "alternatives"]


def advise(
    vae: Amortized, statistic: str, observed_is_higher: bool, entries: Sequence[Entry] = ()
) -> str:
    """Returns one sentence on a failed check; empty for a statistic that is not ours.

    It names a class only where the package has it, and a column where the check is about one.

    Args:
        vae: The model that failed.
        statistic: Name of the test statistic.
        observed_is_higher: Whether the observed value lies above the replicated ones.
        entries: The entries of x that it is about and that have names; none if it is about all.

    Example:
        >>> import pyro_vae as pv
        >>> vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Poisson((4,)))
        >>> advise(vae, "dispersion", observed_is_higher=True)[:34]
        'variance exceeds what Poisson lets'
        >>> age = Entry("age", 1, "count")
        >>> advise(vae, "dispersion", True, [age])[:40]
        'variance of age exceeds what Poisson let'
    """
    one = entries[0] if len(entries) == 1 else None
    likelihood, support = likelihood_of(vae, one), support_of(vae, one)
    name = statistic.removeprefix("residual ")
    if name == "spread" and support is constraints.nonnegative_integer:
        name = "dispersion"
    if one is not None and one.shares:
        name = {"mean": "shares"}.get(name, name)
    called = "the likelihood" if likelihood is None else type(likelihood).__name__
    words = _Words(called, support, one, entries)
    return (words.higher() if observed_is_higher else words.lower()).get(name, "")


class _Words:
    """Sentences on the data as a whole, or on one column of a table."""

    def __init__(
        self,
        likelihood: str,
        support: constraints.Constraint,
        one: Entry | None,
        entries: Sequence[Entry],
    ) -> None:
        self.name = likelihood
        self.counts = support is constraints.nonnegative_integer
        self.real = not support.is_discrete
        self.one = one
        self.data, self.of, self.for_it = "the data", "", ""
        if one is not None:
            self.data, self.of, self.for_it = one.name, f" of {one.name}", f" for {one.name}"
        self.pair = " and ".join(each.name for each in entries) if len(entries) == 2 else "entries"
        scale = "scale='per-dimension' or 'predicted'"
        self.scale = f"a scale of its own for each entry ({scale})"
        if one is not None:
            self.scale = f"a predicted scale{self.for_it} (scale='predicted')"
        self.heavy = _named(likelihoods, "StudentT", "a Student-t likelihood") + self.for_it
        self.mixture = alternatives(
            priors, {"Mixture": "a mixture prior", "VampPrior": "a VampPrior"}
        )
        name = "NegativeBinomial"
        self.overdispersed = (
            _named(likelihoods, name, "a negative binomial likelihood") + self.for_it
        )

    def verb(self, stem: str) -> str:
        """A verb in the number of what it is about."""
        return f"{self.data} {stem}" if self.one is None else f"{self.data} {stem}s"

    def are(self, what: str) -> str:
        return f"{self.data} {'are' if self.one is None else 'is'} {what}"

    def skewed(self) -> str:
        positive = {"Gamma": "a gamma likelihood", "LogNormal": "a log-normal likelihood"}
        named = alternatives(likelihoods, positive)
        if self.one is None:
            return f"the data lean to one side: transform them, or {named} where they are positive"
        field = self.one.field
        way = ""
        if field is not None and field.kind == "real":
            way = f" (--kind {self.one.name}=positive, where all of it is)"
        return f"{self.are('skewed')}: {named}{self.for_it}{way}"

    def higher(self) -> dict[str, str]:
        """Where the observed value lies above the replicated ones."""
        mixture, more = self.mixture, "more latent dimensions, or a richer decoder"
        zero = "ZeroInflated"
        if self.counts:
            dispersed = "NegativeBinomial" in self.name
            zero = "ZeroInflatedNegativeBinomial" if dispersed else "ZeroInflatedPoisson"
        inflated = _named(likelihoods, zero, "a zero-inflated likelihood") + self.for_it
        extreme = self.overdispersed if self.counts else self.heavy
        shape = "this marginal" if self.one is None else f"the marginal{self.of}"
        return {
            "mean": f"{self.verb('lie')} above the model here: fit longer, or a richer decoder",
            "shares": f"this level{self.of} is commoner than in the model: fit longer, or a richer "
            "decoder",
            "dispersion": f"variance{self.of} exceeds what {self.name} lets a mean have: "
            f"{self.overdispersed}",
            "spread": f"{self._varies()} more than {self.name} does: {self.scale}, or more latent "
            "dimensions"
            if self.real
            else f"{self._varies()} more about {self._its()} expectation than the model predicts: "
            f"{more}",
            "skewness": self.skewed(),
            "tails": f"tails heavier than {self.name}'s: {self.heavy}",
            "zeros": f"more zeros{self._inside()} than {self.name} gives: {inflated}",
            "marginals": f"the shape of {shape} is not reproduced: another likelihood"
            f"{self.for_it}, or {mixture} where it has several modes",
            "extremes": f"more extreme values than {self.name} gives: {extreme}",
            "correlation": f"{self.pair} vary together more than z makes them: {more}",
            "neighbours": "entries side by side vary together more than z makes them: a "
            "convolutional or autoregressive decoder, or more latent dimensions",
            "totals": "data differ in overall size more than the model predicts: more latent "
            f"dimensions, or {mixture}",
            "distances": f"the data lie wider apart than draws: {mixture}, or more latent "
            "dimensions",
            "classifier": "a classifier distinguishes draws from data: look at the examples that "
            "it is surest of",
            "latent marginals": f"the data are not where the prior is along this unit: {mixture}",
            "latent classes": "the data use the classes unequally: a prior with learned "
            "probabilities",
            "latent distance": f"aggregated posterior and prior differ: {mixture}",
            "latent holes": f"the prior puts mass where no observation is encoded: {mixture}",
        }

    def lower(self) -> dict[str, str]:
        """Where the observed value lies below the replicated ones."""
        mixture = self.mixture
        return self.higher() | {
            "mean": f"{self.verb('lie')} below the model here: fit longer, or a richer decoder",
            "shares": f"this level{self.of} is rarer than in the model: fit longer, or a richer "
            "decoder",
            "dispersion": f"variance{self.of} is below what {self.name} gives a mean: a "
            f"likelihood with less of it{self.for_it}, such as a binomial likelihood",
            "spread": f"{self._varies()} less than {self.name} does: {self.scale}"
            if self.real
            else f"{self._varies()} less about {self._its()} expectation than the model predicts: "
            "fit longer",
            "tails": f"tails lighter than {self.name}'s: a bounded likelihood, or {mixture} where "
            "the data have several modes",
            "zeros": f"fewer zeros{self._inside()} than {self.name} gives: a likelihood without "
            f"its excess of them{self.for_it}",
            "extremes": f"fewer extreme values than {self.name} gives: "
            + (self.scale if self.real else "a likelihood with less variance"),
            "correlation": f"the model makes {self.pair} vary together more than they do: fewer "
            "latent dimensions, or fit longer",
            "neighbours": "the model makes neighbours vary together more than they do: a decoder "
            "with more detail, or fit longer",
            "totals": "data differ in overall size less than the model predicts: fit longer, or a "
            "richer decoder",
            "distances": "the data lie closer together than draws: "
            + (f"the likelihood adds noise that they do not have; {self.scale}, or " * self.real)
            + "a richer decoder",
            "latent distance": "aggregated posterior and prior agree better than the model's own "
            "draws: fit longer",
            "latent holes": "the data fill the prior better than the model's own draws: fit longer",
        }

    def _varies(self) -> str:
        return self.verb("vary") if self.one is None else f"{self.data} varies"

    def _its(self) -> str:
        return "their" if self.one is None else "its"

    def _inside(self) -> str:
        return "" if self.one is None else f" in {self.data}"


def _named(package: ModuleType, name: str, otherwise: str) -> str:
    role = package.__name__.rpartition(".")[2]
    return f"{role}.{name}" if name in package.__all__ else otherwise


def alternatives(package: ModuleType, names: dict[str, str]) -> str:
    """Names the classes that a subpackage has, and describes the others in words."""
    return " or ".join(_named(package, name, otherwise) for name, otherwise in names.items())
