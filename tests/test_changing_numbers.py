"""Numbers that change from step to step: inputs of one graph, or constants that are guarded."""

from __future__ import annotations

import logging
import math
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor

from pyro_vae.engine import CompiledSVI

pytestmark = pytest.mark.usefixtures("interpreted")

Run = tuple[list[float], dict[str, Tensor], Any]


def _guide(x: Tensor, number: Any) -> None:
    loc = pyro.param("loc", x.new_zeros(()))
    with poutine.scale(scale=number):
        pyro.sample("z", dist.Normal(loc, 0.3))


def _annealed(x: Tensor, beta: Any) -> None:
    with poutine.scale(scale=beta):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def _plain_guide(x: Tensor, *numbers: Any) -> None:
    pyro.sample("z", dist.Normal(pyro.param("loc", x.new_zeros(())), 0.3))


def _model(shift: Callable[..., Any]) -> Callable[..., None]:
    """A model whose observations are shifted by what is made of the numbers."""

    def model(x: Tensor, *numbers: Any) -> None:
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z + shift(x, *numbers), 1.0), obs=x)

    return model


def _run(
    engine: type[SVI],
    model: Any,
    guide: Any,
    numbers: Sequence[tuple[Any, ...]],
    dtype: torch.dtype = torch.float64,
) -> Run:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    svi = engine(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    x = torch.linspace(-1.0, 2.0, 5, dtype=dtype)
    losses = [svi.step(x, *each) for each in numbers]
    store = pyro.get_param_store()
    return losses, {name: store[name].detach().clone() for name in store}, svi


def _equals_stock(
    model: Any,
    guide: Any,
    numbers: Sequence[tuple[Any, ...]],
    dtype: torch.dtype = torch.float64,
) -> CompiledSVI:
    stock, ours = (_run(engine, model, guide, numbers, dtype) for engine in (SVI, CompiledSVI))
    close = {"rtol": 1e-9, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 0}
    torch.testing.assert_close(ours[:2], stock[:2], **close)
    svi = ours[2]
    assert isinstance(svi, CompiledSVI)
    return svi


ANNEALING = {
    "float": lambda i: (i + 1) / 12,
    "np.float32": lambda i: np.float32((i + 1) / 12),
    "np.float64": lambda i: np.float64((i + 1) / 12),
    "ndarray": lambda i: np.array((i + 1) / 12),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", list(ANNEALING))
def test_annealing_by_a_number_is_captured_once(kind: str, dtype: torch.dtype) -> None:
    """Fails when each value has a graph, or the values of the first step are in it for ever."""
    numbers = [(ANNEALING[kind](i),) for i in range(12)]
    svi = _equals_stock(_annealed, _guide, numbers, dtype)
    assert (svi.captures, svi.engine_steps) == (1, {"eager": 1, "inductor": 11})


# What a program may do with a number and still have it as an input.
ARITHMETIC: dict[str, Callable[..., Any]] = {
    "times": lambda x, a: a * x,
    "over": lambda x, a: x / a,
    "less": lambda x, a: 2.0 - a * x,
    "two-sided": lambda x, a: (1.0 - a) * x + a,
    "power": lambda x, a: x.exp() ** a,
    "decay": lambda x, a: 0.9**a * x,
    "square": lambda x, a: -(a**2) * x,
    "torch.tensor": lambda x, a: torch.tensor(a) * x,
    "of a distribution": lambda x, a: dist.Normal(x, a).log_prob(x),
    "numbers alone": lambda x, a: dist.Normal(0.0, a).log_prob(x),
    "among tensors without dimensions": lambda x, a: (x.sum() * a).expand(5),
    "integers": lambda x, a: (torch.arange(5) * a).to(x),
    "where": lambda x, a: torch.where(x > 0, x, a),
    "filled": lambda x, a: x.masked_fill(x > 0, a),
    "clamp": lambda x, a: x.clamp(max=a),
}


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", list(ARITHMETIC))
def test_a_number_that_meets_tensors_is_an_input(name: str, dtype: torch.dtype) -> None:
    numbers = [(0.1 + 0.07 * i,) for i in range(8)]
    svi = _equals_stock(_model(ARITHMETIC[name]), _plain_guide, numbers, dtype)
    assert (svi.captures, svi.engine_steps) == (1, {"eager": 1, "inductor": 7})


@pytest.mark.long
@pytest.mark.parametrize(
    "shift",
    [lambda x, n: n * x, lambda x, n: x / n, lambda x, n: n / 3 * x, lambda x, n: 0.9**n * x],
)
def test_an_integer_that_changes_becomes_an_input(shift: Callable[..., Any]) -> None:
    svi = _equals_stock(_model(shift), _plain_guide, [(i,) for i in range(1, 9)])
    assert svi.captures == 1
    same = [(2,)] * 3 + [(i,) for i in range(3, 9)]  # captured as a constant at first
    assert _equals_stock(_model(shift), _plain_guide, same).captures == 2


def _chosen(x: Tensor, a: float) -> Any:
    return x if a < 0.5 else -x


READ: dict[str, Callable[..., Any]] = {
    "branch": _chosen,
    "math": lambda x, a: math.exp(a) * x,
    "size": lambda x, a: x[: int(10 * a)].sum(),
    "min": lambda x, a: min(1.0, 2 * a) * x,
    "key": lambda x, a: {0.1: x}.get(a, -x),
    "text": lambda x, a: len(str(a)) * x,
    "kind": lambda x, a: a * x if isinstance(a, float) else x,
    "numpy": lambda x, a: float(np.sqrt(a)) * x,
    "list": lambda x, a: torch.tensor([a, 1.0]).sum() * x,
    "full": lambda x, a: torch.full((5,), a).to(x) * x,
}


@pytest.mark.long
@pytest.mark.parametrize("name", list(READ))
def test_a_number_whose_value_is_read_stays_a_constant(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once; not a graph for each value; what stops changing is captured after all.

    Fails when a value is baked in, or after the annealing everything goes on eagerly.
    """
    numbers = [(0.1 + 0.07 * i,) for i in range(12)] + [(1.0,)] * 4
    with caplog.at_level(logging.WARNING, "pyro_vae"):
        svi = _equals_stock(_model(READ[name]), _plain_guide, numbers)
    lines = [r.getMessage() for r in caplog.records if "among the arguments" in r.getMessage()]
    assert len(lines) == 1
    assert svi.captures <= 2
    assert svi.engine == "inductor"


@pytest.mark.long
def test_one_number_is_read_and_another_is_an_input() -> None:
    """The epoch is branched on, and changes seldom; the weight changes at every step."""

    def shift(x: Tensor, epoch: int, beta: float) -> Tensor:
        return beta * x if epoch % 2 else x - beta

    numbers = [(i // 6, 0.1 + 0.03 * i) for i in range(24)]
    svi = _equals_stock(_model(shift), _plain_guide, numbers)
    assert svi.captures <= 4
    assert svi.engine_steps["inductor"] >= 18


def test_a_number_is_not_to_blame_for_a_program_that_counts_its_calls(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Fails where two runs that differ anyway are taken to differ by the number."""

    def counting() -> Callable[..., None]:
        calls = types.SimpleNamespace(count=0)

        def shift(x: Tensor, beta: float) -> Tensor:
            calls.count += 1
            return x + beta + 0.1 * calls.count

        return _model(shift)

    numbers = [(0.5 + i,) for i in range(4)]
    stock = _run(SVI, counting(), _plain_guide, numbers)
    with caplog.at_level(logging.WARNING, "pyro_vae"):
        ours = _run(CompiledSVI, counting(), _plain_guide, numbers)
    torch.testing.assert_close(ours[:2], stock[:2], rtol=1e-9, atol=1e-12)
    lines = [record.getMessage() for record in caplog.records]
    assert lines
    assert all("changes at every run" in line for line in lines)


def test_a_number_of_the_wrong_sign_is_refused_as_stock_refuses_it() -> None:
    svi = _equals_stock(_annealed, _guide, [(0.5,), (0.4,), (0.3,)])
    with pytest.raises(ValueError, match="scale"):
        svi.step(torch.zeros(5, dtype=torch.float64), 0.0)


@pytest.mark.long
def test_a_situation_that_stays_is_captured_however_many_there_were() -> None:
    """Fails when after so many graphs every other call runs eagerly for ever."""
    model = _model(_chosen)

    def data(size: int) -> Tensor:
        return torch.linspace(-1.0, 2.0, size, dtype=torch.float64)

    svi = CompiledSVI(
        model, _plain_guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO(), max_graphs=2
    )
    for size in range(3, 12):
        svi.step(data(size), 0.1)
    assert svi.captures == 2
    for _ in range(10):
        svi.step(data(20), 0.1)
    assert (svi.captures, svi.engine) == (3, "inductor")
