"""Every loss of Pyro's, and what users derive from them: captured or eager, and equal to stock."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import pytest
import torch
from opt_einsum import shared_intermediates
from pyro.infer import (
    EnergyDistance,
    JitTrace_ELBO,
    JitTraceEnum_ELBO,
    JitTraceGraph_ELBO,
    JitTraceMeanField_ELBO,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    Trace_MMD,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.infer.trace_tail_adaptive_elbo import TraceTailAdaptive_ELBO
from steps import equals_stock
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.engine import CompiledSVI

pytestmark = pytest.mark.usefixtures("double")


def _model(x: Tensor, observations: Any = None) -> None:
    scale = pyro.param("width", torch.ones(()), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, scale), obs=x)


def _guide(x: Tensor, observations: Any = None) -> None:
    x = x if observations is None else observations["x"]
    slope = pyro.param("slope", torch.ones(()))
    with pyro.plate("data", x.shape[-1]):
        pyro.sample("z", dist.Normal(slope * x, 0.7))


class _Untouched(Trace_ELBO):
    """Nothing of it is another's."""


class _Weighted(Trace_ELBO):
    """Of each term of the model, half counts."""

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> Any:
        loss, surrogate = super()._differentiable_loss_particle(model_trace, guide_trace)
        nodes = [node for node in model_trace.nodes.values() if node["type"] == "sample"]
        more = sum(node["log_prob_sum"] for node in nodes)
        return loss + 0.5 * more.detach(), surrogate + 0.5 * more


class _TwoParts(Trace_ELBO):
    """It differentiates in two parts."""

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        first = super().loss_and_grads(model, guide, *args, **kwargs)
        penalty = 0.1 * pyro.get_param_store()["slope"] ** 2
        penalty.backward()
        return first + penalty.detach()


class _Clipped(Trace_ELBO):
    """It changes gradients by itself."""

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        loss = super().loss_and_grads(model, guide, *args, **kwargs)
        for param in pyro.get_param_store()._params.values():
            if param.grad is not None:
                param.grad.clamp_(-0.1, 0.1)
        return loss


class _Halved(Trace_ELBO):
    """It puts gradients in place by itself."""

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        loss = super().loss_and_grads(model, guide, *args, **kwargs)
        for param in pyro.get_param_store()._params.values():
            param.grad = torch.ones_like(param)
        return loss


class _Twice(Trace_ELBO):
    """It forgets what it has differentiated first."""

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        super().loss_and_grads(model, guide, *args, **kwargs)
        params = list(pyro.get_param_store()._params.values())
        torch.optim.SGD(params, lr=0.1).zero_grad()
        return super().loss_and_grads(model, guide, *args, **kwargs)


class _Before(Trace_ELBO):
    """It adds to gradients that it has put there."""

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        for param in pyro.get_param_store()._params.values():
            param.grad = torch.ones_like(param)
        return super().loss_and_grads(model, guide, *args, **kwargs)


class _Counting(Trace_ELBO):
    """It is another loss at each step."""

    calls = 0

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        loss = super().loss_and_grads(model, guide, *args, **kwargs)
        return loss * self.calls


class _Functional(Trace_ELBO):
    """It has autograd itself differentiate."""

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        torch.autograd.backward([loss])
        return loss.detach()


def _with_a_penalty(model: Any, guide: Any, *args: Any) -> Tensor:
    """A function that has differentiated a part of what it is before it returns the rest."""
    loss = Trace_ELBO().differentiable_loss(model, guide, *args)
    (0.1 * pyro.get_param_store()["slope"] ** 2).backward()
    return loss


def _mmd() -> Any:
    kernel = gp.kernels.RBF(input_dim=5, lengthscale=torch.tensor(1.5))
    return Trace_MMD(kernel=kernel, num_particles=4)


CAPTURED: dict[str, Callable[[], Any]] = {
    "Trace": Trace_ELBO,
    "TraceGraph": TraceGraph_ELBO,
    "TraceEnum": lambda: TraceEnum_ELBO(strict_enumeration_warning=False),
    "mean field, particles": lambda: TraceMeanField_ELBO(num_particles=2),
    "Renyi": lambda: RenyiELBO(alpha=0.5, num_particles=3),
    "Renyi, at once": lambda: RenyiELBO(num_particles=3, vectorize_particles=True),
    "wake": lambda: ReweightedWakeSleep(num_particles=3),
    "wake and sleep": lambda: ReweightedWakeSleep(num_particles=3, insomnia=0.4),
    "sleep": lambda: ReweightedWakeSleep(num_particles=3, insomnia=0.0, model_has_params=False),
    "one by one": lambda: ReweightedWakeSleep(num_particles=2, vectorize_particles=False),
    "discrepancy": _mmd,
    "energy distance": lambda: EnergyDistance(num_particles=3),
    "energy distance, prior": lambda: EnergyDistance(prior_scale=0.3, beta=1.5),
    "tail-adaptive": lambda: TraceTailAdaptive_ELBO(num_particles=4, vectorize_particles=True),
    "a function": lambda: Trace_ELBO().differentiable_loss,
    "a function in two parts": lambda: _with_a_penalty,
    "untouched": _Untouched,
    "weighted": _Weighted,
    "two parts": _TwoParts,
}


