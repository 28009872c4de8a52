"""A linear-Gaussian model, whose log p(x), posterior and gaps are known in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

import pyro_vae as pv
from pyro_vae.distributions import inverse_positive


@dataclass(frozen=True)
class LinearGaussian:
    """Creates x = W z + b + noise, with the diagonal guide of least KL, its scale multiplied.

    With orthogonal columns that guide, for factor 1, is the posterior; with correlated ones no
    diagonal guide is.

    Args:
        dim: Features of x.
        latent: Dimension of z, D.
        columns: Of W: ``orthogonal``, of lengths from 0.5 to 2; or ``correlated``, which share a
            direction, so that the posterior is far from diagonal.
        factor: Multiplies the scale of the guide.
        noise: Standard deviation of x given z.
        bias: Standard deviation of the entries of b.
        seed: Of W and b.
        dtype: Of the model; the closed forms are float64.
    """

    dim: int = 64
    latent: int = 8
    columns: Literal["orthogonal", "correlated"] = "orthogonal"
    factor: float = 1.0
    noise: float = 0.7
    bias: float = 0.0
    seed: int = 0
    dtype: torch.dtype = torch.float32
    vae: pv.VAE = field(init=False)
    weight: Tensor = field(init=False)
    offset: Tensor = field(init=False)
    precision: Tensor = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        raw = torch.randn(self.dim, self.latent, generator=generator)
        lengths = torch.linspace(0.5, 2.0, self.latent)
        if self.columns == "orthogonal":
            weight = torch.linalg.qr(raw)[0] * lengths
        else:
            shared = torch.randn(self.dim, 1, generator=generator)
            weight = nn.functional.normalize(raw + shared, dim=0) * lengths
        offset = self.bias * torch.randn(self.dim, generator=generator)
        weight, offset = weight.to(self.dtype), offset.to(self.dtype)
        W = weight.double()
        precision = torch.eye(self.latent).double() + W.T @ W / self.noise**2
        slope = torch.linalg.solve(precision, W.T) / self.noise**2
        scale = self.factor * precision.diagonal().rsqrt()

        encoder = nn.Linear(self.dim, 2 * self.latent)
        decoder = nn.Linear(self.latent, self.dim)
        with torch.no_grad():
            encoder.weight.copy_(torch.cat([slope, torch.zeros_like(slope)]))
            encoder.bias.copy_(torch.cat([-slope @ offset.double(), inverse_positive(scale)]))
            decoder.weight.copy_(weight)
            decoder.bias.copy_(offset)
        vae = pv.VAE(
            pv.priors.Normal(self.latent),
            pv.guides.Normal(self.latent),
            pv.likelihoods.Normal((self.dim,), scale=self.noise),
            encoder,
            decoder,
        )
        known = {"vae": vae.to(self.dtype), "weight": W, "offset": offset.double()}
        for name, value in (known | {"precision": precision}).items():
            object.__setattr__(self, name, value)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), shape ``(N,)``, float64."""
        return self.marginal.log_prob(x.double())

    @property
    def marginal(self) -> MultivariateNormal:
        """p(x) = N(x | b, W W' + noise^2 I), float64."""
        noise = self.noise**2 * torch.eye(self.dim).double()
        return MultivariateNormal(self.offset, self.weight @ self.weight.T + noise)

    def posterior(self, x: Tensor) -> MultivariateNormal:
        """The exact p(z|x), batch shape ``(N,)``, float64."""
        means = (x.double() - self.offset) @ self.weight / self.noise**2
        loc = torch.linalg.solve(self.precision, means.T).T
        return MultivariateNormal(loc, precision_matrix=self.precision)

    @property
    def best_gap(self) -> float:
        """KL of the best diagonal guide to the posterior, the approximation gap of every x."""
        diagonal = self.precision.diagonal().log().sum()
        return float(diagonal - self.precision.logdet()) / 2

    @property
    def gap(self) -> float:
        """KL of this guide to the posterior: log p(x) less the ELBO, for every x."""
        return self.best_gap + self.latent * (self.factor**2 - 1 - 2 * math.log(self.factor)) / 2
