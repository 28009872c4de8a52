"""Fields of Pyro's own modules that are replaced between two steps are noticed."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroSample
from steps import equals_stock
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("interpreted", "double")
Normal = dist.Normal


def test_mini_batches_of_a_gaussian_process_are_one_graph() -> None:
    """Fails where ``set_data`` makes a graph of each batch."""

    def run(engine: type) -> tuple[list[float], Any]:
        x = torch.rand(40, 1)
        y = torch.sin(6 * x[:, 0])
        parts = gp.kernels.RBF(1), x[:5].clone(), gp.likelihoods.Gaussian()
        model = gp.models.VariationalSparseGP(x[:20], y[:20], *parts, jitter=1e-3)
        loss = TraceMeanField_ELBO()
        svi = engine(model.model, model.guide, pyro.optim.Adam({"lr": 0.01}), loss)
        losses = []
        for i in range(8):
            rows = slice(20 * (i % 2), 20 * (i % 2) + 20)
            model.set_data(x[rows], y[rows] + 5 * (i % 2))
            losses.append(svi.step())
        model.set_data(x[:30], y[:30])
        return losses + [svi.step() for _ in range(3)], svi

    assert equals_stock(run).captures == 2


class Regression(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.linear = PyroModule[nn.Linear](2, 1)
        self.linear.weight = PyroSample(Normal(0.0, 1.0).expand([1, 2]).to_event(2))

    def forward(self, x: Tensor) -> None:
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", Normal(mean, 1.0), obs=torch.ones(len(x)))


def test_a_replaced_prior_of_a_module_is_noticed_and_plates_made_anew_are_not() -> None:
    def run(engine: type) -> tuple[list[float], Any]:
        model = Regression()
        auto = AutoNormal(model)
        svi = engine(model, auto, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        x = torch.arange(8.0).view(4, 2)
        losses = [svi.step(x) for _ in range(4)]
        auto(x)  # makes its plates anew
        losses += [svi.step(x) for _ in range(4)]
        model.linear.weight = PyroSample(Normal(2.0, 1.0).expand([1, 2]).to_event(2))
        losses += [svi.step(x) for _ in range(4)]
        model.linear.weight = PyroSample(dist.Laplace(2.0, 1.0).expand([1, 2]).to_event(2))
        return losses + [svi.step(x) for _ in range(4)], svi

    assert equals_stock(run).captures == 2
