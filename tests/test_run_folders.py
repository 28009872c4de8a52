"""Run folders that are damaged or a stranger's, as each command meets them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyro_vae.cli import main
from pyro_vae.data import named

_FIT = (
    "counts.csv --cond group,age --size-factor exposure --likelihood Poisson --latent-dim 2 "
    "--epochs 2 --num-samples 5 --device cpu --compile false --encoder.hidden [4] "
    "--decoder.hidden [4]"
)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a run on them; do not write to it."""
    folder = tmp_path_factory.mktemp("folders")
    rng = np.random.default_rng(0)
    group, age, exposure = rng.integers(0, 2, 40), rng.normal(size=40), rng.uniform(0.5, 2.0, 40)
    counts = rng.poisson(3 * exposure[:, None], (40, 2))
    rows = np.column_stack([counts, group, age, exposure])
    header = "a,b,group,age,exposure"
    np.savetxt(folder / "counts.csv", rows, delimiter=",", header=header, comments="")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["fit", *_FIT.split(), "--out", "run"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def run(fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, to be damaged, and to be in."""
    shutil.copytree(fitted / "run", tmp_path / "run")
    monkeypatch.chdir(fitted)
    return tmp_path / "run"


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Runs a command that is a mistake and returns the line that says so."""

    def failing(argv: str) -> str:
        capsys.readouterr()
        code = main(argv.split())
        told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert (code, len(told)) == (2, 1)
        return told[0]

    return failing


_EVALUATE = "evaluate RUN --num-samples 5"
_SAMPLE = "sample RUN -n 2 --cond 1,0.3 --size-factor 2 --out RUN/draws.npy"
_RESUME = f"fit {_FIT} --out RUN --resume"
_REPORT = "report RUN --num-samples 5 --num-draws 20 --cond 1,0.3 --out RUN/page.html"


def edited(path: Path, change: Callable[[Any], object]) -> None:
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("argv", "name", "change", "says"),
    [
        (_EVALUATE, "data", lambda d: d["fingerprints"].update(test=5), "str as test, got 5"),
        (_EVALUATE, "data", lambda d: d.pop("fingerprints"), "fingerprints in it"),
        (_EVALUATE, "data", lambda d: d["options"].update(cond=None), "str as cond, got None"),
        (_EVALUATE, "data", lambda d: d["options"].update(levels="x"), "bool as levels"),
        (_SAMPLE, "data", lambda d: d.update(size_unit=None), "as size_unit, got None"),
        (_SAMPLE, "data", lambda d: d.update(size_unit=0), "a positive size_unit, got 0"),
        (_SAMPLE, "data", lambda d: d.update(columns=[5]), "the columns of conditions"),
        (_SAMPLE, "data", lambda d: d["columns"][1].update(loc="x"), "what is no number"),
        (_SAMPLE, "data", lambda d: d["columns"][1].update(scale=0), "a scale"),
        (_SAMPLE, "data", lambda d: d["columns"][0].update(levels=["1"]), "are no integers"),
        (_SAMPLE, "data", lambda d: d["columns"].pop(), "columns of 3 entries"),
        (_RESUME, "scores", lambda s: s.pop("base_measure"), "base_measure in it"),
        (_RESUME, "scores", lambda s: s.update(log_marginal=[]), "as log_marginal, got []"),
        (_RESUME, "scores", lambda s: s.update(elbo=float("nan")), "not a finite number: NaN"),
        (_RESUME, "scores", lambda s: s.update(elbo=10**400), "not a finite number: 10000"),
        (_RESUME, "scores", lambda s: s["base_measure"].pop("data"), "data in it"),
        (_RESUME, "fit", lambda f: f.update(steps="many"), "int as steps, got 'many'"),
        (_RESUME, "fit", lambda f: f.update(settings=[]), "dict as settings, got []"),
        (_RESUME, "history", lambda h: h.pop("seconds"), "seconds in it"),
        (_REPORT, "history", lambda h: h["kl"].pop(), "a number an epoch as kl"),
        (_REPORT, "history", lambda h: h.pop("validation_kl"), "validation_kl in it"),
        (_REPORT, "engine", lambda e: e.update(eager="x"), "int as eager, got 'x'"),
        (_REPORT, "scores", lambda s: s["base_measure"].update(split="x"), "expected one of train"),
    ],
)
def test_what_is_damaged_is_one_line_with_the_name_of_the_file(
    argv: str,
    name: str,
    change: Callable[[Any], object],
    says: str,
    run: Path,
    fails: Callable[[str], str],
) -> None:
    """Fails, with a traceback, when what a file says is used as it is."""
    edited(run / f"{name}.json", change)
    told = fails(argv.replace("RUN", str(run)))
    assert says in told
    assert f"{name}.json" in told


@pytest.mark.parametrize("argv", ["compare RUN run", _REPORT])
def test_a_config_of_a_strangers_is_bounded(
    argv: str, run: Path, fails: Callable[[str], str]
) -> None:
    """Aliases that come to 10^9 values, a pipe, a link out of the folder, a long file. Fails when
    what takes no room in the file is told in full, or the pipe is waited for."""
    argv, path = argv.replace("RUN", str(run)), run / "config.yaml"
    whole = path.read_text()
    aliases = "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))
    path.write_text(f"{whole}a0: &a0 [x]\n{aliases}lr: *a9\n")
    assert "expected at most 65,536 values" in fails(argv)
    path.write_text(f"{whole}# {'x' * 2**20}")
    assert "expected at most 1,048,576 characters" in fails(argv)
    path.unlink()
    path.symlink_to(run.parent / "outside.yaml")
    (run.parent / "outside.yaml").write_text(whole)
    assert "a plain file inside the folder" in fails(argv)
    path.unlink()
    os.mkfifo(path)
    assert "a plain file inside the folder" in fails(argv)


def test_a_seed_of_no_known_type_tells_fits_apart(run: Path) -> None:
    """Fails when a list, which has no hash, is looked for among the seeds."""
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: []"))
    assert main(["compare", str(run), "run", "--num-samples", "5"]) == 0


@pytest.mark.parametrize("name", ["checkpoints", ".finishing"])
def test_what_lies_behind_a_link_is_left_alone(
    name: str, tmp_path: Path, run: Path, fails: Callable[[str], str]
) -> None:
    """Fails when --resume sweeps up in a folder of the user's that a stranger's run leads to."""
    home, folder = tmp_path / "home", tmp_path / "strange"
    for each in (home, folder, folder / "checkpoints"):
        each.mkdir()
    (home / ".profile").write_text("not to be touched")
    if name == "checkpoints":
        (folder / name).rmdir()
    (folder / name).symlink_to(home)
    told = fails(f"fit {_FIT} --out {folder} --resume")
    assert "a run folder with its checkpoints in it, no link" in told
    assert [path.name for path in home.iterdir()] == [".profile"]


def test_nothing_is_fetched_to_where_a_file_says(
    run: Path, fails: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Fails when a stranger's data.json has a data set downloaded to a folder of its choice."""
    fetched: list[bool] = []

    def download(self: Any, fetch: Callable[[], object], allowed: bool) -> None:
        fetched.append(allowed)
        raise self.missing("not here")

    monkeypatch.setattr(named._Files, "download", download)
    edited(run / "data.json", lambda d: d.update(source="mnist"))
    edited(run / "data.json", lambda d: d["options"].update(root=str(tmp_path / "anywhere")))
    edited(run / "data.json", lambda d: d["options"].update(cond="", size_factor=None))
    assert "the files of mnist" in fails(f"evaluate {run}")
    assert "the files of mnist" in fails(f"evaluate {run} --data-root {tmp_path / 'mine'}")
    assert fetched == [False, True]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("sample RUN --seed 4294967296", "`--seed`: expected an integer >= 0 and below 2**32"),
        ("report RUN --seed -1", "`--seed`: expected an integer >= 0 and below 2**32"),
        ("compare RUN run --seed 4294967296", "`--seed`: expected an integer >= 0"),
        ("select counts.csv --latent-dim 2,3 --seed 4294967296", "`--seed`: expected"),
        ("evaluate RUN --device meta", "`--device`: expected one of this machine, got 'meta'"),
        (f"fit {_FIT} --device meta", "`--device`: expected one of this machine, got 'meta'"),
    ],
)
def test_what_no_generator_and_no_machine_takes_is_named(
    argv: str, says: str, run: Path, fails: Callable[[str], str]
) -> None:
    """Fails when a seed is found out by NumPy, which does not know the option, or `meta` later."""
    assert says in fails(argv.replace("RUN", str(run)))
