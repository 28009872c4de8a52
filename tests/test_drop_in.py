"""CompiledSVI in the place of pyro.infer.SVI: the same arguments, attributes, values, errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import (
    SVI,
    EmpiricalMarginal,
    EnergyDistance,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.infer.trace_tail_adaptive_elbo import TraceTailAdaptive_ELBO
from pyro.nn import PyroModule
from steps import normal_guide, normal_model, small
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.engine import CompiledSVI

pytestmark = pytest.mark.usefixtures("interpreted")


def _guide(x: Tensor) -> None:
    loc = pyro.param("loc", x.new_zeros(()))
    pyro.sample("z", dist.Normal(loc, pyro.param("scale", x.new_full((), 0.3))))


def _adam(lr: float = 0.01) -> Any:
    return pyro.optim.Adam({"lr": lr})


def _data() -> Tensor:
    return torch.linspace(-1.0, 2.0, 5, dtype=torch.float64)


def _both(run: Callable[[type[SVI]], Any]) -> list[Any]:
    """What stock SVI and ours return, and the parameters that they leave."""
    ran = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        values = run(engine)
        store = pyro.get_param_store()
        ran.append((values, {name: store[name].detach().clone() for name in store}))
    return ran


def _equal(run: Callable[[type[SVI]], Any]) -> None:
    stock, ours = _both(run)
    torch.testing.assert_close(ours, stock, rtol=1e-9, atol=1e-12)


ELBOS: dict[str, Callable[[], Any]] = {
    "wake-sleep": lambda: ReweightedWakeSleep(num_particles=2),
    "Renyi": lambda: RenyiELBO(alpha=0.5, num_particles=3),
    "graph": TraceGraph_ELBO,
    "particles": lambda: Trace_ELBO(num_particles=3),
    "mean field": TraceMeanField_ELBO,
    "tail-adaptive": lambda: TraceTailAdaptive_ELBO(num_particles=4, vectorize_particles=True),
    "ours": pv.objectives.ELBO,
}


@pytest.mark.long
@pytest.mark.parametrize("name", list(ELBOS))
def test_a_step_returns_what_stock_returns(name: str) -> None:
    """In double precision, in full, a pair or infinite where stock's is, of the same type."""
    x = _data()

    def run(engine: type[SVI]) -> Any:
        svi = engine(normal_model, _guide, _adam(), ELBOS[name]())
        losses = [svi.step(x) for _ in range(6)]
        assert all(type(loss) is type(losses[0]) for loss in losses)
        # The tail-adaptive one has no loss, as stock says.
        return losses, 0.0 if name == "tail-adaptive" else svi.evaluate_loss(x)

    if name == "ours":  # stock counts a step's schedule as ours does, of which it has none
        x = x.float()
    _equal(run)


def test_an_eager_loss_comes_back_in_full() -> None:
    x = _data()

    def run(engine: type[SVI]) -> list[float]:
        options = {} if engine is SVI else {"compile": False}
        svi = engine(normal_model, _guide, _adam(), Trace_ELBO(), **options)
        return [svi.step(x) for _ in range(3)]

    (stock, _), (ours, _) = _both(run)
    assert ours == stock
    svi = CompiledSVI(normal_model, _guide, _adam(), Trace_ELBO(), compile=False)
    assert svi.epoch(x, batch_size=2).dtype == torch.float64
    pyro.clear_param_store()
    svi = CompiledSVI(normal_model, _guide, _adam(), pv.objectives.ELBO(), compile=False)
    assert svi.epoch(x.float(), batch_size=2).dtype == torch.float32


def test_losses_that_are_pairs_have_a_row_each_in_a_pass() -> None:
    svi = CompiledSVI(normal_model, _guide, _adam(), ReweightedWakeSleep(num_particles=2))
    assert svi.epoch(_data(), batch_size=2).shape == (3, 2)
    assert svi.steps == 3


