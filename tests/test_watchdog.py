"""The watchdog: faults planted into the guards are found, and rounding is not taken for one."""

from __future__ import annotations

import functools
import re
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from steps import OPTIMISERS, equals_stock, normal_guide, normal_model
from torch import Tensor, nn

from pyro_vae.engine import CompiledSVI, GraphMismatch, graph, readback
from pyro_vae.engine.dependencies import Dependencies
from pyro_vae.engine.numbers import Placed
from pyro_vae.engine.watchdog import Watchdog

pytestmark = pytest.mark.usefixtures("interpreted")


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plants a fault: nobody notices that what a program reads has changed."""
    monkeypatch.setattr(Dependencies, "changed", lambda self: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where mismatches are written."""
    return tmp_path


class Likelihood:
    """The model of a case: an attribute, and what is made of it."""

    def __init__(self, value: Any, use: Callable[[Any, Tensor], Any]) -> None:
        self.value, self.use = value, use

    def __call__(self, x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", self.use(self.value, z), obs=x)


def take(svi: CompiledSVI, calls: Sequence[tuple[Any, ...]]) -> None:
    for args in calls:
        svi.step(*args)


N = dist.Normal
REPLACED: dict[str, tuple[Any, Any, Callable[[Any, Any], Any]]] = {
    "a NumPy scalar": (np.float32(1), np.float32(3), lambda v, z: N(z, float(v))),
    "a NumPy array": (np.array([1.0]), np.array([3.0]), lambda v, z: N(z, float(v[0]))),
    "a distribution": (N(0.0, 1.0), N(5.0, 1.0), lambda v, z: N(z + v.mean, 1.0)),
    "its class": (dist.Normal, dist.Laplace, lambda v, z: v(z, 1.0)),
    "a function of torch's": (torch.tanh, torch.exp, lambda v, z: N(v(z), 1.0)),
    "a slice": (slice(0, 4), slice(4, 8), lambda v, z: N(z + torch.arange(8.0)[v], 1.0)),
    "a range": (range(3), range(3, 6), lambda v, z: N(z + sum(v), 1.0)),
    "a set": ({"a"}, {"b"}, lambda v, z: N(z, 3.0 if "b" in v else 1.0)),
    "a deque": (deque([1.0]), deque([2.0]), lambda v, z: N(z, v[0])),
    "a partial": (
        functools.partial(N, scale=1.0),
        functools.partial(N, scale=3.0),
        lambda v, z: v(z),
    ),
    "a transform": (
        dist.transforms.AffineTransform(0.0, 1.0),
        dist.transforms.AffineTransform(3.0, 2.0),
        lambda v, z: dist.TransformedDistribution(N(z, 1.0), [v]),
    ),
}


def adam() -> Any:
    return pyro.optim.Adam({"lr": 0.05})


@pytest.mark.usefixtures("blind")
@pytest.mark.parametrize("name", REPLACED)
def test_what_is_replaced_unnoticed_is_found(name: str, folder: Path) -> None:
    """Fails when no graph is checked at its tenth step, or parameters move all the same."""
    before, after, use = REPLACED[name]
    model = Likelihood(before, use)
    svi = CompiledSVI(model, normal_guide, adam(), Trace_ELBO(), check_folder=folder)
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    for _ in range(6):  # the first creates the parameter, eagerly
        svi.step(x)
    model.value = after
    for _ in range(4):
        svi.step(x)
    loc, state = pyro.param("loc").item(), torch.get_rng_state()
    with pytest.raises(GraphMismatch, match="loss is .* and should be .*parameter `loc`") as error:
        svi.step(x)
    assert error.value.name == "loc"
    assert pyro.param("loc").item() == loc
    assert torch.equal(torch.get_rng_state(), state)
    assert svi.steps == 10
    # Who goes on all the same gets the steps of the programs.
    stock = SVI(model, normal_guide, adam(), Trace_ELBO()).evaluate_loss(x)
    torch.set_rng_state(state)
    assert svi.step(x) == pytest.approx(stock, rel=1e-5)
    assert svi.engine == "eager"


READ: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "numpy": lambda x, z: N(x / float(x.numpy().mean()) + 0 * z, 1.0),
    "sorted": lambda x, z: N(torch.from_numpy(np.sort(x.numpy())) + z, 1.0),
    "tolist": lambda x, z: N(z + x.tolist()[0], 1.0),
    "a draw": lambda x, z: N(z * float(z.detach().numpy()), 1.0),
}


