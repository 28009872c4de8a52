"""Which parts of the package could replace those of a model: never one that is in use."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Literal

from torch.distributions import constraints

from pyro_vae import likelihoods, priors
from pyro_vae.criticism._entries import likelihood_of
from pyro_vae.data.entries import Entry
from pyro_vae.distributions import same_support
from pyro_vae.networks import ConvDecoder
from pyro_vae.programs import Amortized
from pyro_vae.programs.composition import Composition

__all__ = ["Remedies", "Want", "one_of"]

Want = Literal[
    "more variance", "less variance", "heavier", "lighter", "skewed", "zeros", "fewer zeros",
    "another shape", "dependent",
]  # fmt: skip
_LEVELS = ("BetaBinomial", "DiscretizedLogistic", "Ordinal")  # which have few parameters
_CATEGORICAL: dict[str, tuple[str, ...]] = dict.fromkeys(_LEVELS, ("Categorical",))
# What has what is wanted and holds the same data, by the likelihood that has not.
_SWAPS: dict[Want, dict[str, tuple[str, ...]]] = {
    "more variance": _CATEGORICAL
    | {
        "Poisson": ("NegativeBinomial",),
        "ZeroInflatedPoisson": ("ZeroInflatedNegativeBinomial",),
        "Multinomial": ("NegativeBinomial",),
        "ContinuousBernoulli": ("Beta",),
    },
    "less variance": _CATEGORICAL
    | {
        "NegativeBinomial": ("Poisson",),
        "ZeroInflatedPoisson": ("Poisson",),
        "ZeroInflatedNegativeBinomial": ("ZeroInflatedPoisson", "NegativeBinomial"),
        "ContinuousBernoulli": ("Beta",),
    },
    "heavier": _CATEGORICAL
    | {
        "Normal": ("StudentT",),
        "Laplace": ("StudentT",),
        "Gamma": ("LogNormal",),
        "Poisson": ("NegativeBinomial",),
        "ZeroInflatedPoisson": ("ZeroInflatedNegativeBinomial",),
        "Multinomial": ("NegativeBinomial",),
        "ContinuousBernoulli": ("Beta",),
    },
    "lighter": _CATEGORICAL
    | {
        "StudentT": ("Normal",),
        "Laplace": ("Normal",),
        "LogNormal": ("Gamma",),
        "NegativeBinomial": ("Poisson",),
        "ZeroInflatedNegativeBinomial": ("ZeroInflatedPoisson",),
        "ContinuousBernoulli": ("Beta",),
    },
    "skewed": _CATEGORICAL
    | {"Gamma": ("LogNormal",), "LogNormal": ("Gamma",), "ContinuousBernoulli": ("Beta",)},
    "zeros": _CATEGORICAL
    | {
        "Poisson": ("ZeroInflatedPoisson",),
        "NegativeBinomial": ("ZeroInflatedNegativeBinomial",),
        "ZeroInflatedPoisson": ("ZeroInflatedNegativeBinomial",),
        "Multinomial": ("ZeroInflatedPoisson", "ZeroInflatedNegativeBinomial"),
    },
    "fewer zeros": _CATEGORICAL
    | {
        "ZeroInflatedPoisson": ("Poisson",),
        "ZeroInflatedNegativeBinomial": ("NegativeBinomial",),
    },
    "another shape": _CATEGORICAL
    | {
        "Normal": ("Laplace", "StudentT"),
        "Laplace": ("Normal", "StudentT"),
        "StudentT": ("Normal", "Laplace"),
        "Gamma": ("LogNormal",),
        "LogNormal": ("Gamma",),
        "Poisson": ("NegativeBinomial", "ZeroInflatedPoisson"),
        "NegativeBinomial": ("ZeroInflatedNegativeBinomial",),
        "ZeroInflatedPoisson": ("ZeroInflatedNegativeBinomial",),
        "Multinomial": ("NegativeBinomial",),
        "ContinuousBernoulli": ("Beta",),
    },
    "dependent": dict.fromkeys(("Bernoulli", "Categorical", *_LEVELS), ("Autoregressive",)),
}
_FINER = ("shared", "per-dimension", "predicted")  # how a scale or a dispersion is found
_PRIORS = ("Mixture", "VampPrior", "Flow")  # on real vectors, with several modes
_MORE = {
    "Mixture": "more components",
    "VampPrior": "more pseudo-inputs",
    "Flow": "more transforms",
    "Hierarchy": "more layers (dims)",
    "Conditional": "wider layers (hidden)",
}


class Remedies:
    """Creates what knows the parts of a model that failed, and what else there is.

    Of a Pyro program it knows no parts, and names none.

    Args:
        vae: The model.
        one: The entry of x that failed, if it is one.
    """

    def __init__(self, vae: Amortized, one: Entry | None) -> None:
        self.likelihood = likelihood_of(vae, one)
        self._prior = vae.prior if isinstance(vae, Composition) else None
        self._conditioned = isinstance(vae, Composition) and vae.cond_size is not None
        self._one = one
        self.convolves = isinstance(vae, Composition) and any(
            isinstance(each, ConvDecoder) for each in vae.decoder.modules()
        )

    def likelihoods(self, want: Want) -> str:
        """Names likelihoods that have what is wanted; empty where the package has none."""
        if self.likelihood is None:
            return ""
        kinds = [each.__name__ for each in type(self.likelihood).__mro__]
        swaps = next((_SWAPS[want][kind] for kind in kinds if kind in _SWAPS[want]), ())
        return named(likelihoods, [name for name in swaps if name not in kinds])

    @property
    def finer(self) -> str:
        """How a scale or a dispersion could be found in more detail; empty where it cannot."""
        own = self.likelihood
        for option in ("scale", "dispersion", "spread"):
            mode = getattr(own, option, None)
            if mode is not None:
                break
        else:
            return ""
        if option == "spread":  # of positive data, whose argument has two names
            option = "scale" if isinstance(own, likelihoods.LogNormal) else "dispersion"
        better = _FINER[_FINER.index(mode) + 1 :] if mode in _FINER else _FINER[1:]
        if self._one is not None:
            better = better[-1:]
        if not better:
            return ""
        kind = (
            "a predicted" if better == ("predicted",) else f"a {option} of its own for each entry,"
        )
        of = f"{option}{f' for {self._one.name}' if self._one else ''}" * (len(better) == 1)
        options = " or ".join(map(repr, better))
        return f"{kind} {of}".rstrip(" ,") + f" ({option}={options})"

    @property
    def freedom(self) -> str:
        """What makes the tails of a distribution heavier that has an option for it, or empty."""
        student = isinstance(self.likelihood, likelihoods.StudentT)
        return "fewer degrees of freedom (df)" if student else ""

    @property
    def prior(self) -> str:
        """A more flexible prior: other classes on real vectors, or more of the one in use."""
        if self._prior is None:
            return "a prior with several modes"
        used = [self._prior, *getattr(self._prior, "parts", ())]
        kinds = {each.__name__ for one in used for each in type(one).__mro__}
        own = [words for name, words in _MORE.items() if name in kinds]
        swaps = [name for name in _PRIORS if name not in kinds]
        if self._conditioned:  # pseudo-inputs have no condition
            swaps.remove("VampPrior")
        if "Conditional" in kinds or not any(_real(one) for one in used):
            swaps = []  # which would know nothing of the condition, or live elsewhere
        known = [*(named(priors, [name]) for name in swaps), *own]
        return one_of(known or ["more latent dimensions", "classes"])

    @property
    def classes(self) -> str:
        """What to do where classes of z are used unequally."""
        if isinstance(self._prior, priors.Bernoulli):
            learned = self._prior.logits.requires_grad
            return "fewer latent dimensions" if learned else "learned probabilities (learned=True)"
        if self._prior is None:
            return "a prior with learned probabilities"
        return (
            f"fewer classes, or {named(priors, ['Mixture'])}, whose components have learned weights"
        )


def _real(prior: priors.Prior) -> bool:
    """Whether a prior has one site, of real vectors."""
    sites = [*prior.space.values()]
    return len(sites) == 1 and same_support(sites[0].support, constraints.real_vector)


def named(package: ModuleType, names: list[str]) -> str:
    """Names classes of a subpackage.

    Example:
        >>> named(priors, ["Mixture", "Flow"])
        'priors.Mixture or priors.Flow'
    """
    role = package.__name__.rpartition(".")[2]
    return one_of([f"{role}.{name}" for name in names])


def one_of(names: Sequence[str]) -> str:
    """Writes alternatives as people do.

    Example:
        >>> one_of(["a", "b", "c"]), one_of(["a"])
        ('a, b or c', 'a')
    """
    return " or ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