def _steps(make: Callable[[], Any], count: int = 7) -> CompiledSVI:
    def run(engine: type) -> tuple[list[Any], Any]:
        svi = engine(_model, _guide, pyro.optim.Adam({"lr": 0.05}), make())
        losses = [svi.step(torch.linspace(-1.0, 2.0, 5) + 0.1 * i) for i in range(count)]
        return losses, svi

    return equals_stock(run)


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", CAPTURED)
def test_a_loss_is_captured_and_equals_stock(name: str) -> None:
    svi = _steps(CAPTURED[name])
    assert (svi.captures, svi.engine_steps) == (1, {"eager": 1, "inductor": 6})


EAGER = {
    "clipped": (_Clipped, "does something with the gradients of its parameters"),
    "halved": (_Halved, "does something with the gradients of its parameters"),
    "twice": (_Twice, "does something with the gradients of its parameters"),
    "before": (_Before, "does something with the gradients of its parameters"),
    "counting": (_Counting, "_Counting.calls changes at every run"),
    "functional": (_Functional, "calls `torch.autograd.backward`"),
}


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", EAGER)
def test_a_loss_that_does_more_runs_eagerly_for_that_reason(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    make, reason = EAGER[name]
    assert _steps(make).engine_steps == {"eager": 7}
    assert reason in caplog.text


JIT = {
    "JitTrace": JitTrace_ELBO,
    "JitTraceGraph": JitTraceGraph_ELBO,
    "JitTraceEnum": lambda: JitTraceEnum_ELBO(strict_enumeration_warning=False),
}


class _OwnJit(JitTrace_ELBO):
    """Derived from what compiles itself."""


@pytest.mark.filterwarnings("ignore")  # what is said of `torch.jit` and its tracer
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", JIT)
def test_losses_that_compile_themselves_are_captured_in_their_stead(name: str) -> None:
    """The first step, whose random numbers compilation draws too, is theirs."""
    svi = _steps(JIT[name])
    assert (svi.captures, svi.engine_steps) == (1, {"eager": 1, "inductor": 6})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("make", [_OwnJit, JitTraceMeanField_ELBO])
def test_others_that_compile_themselves_run_eagerly(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Pyro's for mean fields compiles at every step, and draws random numbers for that."""
    assert _steps(make).engine_steps == {"eager": 7}
    assert f"loss {make.__name__} compiles itself" in caplog.text


@pytest.mark.long
def test_compiled_code_equals_stock() -> None:
    assert _steps(CAPTURED["wake and sleep"], 4).engine_steps == {"eager": 1, "inductor": 3}


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("refined", [False, True])
def test_programs_that_differentiate_by_themselves(
    refined: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Captured where that stays among their own tensors, eager where it reaches parameters."""

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.ones(()))
        at = torch.zeros((), requires_grad=True)
        ((at - x.mean()) ** 2 if refined else (at - slope) ** 2).backward()
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x - 0.1 * at.grad, 0.7))

    def run(engine: type) -> tuple[list[Any], Any]:
        svi = engine(_model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        return [svi.step(torch.linspace(-1.0, 2.0, 5) + 0.1 * i) for i in range(5)], svi

    svi = equals_stock(run)
    if refined:
        assert svi.engine_steps == {"eager": 1, "inductor": 4}
    else:
        assert svi.engine_steps == {"eager": 5}
        assert "differentiates by itself, with respect to parameters" in caplog.text


@pytest.mark.usefixtures("interpreted")
def test_two_losses_are_finite_or_not_together() -> None:
    """Fails where each of two losses decides for itself whether the step is taken."""
    options: dict[str, Any] = {"on_nonfinite": "skip"}
    optim = pyro.optim.Adam({"lr": 0.05})
    svi = CompiledSVI(_model, _guide, optim, ReweightedWakeSleep(num_particles=2), **options)
    x = torch.linspace(-1.0, 2.0, 5)
    for _ in range(3):
        svi.step(x)
    assert svi.engine == "inductor"
    before = pyro.param("slope").item()
    with pyro.validation_enabled(False), warnings.catch_warnings(action="ignore"):
        svi.step(torch.full((5,), torch.inf))
    assert (svi.skipped, pyro.param("slope").item()) == (1, before)
    svi.step(x)
    assert pyro.param("slope").item() != before


@pytest.mark.usefixtures("interpreted")
def test_what_opt_einsum_has_computed_in_earlier_steps_is_not_part_of_a_graph() -> None:
    def run(engine: type) -> tuple[list[Any], Any]:
        svi = engine(_model, _guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        with shared_intermediates():
            return [svi.step(torch.linspace(-1.0, 2.0, 5)) for _ in range(4)], svi

    assert equals_stock(run).engine_steps == {"eager": 4}


@pytest.mark.usefixtures("interpreted")
def test_helpers_are_as_before_after_a_capture() -> None:
    """Of Pyro's modules, of torch and of its tensors."""
    owners = (Tensor, torch.autograd, pyro.util, pyro.infer.traceenum_elbo, pyro.ops.jit)
    then = [dict(vars(owner)) for owner in owners]
    _steps(CAPTURED["TraceGraph"])
    _steps(_Clipped)
    for owner, before in zip(owners, then, strict=True):
        now = vars(owner)
        assert {k for k in now if now[k] is not before.get(k)} == set()
        assert set(before) == set(now)
