"""CompiledSVI: the same steps as stock SVI, only faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

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
from steps import eager_and_captured, small, tiny
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional

import pyro_vae as pv
from pyro_vae.engine import CompiledSVI


class Case(NamedTuple):
    model: Callable[..., Any]
    guide: Callable[..., Any]
    args: tuple[Any, ...]
    loss: pyro.infer.ELBO


def _vae(dtype: torch.dtype) -> Case:
    vae = tiny().to(dtype)
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
    return Case(model, guide, (x,), TraceEnum_ELBO(max_plate_nesting=1))


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
    assert svi.engine == "inductor"
    assert svi.engine_steps["inductor"] >= 99  # one may create the parameters
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    assert len(stock) == len(ours) > 0
    for expected, got in zip(stock.values(), ours.values(), strict=True):
        torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(
        torch.tensor(losses), torch.tensor(stock_losses), atol=1e-3, rtol=10 * tolerance
    )


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", CASES)
def test_captured_steps_equal_stock_steps(name: str) -> None:
    _assert_equal_to_stock(CASES[name], torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", CASES)
def test_compiled_steps_equal_stock_steps(name: str, dtype: torch.dtype) -> None:
    _assert_equal_to_stock(CASES[name], dtype)


def _binarise(x: Tensor) -> Tensor:
    return (torch.rand_like(x) < x).to(x.dtype)


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("unroll", [1, 3])
def test_an_epoch_is_the_same_with_and_without_capture(unroll: int) -> None:
    """Gather, binarisation, warm-up and a short last batch inside the graph."""

    def run(compiled: bool) -> tuple[list[float], CompiledSVI]:
        objective = pv.objectives.ELBO(warmup=10)
        _, svi = small(compiled, objective=objective, unroll=unroll)
        x = torch.rand(45, 6)
        losses = [svi.epoch(x, batch_size=8, transform=_binarise) for _ in range(3)]
        assert [len(each) for each in losses] == [6, 6, 6]
        assert objective.step == svi.steps == 18
        return torch.cat(losses).tolist(), svi

    eager, captured = eager_and_captured(run)
    assert eager.engine_steps == {"eager": 18}
    assert captured.engine_steps == {"inductor": 18}
    assert captured.captures == 2 + (unroll > 1)  # one for the short batch


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
def test_bfloat16_is_for_matrix_products_alone() -> None:
    def run(compiled: bool) -> tuple[list[float], CompiledSVI]:
        _, svi = small(compiled, precision="bfloat16")
        x = torch.rand(16, 6).bernoulli()
        return [svi.step(x) for _ in range(5)], svi

    _, captured = eager_and_captured(run)
    assert captured.engine == "inductor"
    pyro.set_rng_seed(1)
    vae, svi = small(precision="bfloat16")
    x = torch.rand(16, 6).bernoulli()
    pyro.set_rng_seed(2)
    reduced = svi.step(x)
    assert all(p.dtype == torch.float32 for p in vae.parameters())
    pyro.set_rng_seed(1)
    _, svi = small(precision="float32")
    pyro.set_rng_seed(2)
    exact = svi.step(x)
    assert reduced != exact
    assert reduced == pytest.approx(exact, rel=0.02)


def _losses(svi: CompiledSVI, x: Tensor, steps: int) -> Tensor:
    return torch.tensor([svi.step(x) for _ in range(steps)])


@pytest.mark.slow
def test_every_replay_draws_anew_and_a_seed_draws_again() -> None:
    """Fails when a draw is baked into the graph. The parameters stand still."""
    _, svi = small(optim=lambda params: torch.optim.SGD(params, lr=0.0))
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
    vae = tiny().double()
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

    _, svi = small()
    x = torch.rand(64, 6).bernoulli()
    _losses(svi, x, 2000)
    svi.epoch(x, batch_size=16)
    before = resident()
    _losses(svi, x, 20_000)
    for _ in range(1000):
        svi.epoch(x, batch_size=16)
    assert resident() < 1.01 * before