@pytest.mark.parametrize("name", READ)
def test_values_that_are_baked_in_are_found(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run finds them: the first has the very values. Fails when that is not checked."""
    monkeypatch.setattr(readback, "_METHODS", ())

    def model(x: Tensor) -> None:
        z = pyro.sample("z", N(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", READ[name](x, z), obs=x)

    svi = CompiledSVI(model, normal_guide, adam(), Trace_ELBO(), check_folder=folder)
    for _ in range(2):  # the first creates the parameter, the second is captured
        svi.step(torch.tensor([1.0, 2.0, 3.0, 5.0]))
    assert svi.captures == 1
    with pytest.raises(GraphMismatch):
        svi.step(torch.tensor([9.0, 4.0, 6.0, 5.0]))


@pytest.mark.usefixtures("blind")
def test_a_batch_that_a_process_was_given_is_found_to_be_stale(folder: Path) -> None:
    """Mini-batches of a sparse Gaussian process, by ``set_data``."""
    x = torch.rand(40, 1)
    y = torch.sin(6 * x[:, 0])
    kernel, likelihood = gp.kernels.RBF(1), gp.likelihoods.Gaussian()
    process = gp.models.VariationalSparseGP(
        x[:20], y[:20], kernel, x[:5].clone(), likelihood, jitter=1e-3
    )
    options: Any = {"check_folder": folder}
    svi = CompiledSVI(process.model, process.guide, adam(), TraceMeanField_ELBO(), **options)
    svi.step()
    svi.step()
    process.set_data(x[20:], y[20:] + 5)
    with pytest.raises(GraphMismatch) as error:
        take(svi, [()] * 10)
    assert error.value.name in {name.rpartition("$$$")[2] for name in pyro.get_param_store()}


def annealed_model(x: Tensor, beta: float) -> None:
    with poutine.scale(scale=beta):
        z = pyro.sample("z", N(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", N(z, 1.0), obs=x)


def annealed_guide(x: Tensor, beta: float) -> None:
    with poutine.scale(scale=beta):
        pyro.sample("z", N(pyro.param("loc", torch.zeros(())), 0.1))


def test_a_number_that_stays_as_it_was_is_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plants a fault: from the fifth step on, the graph has one number for ever."""
    svi = CompiledSVI(annealed_model, annealed_guide, adam(), Trace_ELBO(), check_folder=folder)
    for i in range(4):
        svi.step(torch.ones(4), (i + 1) / 12)
    assert svi.engine == "inductor"
    number = torch.full((1,), 1 / 3, dtype=torch.float64)
    stale = property(lambda placed: (*placed._tensors, number))
    monkeypatch.setattr(Placed, "tensors", stale)
    with pytest.raises(GraphMismatch):
        take(svi, [(torch.ones(4), (i + 1) / 12) for i in range(4, 12)])


def test_what_reproduces_a_mismatch_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when it has the parameters of after, another batch, or other random numbers."""
    monkeypatch.setattr(Dependencies, "changed", lambda self: None)
    model = Likelihood(1.0, lambda v, z: N(z, v))
    svi = CompiledSVI(model, normal_guide, adam(), Trace_ELBO(), check_folder=folder)
    for _ in range(10):
        svi.step(torch.ones(4))
    model.value = 3.0
    with pytest.raises(GraphMismatch) as error:
        svi.step(torch.full((4,), 2.0))
    assert error.value.path == folder / "mismatch.pt"
    assert str(folder) in str(error.value)
    saved = torch.load(error.value.path)
    assert torch.equal(saved["parameters"]["loc"], pyro.param("loc").detach())
    ((args, kwargs),) = saved["batches"]
    assert (args[0].tolist(), kwargs) == ([2.0] * 4, {})
    assert saved["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    torch.set_rng_state(saved["random"]["torch"])
    eager = SVI(model, normal_guide, adam(), Trace_ELBO()).evaluate_loss(*args)
    named = re.findall(r"should be ([-\d.e]+)", str(error.value))
    assert float(named[0]) == pytest.approx(eager, rel=1e-5)


@pytest.mark.usefixtures("blind")
@pytest.mark.parametrize("every", [3, None])
def test_it_is_checked_as_often_as_asked(every: int | None, folder: Path) -> None:
    """Fails when a number is not heeded, or None checks."""
    model = Likelihood(1.0, lambda v, z: N(z, v))
    options: Any = {"check_every": every, "check_folder": folder}
    svi = CompiledSVI(model, normal_guide, adam(), Trace_ELBO(), **options)
    x = torch.ones(4)
    for _ in range(5):
        svi.step(x)  # of which the graph has taken the last four
    model.value = 3.0
    svi.step(x)
    if every is None:
        for _ in range(20):
            svi.step(x)
    else:
        with pytest.raises(GraphMismatch):
            svi.step(x)


def test_a_graph_is_checked_at_powers_of_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when the hot path checks more often, or a graph of several steps is passed over."""
    run, checked = Watchdog.run, []

    def spied(self: Watchdog, captured: Any, *args: Any) -> Any:
        checked.append(captured.taken)
        return run(self, captured, *args)

    monkeypatch.setattr(Watchdog, "run", spied)
    svi = CompiledSVI(normal_model, normal_guide, adam(), Trace_ELBO())
    for _ in range(102):
        svi.step(torch.ones(4))
    assert checked == [1, 2, 10, 100]
    checked.clear()
    pyro.clear_param_store()
    svi = CompiledSVI(normal_model, normal_guide, adam(), Trace_ELBO(), unroll=4)
    svi.epoch(torch.ones(24), batch_size=1)  # the first four create the parameter
    assert checked == [4, 8, 12]


@pytest.mark.usefixtures("blind")
@pytest.mark.parametrize("name", ["Adam", "SGD", "RMSprop", "Pyro's ClippedAdam"])
def test_an_epoch_is_checked_too(name: str, folder: Path) -> None:
    """Groups of three steps; optimisers outside the graph take them one by one.

    Fails when what follows the graph steps before the check: parameters have then moved.
    """
    model = Likelihood(1.0, lambda v, z: N(z, v))
    options: Any = {"check_folder": folder, "unroll": 3}
    svi = CompiledSVI(model, normal_guide, OPTIMISERS[name], Trace_ELBO(), **options)
    for _ in range(2):
        svi.epoch(torch.ones(24), batch_size=4, shuffle=False)
    assert svi.captures == 1
    model.value = 3.0
    loc = pyro.param("loc").item()
    with pytest.raises(GraphMismatch) as error:
        svi.epoch(torch.arange(24.0), batch_size=4, shuffle=False)
    assert error.value.name == "loc"
    state = torch.load(error.value.path)
    assert len(state["batches"]) == (3 if name in ("Adam", "SGD") else 1)
    assert state["parameters"]["loc"].item() == pyro.param("loc").item()
    assert (pyro.param("loc").item() == loc) == (svi.steps == 12)


class Network(nn.Module):
    """Dropout, a normalisation whose buffers move, and an encoder with many rectifiers."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Linear(6, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout()
        )
        self.loc, self.decode = nn.Linear(64, 2), nn.Linear(2, 6)

    def model(self, x: Tensor) -> None:
        pyro.module("network", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", N(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decode(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("network", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", N(self.loc(self.encode(x)), 1.0).to_event(1))


def test_a_check_changes_nothing() -> None:
    """Each step is checked, and losses, parameters, buffers and draws are those of stock SVI.

    Fails when the buffers move twice, dropout draws other numbers later, or Adam counts twice.
    """

    def run(engine: type) -> tuple[list[float], Any]:
        network = Network().double()
        x = torch.rand(9, 6, dtype=torch.float64).bernoulli()
        every = {"check_every": 1} if engine is CompiledSVI else {}
        svi = engine(network.model, network.guide, adam(), Trace_ELBO(), **every)
        losses = [svi.step(x) for _ in range(12)]
        moved = torch.cat([each.double().flatten() for each in network.buffers()])
        return [*losses, *moved.tolist(), float(torch.rand(()))], svi

    svi = equals_stock(run)
    assert svi.engine_steps == {"inductor": 12}


def test_draws_of_the_compiler_are_not_compared(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a graph draws other numbers, what was captured is compared, operation by operation.

    Fails when the check stops a sound run, or passes a stale one.
    """
    call = graph.Graph.__call__

    def otherwise(self: graph.Graph, *args: Tensor) -> Any:
        torch.rand(3)
        return call(self, *args)

    monkeypatch.setattr(graph.Graph, "__call__", otherwise)
    monkeypatch.setattr(graph, "_is_drawn_by_torch", lambda operation: False)
    model = Likelihood(1.0, lambda v, z: N(z, v))
    svi = CompiledSVI(model, normal_guide, adam(), Trace_ELBO(), check_folder=folder)
    for _ in range(9):
        svi.step(torch.ones(4))
    assert svi.engine_steps == {"eager": 1, "inductor": 8}
    monkeypatch.setattr(Dependencies, "changed", lambda self: None)
    model.value = 3.0
    with pytest.raises(GraphMismatch):
        take(svi, [(torch.ones(4),)] * 2)


def test_rounding_is_no_mismatch(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the optimum, the gradient of 200,000 terms is nothing but rounding.

    The graph's is computed in another order, as compiled code does. Fails when tolerances are
    fixed: none but that of rounding itself is large enough.
    """
    x = torch.randn(200_000) * 100
    x -= x.mean()

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(()))
        # The graph sums in another order.
        pyro.factor("f", N(loc, 1.0).log_prob(x.flip(0) if graph_runs[0] else x).sum())

    graph_runs = [False]
    look, looked = Watchdog._look_closer, []

    def spied(self: Watchdog, *args: Any) -> None:
        looked.append(args)
        graph_runs[0] = False
        look(self, *args)

    first = Watchdog._first

    def programs(self: Watchdog, call: Any) -> Any:
        graph_runs[0] = False
        try:
            return first(self, call)
        finally:
            graph_runs[0] = True

    monkeypatch.setattr(Dependencies, "changed", lambda self: None)
    monkeypatch.setattr(Watchdog, "_look_closer", spied)
    monkeypatch.setattr(Watchdog, "_first", programs)
    optim = pyro.optim.SGD({"lr": 1e-7})  # stays there
    svi = CompiledSVI(model, lambda x: None, optim, Trace_ELBO(), check_every=1)
    svi.step(x)
    graph_runs[0] = True
    for _ in range(3):
        svi.step(x)
    assert svi.engine == "inductor"
    assert len(looked) > 0


@pytest.mark.parametrize("value", [0, -1, "never", 2.5])
def test_what_it_cannot_be_is_refused(value: Any) -> None:
    """Fails when a number that is none counts as one."""
    with pytest.raises(ValueError, match="`check_every`"):
        CompiledSVI(normal_model, normal_guide, adam(), Trace_ELBO(), check_every=value)
