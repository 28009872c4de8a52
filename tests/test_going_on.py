"""What to type to go on with a run that was left."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path

import pytest

import pyro_vae as pv
from pyro_vae._signals import Interrupted
from pyro_vae.cli import main
from pyro_vae.cli.going_on import going_on

pytestmark = pytest.mark.usefixtures("interruptible")
_ARGV = ["--epochs", "2", "--latent-dim", "2", "--compile", "false", "--num-samples", "5"]


def _unfinished(folder: Path, config: str = "data: digits\n") -> None:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(f"schema: 1\n{config}")


def test_who_is_interrupted_reads_the_command_that_goes_on(tmp_path: Path) -> None:
    """With all that was typed but for the folder, which may have been chosen, and what resumes."""
    folder = tmp_path / "a run"
    typed = ["digits", "--out", "elsewhere", "--split", "column a b", "--resume=previous"]
    _unfinished(folder)
    with pytest.raises(Interrupted) as left, going_on(folder, typed):
        raise Interrupted(f"stopped; --resume goes on with {folder}", signal.SIGTERM)
    assert left.value.signum == signal.SIGTERM
    said, _, command = str(left.value).partition("; this goes on with it: ")
    assert said == "stopped"
    known = ["pyro-vae", "fit", "digits", "--split", "column a b", "--out", str(folder), "--resume"]
    assert shlex.split(command) == known
    with pytest.raises(Interrupted, match="^at once$"), going_on(folder, typed):
        raise Interrupted("at once", signal.SIGINT)


def test_resume_alone_names_the_run_that_was_left_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--resume"]) == 2
    assert "runs has no unfinished run" in capsys.readouterr().err
    _unfinished(Path("runs/pair"), "data: t.csv\npair: own:build\n")
    assert main(["fit", "--resume"]) == 2
    command = "pyro-vae fit t.csv --config runs/pair/config.yaml --program own:build"
    assert f"{command} --out runs/pair --resume\n" in capsys.readouterr().err
    _unfinished(Path("other"), "data: $(sh)\npair: import os\n")
    assert main(["fit", "--out", "other", "--resume"]) == 2
    said = capsys.readouterr().err
    assert said.endswith("pyro-vae fit '$(sh)' --config other/config.yaml --out other --resume\n")


def test_the_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That by the options in the folder, from the checkpoint that is there."""
    monkeypatch.chdir(tmp_path)
    lines = [f"{i % 7}.5,{i % 5}.25" for i in range(60)]
    Path("t.csv").write_text("\n".join(["a,b", *lines, ""]))

    def left(*args: object, **options: object) -> None:
        raise Interrupted("left", signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr("pyro_vae.cli.fit.evaluate", left)
        assert main(["fit", "t.csv", "--out", "run", *_ARGV]) == 130
    first = capsys.readouterr().err.strip().splitlines()[-1]
    assert first.endswith(shlex.join(["pyro-vae", "fit", "t.csv", *_ARGV, *_AGAIN]))
    assert main(["fit", "--out", "run", "--resume"]) == 2
    command = capsys.readouterr().err.partition("goes on with: pyro-vae ")[2]
    assert main(shlex.split(command)) == 0
    assert len(pv.Run.read(pv.load("run"), Path("run")).history["epoch"]) == 2


_AGAIN = ["--out", "run", "--resume"]
