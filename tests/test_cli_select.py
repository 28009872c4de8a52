"""``pyro-vae select``, on fits of one epoch."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_vae as pv
from pyro_vae import selection
from pyro_vae.checkpoint import read_json
from pyro_vae.cli import main
from pyro_vae.cli import select as verb

Fails = Callable[..., str]

_QUICK = "--folds 2 --epochs 1 --batch-size 40 --num-samples 10 --encoder.hidden [4] --device cpu"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    np.save("values.npy", values)


def test_a_selection_is_written_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["select", "values.npy", "--likelihood", "Normal", "--decoder.hidden", "[4],[8,8]"]
    argv += ["--seeds", "2"]
    assert main([*argv, *_QUICK.split(), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["out"] == "runs/values-select"
    written = read_json(Path("runs/values-select/selection.json"))
    assert {"out": result.pop("out")} | written == {"out": "runs/values-select"} | result
    assert Path("runs/values-select/selection.png").read_bytes().startswith(b"\x89PNG")
    assert [each["arguments"] for each in result["candidates"]] == [
        {"decoder.hidden": [4]},
        {"decoder.hidden": [8, 8]},
    ]
    assert (result["folds"], result["seeds"], result["size"]) == (2, 2, 54), "a tenth is for tests"
    assert len(result["candidates"][0]["seed_means"]) == 2

    assert main([*argv, *_QUICK.split(), "--seeds=1"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for words in (
        "54 observations of values.npy in 2 folds",
        "± folds",
        "runs/values-select-2/selection.png",
    ):
        assert words in printed
    assert "pyro-vae fit values.npy --likelihood Normal --decoder.hidden '[" in printed
    again = printed[printed.index("pyro-vae fit") :]
    assert "--seeds" not in again
    assert "--folds" not in again
    assert "--epochs 1" in again


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[tuple[pv.VAE, Any]]]:
    """The models and options that would be fitted."""
    built: list[tuple[pv.VAE, Any]] = []

    def stop(build: Any, data: Any, settings: Any, **options: Any) -> None:
        built.extend(build(**setting) for setting in settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(verb, "select", stop)

    def run(argv: str) -> list[tuple[pv.VAE, Any]]:
        built.clear()
        assert main(["select", "values.npy", "--likelihood", "Normal", *argv.split()]) == 130
        assert not Path("runs").exists(), "an interrupted selection leaves nothing"
        return built

    return run


def test_any_argument_can_be_chosen(asked: Callable[[str], list[tuple[pv.VAE, Any]]]) -> None:
    """Fails when settings share the first one's options."""
    models = asked("--latent-dim=2,5 --objective.beta 1,4")
    sizes = [(vae.prior.event_shape[0], own["objective"].beta) for vae, own in models]
    assert sizes == [(2, 1.0), (2, 4.0), (5, 1.0), (5, 4.0)]
    assert all(own["compile"] is False and "seed" not in own for _, own in models)
    models = asked("--encoder.hidden [3],[4,5]")
    assert [vae.encoder.spec()["args"]["hidden"] for vae, _ in models] == [[3], [4, 5]]
    assert [own["lr"] for _, own in asked("--lr 0.1,0.2 --epochs 3")] == [0.1, 0.2]
    models = asked("--guide Normal --likelihood.scale shared,0.5")
    assert [vae.likelihood.spec()["args"]["scale"] for vae, _ in models] == ["shared", 0.5]


def test_a_setting_may_be_a_likelihood(asked: Callable[[str], list[tuple[pv.VAE, Any]]]) -> None:
    models = asked("--decoder MLP --prior Normal --objective ELBO --encoder MLP,MLP --lr 1,2")
    assert len(models) == 2, "what is the same is tried once"


