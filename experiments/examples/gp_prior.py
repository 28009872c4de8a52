"""A Gaussian process prior over time, and a guide that conditions it on what an encoder saw.

The Gaussian Process Prior VAE for Interpretable Latent Dynamics from Pixels (Pearce, 2020),
https://proceedings.mlr.press/v118/pearce20a.html
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyro_vae as pv
from examples.registry import Case, example, mlp, positive
from pyro_vae.data import Rows

STEPS, FEATURES = 12, 3


class GPPrior(nn.Module):
    """z over time is a Gaussian process, x of each time a function of z at that time."""

    def __init__(self, linear: bool = False) -> None:
        super().__init__()
        self.raw_length = nn.Parameter(torch.tensor(1.0))
        self.decoder = nn.Linear(1, FEATURES) if linear else mlp(1, FEATURES)
        self.raw_noise = nn.Parameter(torch.zeros(FEATURES))
        self.encoder = nn.Linear(FEATURES, 2) if linear else mlp(FEATURES, 2)

    def kernel(self) -> Tensor:
        """Squared exponential, over times 0, 1, ..."""
        times = torch.arange(STEPS).to(self.raw_length)
        off = (times - times[:, None]) / positive(self.raw_length)
        return (-0.5 * off.square()).exp() + 1e-2 * torch.eye(STEPS).to(off)

    def model(self, x: Tensor) -> None:
        """Series ``(N, T, D)``."""
        pyro.module("gp_prior", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.MultivariateNormal(x.new_zeros(STEPS), self.kernel()))
            d = dist.Normal(self.decoder(z[..., None]), positive(self.raw_noise)).to_event(2)
            pyro.sample("x", d, obs=x)

    def guide(self, x: Tensor) -> None:
        """The process given a noisy observation of z at each time, from the encoder."""
        pyro.module("gp_prior", self)
        kernel = self.kernel()
        loc, raw = self.encoder(x).unbind(-1)
        noisy = torch.linalg.cholesky(kernel + torch.diag_embed(positive(raw).square()))
        mean = torch.cholesky_solve(loc[..., None], noisy)
        half = torch.linalg.solve_triangular(noisy, kernel.expand_as(noisy), upper=False)
        cov = kernel - half.mT @ half + 1e-5 * torch.eye(STEPS).to(kernel)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal((kernel @ mean)[..., 0], cov))


def series(count: int, linear: bool) -> Rows:
    """Smooth series seen through three channels."""
    times = torch.arange(STEPS).float()
    kernel = (-0.5 * ((times - times[:, None]) / 2).square()).exp() + 1e-2 * torch.eye(STEPS)
    z = dist.MultivariateNormal(torch.zeros(STEPS), kernel).sample((count,))[..., None]
    seen = torch.cat([z, -0.5 * z, 0.0 * z] if linear else [z, (2 * z).tanh(), z.cos()], -1)
    return Rows(seen + 0.4 * torch.randn(count, STEPS, FEATURES))


@torch.no_grad()
def marginal(pair: GPPrior, rows: Rows) -> Tensor:
    """Log p(x) of a linear decoder: a normal distribution over all times and channels."""
    weight, bias = pair.decoder.weight[:, 0].double(), pair.decoder.bias.double()
    noise = positive(pair.raw_noise).double().square()
    cov = torch.kron(pair.kernel().double(), torch.outer(weight, weight))
    cov = cov + noise.repeat(STEPS).diag()
    return dist.MultivariateNormal(bias.repeat(STEPS), cov).log_prob(rows.x.double().flatten(1))


def make(linear: bool = False) -> Case:
    """Returns the example."""
    pair = GPPrior(linear)
    options = {"epochs": 150, "batch_size": 100, "lr": 1e-2, "schedule": "cosine"}
    exact = (lambda _, rows: marginal(pair, rows)) if linear else None
    program = pv.Program(pair.model, pair.guide)
    return Case(program, series(400, linear), series(200, linear), options, exact)


example("gp_prior", "GP prior over time", "Gaussian process", make, lambda: make(True))
