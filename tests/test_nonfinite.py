"""Losses that are not finite: where a run stops, and which steps are left out."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import (
    Trace_ELBO,
    autoguide,
)
from steps import OPTIMISERS, eager_and_captured, small
from torch import Tensor

import pyro_vae as pv
from pyro_vae.engine import CompiledSVI, NonFinite, Position


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("name", ["Adam", "RMSprop"])
def test_steps_left_out_are_not_counted(name: str) -> None:
    """An observation is infinite in one of three steps: schedule and bias correction know of two.

    Fails when the objective's step counts all, eagerly or captured, or Adam's count does.
    """
    x = torch.rand(48, 6).bernoulli()
    x[17, 2] = math.inf

    def run(compiled: bool) -> tuple[list[float], CompiledSVI]:
        objective = pv.objectives.ELBO(warmup=8)
        optim = OPTIMISERS[name]
        _, svi = small(compiled, optim, objective, on_nonfinite="skip", unroll=3)
        with pyro.validation_enabled(False):  # which would refuse the guide before it draws
            losses = [svi.epoch(x, batch_size=16, shuffle=False) for _ in range(3)]
        assert svi.skipped == 3
        assert objective.step == 6
        assert all(math.isnan(each[1]) for each in losses)
        return torch.cat(losses).nan_to_num(0.0).tolist(), svi

    _, captured = eager_and_captured(run)
    assert captured.engine_steps == {"inductor": 9}
    if name == "Adam":
        state = captured.state_dict()["optim"]["state"]
        assert {float(each["step"]) for each in state.values()} == {6.0}


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_no_more_steps_are_left_out_than_may_be() -> None:
    """Three of ten steps of one pass are infinite, two may be left out: the third ends it.

    Fails when they are counted at the end of the pass, or a pass that goes on counts afresh.
    """
    x = torch.rand(80, 6).bernoulli()
    x[[8, 24, 48]] = math.inf  # steps 1, 3 and 6

    def run(compiled: bool) -> tuple[list[float], CompiledSVI]:
        limits = {"on_nonfinite": "skip", "max_skipped": 2}
        _, svi = small(compiled, OPTIMISERS["Adam"], pv.objectives.ELBO(), **limits)
        kept: list[Position] = []
        position = Position(torch.arange(80))
        with (
            pyro.validation_enabled(False),
            pytest.raises(
                NonFinite, match="^the loss is nan at step 6: site `x`: what is obs"
            ) as error,
        ):
            svi.epoch(x, batch_size=8, position=position, on_step=kept.append)
        assert error.value.step == 6
        assert error.value.rows.tolist() == list(range(48, 56))
        assert (svi.skipped, len(kept)) == (3, 6)
        # From step 4 on, in another run: those of before count.
        losses = [torch.cat(position.losses)[:4]]
        _, svi = small(compiled, OPTIMISERS["Adam"], pv.objectives.ELBO(), **limits)
        svi.steps = 4
        going_on = Position(torch.arange(80), 32, losses)
        with pyro.validation_enabled(False), pytest.raises(NonFinite, match="at step 6:"):
            svi.epoch(x, batch_size=8, position=going_on)
        return torch.cat(position.losses).nan_to_num(0.0).tolist(), svi

    eager_and_captured(run)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("compile", [False, True])
def test_a_loss_that_is_not_finite_stops_the_run_where_it_was(compile: bool) -> None:
    """Fails when the update is not masked: then the parameters are NaN as well."""

    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0, validate_args=False), obs=x)

    guide = autoguide.AutoNormal(model)
    svi = CompiledSVI(
        model,
        guide,
        pyro.optim.Adam({"lr": 0.1}),
        Trace_ELBO(),
        compile=compile,
        on_nonfinite="raise",
    )
    x = torch.zeros(40)
    svi.epoch(x, batch_size=4, shuffle=False)
    x[22] = math.nan
    with pytest.raises(FloatingPointError, match="the loss is nan at step 15: site `x`: what is"):
        svi.epoch(x, batch_size=4, shuffle=False)
    assert svi.steps == 15
    assert all(p.isfinite().all() for p in guide.parameters())
    state = svi.state_dict()["optim"]
    assert {int(each["state"][0]["step"]) for each in state.values()} == {15}
    svi.step(torch.zeros(4))
    assert svi.steps == 16


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_an_optimiser_outside_the_graph_stops_at_once_too() -> None:
    """Its steps are taken one by one. Fails when it goes on after a loss that is not finite, or
    takes three steps for one.
    """
    ends = []
    for after in (0.0, math.inf):
        pyro.set_rng_seed(0)
        pyro.clear_param_store()
        x = torch.rand(48, 6).bernoulli()
        vae, svi = small(True, OPTIMISERS["RMSprop"], unroll=3, on_nonfinite="raise")
        svi.epoch(x, batch_size=8, shuffle=False)
        x[17, 2] = math.inf
        x[30:] = after
        with pyro.validation_enabled(False), pytest.raises(FloatingPointError, match="at step 8"):
            svi.epoch(x, batch_size=8, shuffle=False)
        assert svi.engine == "inductor"
        ends.append([p.detach().clone() for p in vae.parameters()])
    torch.testing.assert_close(ends[0], ends[1], atol=0, rtol=0)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_the_first_step_of_a_graph_may_be_the_one_that_is_not_finite() -> None:
    """Fails when an optimiser outside the graph has a step taken back that it did not take."""

    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0, validate_args=False), obs=x)

    guide = autoguide.AutoNormal(model)
    svi = CompiledSVI(model, guide, OPTIMISERS["RMSprop"], Trace_ELBO(), on_nonfinite="raise")
    for _ in range(3):
        svi.step(torch.zeros(16))
    with pytest.raises(NonFinite, match="at step 3"):
        svi.step(torch.full((8,), math.nan))
    assert (svi.engine, svi.captures) == ("inductor", 2)
    assert [int(each["step"]) for each in svi.state_dict()["optim"]["state"].values()] == [3, 3]
