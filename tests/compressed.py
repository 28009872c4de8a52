"""Random models and data that fit them, for round trips through a file of compressed data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from hypothesis import strategies as st
from torch.distributions import constraints

import pyro_vae as pv

__all__ = ["LIKELIHOODS", "PAIRS", "cases", "model_of", "values_of"]

PAIRS: dict[str, Any] = {
    "Normal": lambda: (pv.priors.Normal(3), pv.guides.Normal(3)),
    "learned Normal, FullNormal": lambda: (
        pv.priors.Normal(3, learned=True),
        pv.guides.FullNormal(3),
    ),
    "Laplace": lambda: (pv.priors.Laplace(2), pv.guides.Normal(2)),
    "ladder": lambda: (pv.priors.Hierarchy([2, 3], (4,)), pv.guides.Hierarchy([2, 3])),
    "bottom-up": lambda: (
        pv.priors.Hierarchy([2, 2, 3], (4,)),
        pv.guides.Hierarchy([2, 2, 3], "bottom-up", (4,)),
    ),
    "Product": lambda: (
        pv.priors.Product([pv.priors.Normal(2), pv.priors.Laplace(1)]),
        pv.guides.Product([pv.guides.FullNormal(2), pv.guides.Normal(1)]),
    ),
}


class Binomial(pv.likelihoods.Likelihood):
    """Levels of a family that is coded by the density of each."""

    support, measure = constraints.integer_interval(0, 9), "counting"  # type: ignore[assignment]

    def init_params(self, x_train: torch.Tensor) -> torch.Tensor:
        return x_train.new_zeros(self.param_shape)

    def forward(self, params: torch.Tensor) -> Any:
        return dist.Binomial(9, logits=params).to_event(len(self.event_shape))


class _WithCdf(dist.Geometric):
    def cdf(self, value: torch.Tensor) -> torch.Tensor:
        return -torch.expm1((value + 1) * torch.log1p(-self.probs))


class Geometric(pv.likelihoods.Likelihood):
    """Counts of a family that has a distribution function of its own."""

    support, measure = constraints.nonnegative_integer, "counting"  # type: ignore[assignment]

    def init_params(self, x_train: torch.Tensor) -> torch.Tensor:
        return x_train.new_zeros(self.param_shape)

    def forward(self, params: torch.Tensor) -> Any:
        return _WithCdf(logits=params).to_event(len(self.event_shape))


COLUMNS = ["Bernoulli", {"class": "Categorical", "levels": 5}, "Poisson"]
LIKELIHOODS: dict[str, Any] = {
    "Bernoulli": pv.likelihoods.Bernoulli,
    "Categorical": lambda shape: pv.likelihoods.Categorical(shape, levels=7),
    "Ordinal": lambda shape: pv.likelihoods.Ordinal(shape, levels=4),
    "BetaBinomial": lambda shape: pv.likelihoods.BetaBinomial(shape, levels=19),
    "DiscretizedLogistic": lambda shape: pv.likelihoods.DiscretizedLogistic(
        shape, levels=256, components=2
    ),
    "Poisson": pv.likelihoods.Poisson,
    "NegativeBinomial": pv.likelihoods.NegativeBinomial,
    "ZeroInflatedPoisson": pv.likelihoods.ZeroInflatedPoisson,
    "ZeroInflatedNegativeBinomial": pv.likelihoods.ZeroInflatedNegativeBinomial,
    "Binomial": Binomial,
    "Geometric": Geometric,
    "Mixed": lambda shape: pv.likelihoods.Mixed((3,), COLUMNS),
}
_COUNTS = ("Poisson", "NegativeBinomial", "ZeroInflatedPoisson", "ZeroInflatedNegativeBinomial",
           "Geometric")  # fmt: skip
_TYPES = ("uint8", "int64", "float32", ">i4", "float64")


def model_of(pair: str, likelihood: str, shape: tuple[int, ...], seed: int, gain: float) -> pv.VAE:
    """A model with random weights, which ``gain`` makes more or less sure of what it says."""
    vae = pv.VAE(
        *PAIRS[pair](),
        LIKELIHOODS[likelihood](shape),
        encoder=pv.networks.MLP((6,)),
        decoder=pv.networks.MLP((6,)),
        seed=seed,
    )
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.mul_(gain)
    return vae


def values_of(likelihood: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Data of the support, of which a few counts are where no model expects them."""
    if likelihood in _COUNTS:
        far = rng.integers(0, 2**22, shape)
        return np.where(rng.random(shape) < 0.02, far, rng.poisson(3, shape))
    top = {
        "Categorical": 6,
        "Ordinal": 3,
        "BetaBinomial": 18,
        "Binomial": 9,
        "DiscretizedLogistic": 255,
    }
    if likelihood == "Mixed":
        return np.stack([rng.integers(0, n, shape[0]) for n in (2, 5, 100)], 1)
    return rng.integers(0, top.get(likelihood, 1) + 1, shape)


@st.composite
def cases(draw: st.DrawFn) -> tuple[pv.VAE, np.ndarray]:
    """A model, and data for it: from one row on, of all shapes, likelihoods, guides and types."""
    pair, likelihood = draw(st.sampled_from(list(PAIRS))), draw(st.sampled_from(list(LIKELIHOODS)))
    shape = draw(st.sampled_from([(1,), (5,), (2, 3), (1, 3, 2)]))
    shape = (3,) if likelihood == "Mixed" else shape
    rows, seed = draw(st.integers(1, 70)), draw(st.integers(0, 2**32 - 1))
    vae = model_of(pair, likelihood, shape, seed, draw(st.sampled_from([0.3, 1.0, 4.0])))
    x = values_of(likelihood, (rows, *shape), np.random.default_rng(seed))
    kinds = [kind for kind in _TYPES if x.max() <= (255 if kind == "uint8" else 2**23)]
    if x.max() <= 1:
        kinds.append("bool")
    return vae, x.astype(draw(st.sampled_from(kinds)))
