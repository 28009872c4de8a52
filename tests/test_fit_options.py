"""Each option of a fit, eager and captured, interrupted and not: the same bits."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pytest
from stopping import X, build, fit, same, same_run, stopped
from torch.optim import lr_scheduler

from pyro_vae.training.parts import weights_of

pytestmark = pytest.mark.usefixtures("interruptible")


def of_norm(vae: Any) -> float:
    """A score of a user's: the smaller the weights the better."""
    return -float(sum(p.square().sum() for p in vae.parameters()))


HELD_OUT = X[:6]
START = build(9).state_dict()
OPTIONS: dict[str, dict[str, Any]] = {
    "ema": {"average": "ema", "validation": HELD_OUT, "patience": 3},
    "ema, no validation": {"average": "ema", "restore": "last"},
    "swa": {"average": "swa", "validation": HELD_OUT, "restore": "best", "epochs": 8},
    "monitor": {"monitor": "elbo", "patience": 2, "monitor_every": 2, "lr": 0.3},
    "function": {"monitor": of_norm, "validation": HELD_OUT, "restore": "last"},
    "accumulate": {"accumulate": 2, "batch_size": 4},
    "bfloat16": {"precision": "bfloat16"},
    "StepLR": {"schedule": "StepLR(step_size=1, gamma=0.5)"},
    "plateau": {"schedule": "ReduceLROnPlateau(patience=0, factor=0.5)", "lr": 0.1},
    "plateau of few scores": {
        "schedule": "ReduceLROnPlateau(patience=0, factor=0.5)", "lr": 0.1, "monitor": of_norm,
        "monitor_every": 2, "epochs": 6,
    },
    "function of an optimiser": {"schedule": partial(lr_scheduler.ExponentialLR, gamma=0.7)},
    "rates": {"lr": {"encoder": 1e-2, "decoder.layers.0": 1e-4}, "schedule": "cosine"},
    "trainable": {"trainable": ["decoder"], "average": "ema"},
    "init": {"init": START},
}  # fmt: skip
# A capture takes longer than a fit: several options at a time, of which none is in another's way.
TOGETHER = (
    ("ema", "accumulate", "StepLR", "rates"),
    ("swa", "function", "trainable", "init"),
    ("monitor", "bfloat16", "plateau"),
)


@pytest.mark.parametrize("name", OPTIONS)
def test_an_interrupted_run_ends_as_one_that_was_not(name: str, tmp_path: Path) -> None:
    """In the middle of an epoch; the model that resumes is another one.

    Fails when the averages, the best of them, or the rates of the schedule are not put back.
    """
    _check(OPTIONS[name], {"swa": 30, "plateau of few scores": 18}.get(name, 6), tmp_path)


def test_the_best_averages_are_those_of_before_the_interruption(tmp_path: Path) -> None:
    """Fails when the best epoch of averaged weights is forgotten by the checkpoint."""
    start = weights_of(build())

    def near_start(vae: Any) -> float:
        """Less with each step of so high a rate."""
        return -float(sum((p - start[name]).square().sum() for name, p in vae.named_parameters()))

    options: dict[str, Any] = {"average": "ema", "monitor": near_start, "lr": 0.05}
    whole = fit(build(), X, **options)
    stopped(tmp_path / "run", 10, **options)
    again = fit(build(5), X, **options, out=tmp_path / "run", resume=True)
    assert again.averaged_epoch == whole.averaged_epoch == 1
    assert again.best_epoch == whole.best_epoch == 1
    assert same(again.averaged_weights, whole.averaged_weights)
    assert same_run(again, whole)


@pytest.mark.long
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("names", TOGETHER, ids=", ".join)
def test_so_does_a_captured_one(names: tuple[str, ...], tmp_path: Path) -> None:
    options = {key: value for name in names for key, value in OPTIONS[name].items()}
    sizes = {"batch_size": 15 // options.get("accumulate", 1) + options.get("accumulate", 1) - 1}
    _check(options | sizes, 15 if "swa" in names else 4, tmp_path, compile=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_so_does_a_compiled_one(name: str, tmp_path: Path) -> None:
    _check(OPTIONS[name], 6, tmp_path, compile=True)


def _check(options: dict[str, Any], at: int, tmp_path: Path, **engine: Any) -> None:
    options = options | engine
    whole = fit(build(), X, **options)
    stopped(tmp_path / "run", at, **options)
    pyro.clear_param_store()
    again = fit(build(5), X, **options, out=tmp_path / "run", resume=True)
    assert again.engine == ("inductor" if engine else "eager")
    assert again.restored == whole.restored
    assert again.stopped == whole.stopped
    for name in ("best_weights", "averaged_weights"):
        assert same(getattr(again, name), getattr(whole, name))
    assert same_run(again, whole)
    # A finished run is read, with what it says and all its weights.
    read = fit(build(6), X, **options, out=tmp_path / "run", resume=True)
    assert same_run(read, whole)
    assert (read.restored, read.stopped) == (whole.restored, whole.stopped)
    assert same(read.best_weights, whole.best_weights)
    assert same(read.averaged_weights, whole.averaged_weights)