def test_loss_and_gradients_may_be_functions() -> None:
    """Those of one ELBO are captured as the ELBO itself; others run as they are."""
    x = _data()
    elbo = Trace_ELBO()

    def doubled(model: Any, guide: Any, *args: Any) -> float:
        return 2 * elbo.loss_and_grads(model, guide, *args)

    engines = []

    def run(engine: type[SVI], gradients: Any, loss: Any) -> Any:
        svi = engine(normal_model, _guide, _adam(), loss, gradients)
        losses = [svi.step(x) for _ in range(4)]
        engines.append(getattr(svi, "engine", None))
        return losses, svi.evaluate_loss(x), svi.loss(normal_model, _guide, x)

    def differentiable(model: Any, guide: Any, *args: Any) -> Tensor:
        return elbo.differentiable_loss(model, guide, *args)

    for gradients, loss in (
        (elbo.loss_and_grads, elbo.loss),
        (doubled, elbo.loss),
        (None, differentiable),
        (None, lambda model, guide, *args: 0.5),
    ):
        _equal(lambda engine: run(engine, gradients, loss))  # noqa: B023
    assert engines[1::2] == ["inductor", "eager", "inductor", "eager"]


def test_it_is_an_svi_with_the_attributes_of_one() -> None:
    """Code that takes a ``TracePosterior`` gets one."""
    x = _data()

    def run(engine: type[SVI]) -> Any:
        with pytest.warns(FutureWarning):
            svi = engine(normal_model, _guide, _adam(), Trace_ELBO(), num_samples=4, num_steps=3)
        assert isinstance(svi, SVI)
        with pytest.warns(FutureWarning):
            posterior = svi.run(x)
        assert posterior is svi
        draws = EmpiricalMarginal(posterior, "z").sample((2,))
        gradients = svi.loss_and_grads(normal_model, _guide, x)
        return draws, gradients, svi.num_chains, svi.num_samples, svi.num_steps

    _equal(run)


def test_the_state_of_the_optimiser_is_in_order_for_whoever_uses_it() -> None:
    """Fails when step counts are held back: a step by hand then corrects its bias wrongly."""
    x = _data()

    def run(engine: type[SVI]) -> Any:
        svi = engine(normal_model, _guide, _adam(), Trace_ELBO())
        losses = [svi.step(x) for _ in range(5)]
        for _ in range(2):
            losses.append(svi.loss_and_grads(normal_model, _guide, x))
            params = list(pyro.get_param_store()._params.values())
            svi.optim(params)
            for param in params:
                param.grad = None
        losses += [svi.step(x) for _ in range(3)]
        counts = [float(state["state"][0]["step"]) for state in svi.optim.get_state().values()]
        return losses, counts

    _equal(run)


@pytest.mark.long
def test_what_is_assigned_counts_from_then_on() -> None:
    """Fails when a graph of before is run, or the step counts of an optimiser are another's."""
    x = _data()
    captures = []

    def shifted(x: Tensor) -> None:
        normal_model(x + 3)

    def scaled(model: Any, guide: Any, *args: Any) -> float:
        return 3 * Trace_ELBO().loss_and_grads(model, guide, *args)

    def run(engine: type[SVI]) -> list[float]:
        first, second = _adam(), pyro.optim.Adam({"lr": 0.1})
        svi = engine(normal_model, _guide, first, Trace_ELBO())
        losses = [svi.step(x) for _ in range(3)]
        elbo, other = Trace_ELBO(), TraceMeanField_ELBO()
        changes: list[dict[str, Any]] = [
            {"model": shifted},
            {"loss": elbo.loss, "loss_and_grads": elbo.loss_and_grads},
            {"optim": second},
            {"model": normal_model, "loss_and_grads": scaled},
            {"optim": first, "loss_and_grads": other.loss_and_grads},
            {"guide": normal_guide},
            {"model": shifted, "guide": _guide, "loss_and_grads": elbo.loss_and_grads},
            {"optim": second},
        ]
        for change in changes:
            for name, value in change.items():
                setattr(svi, name, value)
                assert getattr(svi, name) == value
            losses += [svi.step(x) for _ in range(3)]
            losses.append(svi.evaluate_loss(x))
        captures.append(getattr(svi, "captures", 0))
        return losses

    _equal(run)
    assert captures[1] >= 5


def test_alternating_between_two_models_keeps_both_graphs() -> None:
    x = _data()

    def shifted(x: Tensor) -> None:
        normal_model(x + 3)

    svi = CompiledSVI(normal_model, _guide, _adam(), Trace_ELBO())
    for _ in range(5):
        for program in (normal_model, shifted):
            svi.model = program
            svi.step(x)
    assert (svi.captures, svi.engine_steps) == (2, {"eager": 1, "inductor": 9})


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_a_loss_that_is_not_finite_is_returned_and_its_step_taken(compile: bool) -> None:
    """As stock does. Fails when the update is masked, or the run stops."""

    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0, validate_args=False), obs=x)

    def run(engine: type[SVI]) -> list[float]:
        options = {} if engine is SVI else {"compile": compile}
        svi = engine(model, _guide, _adam(), Trace_ELBO(), **options)
        losses = []
        with pyro.validation_enabled(False):
            for value in (0.0, 1.0, math.inf, 1.0, math.nan, 2.0):
                losses.append(svi.step(torch.full((3,), value, dtype=torch.float64)))
        return losses

    (losses, params), ours = _both(run)
    torch.testing.assert_close(ours, (losses, params), rtol=1e-9, atol=0, equal_nan=True)
    assert losses[2] == math.inf
    assert any(param.isnan() for param in params.values())


