"""Several losses over one set of parameters: momentum goes on in all of them."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from steps import equals_stock
from torch import Tensor, nn

from pyro_vae.engine import CompiledSVI

pytestmark = pytest.mark.usefixtures("interpreted", "double")


class _Two(nn.Module):
    """Two layers; one loss trains both, the other the first alone, or none where x is None."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 2), nn.Linear(2, 1)

    def both(self, x: Tensor) -> None:
        pyro.module("two", self)
        pyro.sample("x", dist.Normal(self.second(self.first(x)), 1.0).to_event(2), obs=x[:, :1])

    def one(self, x: Tensor | None) -> None:
        pyro.module("two", self)
        if x is not None:
            pyro.sample("y", dist.Normal(self.first(x), 1.0).to_event(2), obs=x[:, :2])

    def guide(self, x: Tensor | None) -> None:
        pass


@pytest.mark.parametrize("order", ["both first", "one first"])
@pytest.mark.parametrize("shared", [True, False], ids=["one optimiser", "two optimisers"])
def test_momentum_goes_on_in_the_loss_that_has_no_gradient(order: str, shared: bool) -> None:
    """To 1e-9 of stock. Fails when what another engine has trained is left alone."""
    engines: list[Any] = []

    def run(engine: type) -> tuple[list[float], Any]:
        x, net = torch.randn(5, 3), _Two()
        optims = [pyro.optim.Adam({"lr": 0.01, "weight_decay": 0.1}) for _ in range(2)]
        both = engine(net.both, net.guide, optims[0], Trace_ELBO())
        one = engine(net.one, net.guide, optims[0 if shared else 1], Trace_ELBO())
        pair = (both, one) if order == "both first" else (one, both)
        engines[:] = pair
        losses = []
        for i in range(9):
            losses += [svi.step(x if svi is both or i % 3 else None) for svi in pair]
        return losses, both

    equals_stock(run)
    assert all(isinstance(each, CompiledSVI) and each.engine != "eager" for each in engines)


@pytest.mark.parametrize("aware", [True, False])
def test_rows_that_a_step_draws_are_no_reason_unless_the_optimiser_looks(aware: bool) -> None:
    """Pyro notes them on each parameter of a plate. Fails if watched, or if passed over."""
    x = torch.randn(12)

    def run(engine: type) -> tuple[list[float], Any]:
        def model(x: Tensor, rows: Tensor) -> None:
            with pyro.plate("data", 12, subsample=rows):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x: Tensor, rows: Tensor) -> None:
            with pyro.plate("data", 12, subsample=rows):
                loc = pyro.param("loc", lambda: torch.zeros(12), event_dim=0)
                pyro.sample("z", dist.Normal(loc, 1.0))

        optim = pyro.optim.DCTAdam({"lr": 0.1, "subsample_aware": aware})
        svi = engine(model, guide, optim, Trace_ELBO())
        losses = []
        for _ in range(6):
            rows = torch.randperm(12)[:4]
            losses.append(svi.step(x[rows], rows))
        return losses, svi

    svi = equals_stock(run)
    assert (svi.engine == "eager") == aware
