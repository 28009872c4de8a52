"""Validation in a graph: what stock SVI refuses at a step is refused at that step, by its words."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from steps import OPTIMISERS, equals_stock, small
from torch import Tensor

import pyro_vae as pv
from pyro_vae.engine import CompiledSVI, NonFinite
from pyro_vae.engine.graph import Graph

pytestmark = pytest.mark.usefixtures("interpreted", "double")


def adam() -> Any:
    return pyro.optim.Adam({"lr": 0.1})


def sgd() -> Any:
    return pyro.optim.SGD({"lr": 0.01})


def clipped() -> Any:
    return pyro.optim.ClippedAdam({"lr": 0.1})  # whose update is no part of a graph


def guide(x: Tensor, *others: Any) -> None:
    loc, scale = pyro.param("loc", torch.zeros(())), pyro.param("scale", torch.ones(()))
    pyro.sample("z", dist.Normal(loc, scale))


def observed(make: Callable[[Tensor], Any]) -> Callable[..., None]:
    """A model with the likelihood that is made of the latent."""

    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", make(z), obs=x)

    return model


# A likelihood, observations that it takes, and one that it does not.
LEFT: dict[str, tuple[Callable[[Tensor], Any], Tensor, float]] = {
    "Bernoulli": (lambda z: dist.Bernoulli(logits=z), torch.tensor([0.0, 1.0, 1.0]), 2.0),
    "Poisson": (lambda z: dist.Poisson(z.exp()), torch.tensor([0.0, 3.0, 1.0]), -1.0),
    "Gamma": (lambda z: dist.Gamma(z.exp(), 1.0), torch.tensor([0.5, 3.0, 1.0]), -0.5),
    "Normal": (lambda z: dist.Normal(z, 1.0), torch.tensor([0.5, 3.0, 1.0]), math.nan),
    "Beta": (lambda z: dist.Beta(z.exp(), 1.0), torch.tensor([0.5, 0.25, 0.75]), 1.5),
    "Uniform": (
        lambda z: dist.Uniform(z - 100.0, z + 100.0),
        torch.tensor([0.5, 0.25, 0.75]),
        1000.0,
    ),
    "Categorical": (
        lambda z: dist.Categorical(logits=torch.stack([z, -z])),
        torch.tensor([0.0, 1.0, 1.0]),
        2.0,
    ),
}


def refused(run: Callable[[type], Any]) -> CompiledSVI:
    """Runs with stock SVI and with ours; both are refused, by the same words, in one state."""
    ran = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        svi, losses, last = run(engine)
        with pytest.raises(ValueError, match="invalid values") as error:
            last()
        params = {name: pyro.param(name).detach().clone() for name in pyro.get_param_store()}
        both = str(error.value), str(error.value.__cause__)
        # Numbers of more digits than two orders of one sum agree in.
        text = [re.sub(r"\d+\.\d{9,}", lambda m: f"{float(m[0]):.9f}", each) for each in both]
        ran.append((text, losses, params, torch.get_rng_state()))
    assert ran[1][0] == ran[0][0]
    torch.testing.assert_close(ran[1][1:], ran[0][1:], atol=1e-9, rtol=1e-9, equal_nan=True)
    assert isinstance(svi, CompiledSVI)
    return svi


@pytest.mark.parametrize(
    ("name", "optim"), [*((name, adam) for name in LEFT), ("Beta", sgd), ("Beta", clipped)]
)
def test_an_observation_that_leaves_the_support(name: str, optim: Callable[[], Any]) -> None:
    """Fails when a check is not in the graph, a parameter moves, or draws are others."""
    make, x, wrong = LEFT[name]
    x = x.double()

    def run(engine: type) -> Any:
        svi = engine(observed(make), guide, optim(), Trace_ELBO())
        losses = [svi.step(x) for _ in range(5)]
        bad = x.clone()
        bad[1] = wrong
        return svi, losses, lambda: svi.step(bad)

    svi = refused(run)
    assert svi.engine == "inductor"
    assert svi.steps == 5


@pytest.mark.parametrize(("value", "optim"), [(-1.0, adam), (math.nan, sgd), (-1.0, clipped)])
def test_a_parameter_that_leaves_its_constraint(value: float, optim: Callable[[], Any]) -> None:
    """A learned scale, which nothing keeps positive. It is refused before anything is drawn."""

    def run(engine: type) -> Any:
        make, x, _ = LEFT["Normal"]
        svi = engine(observed(make), guide, optim(), Trace_ELBO())
        losses = [svi.step(x.double()) for _ in range(4)]
        with torch.no_grad():
            pyro.param("scale").fill_(value)
        return svi, losses, lambda: svi.step(x.double())

    refused(run)


def test_a_step_itself_makes_the_scale_negative() -> None:
    """The step that does is taken, the one after it is refused, and after that it goes on."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, pyro.param("scale", torch.ones(()))), obs=x)

    def run(engine: type) -> Any:
        svi = engine(model, lambda x: None, pyro.optim.SGD({"lr": 0.02}), Trace_ELBO())
        x = torch.zeros(20)
        losses = [svi.step(x) for _ in range(2)]

        def last() -> None:
            for _ in range(50):
                svi.step(x)

        return svi, losses, last

    svi = refused(run)
    assert pyro.param("scale").item() < 0
    with torch.no_grad():
        pyro.param("scale").fill_(1.0)
    assert math.isfinite(svi.step(torch.zeros(20)))
    assert svi.engine == "inductor"


