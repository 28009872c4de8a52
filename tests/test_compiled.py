"""What is captured and what runs eagerly, which then says so once."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    Trace_ELBO,
)
from steps import against_stock, eager_and_captured, normal_guide, normal_model, small
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.engine import CompiledSVI


def _negative(model: Callable[..., Any], guide: Callable[..., Any], **options: Any) -> Any:
    def run(compiled: bool) -> tuple[list[float], CompiledSVI]:
        loss = options.get("loss", Trace_ELBO)()
        optim = pyro.optim.Adam({"lr": 0.01})
        svi = CompiledSVI(model, guide, optim, loss, compile=compiled)
        size = options.get("size", lambda step: 4)
        return [svi.step(torch.ones(size(step))) for step in range(20)], svi

    return run


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

        return _negative(model, normal_guide)(compiled)

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


class _Reading(Trace_ELBO):
    """A loss that goes by its own values."""

    def _differentiable_loss_particle(self, *traces: Any) -> Any:
        loss, surrogate = super()._differentiable_loss_particle(*traces)
        return loss, surrogate if surrogate > 0 else 2 * surrogate


class _WithoutScores(pv.objectives.Objective):
    """An objective whose gradient is right where draws can be differentiated."""

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        traces = self._traces(model, guide, args, kwargs)
        return sum(q.log_prob_sum() - p.log_prob_sum() for p, q in traces)


NEGATIVE = {
    "control flow": (
        _negative(_branching_model, normal_guide),
        "it reads a value back (control flow on data, or `.item()`), at site `z` or after it",
    ),
    "no reparameterisation": (
        _negative(_discrete_model, _discrete_guide, loss=_WithoutScores),
        "site `z` (Bernoulli) cannot be reparameterised",
    ),
    "Python's random numbers": (
        _negative(_python_random_model, normal_guide),
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
        _negative(normal_model, poutine.seed(normal_guide, rng_seed=3)),
        "it sets the state of torch's random numbers",
    ),
    "a loss that reads": (
        _negative(normal_model, normal_guide, loss=_Reading),
        "it reads a value back (control flow on data, or `.item()`), at site `x` or after it",
    ),
    "another shape at every step": (
        _negative(normal_model, normal_guide, size=lambda step: step + 2),
        "8 graphs are captured, and this would be one more",
    ),
}


@pytest.mark.long
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

    _, svi = eager_and_captured(seeded)
    assert svi.engine == "eager"
    said = [record.getMessage() for record in caplog.records if record.name == "pyro_vae"]
    assert [line for line in said if "eagerly" in line] == [f"CompiledSVI runs eagerly: {reason}"]


@pytest.mark.usefixtures("interpreted")
def test_a_program_that_counts_its_calls_runs_eagerly(caplog: pytest.LogCaptureFixture) -> None:
    model = _Counting()
    svi = CompiledSVI(model, normal_guide, pyro.optim.Adam({}), Trace_ELBO())
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
        svi = CompiledSVI(program[0], normal_guide, optim, Trace_ELBO(), compile=compiled)
        return [svi.step(torch.ones(4)) for _ in range(4)], svi

    eager_and_captured(run)
    assert program[0].calls == 4


@pytest.mark.long
@pytest.mark.breaks_capture
def test_without_a_compiler_one_line_and_eager_steps(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, svi = small()
    x = torch.rand(16, 6).bernoulli()
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False}):
        for _ in range(3):
            svi.step(x)
    assert svi.engine_steps == {"eager": 3}
    (line,) = [r.getMessage() for r in caplog.records if "eagerly" in r.getMessage()]
    assert "compiler" in line
    assert "\n" not in line


def test_the_first_run_validates() -> None:
    _, svi = small()
    with pytest.raises(ValueError, match="support"):
        svi.step(torch.full((16, 6), 0.3).sub(7.0))
    assert svi.steps == 0


@pytest.mark.usefixtures("interpreted")
def test_auto_compiles_where_it_pays(caplog: pytest.LogCaptureFixture) -> None:
    """And says so to who asks, but warns of nothing, since nothing is wrong."""
    caplog.set_level(logging.INFO, "pyro_vae")
    x = torch.rand(16, 6).bernoulli()
    _, short = small("auto", planned_steps=100)
    _, long = small("auto", planned_steps=10**7)
    short.step(x)
    long.step(x)
    assert (short.engine, long.engine) == ("eager", "inductor")
    assert "with 100 steps left, compiling would take longer than it saves" in caplog.text
    short.step(x[:5])
    assert caplog.text.count("compiling would take") == 1, "a smaller batch says it again"
    assert all(each.levelno == logging.INFO for each in caplog.records)


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
        svi = engine(normal_model, normal_guide, made, Trace_ELBO())
        losses = [svi.step(torch.ones(4)) for _ in range(4)]
        before = pyro.param("loc").item()
        with mode():
            losses += [svi.step(torch.full((4,), -50.0)) for _ in range(4)]
        moved.append(pyro.param("loc").item() - before)
        if mode is torch.no_grad:  # stock has gradients of inference mode from there on
            losses += [svi.step(torch.ones(4)) for _ in range(4)]
        return losses, svi

    svi = against_stock(run)
    assert (moved[0] == 0.0) == (optim == "SGD")
    assert moved[1] == pytest.approx(moved[0], abs=1e-6)
    assert svi.engine_steps["eager"] == 5


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("unroll", [1, 2])
def test_an_epoch_without_gradients_moves_nothing(unroll: int) -> None:
    vae, svi = small(optim=lambda p: torch.optim.SGD(p, lr=0.01), unroll=unroll)
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
        svi = engine(_linear_model, normal_guide, optim, Trace_ELBO())
        losses = [svi.step(torch.linspace(0, 1, 4)) for _ in range(2)]
        for step in range(4):
            with HANDLERS[name](step):
                losses.append(svi.step(torch.linspace(0, 1, 4)))
        return losses + [svi.step(torch.linspace(0, 1, 4)) for _ in range(2)], svi

    svi = against_stock(run)
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
        svi = engine(model, normal_guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        losses = []
        for dtype in (torch.float32, torch.float64, torch.float32):
            torch.set_default_dtype(dtype)
            try:
                losses += [svi.step(torch.ones(4, dtype=torch.float32)) for _ in range(3)]
            finally:
                torch.set_default_dtype(torch.float32)
        return losses, svi

    assert against_stock(run).captures == 2
