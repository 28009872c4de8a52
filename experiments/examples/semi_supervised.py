"""Semi-supervised classes and style, M2: some rows have a label, that of others is latent.

Semi-supervised Learning with Deep Generative Models (Kingma et al., 2014),
https://arxiv.org/abs/1406.5298
"""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import TraceEnum_ELBO
from torch import Tensor, nn
from torch.nn.functional import one_hot

import pyro_vae as pv
from examples.registry import Case, beside, example, mlp, positive
from pyro_vae.data import Rows

CLASSES, STYLE, FEATURES = 3, 1, 6
CERTAIN = 30.0  # log-odds of a label that is known


class SemiSupervised(nn.Module):
    """A class y, a style z, and x of both."""

    def __init__(self, linear: bool = False) -> None:
        super().__init__()
        inside = CLASSES + STYLE
        self.decoder = nn.Linear(inside, FEATURES) if linear else mlp(inside, FEATURES)
        self.raw_noise = nn.Parameter(torch.zeros(FEATURES))
        self.classifier = mlp(FEATURES, CLASSES)
        self.encoder = mlp(FEATURES + CLASSES, 2 * STYLE)

    def model(self, x: Tensor, labels: Tensor | None = None) -> None:
        """Rows ``(N, D)``; labels are for the guide."""
        pyro.module("semi_supervised", self)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(CLASSES) / CLASSES))
            z = pyro.sample("z", dist.Normal(torch.zeros(STYLE), 1.0).to_event(1))
            loc = self.decoder(beside(one_hot(y, CLASSES).to(z.dtype), z))
            pyro.sample("x", dist.Normal(loc, positive(self.raw_noise)).to_event(1), obs=x)

    def guide(self, x: Tensor, labels: Tensor | None = None) -> None:
        """The class is the label where there is one, and from a classifier elsewhere."""
        pyro.module("semi_supervised", self)
        logits = self.classifier(x)
        if labels is not None:
            known = CERTAIN * one_hot(labels.clamp_min(0), CLASSES).to(x.dtype)
            logits = torch.where((labels >= 0)[:, None], known, logits)
        with pyro.plate("data", len(x)):
            d = dist.Categorical(logits=logits)
            y = pyro.sample("y", d, infer={"enumerate": "parallel"})
            both = beside(x, one_hot(y, CLASSES).to(x.dtype))
            loc, raw = self.encoder(both).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, positive(raw)).to_event(1))


def rows(count: int, labelled: float) -> Rows:
    """Three clouds, bent by their style; a share of the labels is known."""
    y = torch.arange(count) % CLASSES
    style = torch.randn(count, STYLE)
    centres = 1.5 * torch.eye(CLASSES, FEATURES)[y]
    x = centres + style * torch.linspace(-1.0, 1.0, FEATURES) + 0.5 * torch.randn(count, FEATURES)
    if labelled == 0:
        return Rows(x)
    return Rows(x, {"labels": y.where(torch.rand(count) < labelled, -1)})


@torch.no_grad()
def mixture(pair: SemiSupervised, rows: Rows) -> Tensor:
    """Log p(x) of a linear decoder: of a mixture of three normal distributions."""
    weight, bias = pair.decoder.weight.double(), pair.decoder.bias.double()
    loc = weight[:, :CLASSES].T + bias
    loading = weight[:, CLASSES:]
    cov = loading @ loading.T + positive(pair.raw_noise).double().square().diag()
    each = dist.MultivariateNormal(loc, cov).log_prob(rows.x.double()[:, None])
    return each.logsumexp(-1) - math.log(CLASSES)


def make(linear: bool = False) -> Case:
    """Returns the example."""
    pair = SemiSupervised(linear)
    program = pv.Program(pair.model, pair.guide)
    objective = TraceEnum_ELBO(max_plate_nesting=1)
    options = {"epochs": 60, "batch_size": 100, "lr": 1e-2, "schedule": "cosine"}
    exact = (lambda _, rows: mixture(pair, rows)) if linear else None
    return Case(program, rows(600, 0.1), rows(200, 0), options | {"objective": objective}, exact)


example("semi_supervised", "M2, a tenth labelled", "mixture of normals", make, lambda: make(True))
