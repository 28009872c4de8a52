"""A deep Markov model of sequences of several lengths, in the manner of Pyro's ``dmm.py``.

Structured Inference Networks for Nonlinear State Space Models (Krishnan et al., 2017),
https://arxiv.org/abs/1609.09869
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

import pyro_vae as pv
from examples.registry import Case, example, mlp, positive
from pyro_vae.data import Rows

STATE, FEATURES, STEPS = 2, 3, 8


class DeepMarkov(nn.Module):
    """z_t depends on z_{t-1}, x_t on z_t; the guide reads x from its end."""

    def __init__(self, linear: bool = False, hidden: int = 16) -> None:
        super().__init__()
        self.transition = nn.Linear(STATE, STATE) if linear else mlp(STATE, STATE)
        self.emission = nn.Linear(STATE, FEATURES) if linear else mlp(STATE, FEATURES)
        self.raw_state = nn.Parameter(torch.zeros(STATE))
        self.raw_noise = nn.Parameter(torch.zeros(FEATURES))
        self.first = nn.Parameter(torch.zeros(hidden))
        self.cell = nn.GRUCell(FEATURES, hidden)
        self.combine = mlp(STATE + hidden, 2 * STATE)

    def model(self, x: Tensor, mask: Tensor) -> None:
        """Sequences ``(N, T, D)``, of which the steps in ``mask`` are there, all D entries."""
        pyro.module("deep_markov", self)
        mask = mask[..., 0]
        z, states = x.new_zeros(len(x), 1, STATE), []
        with pyro.plate("data", len(x), dim=-2):
            for t in range(x.shape[1]):
                d = dist.Normal(self.transition(z), positive(self.raw_state)).to_event(1)
                with poutine.mask(mask=mask[:, t, None]):
                    z = pyro.sample(f"z_{t}", d)
                states.append(z)
            seen = dist.Normal(self.emission(torch.cat(states, 1)), positive(self.raw_noise))
            with pyro.plate("time", x.shape[1], dim=-1), poutine.mask(mask=mask):
                pyro.sample("x", seen.to_event(1), obs=x)

    def guide(self, x: Tensor, mask: Tensor) -> None:
        """q(z_t | z_{t-1}, x_t, x_{t+1}, ...)."""
        pyro.module("deep_markov", self)
        mask = mask[..., 0]
        state, ahead = self.first.expand(len(x), -1), []
        for t in reversed(range(x.shape[1])):
            state = torch.where(mask[:, t, None], self.cell(x[:, t], state), state)
            ahead.insert(0, state)
        z = x.new_zeros(len(x), 1, STATE)
        with pyro.plate("data", len(x), dim=-2):
            for t in range(x.shape[1]):
                known = torch.cat([z, ahead[t][:, None]], -1)
                loc, raw = self.combine(known).chunk(2, -1)
                d = dist.Normal(self.transition(z) + loc, positive(raw)).to_event(1)
                with poutine.mask(mask=mask[:, t, None]):
                    z = pyro.sample(f"z_{t}", d)


def sequences(count: int) -> Rows:
    """Noisy turns about the origin, of 3 to 8 steps."""
    turn = 0.9 * torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    seen = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]])
    z, steps = torch.zeros(count, STATE), []
    for _ in range(STEPS):
        z = z @ turn.T + 0.7 * torch.randn(count, STATE)
        steps.append(z @ seen.T + 0.4 * torch.randn(count, FEATURES))
    mask = torch.arange(STEPS) < torch.randint(3, STEPS + 1, (count, 1))
    x = torch.stack(steps, 1) * mask[..., None]
    return Rows(x, {"mask": mask[..., None].expand(x.shape)})


@torch.no_grad()
def kalman(markov: DeepMarkov, rows: Rows) -> Tensor:
    """Log p(x) of linear-Gaussian sequences by the Kalman filter, in double precision."""
    A, b = markov.transition.weight.double(), markov.transition.bias.double()
    C, d = markov.emission.weight.double(), markov.emission.bias.double()
    Q = positive(markov.raw_state).double().square().diag()
    R = positive(markov.raw_noise).double().square().diag()
    mean, cov = torch.zeros(len(rows), STATE).double(), torch.zeros(STATE, STATE).double()
    total = torch.zeros(len(rows)).double()
    for t in range(STEPS):  # sequences end, and have no gaps: one covariance does for all
        mean, cov = mean @ A.T + b, A @ cov @ A.T + Q
        S = C @ cov @ C.T + R
        ahead = dist.MultivariateNormal(mean @ C.T + d, S)
        total += ahead.log_prob(rows.x[:, t].double()) * rows.mask[:, t, 0]
        gain = cov @ C.T @ torch.linalg.inv(S)
        mean = mean + (rows.x[:, t].double() - ahead.loc) @ gain.T
        cov = cov - gain @ C @ cov
    return total


def make(linear: bool = False) -> Case:
    """Returns the example."""
    markov = DeepMarkov(linear)
    program = pv.Program(markov.model, markov.guide)
    options = {"epochs": 100, "batch_size": 100, "lr": 1e-2, "schedule": "cosine"}
    exact = (lambda _, rows: kalman(markov, rows)) if linear else None
    return Case(program, sequences(500), sequences(200), options, exact)


example("deep_markov", "deep Markov model, lengths 3–8", "Kalman filter", make, lambda: make(True))
