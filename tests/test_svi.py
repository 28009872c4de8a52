"""CompiledSVI: the same steps as stock SVI, only faster; eager where it must be, and it says so."""

from __future__ import annotations

import collections
import contextlib
import itertools
import math
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    SVI,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceMeanField_ELBO,
    autoguide,
    config_enumerate,
)
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional

import pyro_vae as pv
from pyro_vae.engine import CompiledSVI, NonFinite, Position
from pyro_vae.engine.memory import preserved, twin


class Case(NamedTuple):
    model: Callable[..., Any]
    guide: Callable[..., Any]
    args: tuple[Any, ...]
    loss: pyro.infer.ELBO
    engine: str = "inductor"


def _tiny() -> pv.VAE:
    parts = (pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((6,)))
    return pv.VAE(*parts, encoder=pv.networks.MLP((8,)), decoder=pv.networks.MLP((8,)))


def _vae(dtype: torch.dtype) -> Case:
    vae = _tiny().to(dtype)
    return Case(vae.model, vae.guide, (torch.rand(16, 6).bernoulli().to(dtype),), Trace_ELBO())


class _Conditional(nn.Module):
    """A conditional VAE: labels enter both networks; dropout, BatchNorm, two particles."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(9, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4)
        )
        self.decoder = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 6))

    def model(self, x: Tensor, y: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)), poutine.scale(scale=0.5):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            logits = self.decoder(torch.cat([z, y.expand(*z.shape[:-1], 3)], -1))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        loc, raw = self.encoder(torch.cat([x, y], -1)).chunk(2, -1)
        with pyro.plate("data", len(x)), poutine.scale(scale=0.5):
            pyro.sample("z", dist.Normal(loc, functional.softplus(raw) + 1e-3).to_event(1))


def _conditional(dtype: torch.dtype) -> Case:
    program = _Conditional().to(dtype)
    x = torch.rand(16, 6).bernoulli().to(dtype)
    y = functional.one_hot(torch.arange(16) % 3).to(dtype)
    return Case(program.model, program.guide, (x, y), Trace_ELBO(num_particles=2))


def _hierarchical(dtype: torch.dtype) -> Case:
    """Eight schools, two levels, ``pyro.param`` with constraints, a mask, a factor."""

    def model(y: Tensor, sigma: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 5.0))
        tau = pyro.sample("tau", dist.LogNormal(y.new_zeros(()), 1.0))
        with pyro.plate("schools", len(y)):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            with poutine.mask(mask=y > -3):
                pyro.sample("y", dist.Normal(theta, sigma), obs=y)
        pyro.factor("soft", -0.01 * mu**2)

    def guide(y: Tensor, sigma: Tensor) -> None:
        zeros, ones = y.new_zeros(()), y.new_ones(())
        scale = pyro.param("mu_scale", ones, constraint=constraints.positive)
        pyro.sample("mu", dist.Normal(pyro.param("mu_loc", zeros), scale))
        width = pyro.param("tau_scale", ones, constraint=constraints.interval(0.01, 2.0))
        pyro.sample("tau", dist.LogNormal(pyro.param("tau_loc", y.new_zeros(())), width))
        with pyro.plate("schools", len(y)):
            loc = pyro.param("theta_loc", lambda: torch.randn(len(y), dtype=y.dtype), event_dim=0)
            width = pyro.param("theta_scale", torch.ones_like(y), constraint=constraints.positive)
            pyro.sample("theta", dist.Normal(loc, width))

    y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], dtype=dtype)
    sigma = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], dtype=dtype)
    return Case(model, guide, (y, sigma), TraceMeanField_ELBO())


class _Regression(PyroModule):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.linear = PyroModule[nn.Linear](3, 1)
        zero = torch.zeros((), dtype=dtype)
        self.linear.weight = PyroSample(dist.Normal(zero, 1.0).expand([1, 3]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(zero, 10.0).expand([1]).to_event(1))

    def forward(self, x: Tensor, y: Tensor) -> None:
        mean = self.linear(x).squeeze(-1)
        sigma = pyro.sample("sigma", dist.LogNormal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Normal(mean, sigma), obs=y)


def _regression(guide: type[autoguide.AutoGuide], **options: Any) -> Callable[[torch.dtype], Case]:
    def make(dtype: torch.dtype) -> Case:
        x = torch.randn(20, 3, dtype=dtype)
        y = x @ torch.tensor([1.0, -2.0, 0.5], dtype=dtype) + 0.1 * torch.randn(20, dtype=dtype)
        model = _Regression(dtype)
        return Case(model, guide(model, **options), (x, y), Trace_ELBO())

    return make


def _subsampled(dtype: torch.dtype) -> Case:
    """A plate that draws its own mini-batch; several particles in one vectorised pass."""
    data = torch.randn(50, dtype=dtype) + 2

    def model() -> None:
        loc = pyro.sample("loc", dist.Normal(data.new_zeros(()), 10.0))
        with pyro.plate("data", 50, subsample_size=10) as index:
            pyro.sample("x", dist.Normal(loc, 1.0), obs=data[index])

    def guide() -> None:
        loc = pyro.param("loc_loc", torch.zeros((), dtype=dtype))
        pyro.sample("loc", dist.Normal(loc, pyro.param("s", torch.ones((), dtype=dtype)).exp()))
        with pyro.plate("data", 50, subsample_size=10):
            pass

    loss = Trace_ELBO(num_particles=3, vectorize_particles=True)
    return Case(model, guide, (), loss)


def _mixture(dtype: torch.dtype) -> Case:
    """A mixture whose assignments are summed out."""

    @config_enumerate
    def model(x: Tensor) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(x.new_ones(2)))
        with pyro.plate("components", 2):
            locs = pyro.sample("locs", dist.Normal(x.new_zeros(()), 10.0))
        with pyro.plate("data", len(x)):
            assignment = pyro.sample("assignment", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(locs[assignment], 1.0), obs=x)

    guide = autoguide.AutoNormal(poutine.block(model, expose=["weights", "locs"]))
    x = torch.cat([torch.randn(10, dtype=dtype) - 3, torch.randn(10, dtype=dtype) + 3])
    return Case(model, guide, (x,), TraceEnum_ELBO(max_plate_nesting=1), "eager")


CASES = {
    "vae": _vae,
    "conditional vae": _conditional,
    "hierarchical": _hierarchical,
    "subsampled plate": _subsampled,
    "mixture": _mixture,
    "regression, AutoNormal": _regression(autoguide.AutoNormal),
    "regression, AutoDiagonalNormal": _regression(autoguide.AutoDiagonalNormal),
    "regression, AutoMultivariateNormal": _regression(autoguide.AutoMultivariateNormal),
    "regression, AutoLowRank": _regression(autoguide.AutoLowRankMultivariateNormal, rank=2),
    "regression, AutoDelta": _regression(autoguide.AutoDelta),
}


def _train(case: Case, engine: type, steps: int) -> tuple[dict[str, Tensor], list[float], Any]:
    optim = pyro.optim.Adam({"lr": 0.01})
    svi = engine(case.model, case.guide, optim, case.loss)
    losses = [svi.step(*case.args) for _ in range(steps)]
    store = pyro.get_param_store()
    return {name: store[name].detach().clone() for name in store}, losses, svi


def _assert_equal_to_stock(make: Callable[[torch.dtype], Case], dtype: torch.dtype) -> None:
    ran = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            case = make(dtype)
            ran.append(_train(case, engine, 100))
        finally:
            torch.set_default_dtype(default)
    (stock, stock_losses, _), (ours, losses, svi) = ran
    assert svi.engine == case.engine
    assert svi.engine_steps.get(case.engine, 0) >= 99  # one may create the parameters
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    assert len(stock) == len(ours) > 0
    for expected, got in zip(stock.values(), ours.values(), strict=True):
        torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(
        torch.tensor(losses), torch.tensor(stock_losses), atol=1e-3, rtol=10 * tolerance
    )


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", CASES)
def test_captured_steps_equal_stock_steps(name: str) -> None:
    _assert_equal_to_stock(CASES[name], torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", CASES)
def test_compiled_steps_equal_stock_steps(name: str, dtype: torch.dtype) -> None:
    _assert_equal_to_stock(CASES[name], dtype)


def _eager_and_captured(
    run: Callable[[bool], tuple[list[float], CompiledSVI]],
) -> tuple[CompiledSVI, CompiledSVI]:
    """Runs with and without capture from one seed, and compares losses and parameters."""
    ran = []
    for compiled in (False, True):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        losses, svi = run(compiled)
        store = pyro.get_param_store()
        ran.append((losses, [store[name].detach().clone() for name in store], svi))
    (losses, params, eager), (our_losses, our_params, ours) = ran
    torch.testing.assert_close(our_losses, losses, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(our_params, params, atol=1e-4, rtol=1e-4)
    return eager, ours


def _small(
    compile: bool | str = True, optim: Any = None, objective: Any = None, **options: Any
) -> tuple[pv.VAE, CompiledSVI]:
    # In double precision, where Adam does not blow a difference in rounding up to a step.
    vae = _tiny() if "precision" in options else _tiny().double()
    optim = optim or (lambda params: torch.optim.Adam(params, lr=0.01))
    objective = objective or pv.objectives.ELBO()
    return vae, CompiledSVI(vae.model, vae.guide, optim, objective, compile=compile, **options)


def _binarise(x: Tensor) -> Tensor:
    return (torch.rand_like(x) < x).to(x.dtype)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("unroll", [1, 3])
def test_an_epoch_is_the_same_with_and_without_capture(unroll: int) -> None:
    """Gather, binarisation, warm-up and a short last batch inside the graph."""

    def run(compiled: bool) -> tuple[list[float], CompiledSVI]:
        objective = pv.objectives.ELBO(warmup=10)
        _, svi = _small(compiled, objective=objective, unroll=unroll)
        x = torch.rand(45, 6)
        losses = [svi.epoch(x, batch_size=8, transform=_binarise) for _ in range(3)]
        assert [len(each) for each in losses] == [6, 6, 6]
        assert objective.step == svi.steps == 18
        return torch.cat(losses).tolist(), svi

    eager, captured = _eager_and_captured(run)
    assert eager.engine_steps == {"eager": 18}
    assert captured.engine_steps == {"inductor": 18}
    assert captured.captures == 2 + (unroll > 1)  # one for the short batch


OPTIMISERS: dict[str, Any] = {
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, maximize=True),
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, nesterov=True, weight_decay=0.1),
    "SGD, dampening": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, dampening=0.5),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
    "groups": lambda p: torch.optim.Adam([{"params": p[:2], "lr": 0.1}, {"params": p[2:]}]),
    "Pyro's ClippedAdam": pyro.optim.ClippedAdam({"lr": 0.01, "clip_norm": 1.0}),
    "Pyro's Adam, clipped": pyro.optim.Adam({"lr": 0.01}, {"clip_norm": 1.0}),
    "Pyro's scheduler": pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.01}, "gamma": 0.9}
    ),
}


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_moves_as_it_does_by_itself(name: str) -> None:
    """Adam, AdamW and SGD are rewritten inside the graph: compared with torch's own code."""

    def run(compiled: bool) -> tuple[list[float], CompiledSVI]:
        _, svi = _small(compiled, OPTIMISERS[name])
        x = torch.rand(16, 6).bernoulli()
        return [svi.step(x) for _ in range(20)], svi

    _, captured = _eager_and_captured(run)
    assert captured.engine_steps == {"inductor": 20}


