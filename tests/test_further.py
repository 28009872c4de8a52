"""A finished run that goes on to more epochs, against one that had them from the start."""

from __future__ import annotations

import copy
import pickle
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from stopping import X, build, fit, same, same_run, signal_at
from torch import Tensor
from torch.optim import lr_scheduler

import pyro_vae as pv
from pyro_vae._signals import Interrupted
from pyro_vae.training.averaging import copied
from pyro_vae.training.run import STATE

pytestmark = pytest.mark.usefixtures("interruptible")

HELD_OUT = X[:6]
# Each has something of its own to go on with.
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "best": {"validation": HELD_OUT, "lr": 0.05},
    "ema": {"average": "ema", "validation": HELD_OUT},
    "ema, no validation": {"average": "ema", "restore": "last"},
    "warm-up": {"objective": pv.objectives.ELBO(warmup=20)},
    "StepLR": {"schedule": "StepLR(step_size=3, gamma=0.5)"},
    "plateau": {"schedule": "ReduceLROnPlateau(patience=0, factor=0.5)", "lr": 0.1},
    "function": {"schedule": partial(lr_scheduler.ExponentialLR, gamma=0.7)},
    "optimiser": {"optim": partial(torch.optim.SGD, lr=1e-3, momentum=0.9)},
    "Pyro's optimiser": {"optim": pyro.optim.ClippedAdam({"lr": 0.01})},
    "accumulate": {"accumulate": 2, "batch_size": 4},
    "shards": {"shards": 2},
    "trainable": {"trainable": ["decoder"]},
    "init": {"init": build(9).state_dict()},
    # Of which a fresh model draws values for what is hidden, and one that goes on does not.
    "mask": {"mask": torch.rand(30, 6, generator=torch.Generator().manual_seed(4)) < 0.8},
}


def _fresh(name: str) -> dict[str, Any]:
    """Options of their own: an objective counts the steps that it has seen."""
    return copy.deepcopy(OPTIONS[name])


def _alike(longer: pv.Run, whole: pv.Run) -> bool:
    """Whether two runs are the same, all three sets of weights of them."""
    return (
        same_run(longer, whole)
        and same(longer.best_weights, whole.best_weights)
        and same(longer.averaged_weights, whole.averaged_weights)
        and (longer.restored, longer.averaged_epoch) == (whole.restored, whole.averaged_epoch)
        and (longer.steps, longer.engine_steps) == (whole.steps, whole.engine_steps)
    )


@pytest.mark.long
@pytest.mark.parametrize("name", OPTIONS)
def test_a_longer_run_is_one_that_was_long_from_the_start(name: str, tmp_path: Path) -> None:
    """In memory and in its folder, which then is that of the long run.

    Fails when the state of the optimiser, of the generators or of the averages is not kept.
    """
    whole = fit(build(), X, **_fresh(name), epochs=6)
    for out in (None, tmp_path / "run"):
        pyro.clear_param_store()
        run = fit(build(), X, **_fresh(name), epochs=3, out=out)
        assert not same_run(run, whole)
        assert _alike(run.resume(epochs=5).resume(epochs=6), whole)
    read = fit(build(5), X, **_fresh(name), epochs=6, out=tmp_path / "run", resume=True)
    assert _alike(read, whole)
    assert read.settings["epochs"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "ema"])
def test_so_is_a_compiled_one(name: str) -> None:
    options = OPTIONS[name] | {"compile": True}
    whole = fit(build(), X, **options, epochs=6)
    longer = fit(build(), X, **options, epochs=3).resume(epochs=6)
    assert longer.engine == "inductor"
    assert _alike(longer, whole)


def _program() -> pv.Program:
    """A pair of functions, whose parameters are made by a first run."""

    def model(x: Tensor) -> None:
        with pyro.plate("items", len(x)):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            logits = z[..., None] * pyro.param("slope", torch.ones(6))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        weight = pyro.param("weight", torch.full((6,), 0.1))
        with pyro.plate("items", len(x)):
            pyro.sample("z", dist.Normal(x @ weight, 1.0))

    return pv.Program(model, guide, plate="items")


def test_so_is_a_program_of_functions(tmp_path: Path) -> None:
    whole = fit(_program(), X, epochs=6)
    for out in (None, tmp_path / "run"):
        pyro.clear_param_store()
        assert _alike(fit(_program(), X, epochs=3, out=out).resume(epochs=6), whole)
    pyro.clear_param_store()
    read = pv.Run.load(tmp_path / "run", program=_program())
    assert len(read.resume(X, epochs=7).history["epoch"]) == 7


