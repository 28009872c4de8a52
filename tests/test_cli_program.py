"""A Pyro pair on the command line: what was typed is imported, what a file says never is."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import pyro_vae as pv
from pyro_vae.cli import main
from pyro_vae.cli.programs import program_of

_PAIRS = """
import pyro, pyro.distributions as dist, torch
import pyro_vae as pv

def build(start=0.8):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            loc = z[..., None] * torch.tensor([1.0, 2.0])
            pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)
    def guide(x):
        weight = pyro.param("weight", torch.tensor([0.1, 0.3]))
        spread = pyro.param("spread", torch.tensor(start), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ weight, spread))
    return pv.Program(model, guide)

def narrow():
    return build(0.1)

class Shared:
    def model(self, x):
        w = pyro.sample("w", dist.Normal(torch.tensor(0.0), 3.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal((w + z).expand(len(x), 2), 1.0).to_event(1), obs=x)
    def guide(self, x):
        loc = pyro.param("loc", torch.tensor(0.0))
        pyro.sample("w", dist.Normal(loc, 0.2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.7 * (x.mean(-1, keepdim=True) - loc), 0.6).to_event(1))

def shared():
    pair = Shared()
    return pv.Program(pair.model, pair.guide)

def fails():
    raise KeyError("nothing here")

def failing():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal(z @ x, 0.5).to_event(1), obs=x)
    return pv.Program(model, lambda x: None)

def broken():
    found = build()
    def model(x):
        return {}["loc"]
    return pv.Program(model, found.guide.program)

number = 3
one = build()
"""
_QUICK = ["--epochs", "2", "--num-samples", "20", "--compile", "false", "--device", "cpu"]

Fails = Callable[..., str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a module of pairs, a table, and runs of them; do not write to it."""
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "own_pairs.py").write_text(_PAIRS, encoding="utf-8")
    rng = np.random.default_rng(0)
    z = rng.normal(size=(300, 1))
    x = z * [1.0, 2.0] + 0.5 * rng.normal(size=(300, 2))
    np.savetxt(folder / "table.csv", x, delimiter=",", header="a,b", comments="")
    before, path = os.getcwd(), list(sys.path)
    os.chdir(folder)
    try:
        for name, options in {"build": ["--lr", "0.05"], "narrow": [], "shared": []}.items():
            pair = ["--program", f"own_pairs:{name}"]
            assert main(["fit", "table.csv", *pair, "--out", name, *options, *_QUICK]) == 0
        yield folder
    finally:
        os.chdir(before)
        sys.path[:] = path


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Fails:
    """Runs a command that is wrong, and returns the one line that it prints."""

    def run(*argv: str) -> str:
        capsys.readouterr()
        assert main([*argv]) == 2
        lines = [each for each in capsys.readouterr().err.splitlines() if "error: " in each]
        assert len(lines) == 1
        return lines[0].partition("error: ")[2]

    return run


