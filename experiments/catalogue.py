"""The exported classes with their references and supports, and the command that fits each."""

from __future__ import annotations

import inspect
import re

import pyro_vae as pv
from pyro_vae.missingness.missingness import words as known_words
from pyro_vae.part import Part

PACKAGES = ("priors", "guides", "likelihoods", "missingness", "networks", "objectives")
GREY = ("Bernoulli", "BetaBinomial", "Categorical", "ContinuousBernoulli", "DiscretizedLogistic")
GREY += ("Normal",)  # likelihoods that the digits suit; the others have simulated data
GROUPS = "--prior Categorical --prior.groups 8 --prior.classes 4"
COLUMNS = "[Normal, Poisson, Bernoulli, {class: Categorical, levels: 4}]"
PRODUCT = "--prior.parts '[{class: Normal, dim: 6}, {class: Categorical, groups: 2, classes: 4}]'"
PRODUCT_GUIDE = PRODUCT.replace("prior", "guide").replace("Categorical", "GumbelSoftmax")
LEVELS = "--likelihood.levels 17"
WARMUP = "--objective.warmup 100"  # half of the steps: see guides.Hyperspherical
# Options that a class requires.
OPTIONS = {
    "priors.Conditional": "--cond digit",
    "priors.Hierarchy": "--prior.dims [8,4] --guide Hierarchy",
    "priors.Hyperspherical": WARMUP,
    "priors.Product": f"{PRODUCT} --guide Product {PRODUCT_GUIDE}",
    "guides.Hierarchy": "--prior Hierarchy --prior.dims [8,4]",
    "guides.Hyperspherical": f"--prior Hyperspherical {WARMUP}",
    "guides.Product": f"--prior Product {PRODUCT} {PRODUCT_GUIDE}",
    "priors.Categorical": "--prior.groups 8 --prior.classes 4",
    "guides.GumbelSoftmax": GROUPS,
    "objectives.Enumerated": "--prior Categorical --prior.groups 1 --prior.classes 10",
    "networks.SequenceEncoder": f"--encoder.levels 17 --likelihood Categorical {LEVELS}",
    "networks.TopicDecoder": f"--prior LogisticNormal --likelihood Multinomial {WARMUP}",
    "networks.TemporalConvDecoder": "--likelihood Normal --likelihood.scale per-channel",
    "networks.TemporalConvEncoder": "--likelihood Normal --likelihood.scale per-channel",
    "likelihoods.Autoregressive": "--likelihood.levels 5",
    "likelihoods.BetaBinomial": LEVELS,
    "likelihoods.Categorical": LEVELS,
    "likelihoods.DiscretizedLogistic": LEVELS,
    "likelihoods.Mixed": f"--likelihood.columns '{COLUMNS}'",
}


def parts() -> dict[str, type]:
    """Every exported class that is a part or an objective, by its name."""
    bases = (Part, pv.objectives.Objective)
    exported = {
        f"{r}.{n}": getattr(getattr(pv, r), n) for r in PACKAGES for n in getattr(pv, r).__all__
    }
    return {
        name: cls
        for name, cls in exported.items()
        if inspect.isclass(cls) and issubclass(cls, bases) and not inspect.isabstract(cls)
    }


def reference(cls: type) -> tuple[str, str, int]:
    """Title, address and year of the first reference of a docstring."""
    section = re.search(r"References:\n(.*?)(?:\n\n|\Z)", inspect.getdoc(cls) or "", re.DOTALL)
    words = " ".join(section[1].split()) if section else ""
    found = re.match(r"(.+?) \([^()]+, (\d{4})\).*?(https?://[^\s,;]+)", words)
    if found is None:
        raise ValueError(f"{cls}: expected `References: Title (authors, year), URL`, got {words!r}")
    return found[1], found[3], int(found[2])


def support(cls: type) -> str:
    """The support of a distribution, in a word or two."""
    constraint = getattr(cls, "support", None)
    name = "" if constraint is None else type(constraint).__name__.strip("_")
    words = {"IndependentConstraint": "real", "OneHot": "one-hot", "Boolean": "0 or 1"}
    words |= {"GreaterThan": "positive", "AngleSupport": "[-π, π]"}
    words |= {"CompositionSupport": "shares"}
    words |= {"Interval": "[0, 1]", "IntegerGreaterThan": "counts", "Real": "real"}
    # Of composites, the sites have a support each.
    own = {"Mixed": "by column", "Product": "by part", "Hierarchy": "real", "SelfMasking": "masks"}
    levels = constraint is not None and "levels" in inspect.signature(cls).parameters
    return own.get(cls.__name__) or ("levels" if levels else words.get(name, name.lower()))


def command(name: str) -> str:
    """What follows ``pyro-vae`` to fit a model with that class."""
    package, _, part = name.partition(".")
    if package == "missingness":
        word = next(word for word, cls in known_words().items() if cls.__name__ == part)
        missing = f"--missing --show-mask --missingness {word}"
        return f"fit runs/simulated/{part}.csv --likelihood Normal {missing}"
    data = "digits"
    if package == "likelihoods" and part not in GREY:
        data = f"runs/simulated/{part}.csv"
    role = package.removesuffix("s")
    if part.startswith("Temporal"):
        data = "runs/simulated/Series.npy"
    if package == "networks":
        role = "decoder" if "Decoder" in part else "encoder"
    before = ""
    if package == "guides" and name not in OPTIONS:
        space = getattr(parts()[name], "support", None)
        spaces = {n: c for n, c in parts().items() if n.startswith("priors.")}
        fitting = [n for n, c in spaces.items() if getattr(c, "support", None) is space]
        prior = "priors.Normal" if "priors.Normal" in fitting else fitting[0]
        before = "" if prior == "priors.Normal" else f"--prior {prior.partition('.')[2]} "
    return f"fit {data} {before}--{role} {part} {OPTIONS.get(name, '')}".strip()