@pytest.mark.usefixtures("interpreted")
def test_a_new_learning_rate_is_used_without_another_capture() -> None:
    vae, svi = _small()
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
    _, svi = _small(False, optim)
    svi.step(x)
    svi.scale_lr(0.1)
    svi.scale_lr(0.5)
    assert [group["lr"] for group in made[0].param_groups] == [0.05, 0.0005]
    _, again = _small(False, optim)
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


@pytest.mark.usefixtures("interpreted")
@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("name", ["Adam", "RMSprop"])
def test_steps_left_out_are_not_counted(name: str) -> None:
    """A datum is infinite in one of three steps: schedule and bias correction know of two.

    Fails when the objective's step counts all, eagerly or captured, or Adam's count does.
    """
    x = torch.rand(48, 6).bernoulli()
    x[17, 2] = math.inf

    def run(compiled: bool) -> tuple[list[float], CompiledSVI]:
        objective = pv.objectives.ELBO(warmup=8)
        optim = OPTIMISERS[name]
        _, svi = _small(compiled, optim, objective, on_nonfinite="skip", unroll=3)
        with pyro.validation_enabled(False):  # which would refuse the guide before it draws
            losses = [svi.epoch(x, batch_size=16, shuffle=False) for _ in range(3)]
        assert svi.skipped == 3
        assert objective.step == 6
        assert all(math.isnan(each[1]) for each in losses)
        return torch.cat(losses).nan_to_num(0.0).tolist(), svi

    _, captured = _eager_and_captured(run)
    assert captured.engine_steps == {"inductor": 9}
    if name == "Adam":
        state = captured.state_dict()["optim"]["state"]
        assert {float(each["step"]) for each in state.values()} == {6.0}


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
        _, svi = _small(compiled, OPTIMISERS["Adam"], pv.objectives.ELBO(), **limits)
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
        _, svi = _small(compiled, OPTIMISERS["Adam"], pv.objectives.ELBO(), **limits)
        svi.steps = 4
        going_on = Position(torch.arange(80), 32, losses)
        with pyro.validation_enabled(False), pytest.raises(NonFinite, match="at step 6:"):
            svi.epoch(x, batch_size=8, position=going_on)
        return torch.cat(position.losses).nan_to_num(0.0).tolist(), svi

    _eager_and_captured(run)


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
        vae, svi = _small(optim=optim, objective=objective, unroll=2)
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