def _json(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    capsys.readouterr()
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.long
def test_a_run_is_fitted_and_judged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command's scores are those of the parameters that the run has, by Python."""
    named = ("--program", "own_pairs:build")
    scores = _json(capsys, "evaluate", "build", *named, "--num-samples", "50")
    program = pv.load("build", program=program_of("own_pairs:build"))
    test = pv.data.load("table.csv").test
    known = pv.evaluate(program, test, num_samples=50).log_marginal.mean()
    assert scores["log_marginal"] == pytest.approx(known, rel=1e-6)
    unfitted = program_of("own_pairs:build")
    other = pv.evaluate(unfitted, test, num_samples=50).elbo.mean()
    assert scores["elbo"] > other + 0.1
    found = _json(capsys, "check", "build", *named)
    assert {row["statistic"] for row in found["rows"]} >= {"mean", "classifier", "latent holes"}
    assert _json(capsys, "anomalies", "build", *named, "--top", "3")["rows"][0]["p_value"] <= 0.1
    assert _json(capsys, "rate-distortion", "build", *named)["rate_estimator"] == "analytic"
    assert _json(capsys, "encode", "build", *named, "--out", "z.npz")["rows"] == 300
    assert np.load("z.npz")["loc"].shape == (300, 1)
    assert _json(capsys, "sample", "build", *named, "--out", "x.npy", "-n", "7")["shape"] == [7, 2]
    assert _json(capsys, "report", "build", *named, "--num-samples", "20")["bytes"] > 10_000


def test_two_pairs_of_equal_names_share_no_parameters(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = "own_pairs:build, own_pairs:narrow"
    few = ("--num-samples", "20")
    found = _json(capsys, "compare", "build", "narrow", "--program", pairs, *few)
    together = {each["name"]: each["log_marginal"] for each in found["runs"]}
    for name in ("build", "narrow"):
        alone = _json(capsys, "evaluate", name, "--program", f"own_pairs:{name}", *few)
        assert together[name] == pytest.approx(alone["log_marginal"], rel=1e-9), name
    assert abs(together["build"] - together["narrow"]) > 0.1


@pytest.mark.long
def test_latents_that_all_share_are_averaged_over(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ("--program", "own_pairs:shared")
    few = _json(capsys, "evaluate", "shared", *named, "--num-globals", "3")
    assert "averaged over 3 draws of the global latents" in few["estimator"]
    assert few["mcse"] > 0
    assert main(["sample", "shared", *named, "--out", "w.npy", "-n", "5"]) == 0
    assert np.load("w.npy").shape == (5, 2)
    capsys.readouterr()
    assert main(["rate-distortion", "shared", *named]) == 0
    assert "at one draw of w, which all observations share" in capsys.readouterr().err
    checks = _json(capsys, "check", "shared", *named)
    assert checks["skipped"] == {
        "z ~ p(z|half of x)": "each data set has its own draw of what its observations share"
    }


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("own_pairs", r"a pv.Program .*, got 'own_pairs' \(did you mean 'own_pairs:NAME'\?\)"),
        ("own_pairs.py:build", r"got '.*' \(did you mean 'own_pairs:build'\?\)"),
        ("inside/own_pairs.py", r"\(did you mean 'inside.own_pairs:NAME'\?\)"),
        ("./inside/own_pairs.py:build", r"\(did you mean 'inside.own_pairs:build'\?\)"),
        ("inside.own_pairs", r"\(did you mean 'inside:own_pairs'\?\)"),
        ("/else/where.py:build", r"'/else/where.py:build'$"),
        ("own_pairs:", "expected package.module:name"),
        ("os; print:x", "expected package.module:name"),
        ("no_such.module:name", "expected a module that is installed, .*, got 'no_such'"),
        ("own_pairs:biuld", r"did you mean 'build'\? expected one of build, narrow, .* 'biuld'"),
        ("own_pairs:number", "a pv.Program or a function that returns one, got 3"),
        ("own_pairs:Shared", "a pv.Program or a function that returns one, got <own_pairs.Shared"),
        ("own_pairs:fails", r"own_pairs:fails raised KeyError: 'nothing here' \(own_pairs.py, l"),
    ],
)
def test_what_is_no_pair_is_one_line(folder: Path, fails: Fails, typed: str, line: str) -> None:
    found = fails("evaluate", "build", "--program", typed)
    assert found.startswith("`--program`: ")
    assert re.search(line, found), found


def test_an_error_within_a_pair_is_one_line(folder: Path, fails: Fails) -> None:
    """Whatever it is, and whenever the pair is run."""
    found = fails("fit", "table.csv", "--program", "own_pairs:broken", "--out", "no", *_QUICK)
    assert found == "`--program`: own_pairs:broken raised KeyError: 'loc' (own_pairs.py, line 50)"
    assert not Path("no/model.json").exists()
    found = fails("fit", "table.csv", "--program", "own_pairs:failing", "--out", "no", *_QUICK)
    assert found == "`guide`: expected every latent site of the model, got \"none of 'z'\""


def test_a_run_of_a_pair_needs_it_typed(folder: Path, fails: Fails, tmp_path: Path) -> None:
    for verb in ("evaluate", "check", "report", "anomalies", "rate-distortion", "sample"):
        found = fails(verb, "build")
        assert "`--program`: expected package.module:name" in found, verb
        assert found.endswith("; it was fitted with --program own_pairs:build"), verb
    assert "build is a run of one" in fails("encode", "build", "--out", "z.csv")
    assert "build is a run of one" in fails("compare", "build", "narrow")
    assert "of a Program there is no impute" in fails("impute", "build", "table.csv")
    shared = fails("compare", "build", "narrow", "--program", "own_pairs:one")
    assert "own_pairs:one, whose parameters two runs would share" in shared
    assert "none beside --program" in fails(
        "fit", "table.csv", "--program", "own_pairs:build", "--decoder", "MLP"
    )


def test_a_run_of_a_vae_has_no_pair(folder: Path, fails: Fails, tmp_path: Path) -> None:
    vae = pv.VAE(pv.priors.Normal(1), pv.guides.Normal(1), pv.likelihoods.Normal((2,)))
    vae.initialize(torch.randn(20, 2))
    pv.save(vae, tmp_path / "vae")
    found = fails("evaluate", str(tmp_path / "vae"), "--program", "own_pairs:build")
    assert "expected none, as" in found
    assert "is a run of a VAE" in found


def test_what_a_file_says_is_never_imported(folder: Path, fails: Fails, tmp_path: Path) -> None:
    """Fails where anything but the command line leads to an import."""
    Path("planted.py").write_text("open('imported', 'w').close()\n", encoding="utf-8")
    (tmp_path / "options.yaml").write_text("program: planted:build\n", encoding="utf-8")
    options = ["--config", str(tmp_path / "options.yaml")]
    assert "what a file says is never imported" in fails("fit", "table.csv", *options)
    assert "what a file says is never imported" in fails(
        "fit", "table.csv", *options, "--program", "own_pairs:build"
    )
    config = yaml.safe_load(Path("build/config.yaml").read_text(encoding="utf-8"))
    assert config["pair"] == "own_pairs:build"
    config["pair"] = "planted:build"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    replayed = ["--config", str(tmp_path / "config.yaml")]
    assert "`--program`: expected package.module:name" in fails("fit", "table.csv", *replayed)
    described = json.loads(Path("narrow/model.json").read_text(encoding="utf-8"))
    described["program"]["model"] = "planted:build"
    Path("narrow/model.json").write_text(json.dumps(described), encoding="utf-8")
    assert "`--program`: expected package.module:name" in fails("evaluate", "narrow")
    assert not Path("imported").exists()
    assert main(["fit", "table.csv", *replayed, "--program", "own_pairs:build", "--out",
                 str(tmp_path / "again")]) == 0  # fmt: skip
    assert not Path("imported").exists()
    written = yaml.safe_load((tmp_path / "again" / "config.yaml").read_text(encoding="utf-8"))
    assert written["pair"] == "own_pairs:build"
