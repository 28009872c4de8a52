"""Random intercepts of groups, amortised, and fixed effects that all groups share."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import Tensor

import pyro_vae as pv
from examples.registry import Case, example, mlp, positive
from pyro_vae.data import Rows

MEMBERS, EFFECTS = 6, 3


class MixedEffects:
    """A row is a group: x = cond @ beta + intercept + noise for each of its members.

    Args:
        bent: Whether there is a network of the covariates beside the fixed effects.
    """

    def __init__(self, bent: bool) -> None:
        self.curve = mlp(EFFECTS, 1) if bent else None
        self.encoder = mlp(2, 2)
        shared = poutine.block(self.model, expose=["beta"])
        self.shared = AutoMultivariateNormal(shared, init_scale=0.1)

    def _fixed(self, beta: Tensor, cond: Tensor) -> Tensor:
        cond = cond.reshape(len(cond), MEMBERS, EFFECTS)
        return cond @ beta + (0.0 if self.curve is None else self.curve(cond)[..., 0])

    def model(self, x: Tensor, cond: Tensor, mask: Tensor) -> None:
        """Groups ``(N, M)``, of whose members those in ``mask`` are there."""
        if self.curve is not None:
            pyro.module("curve", self.curve)
        between = positive(pyro.param("between", torch.zeros(())))
        within = positive(pyro.param("within", torch.zeros(())))
        beta = pyro.sample("beta", dist.Normal(torch.zeros(EFFECTS), 2.0).to_event(1))
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), between))
            with pyro.plate("members", MEMBERS, dim=-1), poutine.mask(mask=mask):
                pyro.sample("x", dist.Normal(self._fixed(beta, cond) + z, within), obs=x)

    def guide(self, x: Tensor, cond: Tensor, mask: Tensor) -> None:
        """A network reads the mean residual of a group, and how many members it has."""
        pyro.module("encoder", self.encoder)
        beta = self.shared(x, cond, mask)["beta"]
        count = mask.sum(-1, keepdim=True)
        mean = ((x - self._fixed(beta, cond)) * mask).sum(-1, keepdim=True) / count
        loc, raw = self.encoder(torch.cat([mean, count.rsqrt()], -1)).split(1, -1)
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(mean + loc, positive(raw)))


def groups(count: int, bent: bool) -> Rows:
    """Groups of 2 to 6."""
    cond = torch.randn(count, MEMBERS, EFFECTS)
    mean = cond @ torch.tensor([1.0, -0.5, 0.0]) + torch.randn(count, 1)
    mean = mean + (2 * cond[..., 2]).sin() * bent
    mask = torch.arange(MEMBERS) < torch.randint(2, MEMBERS + 1, (count, 1))
    x = (mean + 0.6 * torch.randn(count, MEMBERS)) * mask
    return Rows(x, {"cond": cond.flatten(1), "mask": mask})


@torch.no_grad()
def marginal(program: pv.Program, rows: Rows) -> Tensor:
    """Log p(x) of each group at a draw of the fixed effects: normal, with a shared intercept."""
    scales = {name.rpartition(".")[2]: value for name, value in program.named_parameters()}
    between, within = (positive(scales[name]).double() for name in ("between", "within"))
    cond = rows.given["cond"].reshape(len(rows), MEMBERS, EFFECTS)
    off = (rows.x - cond @ program.drawn["beta"]).double()
    total = []
    for residual, kept in zip(off, rows.mask, strict=True):
        size = int(kept.sum())
        cov = within**2 * torch.eye(size).double() + between**2
        total.append(
            dist.MultivariateNormal(torch.zeros(size).double(), cov).log_prob(residual[kept])
        )
    return torch.stack(total)


def make(bent: bool = True) -> Case:
    """Returns the example."""
    pair = MixedEffects(bent)
    options = {"epochs": 60, "batch_size": 100, "lr": 1e-2, "schedule": "cosine"}
    exact = None if bent else marginal
    program = pv.Program(pair.model, pair.guide)
    return Case(program, groups(500, bent), groups(200, bent), options, exact)


example(
    "mixed_effects",
    "mixed effects, groups of 2–6",
    "normal marginal",
    make,
    lambda: make(False),
)
