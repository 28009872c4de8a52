"""Training that goes wrong: losses that are not finite, warnings, memory that is full."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pyro
import pytest
import torch
from safetensors.torch import load_file
from stopping import ELBO, X, build, fit, stopped
from torch import Tensor
from torch._inductor import compile_fx

import pyro_vae as pv
import pyro_vae.cli
from pyro_vae.data import Rows
from pyro_vae.engine import CompiledSVI
from pyro_vae.evaluation import _draws
from pyro_vae.training.health import Health

pytestmark = pytest.mark.usefixtures("interruptible")


class Planted(ELBO):
    """The ELBO, with something else done before the n-th step."""

    def __init__(self, at: int, do: Callable[[], object]) -> None:
        super().__init__()
        self._at, self._do = at, do

    def differentiable_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        self._at -= 1
        if self._at == 0:
            self._do()
        return super().differentiable_loss(*args, **kwargs)


@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("where", ["weight", "observation", "schedule"])
def test_what_is_not_finite_is_named(where: str, tmp_path: Path) -> None:
    vae, x = build(), X.clone()
    weight = vae.decoder.state_dict(keep_vars=True)
    name, parameter = next(item for item in weight.items() if item[1].requires_grad)
    plant: dict[str, Callable[[], object]] = {
        "weight": lambda: parameter.data.view(-1)[0].fill_(math.nan),
        "observation": lambda: x[:, 2].fill_(math.inf),
        "schedule": lambda: setattr(objective, "beta", math.nan),
    }
    says = {
        "weight": rf"parameter `decoder.{name}` is not finite",
        "observation": r"site `x`: what is observed at it is not finite at \[0, 2\]",
        "schedule": "the schedule: the weight of Planted is nan",
    }
    objective = Planted(
        6 if where == "observation" else 7, plant[where]
    )  # a batch is gathered before
    with pytest.raises(FloatingPointError) as error:
        fit(vae, x, objective=objective, out=tmp_path / "run", checkpoint_every=4)
    told = str(error.value)
    assert re.search(rf"^epoch 2: the loss is nan at step 6: {says[where]}; rows \d+, ", told), told
    (last,) = (tmp_path / "run" / "checkpoints").iterdir()
    file = tmp_path / "run" / "nonfinite.safetensors"
    assert f"reproduced by {file}; the last checkpoint is {last}" in told
    assert last.name.startswith("step-0000000004")
    kept = load_file(file)
    assert torch.equal(kept["/batch/0"], x[kept["/rows"]])
    again = build()
    again.load_state_dict({k[7:]: v for k, v in kept.items() if k.startswith("/model/")})
    torch.set_rng_state(kept["/torch"])
    objective = ELBO()
    objective.beta = math.nan if where == "schedule" else 1.0
    with pyro.validation_enabled(False):  # a distribution refuses parameters that are not finite
        assert not math.isfinite(objective.loss(again.model, again.guide, kept["/batch/0"]))


def test_steps_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """An infinite observation in each epoch: the other steps are those of a run with a NaN loss."""
    x = X.clone()

    def plant() -> None:
        x[3] = math.inf

    run = fit(build(), x, objective=Planted(1, plant), on_nonfinite="skip")
    assert (run.skipped, run.steps) == (4, 16)
    assert all(weight.isfinite().all() for weight in run.last_weights.values())
    assert all(map(math.isfinite, run.history["loss"]))
    assert "epoch 4: 4 steps left out so far" in caplog.text
    vae = build()
    optim = partial(torch.optim.Adam, lr=1e-3)
    limits = {"on_nonfinite": "skip", "max_skipped": 2}
    bounded = CompiledSVI(vae.model, vae.guide, optim, ELBO(), compile=False, **limits)
    for _ in range(2):
        bounded.epoch(x, batch_size=8)
    with pytest.raises(FloatingPointError, match=r"^the loss is nan at step \d+: site `x`: what"):
        bounded.epoch(x, batch_size=8)


@pytest.mark.long
@pytest.mark.parametrize("compile", [False, True])
def test_gradients_are_clipped(compile: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By plain gradient descent no step is longer than the rate times the norm.

    Fails when the norm is of each parameter by itself, or is not an observation's.
    """
    monkeypatch.setattr(compile_fx, "compile_fx", lambda module, examples, **kwargs: module)
    moved = []
    for clip_norm in (None, 0.01):
        vae = build()
        vae.initialize(X)
        before = torch.cat([p.detach().flatten() for p in vae.parameters()])
        optim = partial(torch.optim.SGD, lr=0.1)
        one = {"epochs": 1, "batch_size": 30, "compile": compile}
        fit(vae, X, optim=optim, clip_norm=clip_norm, **one)
        after = torch.cat([p.detach().flatten() for p in vae.parameters()])
        moved.append(float((after - before).norm()))
    assert moved[0] > 0.1 * 0.01 * 30 * 1.5
    assert moved[1] == pytest.approx(0.1 * 0.01 * 30, rel=1e-3)