def test_a_graph_warns_of_a_loss_that_is_nan_as_an_elbo_does() -> None:
    """Validation would refuse the observation. Fails when nobody warns instead."""
    svi = CompiledSVI(normal_model, _guide, _adam(), Trace_ELBO())
    with pyro.validation_enabled(False):
        for _ in range(2):
            svi.step(_data())
        assert svi.engine == "inductor"
        with pytest.warns(UserWarning, match="Encountered NaN: loss"):
            assert math.isnan(svi.step(_data() * math.nan))


class _Plain(nn.Module):
    """A guide's network, which nobody registers unless asked to."""

    def __init__(self, register: bool = False) -> None:
        super().__init__()
        self.net = nn.Linear(1, 2)
        self.register = register

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        if self.register:
            pyro.module("net", self.net)
        loc, scale = self.net(x.unsqueeze(-1)).unbind(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale.exp()))


class _Registered(PyroModule, _Plain):
    def __init__(self) -> None:
        super().__init__()
        self.net = PyroModule[nn.Linear](1, 2)


@pytest.mark.parametrize("compile", [False, True])
def test_a_module_that_nobody_registers_is_an_error(compile: bool) -> None:
    x = torch.ones(4)
    program = _Plain()
    svi = CompiledSVI(program.model, program.guide, _adam(), Trace_ELBO(), compile=compile)
    with pytest.raises(ValueError, match=r"a module Linear has .*`pyro\.module") as error:
        svi.step(x)
    assert "PyroModule" in str(error.value)
    assert svi.steps == 0
    for trained in (_Plain(register=True), _Registered()):
        svi = CompiledSVI(trained.model, trained.guide, _adam(), Trace_ELBO(), compile=compile)
        before = trained.net.weight.detach().clone()
        svi.step(x)
        assert not torch.equal(trained.net.weight, before)


@pytest.mark.parametrize("compile", [False, True])
def test_what_trains_nothing_by_design_is_no_error(compile: bool) -> None:
    """No module; a module that is frozen; gradients off; gradients that a function computes."""
    x = torch.ones(4)

    def fixed(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(0.0, 1.0))

    program, frozen = _Plain(), _Plain().requires_grad_(False)
    elbo = Trace_ELBO()

    def steps() -> Iterator[CompiledSVI]:
        options = {"compile": compile}
        yield CompiledSVI(normal_model, fixed, _adam(), elbo, **options)
        yield CompiledSVI(frozen.model, frozen.guide, _adam(), elbo, **options)
        gradients = lambda *args: elbo.loss_and_grads(*args)  # noqa: E731
        yield CompiledSVI(program.model, program.guide, _adam(), elbo.loss, gradients, **options)

    for svi in steps():
        assert math.isfinite(svi.step(x))
    svi = CompiledSVI(program.model, program.guide, _adam(), elbo, compile=compile)
    with torch.no_grad():
        assert math.isfinite(svi.step(x))


def test_an_objective_with_gradients_of_its_own_is_not_captured() -> None:
    """Fails when the graph is that of the loss, which its gradients are not those of."""

    class Reversed(pv.objectives.ELBO):
        def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
            loss = self.differentiable_loss(model, guide, *args, **kwargs)
            (-loss).backward()  # type: ignore[no-untyped-call]
            return loss.item()

    _, svi = small(objective=Reversed())
    svi.step(torch.rand(4, 6, dtype=torch.float64).bernoulli())
    assert svi.engine == "eager"


def test_an_energy_distance_runs_as_it_is() -> None:
    loss = EnergyDistance(num_particles=2)

    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, pyro.param("scale", x.new_ones(()))), obs=x)

    svi = CompiledSVI(model, normal_guide, _adam(), loss)
    assert math.isfinite(svi.step(torch.ones(3)))
    assert svi.engine == "eager"
