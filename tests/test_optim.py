"""Optimisers move as they do by themselves, inside a graph and outside."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import (
    Trace_ELBO,
)
from steps import OPTIMISERS, eager_and_captured, normal_guide, normal_model, small
from torch import Tensor

import pyro_vae as pv
from pyro_vae.engine import CompiledSVI


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_moves_as_it_does_by_itself(name: str) -> None:
    """Adam, AdamW and SGD are rewritten inside the graph: compared with torch's own code."""

    def run(compiled: bool) -> tuple[list[float], CompiledSVI]:
        _, svi = small(compiled, OPTIMISERS[name])
        x = torch.rand(16, 6).bernoulli()
        return [svi.step(x) for _ in range(20)], svi

    _, captured = eager_and_captured(run)
    assert captured.engine_steps == {"inductor": 20}


@pytest.mark.usefixtures("interpreted")
def test_a_new_learning_rate_is_used_without_another_capture() -> None:
    vae, svi = small()
    x = torch.rand(16, 6).bernoulli()
    svi.step(x)
    svi.scale_lr(0.0)
    before = [p.clone() for p in vae.parameters()]
    svi.step(x)
    torch.testing.assert_close(before, list(vae.parameters()), atol=0, rtol=0)
    assert svi.captures == 1


def test_each_group_keeps_its_own_rate() -> None:
    """Fails when all get that of the first, or a second share is taken of the first's result."""
    made: list[torch.optim.Optimizer] = []

    def optim(params: list[Tensor]) -> torch.optim.Optimizer:
        made.append(OPTIMISERS["groups"](params))
        return made[-1]

    x = torch.rand(16, 6).bernoulli()
    _, svi = small(False, optim)
    svi.step(x)
    svi.scale_lr(0.1)
    svi.scale_lr(0.5)
    assert [group["lr"] for group in made[0].param_groups] == [0.05, 0.0005]
    _, again = small(False, optim)
    again.load_state_dict(svi.state_dict())
    again.scale_lr(0.25)
    again.step(x)
    assert [group["lr"] for group in made[1].param_groups] == [0.025, 0.00025]
    with pytest.raises(ValueError, match=r"^`share`: expected a finite number >= 0, got nan"):
        svi.scale_lr(math.nan)


@pytest.mark.usefixtures("interpreted")
def test_the_optimiser_is_given_all_parameters_that_are_met() -> None:
    """One of them has no gradient. Fails when only those that have go to the optimiser."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        pyro.param("idle", torch.ones(3))

    given: dict[bool, list[int]] = {}
    x = torch.randn(5)
    for compiled in (False, True):
        pyro.clear_param_store()
        model(x)
        guide(x)  # created already: the first step is captured

        def optim(params: list[Tensor], compiled: bool = compiled) -> torch.optim.Optimizer:
            given[compiled] = sorted(param.numel() for param in params)
            return torch.optim.SGD(params, lr=0.1)

        svi = CompiledSVI(model, guide, optim, Trace_ELBO(), compile=compiled)
        svi.step(x)
        assert svi.engine == ("inductor" if compiled else "eager")
    assert given == {False: [1, 3], True: [1, 3]}


@pytest.mark.slow
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("kind", ["torch", "pyro"])
def test_a_resumed_run_equals_an_uninterrupted_one(kind: str) -> None:
    x = torch.rand(45, 6).bernoulli()
    ends = []
    for interrupted in (False, True):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        optim = pyro.optim.Adam({"lr": 0.01}) if kind == "pyro" else None
        objective = pv.objectives.ELBO(warmup=20)
        vae, svi = small(optim=optim, objective=objective, unroll=2)
        svi.epoch(x, batch_size=8)
        if interrupted:
            state = svi.state_dict()
            optim = pyro.optim.Adam({"lr": 0.01}) if kind == "pyro" else _adam
            objective = pv.objectives.ELBO(warmup=20)
            random_state = torch.get_rng_state()
            svi = CompiledSVI(vae.model, vae.guide, optim, objective, unroll=2)
            svi.load_state_dict(state)
            torch.set_rng_state(random_state)
        svi.epoch(x, batch_size=8)
        assert (svi.steps, objective.step) == (12, 12)
        ends.append(list(vae.parameters()))
    torch.testing.assert_close(ends[1], ends[0], atol=0, rtol=0)


def _adam(params: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, lr=0.01)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("kind", ["pyro", "torch"])
def test_an_optimisers_state_is_in_order_for_whoever_saves_or_loads_it(kind: str) -> None:
    """Fails when the optimiser's own ``state_dict`` is not listened to: 0 steps, an old rate."""
    made: list[torch.optim.Optimizer] = []

    def make(params: list[Tensor]) -> torch.optim.Optimizer:
        made.append(torch.optim.Adam(params, lr=0.01))
        return made[0]

    def run(compiled: bool) -> tuple[list[float], CompiledSVI]:
        made.clear()
        optim = pyro.optim.Adam({"lr": 0.01}) if kind == "pyro" else make
        svi = CompiledSVI(normal_model, normal_guide, optim, Trace_ELBO(), compile=compiled)
        losses = [svi.step(torch.ones(4)) for _ in range(4)]
        if isinstance(optim, pyro.optim.PyroOptim):
            made.extend(optim.optim_objs.values())
        state = made[0].state_dict()
        assert state["state"][0]["step"] == 4
        state["state"][0]["step"] = torch.tensor(50.0)
        state["param_groups"][0]["lr"] = 0.2
        made[0].load_state_dict(state)
        losses += [svi.step(torch.ones(4)) for _ in range(4)]
        assert made[0].state_dict()["state"][0]["step"] == 54
        return losses, svi

    eager_and_captured(run)


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
def test_two_may_share_an_optimiser() -> None:
    """Fails when each counts its own steps."""

    def run(compiled: bool) -> tuple[list[float], CompiledSVI]:
        optim = pyro.optim.Adam({"lr": 0.1})
        both = [
            CompiledSVI(normal_model, normal_guide, optim, Trace_ELBO(n), compile=compiled)
            for n in (1, 2)
        ]
        return [svi.step(torch.ones(4)) for _ in range(5) for svi in both], both[0]

    eager_and_captured(run)