def test_health_is_looked_after(caplog: pytest.LogCaptureFixture) -> None:
    vae = build()
    vae.initialize(X)
    health = Health(vae, Rows(X))
    line = {"epoch": 1, "kl": 3.0}
    health.look(line)
    health.look({"epoch": 2, "kl": 2.0})
    assert caplog.text == ""
    health.look({"epoch": 3, "kl": 1e-3})
    health.look({"epoch": 4, "kl": 1e-3})
    assert caplog.text.count("posterior collapse: KL 0.001 nats") == 1
    health.look({"epoch": 5, "kl": 500.0})
    assert "the KL explodes: 500 nats" in caplog.text
    assert "saturated" not in caplog.text
    with torch.no_grad():
        list(vae.decoder.parameters())[-1].fill_(40.0)
    health.look({"epoch": 6, "kl": 2.0})
    assert "the decoder is saturated: p(x|z) leaves next to no variance in 100%" in caplog.text


def test_health_goes_on_from_what_was_seen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Fails when a resumed run starts with an empty record."""
    health = Health(build(), Rows(X))
    health.recall([3.0, 2.0])
    health.look({"epoch": 3, "kl": 500.0})
    assert "the KL explodes: 500 nats" in caplog.text
    stopped(tmp_path / "run", 10)
    with mock.patch.object(Health, "recall") as recalled:
        run = fit(build(), X, out=tmp_path / "run", resume=True)
    recalled.assert_called_once()
    assert recalled.call_args.args[0][:2] == run.history["kl"][:2]


def test_evaluation_goes_on_with_fewer_draws_at_a_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """More than 7 draws of z do not fit."""
    vae = build()
    scores = pv.evaluate(vae, X, num_samples=50)
    draw = _draws.draw_weighted
    failed = 0

    def small(vae: pv.VAE, rows: Rows, count: int, **options: Any) -> Any:
        nonlocal failed
        if count > 7:
            failed += 1
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return draw(vae, rows, count, **options)

    monkeypatch.setattr(_draws, "draw_weighted", small)
    halved = pv.evaluate(vae, X, num_samples=50)
    assert "out of memory: z drawn 6 at a time for each of 30 observations" in caplog.text
    assert failed == 3  # at 50, 25 and 12: what did not fit is not tried again
    error = (scores.mcse**2 + halved.mcse**2) ** 0.5
    assert (abs(scores.log_marginal - halved.log_marginal) < 5 * error).all()
    monkeypatch.setattr(_draws, "draw_weighted", mock.Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError, match="out of memory for one z of each of 30 observations"):
        pv.evaluate(vae, X, num_samples=50)


def test_training_says_what_to_lower() -> None:
    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    with pytest.raises(MemoryError, match="in epoch 2: lower `batch_size`, now 8, or the widths"):
        fit(build(), X, objective=Planted(6, full))


@pytest.mark.parametrize(
    "error",
    [
        ImportError("superlu.so: failed to map segment from shared object"),
        SystemError("error return without exception set"),
    ],
)
def test_a_library_that_memory_does_not_hold_is_one_line(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyro_vae.cli, "_module", mock.Mock(side_effect=error))
    assert pyro_vae.cli.main(["sample", "run"]) == 2
    assert capsys.readouterr().err == f"error: out of memory: {error}\n"