def test_what_goes_with_each_observation_stays_with_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In each fold, fitted or held out. Fails when covariates are of other rows."""
    rng = np.random.default_rng(0)
    lines = ["y,kind,size,x"]
    for i in rng.permutation(60):  # in order, they would number the rows, and be left out
        lines.append(f"{i},{'ab'[i % 2]},{i + 1},{'NA' if i % 3 == 0 else rng.poisson(i + 1)}")
    Path("t.csv").write_text("\n".join(lines))
    unit = pv.data.load("t.csv", cond="kind", size_factor="size", missing=True).size_unit
    seen: list[int] = []

    def record(x: torch.Tensor, cond: torch.Tensor, mask: torch.Tensor, covariates: Any) -> None:
        ids = x[:, 0].round().long()
        torch.testing.assert_close(cond[:, 1], (ids % 2).float())
        torch.testing.assert_close(covariates["size_factor"] * unit, ids + 1.0)
        assert torch.equal(mask[:, 1], ids % 3 != 0)
        assert mask[:, 0].all()
        seen.extend(ids.tolist())

    def evaluate(vae: pv.VAE, x: torch.Tensor, **options: Any) -> Any:
        record(x, **{name: options[name] for name in ("cond", "mask", "covariates")})
        return pv.evaluate(vae, x, **options)

    def fit(vae: pv.VAE, data: pv.data.Dataset, **options: Any) -> pv.Run:
        for split in ("train", "validation"):
            record(data.split(split), **data.given(split))  # type: ignore[arg-type]
        return pv.fit(vae, data, **options)

    monkeypatch.setattr(selection, "evaluate", evaluate)
    monkeypatch.setattr(selection, "fit", fit)
    argv = ["select", "t.csv", "--cond", "kind", "--size-factor", "size", "--missing"]
    argv += ["--show-mask", "--prior", "Conditional", "--likelihood", "Poisson"]
    assert main([*argv, "--latent-dim", "1,2", *_QUICK.split(), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["size"] == 54
    assert {"cond", "size_factor", "mask"} <= result["base_measure"].keys()
    assert len(seen) == 54 * 2 * 2, "for two settings, each observation is in a fit and held out"
    assert len(set(seen)) == 54


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_a_setting_that_diverges_is_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when all is lost for it, or it is not shown."""
    argv = ["select", "values.npy", "--likelihood", "Normal", "--lr", "1e20,0.001", *_QUICK.split()]
    assert main([*argv, "--epochs", "5"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Failed: lr 1e+20: fold 1, epoch" in printed
    assert "Best: lr 0.001." in printed
    written = read_json(Path("runs/values-select/selection.json"))
    assert [each["arguments"] for each in written["failed"]] == [{"lr": 1e20}]
    assert Path("runs/values-select/selection.png").is_file()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("values.npy", "`OPTION`: expected several values for one, as in --latent-dim 2,4,8"),
        ("values.npy --latent-dim 2,2", "expected several values for one"),
        ("values.npy --latent-dim 2,x", "`--latent-dim`: expected an integer, got 'x'"),
        ("values.npy --latent-dim 2,", "`--latent-dim`: expected"),
        ("values.npy --latent-dim 2,0", "expected a positive integer, got 0"),
        ("values.npy --latnt-dim 2,3", "did you mean '--latent-dim'?"),
        ("values.npy --lr 1,2 --lr 2,3", "`--lr`: expected to be given once, got '2,3'"),
        ("values.npy --seed 0,1 --lr 1,2", "`--seed`: expected an integer"),
        ("values.npy --seed -1 --lr 1,2", "`--seed`: expected an integer >= 0 and below 2**32"),
        ("values.npy --folds 1 --lr 1,2", "`folds`: expected an integer from 2 to 54, got 1"),
        ("values.npy --seeds 0 --lr 1,2", "`seeds`: expected a positive integer, got 0"),
        ("values.npy --prior Normal,Nrmal", "did you mean 'Normal'?"),
        ("nothing.npy --lr 1,2", "expected an existing file"),
        ("--lr 1,2", "`data`: expected a value"),
        (
            "values.npy --prior Conditional --lr 1,2",
            "`--cond`: expected the columns that the prior",
        ),
        ("values.npy --cond a,b --lr 1,2", "`cond`: expected data with labels or with names of"),
        ("values.npy --cond", "`--cond`: expected a value"),
        ("values.npy --likelihood Normal,Bernoulli", "`grid`: expected one base measure for all"),
    ],
)
def test_a_mistake_is_one_line(argv: str, words: str, fails: Fails) -> None:
    extra = "" if "--likelihood" in argv else " --likelihood Normal"
    assert words in fails("select", *(argv + extra).split())


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["select", "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for words in ("pyro-vae select DATA [options]", "--latent-dim 2,4,8", "--folds", "--seeds"):
        assert words in printed


def test_what_a_file_has_of_a_selection_is_left_out_of_the_fit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Fails when the command that is printed is refused, as `fit` knows no folds."""
    Path("one.yaml").write_text("folds: 2\nlikelihood: Normal\nweight_decay: 0.25\n")
    argv = [*_QUICK.split()[2:], "--config=one.yaml", "--lr", "1e-3,1e-2", "--out", "chosen"]
    assert main(["select", "values.npy", *argv]) == 0
    again = shlex.split(capsys.readouterr().out.partition("pyro-vae ")[2])
    assert main([*again, "--out", "again"]) == 0
    assert read_json(Path("again/fit.json"))["settings"]["weight_decay"] == 0.25


def test_what_is_of_the_data_is_no_choice(capsys: pytest.CaptureFixture[str]) -> None:
    """Commas between columns are of one value; fails when each column is left out in turn."""
    r = np.random.default_rng(0)
    frame = pd.DataFrame(r.normal(size=(60, 4)), columns=list("abcd"))
    frame.to_csv("t.csv", index=False)
    options = ["--drop", "a,b", "--kind", "c=real,d=real", "--na_values=x,y", "--latent-dim", "1,2"]
    assert main(["select", "t.csv", *options, *_QUICK.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["candidates"]
    assert [each["arguments"] for each in found] == [{"latent-dim": dim} for dim in (1, 2)]
