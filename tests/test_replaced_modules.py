"""Fields of Pyro's own modules that are replaced between two steps are noticed."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroSample
from steps import equals_stock
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("interpreted", "double")
Normal = dist.Normal


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
