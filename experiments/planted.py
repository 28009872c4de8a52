"""Data that break one assumption of a simple VAE each, and that VAE.

Its decoder is linear and two-dimensional so that the misfit stays one: a richer model may well
explain it by z.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import pyro_vae as pv

FEATURES, LATENT = 12, 2
RECIPE = {"epochs": 12, "batch_size": 100, "lr": 0.05, "schedule": "cosine"}  # 120 steps of 1,000


def model(likelihood: str, features: int) -> pv.VAE:
    """A VAE with a linear decoder."""
    part = getattr(pv.likelihoods, likelihood)((features,))
    networks = pv.networks.MLP(hidden=(32,)), pv.networks.MLP(hidden=())
    return pv.VAE(pv.priors.Normal(LATENT), pv.guides.Normal(LATENT), part, *networks)


def location(size: int, z: Tensor | float = 0.0) -> Tensor:
    """A linear decoder's means, of z shifted by what is given."""
    return (torch.randn(size, LATENT) + z) @ torch.randn(LATENT, FEATURES)


def rate(size: int) -> Tensor:
    """Positive means of counts, around 3."""
    return torch.nn.functional.softplus(3 + 0.7 * location(size))


def clusters(size: int) -> Tensor:
    """Shifts of z by three standard deviations to either side."""
    return torch.stack([3 * torch.randn(size).sign(), torch.zeros(size)], 1)


def autoregressive(size: int) -> Tensor:
    """Noise of variance 1 whose neighbours have correlation 0.5."""
    noise = torch.randn(size, FEATURES)
    for i in range(1, FEATURES):
        noise[:, i] = 0.5 * noise[:, i - 1] + 0.75**0.5 * noise[:, i]
    return noise


def normal(size: int) -> Tensor:
    """Noise of the Normal cases."""
    return 0.5 * torch.randn(size, FEATURES)


def parity(size: int) -> Tensor:
    """Binary features, of which the third is the parity of the first two in half of the rows."""
    x = torch.bernoulli(location(size).sigmoid())
    x[:, :3] = torch.randint(2, (size, 3)).float()
    bound = torch.rand(size) < 0.5
    x[bound, 2] = (x[bound, 0] + x[bound, 1]) % 2
    return x


def chain(size: int) -> Tensor:
    """Latents of variance 1, correlated 0.7 with those of the row before."""
    z = torch.randn(size, LATENT)
    for i in range(1, size):
        z[i] = 0.7 * z[i - 1] + 0.51**0.5 * z[i]
    return z @ torch.randn(LATENT, FEATURES)


def season(size: int) -> Tensor:
    """A cycle of 50 rows, of amplitude 0.5 in each feature."""
    cycle = torch.arange(size) * (2 * torch.pi / 50)
    return 0.5 * torch.sin(cycle[:, None] + 2 * torch.pi * torch.rand(FEATURES))


STUDENT = torch.distributions.StudentT(3.0)
CASES: dict[str, tuple[str, str, Callable[[int], Tensor]]] = {
    "overdispersed": (
        "negative binomial counts, variance = 3 × mean",
        "Poisson",
        lambda n: torch.poisson(torch._standard_gamma(rate(n) / 2) * 2),
    ),
    "tails": (
        "Student-t(3) tails",
        "Normal",
        lambda n: location(n) + 0.5 * STUDENT.sample((n, FEATURES)),
    ),
    "zeros": (
        "20% extra zeros",
        "Poisson",
        lambda n: torch.poisson(rate(n)) * (torch.rand(n, FEATURES) > 0.2),
    ),
    "clusters": (
        "two clusters 6 sd apart",
        "Normal",
        lambda n: location(n, clusters(n)) + normal(n),
    ),
    "neighbours": (
        "residual correlation 0.5 of neighbours",
        "Normal",
        lambda n: location(n) + autoregressive(n),
    ),
    "link": (
        "logarithmic link, where the model's is softplus",
        "Poisson",
        lambda n: torch.poisson(torch.exp(0.5 + 0.5 * location(n))),
    ),
    "interaction": (
        "a feature is the parity of two others in half of the rows",
        "Bernoulli",
        parity,
    ),
    "chain": (
        "latents correlated 0.7 with those of the row before",
        "Normal",
        lambda n: chain(n) + normal(n),
    ),
    "season": (
        "a cycle along the rows of amplitude 0.5",
        "Normal",
        lambda n: location(n) + season(n) + normal(n),
    ),
    "none-Poisson": ("none", "Poisson", lambda n: torch.poisson(rate(n))),
    "none-Normal": ("none", "Normal", lambda n: location(n) + normal(n)),
}