@pytest.mark.parametrize(
    ("at", "unroll", "optim"),
    [(4, 1, adam), (9, 1, adam), (4, 3, sgd), (9, 3, sgd), (7, 1, clipped)],
)
def test_a_pass_ends_where_stock_ends_it(at: int, unroll: int, optim: Callable[[], Any]) -> None:
    """The flag is read at the end of the pass, and every step before the refused one is taken.

    Fails when a later step moves something, or one before it does not; the step may be the first
    of a group of three, within one, the last of the pass, and of another graph.
    """
    make, _, _ = LEFT["Bernoulli"]
    x = torch.arange(39.0).remainder(2)

    def run(engine: type) -> Any:
        bad = x.clone()
        bad[4 * at + 1] = 0.5
        options = {"unroll": unroll} if engine is CompiledSVI else {}
        svi = engine(observed(make), guide, optim(), Trace_ELBO(), **options)

        def passes(data: Tensor) -> list[float]:
            if isinstance(svi, CompiledSVI):
                return svi.epoch(data, batch_size=4, shuffle=False).tolist()
            return [svi.step(each) for each in data.split(4)]

        return svi, [*passes(x), *passes(x)], lambda: passes(bad)

    svi = refused(run)
    assert svi.steps == 20 + at
    assert svi.engine_steps["inductor"] > 10
    # It goes on from there.
    pyro.set_rng_seed(1)
    assert svi.epoch(x, batch_size=4).isfinite().all()


@pytest.mark.parametrize("explicit", [False, True])
def test_nothing_is_checked_where_validation_is_off(explicit: bool) -> None:
    """Fails when it is checked all the same, or a distribution that asks for it is not."""

    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            kind = dist.Bernoulli(logits=z, validate_args=True if explicit else None)
            pyro.sample("x", kind, obs=x)

    grey = torch.tensor([0.5, 0.25])

    def run(engine: type) -> Any:
        svi = engine(model, guide, adam(), Trace_ELBO())
        return svi, [svi.step(grey.round()) for _ in range(3)], lambda: svi.step(grey)

    def unvalidated(engine: type) -> Any:
        svi, losses, last = run(engine)
        return [*losses, last()], svi

    with pyro.validation_enabled(False):
        if explicit:
            refused(run)
            return
        svi = equals_stock(unvalidated)
        assert svi.engine_steps == {"eager": 1, "inductor": 3}
    # Switched on again: another graph, which checks.
    with pytest.raises(ValueError, match="within the support"):
        svi.step(grey)
    assert svi.step(grey.round()) < 10
    with pytest.raises(ValueError, match="within the support"):
        svi.step(grey)
    assert svi.captures == 2


def test_a_scale_of_a_handler_is_checked() -> None:
    """It is Pyro's own check, of a tensor that scales a site."""

    def model(x: Tensor, weight: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)), poutine.scale(scale=weight):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def run(engine: type) -> Any:
        svi = engine(model, guide, adam(), Trace_ELBO())
        x, one = torch.ones(3), torch.ones(())
        return svi, [svi.step(x, one) for _ in range(3)], lambda: svi.step(x, -one)

    ran = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        svi, _, last = run(engine)
        with pytest.raises(ValueError, match="Expected scale > 0") as error:
            last()
        ran.append(str(error.value))
    assert ran[0] == ran[1]
    assert svi.steps == 3


class _Even(constraints.Constraint):
    """Checked in NumPy, which no graph can be."""

    def check(self, value: Tensor) -> Tensor:
        return torch.from_numpy(value.detach().numpy() % 2 == 0)


class Even(dist.Normal):
    """A distribution with such a constraint."""

    support = _Even()


