"""Two views of one latent, and a guide that is a product of experts, one a view.

Multimodal Generative Models for Scalable Weakly-Supervised Learning (Wu and Goodman, 2018),
https://arxiv.org/abs/1802.05335
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyro_vae as pv
from examples.registry import Case, example, mlp, positive
from pyro_vae.data import Rows

LATENT, FIRST, SECOND = 2, 4, 5


class MultiView(nn.Module):
    """A view of numbers and a view of bits; with ``linear``, of other numbers."""

    def __init__(self, linear: bool = False) -> None:
        super().__init__()
        self.linear = linear
        net = nn.Linear if linear else mlp
        self.decoders = nn.ModuleList([net(LATENT, FIRST), net(LATENT, SECOND)])
        self.experts = nn.ModuleList([net(FIRST, 2 * LATENT), net(SECOND, 2 * LATENT)])
        self.raw_noise = nn.Parameter(torch.zeros(FIRST))

    def model(self, numbers: Tensor, bits: Tensor) -> None:
        """Rows of both views, ``(N, FIRST)`` and ``(N, SECOND)``."""
        pyro.module("multi_view", self)
        with pyro.plate("data", len(numbers)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            first, second = (decoder(z) for decoder in self.decoders)
            seen = dist.Normal(first, positive(self.raw_noise)).to_event(1)
            pyro.sample("numbers", seen, obs=numbers)
            other = dist.Normal(second, 1.0) if self.linear else dist.Bernoulli(logits=second)
            pyro.sample("bits", other.to_event(1), obs=bits)

    def guide(self, numbers: Tensor, bits: Tensor) -> None:
        """The prior multiplied by a normal density of each view."""
        pyro.module("multi_view", self)
        precision, weighted = torch.ones(()), torch.zeros(())
        for expert, view in zip(self.experts, (numbers, bits), strict=True):
            loc, raw = expert(view).chunk(2, -1)
            precision = precision + positive(raw)
            weighted = weighted + positive(raw) * loc
        with pyro.plate("data", len(numbers)):
            d = dist.Normal(weighted / precision, precision.rsqrt())
            pyro.sample("z", d.to_event(1))


def views(count: int, linear: bool) -> dict[str, Tensor]:
    """Both views, by the names of their sites."""
    z = torch.randn(count, LATENT)
    first = z @ torch.tensor([[1.0, 1.0, 0.0, 0.5], [0.0, 1.0, -1.0, 0.0]])
    second = 1.5 * z @ torch.tensor([[1.0, 0.0, 1.0, -1.0, 0.0], [0.0, 1.0, 1.0, 0.0, -1.0]])
    other = (
        second + torch.randn(count, SECOND) if linear else dist.Bernoulli(logits=second).sample()
    )
    return {"numbers": first + 0.5 * torch.randn(count, FIRST), "bits": other}


@torch.no_grad()
def marginal(pair: MultiView, rows: Rows) -> Tensor:
    """Log p(x) of linear views: a normal distribution."""
    weight = torch.cat([decoder.weight for decoder in pair.decoders]).double()
    bias = torch.cat([decoder.bias for decoder in pair.decoders]).double()
    noise = torch.cat([positive(pair.raw_noise), torch.ones(SECOND)]).double().square()
    return dist.MultivariateNormal(bias, weight @ weight.T + noise.diag()).log_prob(rows.x.double())


def make(linear: bool = False) -> Case:
    """Returns the example."""
    pair = MultiView(linear)
    program = pv.Program(pair.model, pair.guide, observed=("numbers", "bits"))
    options = {"epochs": 60, "batch_size": 100, "lr": 1e-2, "schedule": "cosine"}
    exact = (lambda _, rows: marginal(pair, rows)) if linear else None
    train, held_out = (Rows(program.joined(views(count, linear))) for count in (600, 200))
    return Case(program, train, held_out, options, exact)


example(
    "multi_view",
    "two views, product of experts",
    "normal marginal",
    make,
    lambda: make(True),
)
