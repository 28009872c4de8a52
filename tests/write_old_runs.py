"""Writes the runs of a release that later ones must load, score and resume.

    OMP_NUM_THREADS=1 python tests/write_old_runs.py           # the archive, 2 minutes
    OMP_NUM_THREADS=1 python tests/write_old_runs.py --check   # whether it comes out the same

It was run once, with the code of the release that the archive stands for (0.1.0, before its
subpackages were rearranged), and is never run again for that release: an archive that later code
has written says nothing about old files. A later release gets a folder, a table and an archive of
its own. ``--check`` builds the archive anew and compares it, with the code that wrote it.

For each recipe of ``recipes.json`` the archive holds ``NAME/finished``, a run let be, and
``NAME/interrupted``, the same run stopped by SIGTERM after its first epoch. The checkpoint of the
latter is of the first step of the second epoch, and holds optimiser state, generators, the place in
the epoch and the best weights so far. Runs of the command line are there too, without their
pictures; the path of the folder that they were in is replaced by ``/old-runs``, as if they had been
moved. ``expected.json`` has every bit of the scores and the history, digests of the weights, and
the environment. What the clock says is made up, so that the bytes of the archive do not depend on
it.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import itertools
import json
import lzma
import os
import random
import signal
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import old_runs
import torch
from pyro.infer import ELBO
from safetensors import safe_open
from safetensors.torch import load_file

import pyro_vae as pv
from pyro_vae import training
from pyro_vae.cli import main as command_line
from pyro_vae.training.health import Health

_MOVED = "/old-runs"


def stop() -> None:
    """Tells this very process to stop."""
    os.kill(os.getpid(), signal.SIGTERM)


def check_checkpoint(folder: Path) -> None:
    """Asserts that a run was left within an epoch, with something in every part of its state."""
    (path,) = (folder / "checkpoints").iterdir()
    with safe_open(path, "pt") as file:
        state = json.loads(file.metadata()["state"])
    assert state["epoch"] == 2, folder
    assert 0 < state["position"]["start"] < 1000, folder
    assert state["best"][0] == 1, folder
    assert state["svi"]["optim"], folder
    assert len(state["history"]["validation_elbo"]) == 1, folder


def write_run(name: str, recipe: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Writes both folders of a recipe and returns what is expected of them."""
    whole = old_runs.fit(recipe, old_runs.build(recipe), out=root / name / "finished")
    with contextlib.suppress(KeyboardInterrupt):
        old_runs.fit(
            recipe,
            old_runs.build(recipe),
            out=root / name / "interrupted",
            on_epoch=lambda line: stop() if line["epoch"] == 1 else None,
        )
    check_checkpoint(root / name / "interrupted")
    return {
        **old_runs.scores(recipe, whole.vae),
        "history": old_runs.history(whole),
        "best_epoch": whole.best_epoch,
        "weights": old_runs.digest(whole.vae.state_dict()),
        "last_weights": old_runs.digest(whole.last_weights),
        "engine_steps": dict(whole.engine_steps),
    }


def write_table(path: Path) -> None:
    """Writes counts with a group, an age, an exposure and some empty cells."""
    rng = random.Random("table")
    lines = ["a,b,c,group,age,exposure"]
    for _ in range(40):
        counts = [str(rng.getrandbits(3)) if rng.getrandbits(3) else "" for _ in range(3)]
        group, age = "uvw"[rng.getrandbits(8) % 3], rng.getrandbits(6) / 8
        lines.append(",".join([*counts, group, str(age), str((rng.getrandbits(4) + 4) / 8)]))
    path.write_text("\n".join(lines) + "\n")


def write_command(name: str, argv: list[str], root: Path) -> dict[str, Any]:
    """Writes both folders of a command and returns what is expected of them."""
    assert command_line(["fit", *argv, "--out", f"{name}/finished", "--json"]) == 0
    look = Health.look

    def stopping(self: Health, line: Mapping[str, float]) -> None:
        look(self, line)
        if line["epoch"] == 1:
            stop()

    with mock.patch.object(Health, "look", stopping):
        assert command_line(["fit", *argv, "--out", f"{name}/interrupted"]) == 143
    check_checkpoint(root / name / "interrupted")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert command_line(["evaluate", f"{name}/finished", "--num-samples", "7", "--json"]) == 0
    finished = root / name / "finished"
    for path in finished.glob("*.png"):
        path.unlink()
    for path in (*(root / name).rglob("config.yaml"), *(root / name).rglob("data.json")):
        path.write_text(path.read_text().replace(str(root), _MOVED))
    return {
        "evaluate": json.loads(said.getvalue()),
        "weights": old_runs.digest(load_file(finished / "model.safetensors")),
        "last_weights": old_runs.digest(load_file(finished / "last.safetensors")),
    }


def exported() -> set[str]:
    """The classes that a release lets a model or a fit be made of."""
    return {
        f"{module}.{name}"
        for module in ("priors", "guides", "likelihoods", "networks", "objectives")
        for name in getattr(pv, module).__all__
        if inspect.isclass(kind := getattr(getattr(pv, module), name))
        and issubclass(kind, torch.nn.Module | ELBO)
        and not inspect.isabstract(kind)
    }


def write(root: Path) -> None:
    """Writes all folders and ``expected.json``."""
    expected: dict[str, Any] = {
        "release": version("pyro-vae"),
        "environment": old_runs.environment(),
        "compiler": old_runs.compiler(),
        "exported": sorted(exported()),
        "runs": {},
        "commands": {},
    }
    for name, recipe in old_runs.RECIPES.items():
        expected["runs"][name] = write_run(name, recipe, root)
    write_table(root / "table.csv")
    before = Path.cwd()
    os.chdir(root)
    try:
        for name, argv in old_runs.COMMANDS.items():
            expected["commands"][name] = write_command(name, argv, root)
    finally:
        os.chdir(before)
    (root / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def packed(root: Path) -> bytes:
    """All files below a folder as one archive, the same bytes for the same files."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        # Files of one kind follow each other: they have much in common.
        files = [path for path in root.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: (path.suffix, path.name, path)):
            entry = tarfile.TarInfo(path.relative_to(root).as_posix())
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                archive.addfile(entry, file)
    return lzma.compress(content.getvalue(), preset=9 | lzma.PRESET_EXTREME)


def main() -> None:
    """Writes the archive, or checks it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    check = parser.parse_args().check
    if not check and old_runs.ARCHIVE.exists():
        sys.exit(f"{old_runs.ARCHIVE} is there: it is written once, with the code of its release")
    assert exported() <= old_runs.covered(), exported() - old_runs.covered()
    torch.set_num_threads(1)
    ticks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: next(ticks) / 8)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(training, "time", clock):
        write(Path(folder).resolve())
        content = packed(Path(folder))
    if check:
        sys.exit(None if content == old_runs.ARCHIVE.read_bytes() else "another archive")
    old_runs.ARCHIVE.write_bytes(content)
    print(f"{old_runs.ARCHIVE}: {len(content):,} bytes")


if __name__ == "__main__":
    main()
