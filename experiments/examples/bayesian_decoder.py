"""A decoder whose weights are latent, shared by all rows: Appendix F of Kingma and Welling.

Auto-Encoding Variational Bayes (2014), https://arxiv.org/abs/1312.6114
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoLowRankMultivariateNormal, AutoMultivariateNormal
from torch import Tensor, nn

import pyro_vae as pv
from examples.registry import Case, example, positive
from pyro_vae.data import Rows

LATENT, INPUTS, FEATURES = 2, 2, 5
NOISE = 0.5


class BayesianDecoder:
    """x = W [z, cond, 1] + noise, where W is latent.

    Args:
        loading: The part of W that multiplies z, ``(D, LATENT)``, if that is known: then the rest
            is conjugate.
    """

    def __init__(self, loading: Tensor | None = None) -> None:
        self.loading = loading
        self.encoder = nn.Linear(FEATURES + INPUTS, 2 * LATENT)
        shared = poutine.block(self.model, hide=["z", "x"])
        kind = AutoLowRankMultivariateNormal if loading is None else AutoMultivariateNormal
        self.shared = kind(shared, init_scale=0.05)

    def model(self, x: Tensor, cond: Tensor) -> None:
        """Rows ``(N, D)`` and their covariates ``(N, INPUTS)``."""
        slope = dist.Normal(torch.zeros(FEATURES, INPUTS + 1), 1.0).to_event(2)
        slope = pyro.sample("slope", slope)
        loading = self.loading
        if loading is None:
            d = dist.Normal(torch.zeros(FEATURES, LATENT), 1.0).to_event(2)
            loading = pyro.sample("loading", d)
        inputs = torch.cat([cond, torch.ones(len(cond), 1)], -1)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            loc = z @ loading.T + inputs @ slope.T
            pyro.sample("x", dist.Normal(loc, NOISE).to_event(1), obs=x)

    def guide(self, x: Tensor, cond: Tensor) -> None:
        """A linear encoder: the posterior of z given W is linear."""
        pyro.module("encoder", self.encoder)
        self.shared(x, cond)
        with pyro.plate("data", len(x)):
            loc, raw = self.encoder(torch.cat([x, cond], -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, positive(raw)).to_event(1))


TRUE_LOADING = torch.tensor([[1.0, 0.0], [0.5, 0.0], [0.0, 1.0], [0.0, -0.5], [0.0, 0.0]])


def rows(count: int) -> Rows:
    """Rows of a linear decoder."""
    slope = torch.linspace(-1.0, 1.0, FEATURES * INPUTS).reshape(FEATURES, INPUTS)
    cond = torch.randn(count, INPUTS)
    x = torch.randn(count, LATENT) @ TRUE_LOADING.T + cond @ slope.T
    return Rows(x + NOISE * torch.randn(count, FEATURES), {"cond": cond})


def _covariance(loading: Tensor) -> Tensor:
    """Of x given W and cond."""
    return loading @ loading.T + NOISE**2 * torch.eye(FEATURES).to(loading.dtype)


@torch.no_grad()
def at_a_draw(program: pv.Program, rows: Rows) -> Tensor:
    """Log p(x | W): that of a normal distribution."""
    slope = program.drawn["slope"].double()
    loading = program.drawn.get("loading", TRUE_LOADING).double()
    inputs = torch.cat([rows.given["cond"], torch.ones(len(rows), 1)], -1).double()
    return dist.MultivariateNormal(inputs @ slope.T, _covariance(loading)).log_prob(rows.x.double())


def posterior_predictive(train: Rows, held_out: Rows) -> Tensor:
    """Log p(x | training data) of each held-out row, conjugate, where the loading is known."""
    precision = torch.linalg.inv(_covariance(TRUE_LOADING.double()))
    inputs, new = (
        torch.cat([each.given["cond"], torch.ones(len(each), 1)], -1).double()
        for each in (train, held_out)
    )
    size = FEATURES * (INPUTS + 1)  # of the slopes, a row of W after the other
    total = (
        torch.kron(precision.contiguous(), (inputs.T @ inputs).contiguous())
        + torch.eye(size).double()
    )
    cov = torch.linalg.inv(total)
    mean = cov @ (precision @ train.x.double().T @ inputs).reshape(-1)
    design = torch.stack([torch.kron(torch.eye(FEATURES).double(), each[None]) for each in new])
    spread = design @ cov @ design.mT + _covariance(TRUE_LOADING.double())
    return dist.MultivariateNormal(design @ mean, spread).log_prob(held_out.x.double())


def make(conjugate: bool = False) -> Case:
    """Returns the example."""
    pair = BayesianDecoder(TRUE_LOADING if conjugate else None)
    size = 40 if conjugate else 300
    options = {"epochs": 200, "batch_size": 100, "lr": 2e-2, "schedule": "cosine"}
    if conjugate:
        options |= {"epochs": 2000, "batch_size": size}
    program, train = pv.Program(pair.model, pair.guide), rows(size)
    averaged = (lambda _, new: posterior_predictive(train, new)) if conjugate else None
    return Case(program, train, rows(200), options, at_a_draw, averaged)


example(
    "bayesian_decoder",
    "Bayesian linear decoder",
    "normal at a draw, and conjugate",
    make,
    lambda: make(True),
)
