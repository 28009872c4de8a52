"""What to swap when a check fails: one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from torch.distributions import constraints

from pyro_vae.criticism._entries import likelihood_of, support_of
from pyro_vae.criticism._remedies import Remedies, Want, one_of
from pyro_vae.data.entries import Entry
from pyro_vae.programs import Amortized

__all__ = ["advise", "alternatives"]

_MORE = "more latent dimensions, or a richer decoder"
_LONGER = "fit longer, or a richer decoder"
_RICHER = "more latent dimensions"


def advise(
    vae: Amortized, statistic: str, observed_is_higher: bool, entries: Sequence[Entry] = ()
) -> str:
    """Returns one sentence on a failed check; empty for a statistic that is not ours.

    It names a class only where that holds the same data and the model does not have it already,
    and a column where the check is about one.

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
    words = _Words(called, support, Remedies(vae, one), entries)
    return (words.higher() if observed_is_higher else words.lower()).get(name, "")


class _Words:
    """Sentences on the data as a whole, or on one column of a table."""

    def __init__(
        self,
        likelihood: str,
        support: constraints.Constraint,
        remedies: Remedies,
        entries: Sequence[Entry],
    ) -> None:
        self.name, self.support, self.remedies = likelihood, support, remedies
        self.real = not support.is_discrete
        self.one = one = entries[0] if len(entries) == 1 else None
        self.data, self.of, self.for_it = "the data", "", ""
        if one is not None:
            self.data, self.of, self.for_it = one.name, f" of {one.name}", f" for {one.name}"
        names = [each.name for each in entries]
        self.several = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "entries"
        self.mixture = remedies.prior

    def swap(self, want: Want, *others: str, most: int = 2) -> str:
        """Likelihoods that have what is wanted, if there are some, or else something else."""
        named = self.remedies.likelihoods(want)
        ways = [f"{named}{self.for_it}" if named else "", *others]
        return ", or ".join([each for each in ways if each][:most])

    def verb(self, stem: str) -> str:
        """A verb in the number of what it is about."""
        return f"{self.data} {stem}" if self.one is None else f"{self.data} {stem}s"

    def are(self, what: str) -> str:
        return f"{self.data} {'are' if self.one is None else 'is'} {what}"

    def skewed(self) -> str:
        if self.support is not constraints.real or self.remedies.likelihood is None:
            return f"{self.are('skewed')}: {self.swap('skewed', _RICHER)}"
        named = "likelihoods.Gamma or likelihoods.LogNormal"
        if self.one is None:
            return f"the data lean to one side: transform them, or {named} where they are positive"
        field = self.one.field
        way = ", where all of it is positive"
        if field is not None and field.kind == "real":
            way = f" (--kind {self.one.name}=positive, where all of it is)"
        return f"{self.are('skewed')}: {named}{self.for_it}{way}"

    def zeros(self) -> str:
        if self.real and self.remedies.likelihood is not None:
            return (
                f"more zeros{self._inside()} than {self.name} gives, as no density has any: a "
                "column of its own for whether there is a zero"
            )
        way = self.swap("zeros", "more latent dimensions, or a richer decoder", most=1)
        return f"more zeros{self._inside()} than {self.name} gives: {way}"

    def higher(self) -> dict[str, str]:
        """Where the observed value lies above the replicated ones."""
        mixture, remedies = self.mixture, self.remedies
        heavier = self.swap("heavier", remedies.freedom or remedies.finer, _MORE, most=1)
        shape = "this marginal" if self.one is None else f"the marginal{self.of}"
        varied = (remedies.finer, "more latent dimensions", "a richer decoder")
        more = self.swap("more variance", *varied)
        networks = "a convolutional or autoregressive decoder"
        if remedies.convolves:
            networks = "an autoregressive decoder"
        if named := remedies.likelihoods("dependent"):
            networks = named if remedies.convolves else f"a convolutional decoder, or {named}"
        elif self.name == "Autoregressive":
            networks = "a wider network (hidden)"
        return {
            "mean": f"{self.verb('lie')} above the model here: fit longer, or a richer decoder",
            "shares": f"this level{self.of} is commoner than in the model: fit longer, or a richer "
            "decoder",
            "dispersion": f"variance{self.of} exceeds what {self.name} lets a mean have: "
            f"{self.swap('more variance', *varied, most=1)}",
            "spread": f"{self._varies()} more than {self.name} does: {more}"
            if self.real
            else f"{self._varies()} more about {self._its()} expectation than the model predicts: "
            f"{self.swap('more variance', 'more latent dimensions', 'a richer decoder')}",
            "skewness": self.skewed(),
            "tails": f"tails heavier than {self.name}'s: {heavier}",
            "zeros": self.zeros(),
            "marginals": f"the shape of {shape} is not reproduced: "
            f"{self.swap('another shape', f'another likelihood{self.for_it}', most=1)}, or "
            f"{mixture} where it has several modes",
            "extremes": f"more extreme values than {self.name} gives: {heavier}",
            "correlation": f"{self.several} vary together more than z makes them: {_MORE}",
            "interactions": f"{self.several} go together in threes as z does not make them: "
            f"{self.swap('dependent', _MORE)}",
            "conditional means": f"the mean{self.of} bends otherwise with z, or with what rows are "
            "given, than in the model: a richer decoder (more or wider hidden layers), or another "
            "scale of x or of covariates, such as logarithms",
            "row order": "rows depend on their neighbours, which the model takes to be "
            "independent: hold out blocks of rows (split='blocks', --split blocks), and give the "
            "model their time as a condition, or make sequences of rows a pv.Program",
            "neighbours": f"entries side by side vary together more than z makes them: {networks}, "
            "or more latent dimensions",
            "totals": "data differ in overall size more than the model predicts: more latent "
            f"dimensions, or {mixture}",
            "distances": f"the data lie wider apart than draws: {mixture}, or {_RICHER}",
            "classifier": "a classifier distinguishes draws from data: look at the examples that "
            "it is surest of",
            "latent marginals": f"the data are not where the prior is along this unit: {mixture}",
            "latent classes": f"the data use the classes unequally: {remedies.classes}",
            "latent distance": f"aggregated posterior and prior differ: {mixture}",
            "latent holes": f"the prior puts mass where no observation is encoded: {mixture}",
        }

    def lower(self) -> dict[str, str]:
        """Where the observed value lies below the replicated ones."""
        mixture, finer = self.mixture, self.remedies.finer
        less = self.swap("less variance", finer, _LONGER, most=1)
        noise = f"the likelihood adds noise that they do not have; {finer}, or " if finer else ""
        return self.higher() | {
            "mean": f"{self.verb('lie')} below the model here: fit longer, or a richer decoder",
            "shares": f"this level{self.of} is rarer than in the model: fit longer, or a richer "
            "decoder",
            "dispersion": f"variance{self.of} is below what {self.name} gives a mean: {less}",
            "spread": f"{self._varies()} less than {self.name} does: {less}"
            if self.real
            else f"{self._varies()} less about {self._its()} expectation than the model predicts: "
            f"{self.swap('less variance', 'fit longer')}",
            "tails": f"tails lighter than {self.name}'s: {self.swap('lighter', '')}"
            f"{', or ' if self.swap('lighter', '') else ''}{mixture} where the data have several "
            "modes",
            "zeros": f"fewer zeros{self._inside()} than {self.name} gives: "
            f"{self.swap('fewer zeros', _LONGER, most=1)}",
            "extremes": f"fewer extreme values than {self.name} gives: "
            f"{self.swap('lighter', finer, _LONGER, most=1)}",
            "correlation": f"the model makes {self.several} vary together more than they do: fewer "
            "latent dimensions, or fit longer",
            "neighbours": "the model makes neighbours vary together more than they do: a decoder "
            "with more detail, or fit longer",
            "totals": "data differ in overall size less than the model predicts: fit longer, or a "
            "richer decoder",
            "distances": f"the data lie closer together than draws: {noise}a richer decoder",
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
    return one_of([_named(package, name, otherwise) for name, otherwise in names.items()])
