"""Values that leave tensors are never those of an earlier batch or draw."""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor

from pyro_vae.engine import CompiledSVI

pytestmark = pytest.mark.usefixtures("interpreted", "double")


def _caught(x: Tensor) -> float:
    with contextlib.suppress(Exception):
        return float(x.numpy()[0])
    return 1.0


def _total(*tensors: Tensor) -> Tensor:
    return torch.stack([tensor.sum() for tensor in tensors]).exp().sum().log()


# Of a batch and a draw, what the mean of the observations is.
READS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "numpy": lambda x, z: float(x.numpy().mean()),
    "numpy of a draw": lambda x, z: float(z.detach().numpy()),
    "numpy, forced": lambda x, z: float(z.numpy(force=True)),
    "asarray": lambda x, z: float(np.asarray(x)[0]),
    "from_numpy": lambda x, z: torch.from_numpy(np.sort(x.numpy()))[0],
    "a NumPy function": lambda x, z: float(np.mean(np.asarray(x))),
    "dlpack": lambda x, z: float(np.from_dlpack(x)[0]),
    "tolist": lambda x, z: x.tolist()[0],
    "split by a list": lambda x, z: _total(*torch.ones(200).split(_lengths(x))),
    "str": lambda x, z: float(len(str(x[0] * 1000))),
    "repr": lambda x, z: float(len(repr(x * 1000))),
    "format": lambda x, z: float(f"{x[0]:.3f}"),
    "bool": lambda x, z: 1.0 if x[0] > 4 else 2.0,
    "item": lambda x, z: x[0].item(),
    "int": lambda x, z: float(int(x[0])),
    "float": lambda x, z: float(x[0]),
    "iteration": lambda x, z: sum(float(value) for value in x),
    "membership": lambda x, z: 1.0 if 3.0 in x else 2.0,
    "index": lambda x, z: list(range(100))[x[0].long()] * 1.0,
    "equal": lambda x, z: 1.0 if torch.equal(x, x.sort().values) else 2.0,
    "allclose": lambda x, z: 1.0 if torch.allclose(x[0], torch.tensor(1.0)) else 2.0,
    "unique": lambda x, z: float(len(x.clamp(max=5).unique())),
    "unique_consecutive": lambda x, z: float(len(x.clamp(max=5).unique_consecutive())),
    "nonzero": lambda x, z: float(len((x > 4).nonzero())),
    "where": lambda x, z: float(len(torch.where(x > 4)[0])),
    "argwhere": lambda x, z: float(len(torch.argwhere(x > 4))),
    "mask": lambda x, z: x[x > 2].mean(),
    "negated mask": lambda x, z: x[~(x > 3)].sum(),
    "mask put": lambda x, z: _masked(x),
    "masked_select": lambda x, z: torch.masked_select(x, x > 2).mean(),
    "repeat_interleave": lambda x, z: torch.arange(4.0).repeat_interleave(x.long()).mean(),
    "bincount": lambda x, z: float(len(torch.bincount(x.long()))),
    "tensor_split": lambda x, z: _total(*torch.ones(200).tensor_split(x.long())),
    "torch.tensor_split": lambda x, z: _total(*torch.tensor_split(torch.ones(200), x.long())),
    "packed sequences": lambda x, z: _packed(x),
    "one_hot": lambda x, z: float(torch.nn.functional.one_hot(x.long()).shape[1]),
    "deepcopy": lambda x, z: copy.deepcopy(x).mean(),
    "pickle": lambda x, z: pickle.loads(pickle.dumps(x)).mean(),
    "storage": lambda x, z: float(x.untyped_storage()[7]),
    "apply_": lambda x, z: x.clone().apply_(lambda value: value + 1).mean(),
    "where it is caught": lambda x, z: _caught(x),
    "what was there before": lambda x, z: _KEPT["tensor"].tolist()[0],
    "a number of what was there before": lambda x, z: _KEPT["tensor"].sum().item(),
    "what was written to": lambda x, z: _written(x).tolist()[0],
    "a part of what was written to": lambda x, z: _part_written(x).tolist()[0],
    "random numbers": lambda x, z: torch.randn(3).tolist()[0],
}
_KEPT = {"tensor": torch.ones(3)}


def _lengths(x: Tensor) -> list[int]:
    lengths = [int(value) for value in x.tolist()]
    return [*lengths, 200 - sum(lengths)]


def _masked(x: Tensor) -> Tensor:
    out = torch.zeros(4)
    out[x > 2] = x[x > 2]
    return out.mean()


def _packed(x: Tensor) -> Tensor:
    lengths = x.long().clamp(max=6).flip(0)
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.ones(6, 4, 1), lengths)
    return packed.data.sum() / 10


def _written(x: Tensor) -> Tensor:
    return torch.zeros(4).copy_(x)


def _part_written(x: Tensor) -> Tensor:
    out = torch.zeros(4)
    out[:2] = x[:2]
    return out


def guide(x: Tensor) -> None:
    pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0))


def _against_stock(read: Callable[[Tensor, Tensor], Any]) -> CompiledSVI:
    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        shift = read(x, z)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z + shift, 1.0), obs=x)

    ran = []
    for engine in (SVI, CompiledSVI):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        _KEPT["tensor"] = torch.ones(3)
        svi = engine(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        losses = []
        for i in range(4):
            losses.append(svi.step(torch.tensor([1.0, 2.0, 3.0, 5.0]) * (i + 1) + i * i))
            _KEPT["tensor"].add_(1.0)
        ran.append((losses, pyro.param("loc").detach().clone()))
    torch.testing.assert_close(ran[1], ran[0], atol=1e-9, rtol=1e-9)
    return svi


@pytest.mark.parametrize("name", READS)
def test_values_that_are_read_are_those_of_this_step(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each fails, or stops by an error of torch's, where the values are not refused."""
    svi = _against_stock(READS[name])
    assert svi.engine_steps == {"eager": 4}
    said = [record.getMessage() for record in caplog.records if "eagerly" in record.getMessage()]
    assert len(said) == 1
    assert "it reads a value back (" in said[0]
    assert name == "where it is caught" or "at site `z` or after it" in said[0]


CONSTANT: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "list of a range": lambda x, z: torch.arange(3.0).tolist()[2],
    "number": lambda x, z: torch.tensor([1.0, 2.0])[1].item(),
    "values put where a mask says": lambda x, z: torch.zeros(4).masked_fill(x > 2, 1.0),
    "one value put by a mask": lambda x, z: _filled(x),
    "chosen by a mask": lambda x, z: torch.where(x > 2, x, 0.0),
    "elements by their numbers": lambda x, z: x[torch.tensor([0, 1])].mean(),
    "iteration": lambda x, z: sum(iter(x)),
}


def _filled(x: Tensor) -> Tensor:
    out = torch.zeros(4)
    out[x > 2] = 1.0
    return out


@pytest.mark.parametrize("name", CONSTANT)
def test_values_that_are_the_same_at_every_run_are_not_refused(name: str) -> None:
    assert _against_stock(CONSTANT[name]).engine_steps == {"eager": 1, "inductor": 3}


def test_tensors_are_read_as_before_after_a_capture() -> None:
    before = {name: vars(Tensor).get(name) for name in ("numpy", "tolist", "__repr__", "storage")}
    _against_stock(READS["numpy"])
    assert {name: vars(Tensor).get(name) for name in before} == before
    assert torch.ones(2).tolist() == [1.0, 1.0]
