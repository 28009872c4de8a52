"""Run folders that are locked, damaged or of others: what is found out and left alone."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from stopping import X, build, fit, same_run, signal_at, stopped
from torch import nn

import pyro_vae as pv
from pyro_vae._signals import Interrupted
from pyro_vae.training import Run
from pyro_vae.training.resume import in_progress

pytestmark = pytest.mark.usefixtures("interruptible")


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """The lock is the kernel's: it ends with whoever holds it, however that ends."""
    program = (
        "import fcntl, os, sys; handle = os.open(sys.argv[1], os.O_RDONLY);"
        "fcntl.flock(handle, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    )
    stopped(tmp_path / "run", 6)
    command = [sys.executable, "-c", program, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match="a run folder that no other process is writing to"):
            fit(build(), X, out=tmp_path / "run", resume=True)
        other.kill()
    fit(build(), X, out=tmp_path / "run", resume=True)


def test_two_of_our_own_writers_do_not_meet(tmp_path: Path) -> None:
    """Fails when the lock is a shared one, which keeps strangers out and lets the other in."""
    with in_progress(tmp_path / "run") as first:
        with (
            pytest.raises(ValueError, match="a run folder that no other process is writing to"),
            in_progress(tmp_path / "run", resume=True),
        ):
            pass
        assert (first.folder / "checkpoints").is_dir(), "what the first has made is still there"


class Killed(BaseException):
    """Leaves as no error does."""


def test_a_kill_between_two_moves_leaves_a_run_to_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when ``model.json``, which says that a run is finished, is not the last to move."""
    whole, replace = fit(build(), X), Path.replace
    moved: list[str] = []
    last = 0

    def counted(self: Path, target: Path) -> Path:
        if self.parent.name == ".finishing" and not self.name.startswith("."):
            if len(moved) == last:
                raise Killed
            moved.append(self.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", counted)
    for count in range(3):
        moved.clear()
        last = count
        out = tmp_path / str(count)
        with pytest.raises(Killed):
            fit(build(), X, out=out)
        assert len(moved) == count
        last = 99
        assert same_run(whole, fit(build(5), X, out=out, resume=True)), moved
        files = {path.name for path in out.iterdir()}
        assert {"model.json", "model.safetensors", "fit.json"} <= files, moved
        assert "checkpoints" not in files


def test_what_another_has_locked_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the folder as soon as there is one, and has written nothing yet."""
    mkdir, held = Path.mkdir, []

    def taken(self: Path, *args: Any, **options: Any) -> None:
        mkdir(self, *args, **options)
        held.append(os.open(self, os.O_RDONLY))
        fcntl.flock(held[0], fcntl.LOCK_EX)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", taken)
        with pytest.raises(ValueError, match="a run folder that no other process is writing to"):
            fit(build(), X, out=tmp_path / "run")
    os.close(held[0])
    assert os.listdir(tmp_path / "run") == []

    def made(self: Path, *args: Any, **options: Any) -> None:
        mkdir(self)
        mkdir(self, *args, **options)

    monkeypatch.setattr(Path, "mkdir", made)
    with pytest.raises(ValueError, match="`out`: expected a path that does not exist yet"):
        fit(build(), X, out=tmp_path / "other")
    assert os.listdir(tmp_path / "other") == []


def test_a_checkpoint_that_is_cut_or_changed_is_found_out(tmp_path: Path) -> None:
    """Fails when the SHA-256 is not compared."""
    stopped(tmp_path / "run", 10, checkpoint_every=4)
    whole = fit(build(), X)
    *_, before, last = sorted((tmp_path / "run" / "checkpoints").iterdir())
    content = last.read_bytes()
    rng = random.Random(0)
    damaged = [content[: rng.randrange(len(content))] for _ in range(10)]
    for _ in range(10):
        at = rng.randrange(len(content))
        damaged.append(
            content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
        )
    for each in damaged:
        last.write_bytes(each)
        with pytest.raises(ValueError, match=rf"`{last}`: expected SHA-256 .*--resume=previous"):
            fit(build(), X, out=tmp_path / "run", resume=True)
    text = before.read_bytes()
    before.write_bytes(b"")
    for path in sorted(last.parent.iterdir()):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="and no checkpoint before it is whole"):
        fit(build(), X, out=tmp_path / "run", resume="previous")
    before.write_bytes(text)
    assert same_run(whole, fit(build(), X, out=tmp_path / "run", resume="previous"))


def test_what_was_passed_over_is_not_the_newest_again(tmp_path: Path) -> None:
    """Fails when damaged checkpoints stay: they would be kept in place of whole ones."""
    stopped(tmp_path / "run", 10, checkpoint_every=4)
    folder = tmp_path / "run" / "checkpoints"
    last = max(folder.iterdir())
    last.write_bytes(last.read_bytes()[:-1])
    with signal_at(9, signal.SIGINT), pytest.raises(Interrupted):
        fit(build(), X, out=tmp_path / "run", resume="previous", keep=2)
    kept = sorted(path.name[:15] for path in folder.iterdir())
    assert kept == ["step-0000000008", "step-0000000009"]
    assert same_run(fit(build(), X), fit(build(), X, out=tmp_path / "run", resume=True))