def _halve(grad: Tensor) -> Tensor:
    return grad / 2


def _halve_in_place(param: Tensor) -> None:
    assert param.grad is not None
    param.grad.div_(2)


def _loc() -> Tensor:
    loc: Tensor = pyro.get_param_store()._params["loc"]
    return loc


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(
    "register",
    [
        lambda: _loc().register_hook(_halve),
        lambda: _loc().register_post_accumulate_grad_hook(_halve_in_place),
    ],
)
def test_a_hook_on_a_gradient_is_called(
    register: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Fails when a hook registered after the capture goes unseen."""

    def run(compiled: bool) -> tuple[list[float], CompiledSVI]:
        optim = pyro.optim.SGD({"lr": 0.1})
        svi = CompiledSVI(normal_model, normal_guide, optim, Trace_ELBO(), compile=compiled)
        losses = [svi.step(torch.ones(4)) for _ in range(3)]
        register()
        return losses + [svi.step(torch.ones(4)) for _ in range(3)], svi

    eager_and_captured(run)
    assert "a parameter has a hook on its gradient" in caplog.text


@pytest.mark.usefixtures("interpreted")
def test_hooks_of_the_optimisers_step_are_called() -> None:
    """Fails when an optimiser with hooks has its update in the graph."""

    def make(params: list[Tensor]) -> torch.optim.Optimizer:
        optim = torch.optim.SGD(params, lr=0.1)
        optim.register_step_post_hook(lambda *_: params[0].data.clamp_(-0.05, 0.05))
        return optim

    def run(compiled: bool) -> tuple[list[float], CompiledSVI]:
        svi = CompiledSVI(normal_model, normal_guide, make, Trace_ELBO(), compile=compiled)
        return [svi.step(torch.ones(4)) for _ in range(5)], svi

    eager_and_captured(run)
    assert _loc().item() == pytest.approx(0.05)


@pytest.mark.usefixtures("interpreted")
def test_an_optimiser_that_counts_in_plain_numbers_runs_outside_the_graph() -> None:
    """Fails, by an error, when its count is taken for a tensor."""
    _, svi = eager_and_captured(
        lambda compiled: _stepping(pyro.optim.ClippedAdam({"lr": 0.1}), compiled)
    )
    assert svi.engine == "inductor"


def _stepping(optim: Any, compiled: bool) -> tuple[list[float], CompiledSVI]:
    svi = CompiledSVI(normal_model, normal_guide, optim, Trace_ELBO(), compile=compiled)
    return [svi.step(torch.ones(4)) for _ in range(5)], svi


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("change", ["unused", "set while frozen"])
def test_parameters_without_a_gradient_are_followed(change: str) -> None:
    """Fails when what has no gradient is left out: its momentum, or its place in the store."""
    use = {"extra": True}

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(()))
        extra = pyro.param("extra", torch.zeros(()))
        if change != "unused" and extra.requires_grad:
            pyro.get_param_store()._params["extra"].requires_grad_(False)
        pyro.sample("z", dist.Normal(loc + extra if use["extra"] else loc, 1.0))

    def run(compiled: bool) -> tuple[list[float], CompiledSVI]:
        use["extra"] = True
        optim = pyro.optim.Adam({"lr": 0.1})
        svi = CompiledSVI(normal_model, guide, optim, Trace_ELBO(), compile=compiled)
        losses = [svi.step(torch.ones(4)) for _ in range(4)]
        if change == "unused":
            use["extra"] = False
        else:
            pyro.get_param_store()["extra"] = torch.tensor(2.0)
        return losses + [svi.step(torch.ones(4)) for _ in range(4)], svi

    eager_and_captured(run)