class _Regressor(nn.Module):
    """A program with everything that could go stale."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.scale = 1.0
        self.offset = torch.zeros(())

    def model(self, x: Tensor, y: Tensor) -> None:
        pyro.module("net", self.net)
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            mean = self.net(x).squeeze(-1) + shift + self.offset
            pyro.sample("y", dist.Normal(mean, self.scale), obs=y)

    def guide(self, x: Tensor, y: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(()))
        pyro.sample("shift", dist.Normal(loc, 1.0))


def _evaluation_mode(program: _Regressor) -> None:
    program.eval()


def _other_scale(program: _Regressor) -> None:
    program.scale = 3.0


def _other_offset(program: _Regressor) -> None:
    program.offset = torch.ones(())


def _offset_in_place(program: _Regressor) -> None:
    program.offset.add_(1.0)


def _other_storage(program: _Regressor) -> None:
    program.net[0].weight.data = program.net[0].weight.data * 2


def _other_strides(program: _Regressor) -> None:
    program.net[0].weight.data = program.net[0].weight.data.t().contiguous().t()


def _frozen(program: _Regressor) -> None:
    program.net[0].weight.requires_grad_(False)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.filterwarnings("ignore:grad and param do not obey", "ignore:.*not registered")
@pytest.mark.parametrize(
    ("change", "captures"),
    [
        (_evaluation_mode, 2),
        (_other_scale, 2),
        (_other_offset, 2),
        (_offset_in_place, 1),
        (_other_storage, 1),
        (_other_strides, 2),
        (_frozen, 2),
    ],
)
def test_what_the_program_reads_is_never_stale(
    change: Callable[[_Regressor], None], captures: int
) -> None:
    """Fails when a guard is taken out of ``Dependencies``."""

    def run(compiled: bool) -> tuple[list[float], CompiledSVI]:
        program = _Regressor()
        x, y = torch.randn(10, 3), torch.randn(10)
        optim = pyro.optim.Adam({"lr": 0.01})
        svi = CompiledSVI(program.model, program.guide, optim, Trace_ELBO(), compile=compiled)
        losses = [svi.step(x, y) for _ in range(5)]
        change(program)
        return losses + [svi.step(x, y) for _ in range(5)], svi

    _, captured = _eager_and_captured(run)
    assert captured.captures == captures


_elsewhere = types.ModuleType("elsewhere")


class _Settings:
    scale = 1.0


class _Reader(nn.Module):
    """A program that reads one number, from one place of many."""

    own_class = 1.0

    def __init__(self, read: Callable[[_Reader], Any]) -> None:
        super().__init__()
        self.read = read
        self.dropout = nn.Dropout(0.2)
        self.array = np.ones(1)
        self._private = 1.0
        self.some = [1.0]
        self.by_name: dict[str, float] = {}
        self.members = {1}
        self.queue = collections.deque([1.0])
        self.conditioned = pyro.condition(self.unconditioned, data={"x": torch.ones(4)})

    @property
    def settings(self) -> float:
        return _Settings.scale

    def unconditioned(self, x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 4):
            pyro.sample("x", dist.Normal(z, self.read(self)))

    def forward(self, x: Tensor, *others: Any) -> None:
        self.conditioned(x)


def _handler(program: _Reader) -> Any:
    return program.conditioned.func.args[0]


READS: dict[str, tuple[Callable[[_Reader], Any], Callable[[_Reader], Any]]] = {
    "module": (lambda p: _elsewhere.scale, lambda p: setattr(_elsewhere, "scale", 3.0)),
    "class": (lambda p: _Settings.scale, lambda p: setattr(_Settings, "scale", 3.0)),
    "property": (lambda p: p.settings, lambda p: setattr(_Settings, "scale", 3.0)),
    "own class": (lambda p: p.own_class, lambda p: setattr(_Reader, "own_class", 3.0)),
    "private": (lambda p: p._private, lambda p: setattr(p, "_private", 3.0)),
    "appended": (lambda p: sum(p.some), lambda p: p.some.append(2.0)),
    "new key": (lambda p: p.by_name.get("a", 1.0), lambda p: p.by_name.update(a=3.0)),
    "new attribute": (lambda p: getattr(p, "late", 1.0), lambda p: setattr(p, "late", 3.0)),
    "set": (lambda p: float(len(p.members)), lambda p: p.members.add(2)),
    "deque": (lambda p: sum(p.queue), lambda p: p.queue.append(2.0)),
    "array": (lambda p: float(p.array[0]), lambda p: p.array.fill(3.0)),
    "dropout": (lambda p: 1 + p.dropout(torch.ones(4)), lambda p: setattr(p.dropout, "p", 0.9)),
    "handler": (lambda p: 1.0, lambda p: _handler(p).data.update(x=torch.full((4,), 5.0))),
}


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", READS)
def test_what_is_read_from_anywhere_is_never_stale(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fails when its guard is taken out of ``Dependencies``: seen before there were any."""
    monkeypatch.setattr(_Settings, "scale", 1.0)
    monkeypatch.setattr(_Reader, "own_class", 1.0)
    read, change = READS[name]

    def run(compiled: bool) -> tuple[list[float], CompiledSVI]:
        _elsewhere.scale = _Settings.scale = _Reader.own_class = 1.0
        program = _Reader(read)
        optim = pyro.optim.Adam({"lr": 0.01})
        svi = CompiledSVI(program, _normal_guide, optim, Trace_ELBO(), compile=compiled)
        losses = [svi.step(torch.ones(4)) for _ in range(3)]
        change(program)
        return losses + [svi.step(torch.ones(4)) for _ in range(3)], svi

    _, captured = _eager_and_captured(run)
    assert captured.captures == 2


