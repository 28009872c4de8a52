"""Sites whose draws cannot be differentiated, with and without baselines, as in stock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceGraph_ELBO
from steps import equals_stock
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.engine import CompiledSVI

pytestmark = pytest.mark.usefixtures("double")

AVERAGE = "__baseline_avg_downstream_cost_which"


def _model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        which = pyro.sample("which", dist.Bernoulli(0.4))
        z = pyro.sample("z", dist.Normal(which, 1.0))
        scale = pyro.param("width", torch.ones(()), constraint=constraints.positive)
        pyro.sample("x", dist.Normal(z, scale), obs=x)


def _guide(baseline: dict[str, Any] | None = None) -> Callable[..., None]:
    infer = {} if baseline is None else {"baseline": baseline}

    def guide(x: Tensor) -> None:
        a, b = pyro.param("a", torch.zeros(())), pyro.param("b", torch.ones(()))
        with pyro.plate("data", len(x)):
            which = pyro.sample("which", dist.Bernoulli(logits=a + b * x), infer=infer)
            pyro.sample("z", dist.Normal(x - which, 0.5))

    return guide


def _by_a_network(also: dict[str, Any] | None = None) -> Callable[..., None]:
    """Each observation has a baseline, learned from it."""
    network = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1), nn.Flatten(0))

    def guide(x: Tensor) -> None:
        pyro.module("baseline", network)
        baseline = {"nn_baseline": network, "nn_baseline_input": x[:, None], **(also or {})}
        _guide(baseline)(x)

    return guide


def _by_a_value() -> Callable[..., None]:
    def guide(x: Tensor) -> None:
        baseline = {"baseline_value": pyro.param("level", torch.zeros(5))}
        _guide(baseline)(x)

    return guide


def _integers() -> Callable[..., None]:
    """Counts, of which no relaxation is known, and draws one by one of a plate that is a loop."""

    def guide(x: Tensor) -> None:
        for i in pyro.plate("loop", len(x)):
            rate = pyro.param("rate", torch.ones(len(x)), constraint=constraints.positive)
            pyro.sample(f"n_{i}", dist.Poisson(rate[i]))

    return guide


def _counts(x: Tensor) -> None:
    for i in pyro.plate("loop", len(x)):
        n = pyro.sample(f"n_{i}", dist.Poisson(2.0))
        pyro.sample(f"x_{i}", dist.Normal(n, 1.0), obs=x[i])


def _classes(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.OneHotCategorical(torch.ones(3)))
        pyro.sample("x", dist.Normal(y @ torch.tensor([-1.0, 0.0, 1.0]), 1.0), obs=x)


def _of_classes(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        logits = pyro.param("logits", torch.zeros(5, 3))
        pyro.sample("y", dist.OneHotCategorical(logits=logits))


DECAYING = {"use_decaying_avg_baseline": True, "baseline_beta": 0.8}
CASES: dict[str, tuple[Any, Callable[[], Any], Callable[[], Any]]] = {
    "plain": (_model, _guide, Trace_ELBO),
    "particles": (_model, _guide, lambda: Trace_ELBO(num_particles=3)),
    "particles at once": (
        _model,
        _guide,
        lambda: Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    ),
    "graph": (_model, _guide, TraceGraph_ELBO),
    "classes": (_classes, lambda: _of_classes, Trace_ELBO),
    "integers": (_counts, _integers, TraceGraph_ELBO),
    "decaying average": (_model, lambda: _guide(DECAYING), TraceGraph_ELBO),
    "decaying average, particles": (
        _model,
        lambda: _guide(DECAYING),
        lambda: TraceGraph_ELBO(num_particles=2),
    ),
    "a network": (_model, _by_a_network, TraceGraph_ELBO),
    "a network and an average": (_model, lambda: _by_a_network(DECAYING), TraceGraph_ELBO),
    "a value": (_model, _by_a_value, TraceGraph_ELBO),
}


def _steps(name: str, count: int = 8, optim: Any = None) -> CompiledSVI:
    model, guide, loss = CASES[name]

    def run(engine: type) -> tuple[list[float], Any]:
        make = optim or (lambda: pyro.optim.Adam({"lr": 0.05}))
        svi = engine(model, guide(), make(), loss())
        return [svi.step(torch.linspace(-1.0, 2.0, 5) + i) for i in range(count)], svi

    return equals_stock(run)


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", CASES)
def test_score_functions_are_captured_and_equal_stock(name: str) -> None:
    svi = _steps(name)
    assert (svi.captures, svi.engine_steps) == (1, {"eager": 1, "inductor": 7})


def test_an_eager_step_does_not_train_an_average() -> None:
    """The loss of a network that adds to it has a gradient with respect to it."""
    model, guide, loss = CASES["a network and an average"]

    def run(engine: type) -> tuple[list[float], Any]:
        options = {"compile": False} if engine is CompiledSVI else {}
        svi = engine(model, guide(), pyro.optim.Adam({"lr": 0.05}), loss(), **options)
        return [svi.step(torch.linspace(-1.0, 2.0, 5) + i) for i in range(5)], svi

    assert equals_stock(run).engine == "eager"


@pytest.mark.parametrize("ci", ["", "1"])
def test_compiled_code_equals_stock(ci: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under CI=1 torch's compiler refuses what it does for everyone else, such as to draw so."""
    monkeypatch.setenv("CI", ci)
    assert _steps("decaying average", 4).engine_steps == {"eager": 1, "inductor": 3}