def test_a_check_that_is_no_tensor_code_is_made_as_it_is_captured() -> None:
    """Such a program is captured as before. Fails when it runs eagerly, or nothing is checked."""
    model = observed(lambda z: Even(z, 1.0))
    svi = CompiledSVI(model, guide, adam(), Trace_ELBO())
    for _ in range(3):
        svi.step(torch.tensor([0.0, 2.0]))
    assert svi.engine == "inductor"
    with pytest.raises(ValueError, match="within the support"):
        svi.step(torch.tensor([1.0, 2.0, 4.0]))  # another graph


def test_matrices_are_checked() -> None:
    """A constraint with control flow: symmetric first, then positive definite."""

    def model(x: Tensor, covariance: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc = pyro.param("loc", torch.zeros(2))
            pyro.sample("x", dist.MultivariateNormal(loc, covariance), obs=x)

    def run(engine: type) -> Any:
        svi = engine(model, lambda *_: None, adam(), Trace_ELBO())
        x, good = torch.ones(3, 2), torch.eye(2)
        bad = torch.tensor([[1.0, 0.5], [0.25, 1.0]])
        return svi, [svi.step(x, good) for _ in range(4)], lambda: svi.step(x, bad)

    assert refused(run).engine == "inductor"


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_a_refused_step_is_one_without_a_finite_loss_where_that_counts() -> None:
    """``raise`` stops there, and ``skip`` leaves it out, as eager steps do.

    Fails when the finite loss of a value outside the support is taken.
    """
    make, x, wrong = LEFT["Bernoulli"]
    x, bad = x.double(), torch.tensor([0.0, wrong, 1.0])
    for compile in (False, True):
        pyro.clear_param_store()
        svi = CompiledSVI(
            observed(make), guide, adam(), Trace_ELBO(), compile=compile, on_nonfinite="skip"
        )
        for batch in (x, x, x, bad, x):
            svi.step(batch)
        assert (svi.steps, svi.skipped) == (5, 1)
        svi = CompiledSVI(
            observed(make), guide, adam(), Trace_ELBO(), compile=compile, on_nonfinite="raise"
        )
        for _ in range(3):
            svi.step(x)
        loc = pyro.param("loc").item()
        with pytest.raises(NonFinite, match="at step 3"):
            svi.step(bad)
        assert pyro.param("loc").item() == loc


def test_an_objective_does_not_advance_where_a_step_is_refused() -> None:
    """Fails when its schedule counts a step that was not taken."""
    objective = pv.objectives.ELBO(warmup=8)
    _, svi = small(True, OPTIMISERS["Adam"], objective)
    x = torch.rand(5, 6).bernoulli()
    for _ in range(3):
        svi.step(x)
    with pytest.raises(ValueError, match="within the support"):
        svi.step(x + 0.5)
    assert objective.step == 3
    svi.step(x)
    assert (objective.step, svi.steps) == (4, 4)


def test_a_step_that_only_the_graph_refuses_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """By rounding a value may leave a support in one of them alone: the program decides.

    Fails when the step is lost, taken twice, or those after it in the pass are.
    """
    call = Graph.__call__
    calls = []

    def down(self: Graph, *args: Tensor) -> list[Tensor]:
        calls.append(self)
        if len(calls) == 5:
            # A value that the graph alone sees outside.
            data = args[2].clone()
            args[2][:] = 0.5
            try:
                return call(self, *args)
            finally:
                args[2].copy_(data)
        return call(self, *args)

    x = torch.arange(28.0).remainder(2)

    def run(engine: type) -> Any:
        make, _, _ = LEFT["Bernoulli"]
        svi = engine(observed(make), guide, adam(), TraceMeanField_ELBO())
        if not isinstance(svi, CompiledSVI):
            return [svi.step(each) for _ in range(2) for each in x.split(4)], svi
        monkeypatch.setattr(Graph, "__call__", down)
        losses = [svi.epoch(x, batch_size=4, shuffle=False) for _ in range(2)]
        return torch.cat(losses).tolist(), svi

    svi = equals_stock(run)
    assert svi.engine_steps == {"eager": 2, "inductor": 12}
    assert svi.steps == 14


def test_it_may_be_left_to_the_capture() -> None:
    """As a fit does, which checks its data before. Fails when steps are checked all the same."""
    make, x, _ = LEFT["Poisson"]
    svi = CompiledSVI(observed(make), guide, adam(), Trace_ELBO(), validate=False)
    x = x.double()
    for _ in range(3):
        svi.step(x)
    assert math.isfinite(svi.step(x + 0.5))
    with pytest.raises(ValueError, match="within the support"):
        svi.step(torch.tensor([0.5]))  # another graph