def test_what_is_written_stays(tmp_path: Path) -> None:
    """Steps may go back. Fails when the checkpoints of the highest steps are kept."""
    with in_progress(tmp_path / "run", keep=2) as progress:
        for step in (5, 9, 12, 7):
            assert progress.write(step, {}).exists()
        kept = [path.name[:15] for path in progress.checkpoints]
    assert kept == ["step-0000000007", "step-0000000012"]


def test_a_full_disk_leaves_what_there_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full at the second checkpoint."""
    written = []

    def fsync(handle: int) -> None:
        written.append(handle)
        if len(written) == 3:  # each checkpoint: the file, then its folder
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    says = "checkpoint of step 8 in .*: No space left on device; step-0000000004 stands"
    with pytest.raises(OSError, match=says):
        fit(build(), X, out=tmp_path / "run", checkpoint_every=4)
    monkeypatch.undo()
    (path,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert path.name.startswith("step-0000000004-")
    assert same_run(fit(build(), X), fit(build(), X, out=tmp_path / "run", resume=True))


def test_a_fit_is_not_lost_for_what_comes_after(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^a picture fails; --resume goes on with .*run$"):
        _fit_and_fail(tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints").is_dir()


def _fit_and_fail(folder: Path) -> None:
    with in_progress(folder) as progress:
        fit(build(), X, out=progress, epochs=1)
        raise ValueError("a picture fails")


def test_what_is_no_run_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("here")
    with pytest.raises(ValueError, match="`out`: expected a run folder to resume"):
        fit(build(), X, out=tmp_path, resume=True)
    with pytest.raises(ValueError, match="`out`: expected the folder of the run to resume"):
        fit(build(), X, resume=True)
    with pytest.raises(ValueError, match="`resume`: expected True, False or previous, got 'last'"):
        fit(build(), X, out=tmp_path / "new", resume="last")
    assert os.listdir(tmp_path) == ["mine.txt"]
    stopped(tmp_path / "run", 6)
    with pytest.raises(ValueError, match="does not exist yet, .*; --resume goes on with it"):
        fit(build(), X, out=tmp_path / "run")
    with pytest.raises(ValueError, match="expected a finished run"):
        pv.load(tmp_path / "run")


def test_folders_of_the_first_schema_are_read(tmp_path: Path) -> None:
    """They are kept as they were written: a change of format must go on reading them."""
    fixtures = Path(__file__).with_name("fixtures")
    expected = json.loads((fixtures / "finished-1-expected.json").read_text())
    x, log_prob = (torch.tensor(expected[name]) for name in ("x", "log_prob"))
    vae = pv.load(fixtures / "finished-1")
    pyro.set_rng_seed(7)
    # Of other draws, where torch's have changed since: 2,000 give this to a few hundredths.
    assert torch.allclose(vae.log_prob(x, 2000), log_prob, atol=0.1)
    run = Run.read(vae, fixtures / "finished-1")
    assert (run.steps, run.engine_steps, len(run.history["elbo"])) == (16, {"eager": 16}, 4)
    shutil.copytree(fixtures / "unfinished-1", tmp_path / "run")
    with in_progress(tmp_path / "run", resume=True) as progress:
        state = progress.read()
    assert state is not None
    assert (state["step"], state["epoch"], state["settings"]["batch_size"]) == (6, 2, 8)
    vae.load_state_dict(state["model"])


def test_a_network_of_ones_own_that_has_changed_is_told(tmp_path: Path) -> None:
    """It is known by its name alone. Fails when torch tells of each tensor in a line of its own."""

    def own(width: int) -> pv.VAE:
        pyro.set_rng_seed(0)
        encoder = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 4))
        parts = pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((6,))
        return pv.VAE(*parts, encoder, pv.networks.MLP((8,)))

    with signal_at(6, signal.SIGINT), pytest.raises(Interrupted):
        fit(own(8), X, out=tmp_path / "run")
    with pytest.raises(ValueError, match="a checkpoint of this model and optimiser") as error:
        fit(own(9), X, out=tmp_path / "run", resume=True)
    assert "size mismatch" in str(error.value)
    assert "\n" not in str(error.value)
    assert fit(own(8), X, out=tmp_path / "run", resume=True).steps == 16


@pytest.mark.parametrize("missing", ["settings", "start", "svi", "model", "random", "history"])
def test_a_strangers_checkpoint_is_told(missing: str, tmp_path: Path) -> None:
    """Whole, by its name, but of something else. Fails when what is not in it is a `KeyError`."""
    stopped(tmp_path / "run", 6)
    with in_progress(tmp_path / "run", resume=True) as progress:
        state = progress.read()
        assert state is not None
        step = state.pop("step")
        del state[missing]
        for path in progress.checkpoints:
            path.unlink()
        progress.write(step, state)
    with pytest.raises(ValueError, match="a checkpoint of this model and optimiser"):
        fit(build(), X, out=tmp_path / "run", resume=True)


def test_a_run_is_read_by_a_process_that_has_made_no_tensor(tmp_path: Path) -> None:
    """Fails when what torch imports by itself counts as time that the model takes."""
    vae = pv.VAE(pv.priors.Normal(2), pv.guides.Normal(2), pv.likelihoods.Bernoulli((3,)))
    pv.save(vae, tmp_path / "vae")
    code = "import sys, pyro_vae._bounded as b; b._SECONDS = 0.3; import pyro_vae; "
    code += "pyro_vae.load(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "vae")], check=True)