def test_a_run_goes_on_twice() -> None:
    """Fails when what goes on moves the optimiser's tensors that the run has."""
    run = fit(build(), X, epochs=3)
    longer, again = run.resume(epochs=5), run.resume(epochs=5)
    assert _alike(again, longer)
    assert len(run.history["epoch"]) == 3


def test_a_run_that_was_read_goes_on_with_its_data(tmp_path: Path) -> None:
    options: dict[str, Any] = {"validation": 0.2, "average": "ema"}
    whole = fit(build(), X, **options, epochs=6)
    fit(build(), X, **options, epochs=3, out=tmp_path / "run")
    for run in (pv.Run.load(tmp_path / "run"), pickle.loads(pickle.dumps(whole))):
        with pytest.raises(ValueError, match=r"^`data`: expected those of the fit, [^\n]*None$"):
            run.resume(epochs=9)
    run = pv.Run.load(tmp_path / "run")
    with pytest.raises(ValueError, match=r"^`resume`: expected the settings and data of"):
        run.resume(X[1:], epochs=6, validation=0.2)
    assert pv.Run.load(tmp_path / "run").history["epoch"] == [1, 2, 3]
    assert _alike(run.resume(X, epochs=6, validation=0.2), whole)


def test_an_interrupted_one_stays_what_it_was_and_goes_on(tmp_path: Path) -> None:
    """The folder is the finished run until it is the longer one; no checkpoint is left.

    Fails when the checkpoints on the way are swept away as those of a finished run are.
    """
    folder = tmp_path / "run"
    whole = fit(build(), X, epochs=6)
    run = fit(build(), X, epochs=3, out=folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with signal_at(14, 2), pytest.raises(Interrupted, match="--resume goes on with"):
        run.resume(epochs=6)
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before
    assert pv.Run.load(folder).history["epoch"] == [1, 2, 3]
    # The shorter one is still there to be read, and does away with nothing.
    assert len(fit(build(5), X, epochs=3, out=folder, resume=True).history["epoch"]) == 3
    steps: list[int] = []
    follows = type("Follows", (), {"on_step": lambda self, step, _: steps.append(step)})()
    again = fit(build(5), X, epochs=6, out=folder, resume=True, callbacks=[follows])
    assert _alike(again, whole)
    assert steps[0] == 15
    assert {path.name for path in folder.iterdir()} == before.keys()


def test_a_run_on_its_way_is_none_of_the_epoch_that_has_begun(tmp_path: Path) -> None:
    """Fails when a checkpoint within the fourth epoch is taken for the end of the third."""
    run = fit(build(), X, epochs=2, out=tmp_path / "run")
    with signal_at(14, 2), pytest.raises(Interrupted):
        run.resume(epochs=6)
    with pytest.raises(ValueError, match=r"^`epochs`: expected at least the 4 begun, got 3$"):
        run.resume(epochs=3)
    assert _alike(run.resume(epochs=4), fit(build(), X, epochs=4))


def test_a_folder_that_has_gone_is_not_made_anew(tmp_path: Path) -> None:
    """Fails when another fit starts there, from the fitted weights."""
    run = fit(build(), X, epochs=2, out=tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"^`resume`: expected the folder of the run where it"):
        run.resume(epochs=3)
    assert not (tmp_path / "run").exists()
    assert pv.Run.load(tmp_path / "moved").resume(X, epochs=3).history["epoch"] == [1, 2, 3]


def test_a_process_that_dies_while_files_move_leaves_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each file. Fails when the old model.json stays beside the new weights."""
    whole = fit(build(), X, epochs=4)
    fit(build(), X, epochs=3, out=tmp_path / "first")
    replace, unlink = Path.replace, Path.unlink
    for moves in range(9):  # of a folder, of the old model.json, and of seven files
        folder = tmp_path / f"run-{moves}"
        shutil.copytree(tmp_path / "first", folder)
        left = [moves]

        def counted(call: Any, path: Path, *args: Any, left: list[int] = left, **how: Any) -> Any:
            if any(each.parent.name.startswith("run-") for each in (path, *args)):
                if left[0] == 0:
                    raise SystemExit
                left[0] -= 1
            return call(path, *args, **how)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", lambda *args, **how: counted(replace, *args, **how))
            patched.setattr(Path, "unlink", lambda *args, **how: counted(unlink, *args, **how))
            with pytest.raises(SystemExit):
                fit(build(), X, epochs=4, out=folder, resume=True)
        if (folder / "model.json").exists():
            assert pv.Run.load(folder).history["epoch"] == [1, 2, 3]
        assert _alike(fit(build(5), X, epochs=4, out=folder, resume=True), whole)
        assert not (folder / "checkpoints").exists()


def test_no_score_of_the_shorter_run_stays_beside_the_longer(tmp_path: Path) -> None:
    """Those that the command line has written, which a model card and `compare` read."""
    run = fit(build(), X, epochs=2, out=tmp_path / "run")
    for name in ("scores.json", "scores.safetensors", "samples.png", "notes.txt"):
        (tmp_path / "run" / name).write_text("{}")
    run.resume(epochs=3)
    left = {path.name for path in (tmp_path / "run").iterdir()}
    written = {"scores.json", "scores.safetensors", "samples.png", "notes.txt"}
    assert left & written == {"notes.txt"}


def test_what_auto_has_chosen_may_be_asked_for(tmp_path: Path) -> None:
    """As the config of a finished run does; the other engine is refused."""
    fit(build(), X, epochs=2, compile="auto", out=tmp_path / "run")
    with pytest.raises(ValueError, match=r"^`resume`: .*compile was False, is True$"):
        fit(build(5), X, epochs=3, compile=True, out=tmp_path / "run", resume=True)
    longer = fit(build(5), X, epochs=3, out=tmp_path / "run", resume=True)
    assert _alike(longer, fit(build(), X, epochs=3))


BAD: list[tuple[dict[str, Any], int, str]] = [
    ({"schedule": "cosine"}, 6, "`epochs`: expected 3, at which the cosine of the run has come"),
    ({"average": "swa"}, 6, "`epochs`: expected 3, of whose last quarter the run's average is"),
    ({}, 3, "`epochs`: expected more than the 3 behind, counted in all, got 3"),
    ({}, 0, "`epochs`: expected a positive integer"),
    ({"schedule": "OneCycleLR(max_lr=0.1, total_steps=3)"}, 6,
     "`schedule`: expected one that goes through 6 epochs"),
    ({"monitor": "elbo", "patience": 1, "lr": 3.0, "epochs": 40}, 41,
     r"`epochs`: expected no more, as the run stopped after epoch \d+ of 40: elbo was greatest"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "epochs", "says"), BAD, ids=[str(each) for each, *_ in BAD])
def test_what_would_have_been_another_run_is_refused(
    options: dict[str, Any], epochs: int, says: str, tmp_path: Path
) -> None:
    """In one line, and the run is as it was."""
    for out in (None, tmp_path / "run"):
        run = fit(build(), X, **{"epochs": 3, **options}, out=out)
        weights = copied(run.vae)
        with pytest.raises(ValueError, match=f"^{says}") as error:
            run.resume(epochs=epochs)
        assert "\n" not in str(error.value)
        assert same(run.vae.state_dict(), weights)
    assert pv.Run.load(tmp_path / "run").history["epoch"] == run.history["epoch"]


def test_a_run_without_a_state_is_refused(tmp_path: Path) -> None:
    run = fit(build(), X, epochs=3, out=tmp_path / "run")
    (tmp_path / "run" / STATE).unlink()
    with pytest.raises(ValueError, match=r"^`resume`: expected a run with state\.safetensors"):
        run.resume(epochs=4)
    with pytest.raises(ValueError, match=r"^`data`: expected none, as the run has those"):
        run.resume(X, epochs=4)


@pytest.mark.parametrize("name", ["out", "vae", "resume", "on_epoch", "epoch"])
def test_what_is_not_to_be_chosen_again_is_refused(name: str, tmp_path: Path) -> None:
    fit(build(), X, epochs=1, out=tmp_path / "run")
    run = pv.Run.load(tmp_path / "run")
    with pytest.raises(
        ValueError, match=f"^`{name}`: expected none, as a run goes on with its own"
    ):
        run.resume(X, epochs=2, **{name: 3})


def test_a_finished_run_that_is_in_the_way_is_gone_on_with_by_more_epochs(tmp_path: Path) -> None:
    """Fails when only an unfinished one is known to go on."""
    fit(build(), X, epochs=1, out=tmp_path / "run")
    with pytest.raises(ValueError, match="'; --resume with more --epochs goes on with it$"):
        fit(build(), X, epochs=1, out=tmp_path / "run")


@pytest.mark.parametrize("options", [{"schedule": "cosine"}, {"average": "swa"}], ids=str)
def test_nobody_is_sent_to_more_epochs_that_are_refused(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """A finished run that is in the way, whose epochs would have been others in a longer one."""
    out = tmp_path / "run"
    fit(build(), X, epochs=4, out=out, **options)
    with pytest.raises(ValueError, match="'; --init .*run with another --out starts from its w"):
        fit(build(), X, epochs=4, out=out, **options)
    with pytest.raises(ValueError, match="^`epochs`: expected 4"):
        fit(build(), X, epochs=5, out=out, resume=True, **options)