class _Argument:
    scale = 1.0


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("kind", ["object", "module", "array", "set", "type"])
def test_arguments_that_are_no_tensors_are_never_stale(kind: str) -> None:
    """Each fails when arguments are told apart by hash alone."""

    def model(x: Tensor, other: Any) -> None:
        scale = {
            "object": lambda: other.scale,
            "module": lambda: 1 + other(torch.ones(4)),
            "array": lambda: float(other[0]),
            "set": lambda: float(len(other)),
            "type": lambda: 3.0 if other is True else 1.0,
        }[kind]()
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, scale), obs=x)

    def guide(x: Tensor, other: Any) -> None:
        _normal_guide(x)

    def run(compiled: bool) -> tuple[list[float], CompiledSVI]:
        other: Any
        other, change = {
            "object": (_Argument(), lambda: setattr(other, "scale", 3.0)),
            "module": (nn.Dropout(0.5), lambda: other.eval()),
            "array": (np.ones(1), lambda: other.fill(3.0)),
            "set": ({1}, lambda: other.add(2)),
            "type": (1, lambda: None),
        }[kind]
        optim = pyro.optim.Adam({"lr": 0.01})
        svi = CompiledSVI(model, guide, optim, Trace_ELBO(), compile=compiled)
        losses = [svi.step(torch.ones(4), other) for _ in range(3)]
        change()
        other = True if kind == "type" else other
        return losses + [svi.step(torch.ones(4), other) for _ in range(3)], svi

    _, captured = _eager_and_captured(run)
    assert captured.captures == 2


@pytest.mark.usefixtures("interpreted")
def test_going_back_to_an_earlier_mode_takes_the_earlier_graph() -> None:
    program = _Regressor()
    x, y = torch.randn(10, 3), torch.randn(10)
    svi = CompiledSVI(program.model, program.guide, pyro.optim.Adam({}), Trace_ELBO())
    for mode in (True, False, True, False, True):
        program.train(mode)
        svi.step(x, y)
        svi.step(x, y)
    assert svi.captures == 2


@pytest.mark.usefixtures("interpreted")
def test_parameters_forgotten_by_the_store_are_made_anew() -> None:
    program = _Regressor()
    x, y = torch.randn(10, 3), torch.randn(10)
    svi = CompiledSVI(program.model, program.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(5):
        svi.step(x, y)
    pyro.clear_param_store()
    svi.step(x, y)  # creates `loc` at 0 and takes one step from there
    assert pyro.param("loc").abs() <= 0.1 + 1e-6


def _negative(model: Callable[..., Any], guide: Callable[..., Any], **options: Any) -> Any:
    def run(compiled: bool) -> tuple[list[float], CompiledSVI]:
        loss = options.get("loss", Trace_ELBO)()
        optim = pyro.optim.Adam({"lr": 0.01})
        svi = CompiledSVI(model, guide, optim, loss, compile=compiled)
        size = options.get("size", lambda step: 4)
        return [svi.step(torch.ones(size(step))) for step in range(20)], svi

    return run


def _normal_guide(x: Tensor) -> None:
    pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0))


