"""A run that is stopped or killed: what it goes on from, and what it becomes."""

from __future__ import annotations

import logging
import os
import re
import signal
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from safetensors.torch import load_file
from stopping import ELBO, X, build, fit, same, same_run, signal_at, stopped
from torch import Tensor, nn
from torch._inductor import compile_fx

import pyro_vae as pv
from pyro_vae._signals import Interrupted
from pyro_vae.data.rows import Rows
from pyro_vae.training import loop
from pyro_vae.training.scales import Scales

pytestmark = pytest.mark.usefixtures("interruptible")


RECIPES: dict[str, Callable[[], dict[str, Any]]] = {
    "Adam": dict,
    "AdamW, validation": lambda: {
        "schedule": "cosine",
        "weight_decay": 0.1,
        "validation": X[:6],
        "patience": 2,
    },
    "SGD": lambda: {"optim": partial(torch.optim.SGD, lr=1e-3, momentum=0.9)},
    "RAdam": lambda: {"optim": partial(torch.optim.RAdam, lr=1e-2), "schedule": "cosine"},
    "Pyro": lambda: {"optim": pyro.optim.ClippedAdam({"lr": 0.01})},
    "particles": lambda: {"objective": ELBO(warmup=9, num_particles=3), "seed": None},
}


@pytest.mark.parametrize(
    ("recipe", "at"),
    [*((recipe, 6) for recipe in RECIPES), *(("AdamW, validation", at) for at in (1, 4, 16))],
)
def test_a_stopped_run_ends_as_if_it_had_not_been(
    recipe: str, at: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Within an epoch, at its end and at the last step; the model that resumes is another one.

    Fails when the random state, the optimiser's, the objective's step, the rate of the schedule,
    the permutation or the parameters' names are not put back.
    """
    _check(RECIPES[recipe], at, tmp_path, compile=False)
    assert "SIGINT: stopping after this step" in capfd.readouterr().err


def _check(recipe: Callable[[], dict[str, Any]], at: int, tmp_path: Path, **options: Any) -> None:
    whole = fit(build(), X, **recipe(), **options)
    left = stopped(tmp_path / "run", at, **recipe(), **options)
    assert (left.signum, os.listdir(tmp_path / "run")) == (signal.SIGINT, ["checkpoints"])
    assert f"at step {at}; --resume goes on with {tmp_path / 'run'}" in str(left)
    torch.rand(3)
    pyro.clear_param_store()
    again = {"out": tmp_path / "run", "resume": True}
    resumed = fit(build(5), X, **recipe(), **options, **again)
    assert same_run(whole, resumed)
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert same(pv.load(tmp_path / "run").state_dict(), whole.vae.state_dict())


@pytest.mark.long
def test_so_does_a_captured_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs run operation by operation. Fails when the nesting of plates is found anew: then the
    first step after resuming runs eagerly.
    """
    monkeypatch.setattr(compile_fx, "compile_fx", lambda module, examples, **kwargs: module)
    _check(RECIPES["particles"], 6, tmp_path, compile=True, batch_size=15, epochs=4)


@pytest.mark.slow
def test_so_does_a_compiled_one(tmp_path: Path) -> None:
    _check(RECIPES["AdamW, validation"], 6, tmp_path, compile=True)


def test_checkpoints_are_written_and_the_newest_kept(tmp_path: Path) -> None:
    """A run that is killed outright goes on from the last of them."""
    whole = fit(build(), X)
    folder = tmp_path / "run" / "checkpoints"

    def killed(line: Mapping[str, float]) -> None:
        if line["epoch"] == 3:
            raise _Killed

    with pytest.raises(_Killed):
        fit(build(), X, out=tmp_path / "run", checkpoint_every=3, keep=2, on_epoch=killed)
    # Its thread has ended: while it writes, one that is to go may still be there.
    kept = sorted(path.name[:15] for path in folder.iterdir())
    assert kept == ["step-0000000009", "step-0000000012"]
    (folder / ".step-0.part").write_bytes(b"half")
    assert same_run(whole, fit(build(5), X, out=tmp_path / "run", resume=True))


def test_a_checkpoint_at_each_step_changes_nothing(tmp_path: Path) -> None:
    """Fails when the losses of a pass, once written, are another list than the pass goes on with;
    and, as to the size of a file, when they stay in pieces.
    """
    whole = fit(build(), X)
    stopped(tmp_path / "run", 7, checkpoint_every=1)
    *_, last = sorted((tmp_path / "run" / "checkpoints").iterdir())
    losses = [value for name, value in load_file(last).items() if "position/losses" in name]
    assert [len(each) for each in losses] == [3]
    assert same_run(whole, fit(build(5), X, out=tmp_path / "run", resume=True))


class _Killed(BaseException):
    """No handler of ours takes care of it."""


def test_with_nothing_to_resume_it_starts(tmp_path: Path) -> None:
    whole = fit(build(), X)
    assert same_run(whole, fit(build(), X, out=tmp_path / "new", resume=True))
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    assert same_run(whole, fit(build(), X, out=tmp_path / "empty", resume=True))


def test_a_finished_run_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pyro_vae")
    whole = fit(build(), X, out=tmp_path / "run", validation=0.2)
    again = fit(build(5), X, out=tmp_path / "run", validation=0.2, resume=True)
    assert same_run(whole, again)
    assert (whole.steps, whole.engine_steps) == (again.steps, again.engine_steps)
    assert f"{tmp_path / 'run'} is finished" in caplog.text
    with pytest.raises(ValueError, match=r"`resume`: expected .* got lr was 0.001, is 0.1$"):
        fit(build(), X, out=tmp_path / "run", validation=0.2, resume=True, lr=0.1)


class Own(nn.Module):
    """A network that no name of the package's rebuilds."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def test_a_finished_run_with_a_network_of_ones_own_is_read(tmp_path: Path) -> None:
    """Fails when the model is rebuilt from its description."""

    def build_own() -> pv.VAE:
        parts = (pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((6,)))
        return pv.VAE(*parts, Own(), pv.networks.MLP((8,)))

    whole = fit(build_own(), X, out=tmp_path / "run")
    again = {"out": tmp_path / "run", "resume": True}
    assert same_run(whole, fit(build_own(), X, **again))
    weights = tmp_path / "run" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match=rf"`{weights}`: expected SHA-256"):
        fit(build_own(), X, **again)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"epochs": 5}, "got epochs was 4, is 5"),
        ({"lr": 0.1, "seed": 2}, "got lr was 0.001, is 0.1; seed was 1, is 2"),
        ({"compile": "auto"}, "got compile was False, is auto"),
        ({"accumulate": 4}, "got accumulate was 1, is 4"),
        ({"monitor_every": 2}, "got monitor_every was 1, is 2"),
        ({"objective": ELBO(beta=2.0)}, "got objective.beta was 1.0, is 2.0"),
        ({"optim": partial(torch.optim.SGD, lr=1e-3)}, "got optim was nothing, is SGD"),
        ({"validation": 0.2}, "got data.train was "),
    ],
)
def test_another_run_is_not_resumed(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    stopped(tmp_path / "run", 6)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        fit(build(), X, **({"out": tmp_path / "run", "resume": True} | change))
    assert "\n" not in str(error.value)
    other = pv.VAE(pv.priors.Normal(3), pv.guides.Normal(3), pv.likelihoods.Bernoulli((6,)))
    with pytest.raises(ValueError, match=r"model.prior.args.dim was 2, is 3"):
        fit(other, X, out=tmp_path / "run", resume=True)
    with pytest.raises(ValueError, match=r"got data.train was [0-9a-f]{12}..., is"):
        fit(build(), 1 - X, out=tmp_path / "run", resume=True)
    assert files == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_where_it_runs_may_change_but_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(tmp_path / "run", 6)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    fit(build(), X, out=tmp_path / "run", resume=True)
    assert re.search(r"last bits may differ: threads was \d+, is 99", caplog.text)


class _Before(Scales):
    """Scales as an earlier release kept them: by training residuals, whatever there is of them."""

    def __init__(self, vae: pv.VAE, objective: Any, rows: Rows, *others: Any) -> None:
        super().__init__(vae, objective, rows)
        self.is_determined = True


@pytest.mark.parametrize("validation", [None, 20])
def test_scales_go_on_as_they_began(
    validation: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when a checkpoint of before goes on by held-out residuals, or with a prior."""
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {} if validation is None else {"validation": x[:validation]}

    def run(**more: Any) -> pv.Run:
        pyro.set_rng_seed(0)
        parts = pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Normal((3,))
        return fit(pv.VAE(*parts, pv.networks.MLP((8,)), pv.networks.MLP((32, 32))), x,
                   **options, **more)  # fmt: skip

    state = loop.Loop.state_dict
    with monkeypatch.context() as before:
        before.setattr(loop, "Scales", _Before)
        before.setattr(
            loop.Loop,
            "state_dict",
            lambda self: {k: v for k, v in state(self).items() if k != "scales_held_out"},
        )
        whole = run()
        with signal_at(6, signal.SIGINT), pytest.raises(Interrupted):
            run(out=tmp_path / "run")
    assert same_run(whole, run(out=tmp_path / "run", resume=True))
    assert not same_run(whole, run())