@pytest.mark.usefixtures("interpreted")
def test_an_optimiser_of_another_kind_leaves_averages_alone() -> None:
    """Its update follows the graph, in which the average is moved all the same."""
    _steps("decaying average", optim=lambda: pyro.optim.ClippedAdam({"lr": 0.05}))


@pytest.mark.usefixtures("interpreted")
def test_averages_stand_where_steps_take_turns_with_eager_ones() -> None:
    """Fails where an eager step puts another tensor in the store: each graph is captured anew."""
    x = torch.linspace(-1.0, 2.0, 5)

    def run(engine: type) -> tuple[list[float], Any]:
        svi = engine(_model, _guide(DECAYING), pyro.optim.Adam({"lr": 0.05}), TraceGraph_ELBO())
        losses = []
        for i in range(9):
            if i % 3 == 2:
                with pyro.poutine.scale(scale=0.5):
                    losses.append(svi.step(x))
            else:
                losses.append(svi.step(x))
        return losses, svi

    svi = equals_stock(run)
    assert (svi.captures, svi.engine_steps) == (1, {"eager": 4, "inductor": 5})
    assert sum(name == AVERAGE for name in pyro.get_param_store()._param_to_name.values()) <= 2


@pytest.mark.usefixtures("interpreted")
@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("compiled", [False, True])
def test_a_step_that_is_not_taken_moves_no_average(compiled: bool) -> None:
    optim = pyro.optim.Adam({"lr": 0.05})
    options: dict[str, Any] = {"compile": compiled, "on_nonfinite": "skip"}
    svi = CompiledSVI(_model, _guide(DECAYING), optim, TraceGraph_ELBO(), **options)
    x = torch.linspace(-1.0, 2.0, 5)
    for _ in range(3):
        svi.step(x)
    before = pyro.param(AVERAGE).detach().clone()
    with pyro.validation_enabled(False):
        svi.step(torch.full((5,), torch.inf))
    assert svi.skipped == 1
    torch.testing.assert_close(pyro.param(AVERAGE).detach(), before, rtol=0, atol=0)
    svi.step(x)
    assert not torch.equal(pyro.param(AVERAGE), before)


@pytest.mark.usefixtures("interpreted")
def test_a_pass_over_data_moves_averages_in_unrolled_steps() -> None:
    x = torch.linspace(-1.0, 2.0, 20)
    stock = SVI(_model, _guide(DECAYING), pyro.optim.Adam({"lr": 0.05}), TraceGraph_ELBO())
    for rows in x.split(5):
        stock.step(rows)
    for rows in x.split(5):
        stock.step(rows)
    then = {name: value.detach().clone() for name, value in pyro.get_param_store().items()}
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    optim = pyro.optim.Adam({"lr": 0.05})
    svi = CompiledSVI(_model, _guide(DECAYING), optim, TraceGraph_ELBO(), unroll=2)
    for _ in range(2):
        svi.epoch(x, batch_size=5, shuffle=False)
    now = {name: value.detach() for name, value in pyro.get_param_store().items()}
    torch.testing.assert_close(now, then, rtol=1e-9, atol=1e-9)
    assert svi.engine_steps["inductor"] >= 4