def _normal_model(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def _branching_model(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    scale = 1.0 if z > 0 else 2.0
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, scale), obs=x)


def _python_random_model(x: Tensor) -> None:
    import random

    z = pyro.sample("z", dist.Normal(0.0, 1.0 + random.random()))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def _with_scale(make: Callable[[], Callable[[], Any]]) -> Any:
    """A model whose scale comes from a function that has a state, made anew for each run."""

    def run(compiled: bool) -> tuple[list[float], CompiledSVI]:
        scale = make()

        def model(x: Tensor) -> None:
            z = pyro.sample("z", dist.Normal(0.0, scale()))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        return _negative(model, _normal_guide)(compiled)

    return run


def _counting() -> Callable[[], float]:
    count = itertools.count(1)
    return lambda: float(next(count))


def _numpy_generator() -> Callable[[], float]:
    generator = np.random.default_rng(0)
    return lambda: 1 + generator.random()


def _torch_generator() -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(0)
    return lambda: 1 + torch.rand((), generator=generator)


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
        svi = CompiledSVI(_normal_model, _normal_guide, optim, Trace_ELBO(), compile=compiled)
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

    _eager_and_captured(run)


@pytest.mark.usefixtures("interpreted")
def test_two_may_share_an_optimiser() -> None:
    """Fails when each counts its own steps."""

    def run(compiled: bool) -> tuple[list[float], CompiledSVI]:
        optim = pyro.optim.Adam({"lr": 0.1})
        both = [
            CompiledSVI(_normal_model, _normal_guide, optim, Trace_ELBO(n), compile=compiled)
            for n in (1, 2)
        ]
        return [svi.step(torch.ones(4)) for _ in range(5) for svi in both], both[0]

    _eager_and_captured(run)


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
        svi = CompiledSVI(_normal_model, _normal_guide, optim, Trace_ELBO(), compile=compiled)
        losses = [svi.step(torch.ones(4)) for _ in range(3)]
        register()
        return losses + [svi.step(torch.ones(4)) for _ in range(3)], svi

    _eager_and_captured(run)
    assert "a parameter has a hook on its gradient" in caplog.text


@pytest.mark.usefixtures("interpreted")
def test_hooks_of_the_optimisers_step_are_called() -> None:
    """Fails when an optimiser with hooks has its update in the graph."""

    def make(params: list[Tensor]) -> torch.optim.Optimizer:
        optim = torch.optim.SGD(params, lr=0.1)
        optim.register_step_post_hook(lambda *_: params[0].data.clamp_(-0.05, 0.05))
        return optim

    def run(compiled: bool) -> tuple[list[float], CompiledSVI]:
        svi = CompiledSVI(_normal_model, _normal_guide, make, Trace_ELBO(), compile=compiled)
        return [svi.step(torch.ones(4)) for _ in range(5)], svi

    _eager_and_captured(run)
    assert _loc().item() == pytest.approx(0.05)


@pytest.mark.usefixtures("interpreted")
def test_an_optimiser_that_counts_in_plain_numbers_runs_outside_the_graph() -> None:
    """Fails, by an error, when its count is taken for a tensor."""
    _, svi = _eager_and_captured(
        lambda compiled: _stepping(pyro.optim.ClippedAdam({"lr": 0.1}), compiled)
    )
    assert svi.engine == "inductor"


def _stepping(optim: Any, compiled: bool) -> tuple[list[float], CompiledSVI]:
    svi = CompiledSVI(_normal_model, _normal_guide, optim, Trace_ELBO(), compile=compiled)
    return [svi.step(torch.ones(4)) for _ in range(5)], svi


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
        svi = CompiledSVI(_normal_model, guide, optim, Trace_ELBO(), compile=compiled)
        losses = [svi.step(torch.ones(4)) for _ in range(4)]
        if change == "unused":
            use["extra"] = False
        else:
            pyro.get_param_store()["extra"] = torch.tensor(2.0)
        return losses + [svi.step(torch.ones(4)) for _ in range(4)], svi

    _eager_and_captured(run)


def _discrete_guide(x: Tensor) -> None:
    pyro.sample("z", dist.Bernoulli(logits=pyro.param("logits", torch.zeros(()))))


