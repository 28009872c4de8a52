"""How a model is trained, as options of the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.checkpoint import read_json
from pyro_vae.cli import main

QUICK = (
    "--likelihood Bernoulli --latent-dim 2 --encoder.hidden [8] --decoder.hidden [8] "
    "--num-samples 5 --compile false --device cpu --batch-size 16"
)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    on = np.random.default_rng(0).integers(0, 2, (60, 1))
    np.save("x.npy", np.repeat(on, 4, axis=1).astype(np.float32))
    return tmp_path


@pytest.mark.long
def test_options_reach_the_fit_and_the_files(table: Path) -> None:
    """And a replay of a config, resumed where it is finished, finds the same settings.

    Fails when one is parsed and not passed on.
    """
    argv = (
        f"fit x.npy {QUICK} --epochs 4 --average ema --restore best --monitor validation_elbo "
        "--monitor-every 2 --accumulate 2 --precision bfloat16 --lr {encoder:\\ 0.01} "
        "--schedule StepLR(step_size=1,\\ gamma=0.5) --out one"
    ).replace("\\ ", "\0")
    assert main([word.replace("\0", " ") for word in argv.split()]) == 0
    settings = read_json(table / "one" / "fit.json")["settings"]
    assert settings["lr"] == {"encoder": 0.01}
    asked = {
        "average": "ema", "restore": "best", "monitor": "validation_elbo", "monitor_every": 2,
        "accumulate": 2, "precision": "bfloat16", "schedule": "StepLR(step_size=1, gamma=0.5)",
    }  # fmt: skip
    assert {name: settings[name] for name in asked} == asked
    assert (table / "one" / "average.safetensors").exists()
    again = ["fit", "--config", "one/config.yaml", "x.npy", "--out", "one", "--resume"]
    assert main(again) == 0


@pytest.mark.long
def test_a_fit_starts_from_a_run_and_trains_a_part(table: Path) -> None:
    assert main(f"fit x.npy {QUICK} --epochs 1 --out one".split()) == 0
    argv = f"fit x.npy {QUICK} --epochs 1 --init one --trainable decoder --seed 3 --out two"
    assert main(argv.split()) == 0
    one, two = (pv.load(table / name).state_dict() for name in ("one", "two"))
    changed = {name.split(".")[1] for name in one if not torch.equal(one[name], two[name])}
    assert changed == {"decoder"}
    assert f"init: {table / 'one'}" in (table / "two" / "config.yaml").read_text()


@pytest.mark.long
def test_it_says_when_it_stopped(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = f"fit x.npy {QUICK} --epochs 30 --lr 1 --patience 1 --monitor elbo --out one"
    assert main(argv.split()) == 0
    assert "stopped after epoch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--avrage ema", "did you mean '--average'?"),
        ("--average emma", "(did you mean 'ema'?)"),
        ("--monitor validation_elb", "(did you mean 'validation_elbo'?)"),
        ("--restore avrage", "(did you mean 'average'?)"),
        ("--schedule StepRL", "did you mean 'StepLR'?"),
        ("--trainable decodr", "(did you mean 'decoder'?)"),
        ("--lr x", "`--lr`: expected a number or a mapping such as {encoder: 0.001}, got 'x'"),
        ("--accumulate 0", "`accumulate`: expected a positive integer, got 0"),
        ("--device cuda:77", "`--device`: expected one of this machine, got 'cuda:77'"),
        ("--init nowhere", "`init`: expected the folder of a finished run, got 'nowhere'"),
    ],
)
def test_bad_values_are_one_line(
    words: str, says: str, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(f"fit x.npy {QUICK} --out bad {words}".split()) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert not (table / "bad").exists()


@pytest.mark.long
def test_a_finished_run_goes_on_to_more_epochs(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the same command; its weights and scores are those of the long run. Else in one line."""
    words = f"fit x.npy {QUICK} --schedule constant --average ema"
    assert main(f"{words} --epochs 5 --out whole".split()) == 0
    assert main(f"{words} --epochs 2 --out run".split()) == 0
    assert main(f"{words} --epochs 5 --out run --resume".split()) == 0
    for name in ("model.safetensors", "last.safetensors", "scores.json", "config.yaml"):
        assert (table / "run" / name).read_bytes() == (table / "whole" / name).read_bytes(), name
    assert pv.Run.load(table / "run").history["epoch"] == [1, 2, 3, 4, 5]
    assert main(f"{words} --epochs 5 --out run --resume".split()) == 0
    assert "run is finished: these are its scores" in capsys.readouterr().err
    assert main(f"fit x.npy {QUICK} --epochs 2 --out cosine".split()) == 0
    before = {path.name: path.read_bytes() for path in (table / "cosine").iterdir()}
    capsys.readouterr()
    assert main(f"fit x.npy {QUICK} --epochs 3 --out cosine --resume".split()) == 2
    said = capsys.readouterr().err
    assert "`epochs`: expected 2, at which the cosine of the run has come to its end" in said
    assert said.count("\n") == 1
    assert {path.name: path.read_bytes() for path in (table / "cosine").iterdir()} == before
