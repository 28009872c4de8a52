"""Files say their schema: those of earlier versions are read, those of later ones refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import pyro_vae as pv
from pyro_vae.checkpoint import SCHEMA, read_json
from pyro_vae.cli import main
from pyro_vae.training.resume import RunInProgress

# As `pyro-vae fit` of 0.1.0 wrote them, when only some files said their schema: a finished run,
# and the same one after 12 of 20 steps. They stay as they are: later versions must read them.
RELEASED = Path(__file__).with_name("fixtures") / "released-1"
UNFINISHED = RELEASED.with_name("released-1-unfinished")
QUICK = ["--epochs", "1", "--num-samples", "20", "--compile", "false", "--device", "cpu", "--json"]
SMALL = ["--encoder.hidden", "[4]", "--decoder.hidden", "[4]", "--latent-dim", "2", *QUICK]


@pytest.fixture(autouse=True)
def released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the old run, ``run``, in the folder where the test is."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(RELEASED, tmp_path / "run")


def schema(path: Path) -> object:
    """What a file says of its schema."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            told = file.metadata()
        return int((json.loads(told["state"]) if "state" in told else told)["schema"])
    return yaml.safe_load(path.read_text()).get("schema")  # of JSON, too


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    capsys.readouterr()
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.long
def test_every_file_says_its_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when one is written by other means."""
    with monkeypatch.context() as patched:
        patched.setattr(RunInProgress, "finish", lambda self, write: None)
        assert main(["fit", "digits", "--out", "halfway", "--checkpoint-every", "3", *SMALL]) == 0
    assert main(["fit", "digits", "--out", "new", *SMALL]) == 0
    argv = ["--out", "chosen", *SMALL, "--latent-dim", "2,3", "--folds", "2"]
    assert main(["select", "digits", *argv]) == 0
    written = [path for name in ("halfway", "new", "chosen") for path in Path(name).rglob("*.*")]
    written = [path for path in written if path.suffix != ".png"]
    assert {path.name for path in RELEASED.iterdir()} < {path.name for path in written}
    assert any(path.parent.name == "checkpoints" for path in written)
    assert {path: schema(path) for path in written} == dict.fromkeys(written, SCHEMA)


@pytest.mark.long
def test_a_run_of_the_first_release_is_loaded_and_evaluated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    missing = {path.name for path in RELEASED.iterdir() if schema(path) is None}
    assert missing == {"config.yaml", "engine.json", "history.json", "scores.json"}
    scores = read_json(RELEASED / "scores.json")
    assert pv.load(RELEASED).prior.event_shape == (2,)
    found = told(capsys, "evaluate", "run", "--num-samples", "20")
    assert found["base_measure"] == scores["base_measure"]
    # Of other draws, where torch's have changed since: 5 standard errors of the difference.
    assert abs(found["log_marginal"] - scores["log_marginal"]) < 5 * 2**0.5 * scores["mcse"]
    page = told(capsys, "report", "run", "--num-samples", "5")
    assert f"{scores['log_marginal']:.2f}".replace("-", "−") in Path(page["out"]).read_text()


@pytest.mark.long
def test_a_run_of_the_first_release_is_resumed_and_replayed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = ["--config", "run/config.yaml"]
    assert told(capsys, "fit", *config, "--out", "run", "--resume")["scores"] == read_json(
        RELEASED / "scores.json"
    )
    told(capsys, "fit", *config, "--out", "again")
    old, new = (yaml.safe_load(Path(name, "config.yaml").read_text()) for name in ("run", "again"))
    for part in ("objective", "encoder", "decoder"):  # which have got options since
        old[part] = new[part] | old[part]
    since = {"accumulate": 1, "monitor_every": 1, "precision": "float32"}
    assert new == {"schema": SCHEMA} | since | old
    assert told(capsys, "compare", "run", "again")["runs"]


@pytest.mark.long
def test_an_unfinished_run_of_the_first_release_is_resumed() -> None:
    """Fails when it starts anew: the first epoch then took other seconds."""
    shutil.copytree(UNFINISHED, "unfinished")
    config = ["--config", "unfinished/config.yaml"]
    assert main(["fit", *config, "--out", "unfinished", "--resume", "--json"]) == 0
    (checkpoint,) = UNFINISHED.rglob("step-*")
    with safe_open(checkpoint, "pt") as file:
        before = json.loads(file.metadata()["state"])["history"]
    history = read_json(Path("unfinished/history.json"))
    assert {key: values[:1] for key, values in history.items()} == before
    assert read_json(Path("unfinished/engine.json")) == {"eager": 20}
    ended, let_be = (
        load_file(path / "last.safetensors") for path in (Path("unfinished"), RELEASED)
    )
    # Its generators go on where they were, so that only rounding can differ from the run let be.
    assert all(torch.allclose(ended[key], let_be[key], atol=1e-4) for key in let_be)


def rewritten(path: Path, number: int) -> None:
    """Has a file say another schema."""
    if path.suffix == ".safetensors":
        save_file(load_file(path), path, {"schema": str(number)})
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        described, key = {
            "model.safetensors": ("model.json", "sha256"),
            "last.safetensors": ("fit.json", "last_sha256"),
        }[path.name]
        path, change = path.with_name(described), {key: digest}
    else:
        change = {"schema": number}
    if path.suffix == ".json":
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    else:
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))


RESUME = "fit --config run/config.yaml --out run --resume"


@pytest.mark.parametrize(
    ("name", "argv"),
    [
        ("model.json", "evaluate run"),
        ("model.safetensors", "sample run"),
        ("data.json", "check run"),
        ("config.yaml", "fit --config run/config.yaml"),
        ("config.yaml", "compare run other"),
        ("config.yaml", "report run"),
        ("scores.json", RESUME),
        ("scores.json", "report run"),
        ("history.json", RESUME),
        ("history.json", "report run"),
        ("engine.json", RESUME),
        ("engine.json", "report run"),
        ("fit.json", RESUME),
        ("last.safetensors", RESUME),
    ],
)
def test_a_newer_file_is_refused(name: str, argv: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when a reader takes the file as it is."""
    shutil.copytree("run", "other")
    rewritten(Path("run", name), SCHEMA + 1)
    before = {path: path.read_bytes() for path in Path("run").iterdir()}
    assert main(argv.split()) == 2
    shown = capsys.readouterr()
    said, newer = shown.err.splitlines()[-1], repr("2") if name.endswith("tensors") else "2"
    assert said == (
        f"error: `run/{name}`: expected schema {SCHEMA}, which pyro-vae {version('pyro-vae')} "
        f"reads, got {newer}"
    )
    assert shown.out == ""
    assert {path: path.read_bytes() for path in Path("run").iterdir()} == before