def _discrete_model(x: Tensor) -> None:
    z = pyro.sample("z", dist.Bernoulli(0.5))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class _Counting:
    """A program that is another one at each call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor) -> None:
        self.calls += 1
        z = pyro.sample("z", dist.Normal(0.0, float(self.calls)))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class _OwnELBO(Trace_ELBO):
    pass


NEGATIVE = {
    "control flow": (
        _negative(_branching_model, _normal_guide),
        "it reads a value back (control flow on data, or `.item()`), at site `z` or after it",
    ),
    "no reparameterisation": (
        _negative(_discrete_model, _discrete_guide),
        "site `z` (Bernoulli) cannot be reparameterised",
    ),
    "Python's random numbers": (
        _negative(_python_random_model, _normal_guide),
        "it draws from Python's or NumPy's random numbers",
    ),
    "NumPy's own generator": (
        _with_scale(_numpy_generator),
        "it has random numbers of its own (Generator)",
    ),
    "torch's own generator": (
        _with_scale(_torch_generator),
        "it has random numbers of its own (Generator)",
    ),
    "an iterator": (
        _with_scale(_counting),
        "it has an iterator (count), which moves on",
    ),
    "the same draws at every step": (
        _negative(_normal_model, poutine.seed(_normal_guide, rng_seed=3)),
        "it sets the state of torch's random numbers",
    ),
    "another loss": (
        _negative(_normal_model, _normal_guide, loss=_OwnELBO),
        "loss _OwnELBO is none of Trace_ELBO, TraceMeanField_ELBO, and may read values back",
    ),
    "another shape at every step": (
        _negative(_normal_model, _normal_guide, size=lambda step: step + 2),
        "8 graphs are captured, and this would be one more",
    ),
}


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", NEGATIVE)
def test_what_cannot_be_captured_runs_eagerly_and_says_why_once(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    run, reason = NEGATIVE[name]

    def seeded(compiled: bool) -> tuple[list[float], CompiledSVI]:
        import random

        random.seed(0)
        return run(compiled)

    _, svi = _eager_and_captured(seeded)
    assert svi.engine == "eager"
    said = [record.getMessage() for record in caplog.records if record.name == "pyro_vae"]
    assert [line for line in said if "eagerly" in line] == [f"CompiledSVI runs eagerly: {reason}"]


@pytest.mark.usefixtures("interpreted")
def test_a_program_that_counts_its_calls_runs_eagerly(caplog: pytest.LogCaptureFixture) -> None:
    model = _Counting()
    svi = CompiledSVI(model, _normal_guide, pyro.optim.Adam({}), Trace_ELBO())
    for _ in range(3):
        svi.step(torch.ones(4))
    assert svi.engine_steps == {"eager": 3}
    assert "_Counting.calls changes at every run" in caplog.text


class _Averaging(nn.Module):
    """A program that counts its calls and replaces a buffer."""

    average: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.register_buffer("average", torch.zeros(()))

    def forward(self, x: Tensor) -> None:
        self.calls += 1
        self.average = 0.9 * self.average + 0.1 * x.mean()
        z = pyro.sample("z", dist.Normal(self.average, float(self.calls)))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.usefixtures("interpreted")
def test_a_trial_run_counts_for_nothing() -> None:
    """Fails when fields are left as the trial runs left them."""
    program: list[_Averaging] = []

    def run(compiled: bool) -> tuple[list[float], CompiledSVI]:
        program[:] = [_Averaging()]
        pyro.param("loc", torch.zeros(()))  # made before: the first run is a trial
        optim = pyro.optim.Adam({"lr": 0.1})
        svi = CompiledSVI(program[0], _normal_guide, optim, Trace_ELBO(), compile=compiled)
        return [svi.step(torch.ones(4)) for _ in range(4)], svi

    _eager_and_captured(run)
    assert program[0].calls == 4


def test_without_a_compiler_one_line_and_eager_steps(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, svi = _small()
    x = torch.rand(16, 6).bernoulli()
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False}):
        for _ in range(3):
            svi.step(x)
    assert svi.engine_steps == {"eager": 3}
    (line,) = [r.getMessage() for r in caplog.records if "eagerly" in r.getMessage()]
    assert "compiler" in line
    assert "\n" not in line


def test_the_first_run_validates() -> None:
    _, svi = _small()
    with pytest.raises(ValueError, match="support"):
        svi.step(torch.full((16, 6), 0.3).sub(7.0))
    assert svi.steps == 0


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
    svi = CompiledSVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO(), compile=compile)
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


@pytest.mark.usefixtures("interpreted")
def test_auto_compiles_where_it_pays(caplog: pytest.LogCaptureFixture) -> None:
    x = torch.rand(16, 6).bernoulli()
    _, short = _small("auto", planned_steps=100)
    _, long = _small("auto", planned_steps=10**7)
    short.step(x)
    long.step(x)
    assert (short.engine, long.engine) == ("eager", "inductor")
    assert "with 100 steps left, compiling would take longer than it saves" in caplog.text
    short.step(x[:5])
    assert caplog.text.count("compiling would take") == 1, "a smaller batch says it again"


@pytest.mark.usefixtures("interpreted")
def test_bfloat16_is_for_matrix_products_alone() -> None:
    def run(compiled: bool) -> tuple[list[float], CompiledSVI]:
        _, svi = _small(compiled, precision="bfloat16")
        x = torch.rand(16, 6).bernoulli()
        return [svi.step(x) for _ in range(5)], svi

    _, captured = _eager_and_captured(run)
    assert captured.engine == "inductor"
    pyro.set_rng_seed(1)
    vae, svi = _small(precision="bfloat16")
    x = torch.rand(16, 6).bernoulli()
    pyro.set_rng_seed(2)
    reduced = svi.step(x)
    assert all(p.dtype == torch.float32 for p in vae.parameters())
    pyro.set_rng_seed(1)
    _, svi = _small(precision="float32")
    pyro.set_rng_seed(2)
    exact = svi.step(x)
    assert reduced != exact
    assert reduced == pytest.approx(exact, rel=0.02)


def _losses(svi: CompiledSVI, x: Tensor, steps: int) -> Tensor:
    return torch.tensor([svi.step(x) for _ in range(steps)])


@pytest.mark.slow
def test_every_replay_draws_anew_and_a_seed_draws_again() -> None:
    """Fails when a draw is baked into the graph. The parameters stand still."""
    _, svi = _small(optim=lambda params: torch.optim.SGD(params, lr=0.0))
    x = torch.rand(16, 6).bernoulli()
    _losses(svi, x, 1)
    torch.manual_seed(1)
    first = _losses(svi, x, 50)
    second = _losses(svi, x, 50)
    torch.manual_seed(1)
    again = _losses(svi, x, 50)
    assert svi.engine == "inductor"
    assert len(first.unique()) == 50
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


@pytest.mark.slow
def test_means_of_loss_and_gradient_agree_with_stock() -> None:
    """With other random numbers, 10,000 steps too small to move anything: 5 standard errors."""
    steps, lr = 10_000, 1e-9
    x = torch.rand(16, 6, dtype=torch.float64).bernoulli()
    vae = _tiny().double()
    results = []
    for seed, engine in enumerate((SVI, CompiledSVI)):
        pyro.set_rng_seed(seed)
        svi = engine(vae.model, vae.guide, pyro.optim.SGD({"lr": lr}), Trace_ELBO())
        losses, gradients = [], []
        before = torch.cat([p.detach().flatten() for p in vae.parameters()])
        for _ in range(100):
            losses += [svi.step(x) for _ in range(steps // 100)]
            after = torch.cat([p.detach().flatten() for p in vae.parameters()])
            gradients.append((before - after) / lr / (steps // 100))
            before = after
        results.append((torch.tensor(losses), torch.stack(gradients)))
    (stock_losses, stock_gradients), (losses, gradients) = results
    for stock, ours in ((stock_losses, losses), (stock_gradients, gradients)):
        error = (stock.var(0) / len(stock) + ours.var(0) / len(ours)).sqrt() + 1e-6
        assert ((stock.mean(0) - ours.mean(0)).abs() / error).max() < 5


@pytest.mark.slow
def test_memory_stands_still_over_20000_steps() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1])

    _, svi = _small()
    x = torch.rand(64, 6).bernoulli()
    _losses(svi, x, 2000)
    svi.epoch(x, batch_size=16)
    before = resident()
    _losses(svi, x, 20_000)
    for _ in range(1000):
        svi.epoch(x, batch_size=16)
    assert resident() < 1.01 * before


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
        vae, svi = _small(True, OPTIMISERS["RMSprop"], unroll=3)
        svi.epoch(x, batch_size=8, shuffle=False)
        x[17, 2] = math.inf
        x[30:] = after
        with pyro.validation_enabled(False), pytest.raises(FloatingPointError, match="at step 8"):
            svi.epoch(x, batch_size=8, shuffle=False)
        assert svi.engine == "inductor"
        ends.append([p.detach().clone() for p in vae.parameters()])
    torch.testing.assert_close(ends[0], ends[1], atol=0, rtol=0)


# What surrounds the call


def _against_stock(run: Callable[[type], Any]) -> CompiledSVI:
    """Runs with stock SVI and with ours from one seed, and compares losses and parameters."""
    ran = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        losses, svi = run(engine)
        store = pyro.get_param_store()
        ran.append((losses, {name: store[name].detach().clone() for name in store}, svi))
    (stock_losses, stock, _), (losses, ours, svi) = ran
    torch.testing.assert_close(losses, stock_losses, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours, stock, atol=1e-5, rtol=1e-5)
    return svi


SHARED: dict[str, Callable[[], Tensor]] = {
    "expanded": lambda: torch.zeros(()).expand(4),
    "expanded in part": lambda: torch.arange(4.0)[:, None].expand(4, 4)[:, 2],
    "expanded twice": lambda: torch.zeros(4).expand(3, 1, 4).expand(3, 2, 4)[1, 1],
    "one that is seen three times": lambda: torch.arange(4.0).expand(3, 4),
    "windows that overlap": lambda: torch.arange(6.0).unfold(0, 4, 1),
    "made in inference mode": lambda: _made_in_inference_mode(),
}


@torch.inference_mode()
def _made_in_inference_mode() -> Tensor:
    return torch.zeros(4)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("steps", ["step", "epoch"])
@pytest.mark.parametrize("name", SHARED)
def test_tensors_that_share_memory_with_themselves_are_read(name: str, steps: str) -> None:
    """Fails, by an error of torch's, when values are put back into such a tensor as it is."""

    def run(engine: type) -> tuple[list[float], Any]:
        loc = SHARED[name]()
        prior = dist.Normal(loc, 1.0).to_event(loc.dim())  # its scale is expanded too

        def model(x: Tensor, shift: Tensor) -> None:
            z = pyro.sample("z", prior).reshape(-1, 4).sum(0)
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x + shift)

        def guide(x: Tensor, shift: Tensor) -> None:
            z = dist.Normal(pyro.param("loc", torch.zeros(loc.shape)), 1.0)
            pyro.sample("z", z.to_event(loc.dim()))

        svi = engine(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        x, shift = torch.ones(5, 4), torch.arange(5.0)[:, None].expand(5, 4)
        if steps == "step" or engine is SVI:
            return [svi.step(x, shift) for _ in range(6)], svi
        one = {"batch_size": 5, "shuffle": False}
        return [float(svi.epoch(x, shift, **one)) for _ in range(6)], svi

    svi = _against_stock(run)
    if name != "made in inference mode":
        assert svi.engine_steps == {"eager": 1, "inductor": 5}  # the first creates `loc`


def test_a_trial_run_puts_back_what_shares_memory() -> None:
    small, window = torch.zeros(3), torch.arange(6.0)
    seen = [small.expand(2, 3), small.expand(4, 2, 3), window.unfold(0, 4, 1), window]
    with preserved(seen):
        small += 1
        window += 1
    assert small.tolist() == [0.0, 0.0, 0.0]
    assert window.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize(
    "tensor",
    [torch.arange(6.0).view(2, 3).t(), torch.arange(8.0)[::2], torch.arange(3.0).expand(2, 3)],
)
def test_a_twin_has_the_values_and_the_strides(tensor: Tensor) -> None:
    """Fails for a clone: it has other strides than compiled code was made for."""
    copy = twin(tensor)
    assert (copy.stride(), copy.tolist()) == (tensor.stride(), tensor.tolist())
    assert copy.data_ptr() != tensor.data_ptr()


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("optim", ["SGD", "Adam"])
def test_steps_without_gradients_do_what_those_of_stock_do(
    optim: str, mode: Callable[[], Any]
) -> None:
    """With gradients of zero SGD moves nothing, and Adam's momentum goes on.

    Fails when a graph, which has its gradients inside, is run all the same.
    """
    moved = []

    def run(engine: type) -> tuple[list[float], Any]:
        made = getattr(pyro.optim, optim)({"lr": 0.01})
        svi = engine(_normal_model, _normal_guide, made, Trace_ELBO())
        losses = [svi.step(torch.ones(4)) for _ in range(4)]
        before = pyro.param("loc").item()
        with mode():
            losses += [svi.step(torch.full((4,), -50.0)) for _ in range(4)]
        moved.append(pyro.param("loc").item() - before)
        if mode is torch.no_grad:  # stock has gradients of inference mode from there on
            losses += [svi.step(torch.ones(4)) for _ in range(4)]
        return losses, svi

    svi = _against_stock(run)
    assert (moved[0] == 0.0) == (optim == "SGD")
    assert moved[1] == pytest.approx(moved[0], abs=1e-6)
    assert svi.engine_steps["eager"] == 5


@pytest.mark.usefixtures("interpreted")
@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("unroll", [1, 2])
def test_an_epoch_without_gradients_moves_nothing(unroll: int) -> None:
    vae, svi = _small(optim=lambda p: torch.optim.SGD(p, lr=0.01), unroll=unroll)
    x = torch.rand(16, 6).bernoulli()
    svi.epoch(x, batch_size=4)
    before = [p.detach().clone() for p in vae.parameters()]
    with torch.no_grad():
        assert svi.epoch(x, batch_size=4).isfinite().all()
    torch.testing.assert_close(list(vae.parameters()), before, atol=0, rtol=0)
    assert svi.engine_steps == {"inductor": 4, "eager": 4}
    svi.epoch(x, batch_size=4)
    assert svi.engine_steps == {"inductor": 8, "eager": 4}
    assert not torch.equal(next(vae.parameters()), before[0])


def _scaled(step: int) -> Any:
    return poutine.scale(scale=(0.1, 0.1, 0.5, 1.0)[step])


HANDLERS: dict[str, Callable[[int], Any]] = {
    "scale": _scaled,
    "now and then": lambda step: poutine.scale(scale=3.0) if step % 2 else contextlib.nullcontext(),
    "mask": lambda step: poutine.mask(mask=bool(step % 2)),
    "only later": lambda step: _scaled(step) if step > 1 else contextlib.nullcontext(),
    "only first": lambda step: _scaled(step) if step < 2 else contextlib.nullcontext(),
    "autocast": lambda step: torch.autocast("cpu", torch.bfloat16, enabled=step > 1),
}


def _linear_model(x: Tensor) -> None:
    """Has a matrix product, which autocast concerns."""
    z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
    with pyro.plate("data", len(x)):
        product = (x[:, None] * z) @ torch.full((1, 1), 1.2345)
        pyro.sample("x", dist.Normal(product[:, 0].float(), 1.0), obs=x)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", HANDLERS)
def test_what_is_active_around_a_step_applies(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Fails when a graph has the handlers of its capture in it, or knows of none."""

    def run(engine: type) -> tuple[list[float], Any]:
        optim = pyro.optim.Adam({"lr": 0.01})
        svi = engine(_linear_model, _normal_guide, optim, Trace_ELBO())
        losses = [svi.step(torch.linspace(0, 1, 4)) for _ in range(2)]
        for step in range(4):
            with HANDLERS[name](step):
                losses.append(svi.step(torch.linspace(0, 1, 4)))
        return losses + [svi.step(torch.linspace(0, 1, 4)) for _ in range(2)], svi

    svi = _against_stock(run)
    eager = 3 if name not in ("scale", "mask") else 5
    assert svi.engine_steps == {"eager": eager, "inductor": 8 - eager}
    assert caplog.text.count("around the step") == 1


@pytest.mark.usefixtures("interpreted")
def test_another_default_dtype_is_another_graph() -> None:
    """Fails when the numbers a program makes are for ever of the first dtype."""

    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            scale = torch.full((), 16777217.0)  # 2^24 + 1: single precision lacks it
            pyro.sample("x", dist.Normal(z, scale - 16777215.0), obs=x)

    def run(engine: type) -> tuple[list[float], Any]:
        svi = engine(model, _normal_guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        losses = []
        for dtype in (torch.float32, torch.float64, torch.float32):
            torch.set_default_dtype(dtype)
            try:
                losses += [svi.step(torch.ones(4, dtype=torch.float32)) for _ in range(3)]
            finally:
                torch.set_default_dtype(torch.float32)
        return losses, svi

    assert _against_stock(run).captures == 2


@pytest.mark.usefixtures("interpreted")
@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_the_first_step_of_a_graph_may_be_the_one_that_is_not_finite() -> None:
    """Fails when an optimiser outside the graph has a step taken back that it did not take."""

    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0, validate_args=False), obs=x)

    guide = autoguide.AutoNormal(model)
    svi = CompiledSVI(model, guide, OPTIMISERS["RMSprop"], Trace_ELBO())
    for _ in range(3):
        svi.step(torch.zeros(16))
    with pytest.raises(NonFinite, match="at step 3"):
        svi.step(torch.full((8,), math.nan))
    assert (svi.engine, svi.captures) == ("inductor", 2)
    assert [int(each["step"]) for each in svi.state_dict()["optim"]["state"].values()] == [3, 3]
