"""The command line, run in process as a user would type it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from linear import LinearGaussian

import pyro_vae as pv
from pyro_vae._signals import Interrupted
from pyro_vae.checkpoint import read_json
from pyro_vae.cli import fit as fit_verb
from pyro_vae.cli import main
from pyro_vae.criticism import check
from pyro_vae.data import inspect
from pyro_vae.data.rows import Rows
from pyro_vae.training.resume import is_finished

_QUICK = ["--epochs", "1", "--num-samples", "20", "--compile", "false", "--device", "cpu"]
_SMALL = ["--encoder.hidden", "[16]", "--decoder.hidden", "[16]", *_QUICK]
_FILES = {
    "config.yaml",
    "curves.png",
    "data.json",
    "engine.json",
    "fit.json",
    "history.json",
    "last.safetensors",
    "latent.png",
    "model.json",
    "model.safetensors",
    "reconstructions.png",
    "samples.png",
    "scores.json",
    "scores.safetensors",
    "state.safetensors",
}

Fails = Callable[..., str]
Built = Callable[[str], tuple[pv.VAE, Any, Any]]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the digits; do not write to it."""
    out = tmp_path_factory.mktemp("cli") / "deeper" / "digits"
    assert main(["fit", "digits", "--latent-dim", "3", "--out", str(out), *_SMALL]) == 0
    return out


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has an empty folder of its own."""
    monkeypatch.chdir(tmp_path)


def test_fit_writes_a_whole_run(digits: Path) -> None:
    assert {path.name for path in digits.iterdir()} == _FILES
    assert [path.name for path in digits.parent.iterdir()] == ["digits"], "scratch is left"
    scores = read_json(digits / "scores.json")
    assert scores["num_samples"] == 20
    assert -64 * np.log(2) < scores["log_marginal"] < -20  # better than fair coins, in one epoch
    result = scores["base_measure"]
    assert (result["data"], result["split"], result["binarize"]) == ("digits", "test", "threshold")
    history = read_json(digits / "history.json")
    assert history["epoch"] == [1]
    vae = pv.load(digits)
    assert vae.prior.event_shape == (3,)
    data = pv.data.load("digits")
    again = pv.evaluate(vae, data.test, num_samples=20).summary()
    (copies,) = set(scores["notes"]) - set(again["notes"])
    assert copies.split(" observations")[0] == f"{inspect(data).in_train['test']} of 360 test"
    assert again == scores | {"notes": again["notes"]}


@pytest.mark.long
def test_a_config_replays_the_run(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same weights, hence the same scores; fails if the model is built before seeding."""
    config = str(digits / "config.yaml")
    assert main(["fit", "--config", config, "--out", "again", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {"out", "seconds", "steps_per_second", "scores"}
    assert result["out"] == "again"
    assert result["scores"] == read_json(digits / "scores.json")
    weights = "model.safetensors"
    assert Path("again", weights).read_bytes() == (digits / weights).read_bytes()
    assert Path("again", "config.yaml").read_bytes() == Path(config).read_bytes()

    assert main(["fit", "--config", config, "--out", "other", "--seed", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"] != result["scores"]


def test_the_command_line_wins_over_the_config(capsys: pytest.CaptureFixture[str]) -> None:
    Path("run.yaml").write_text(
        "data: digits\nlikelihood: {class: Normal, scale: predicted}\nprior: Normal\nepochs: 3\n"
    )
    argv = ["fit", "--config=run.yaml", "--likelihood", "Poisson", "--latent_dim=2", *_SMALL]
    assert main([*argv, "--json"]) == 0
    config = yaml.safe_load(Path("runs/digits/config.yaml").read_text())
    assert config["likelihood"] == {"class": "Poisson"}, "what was for Normal is dropped"
    assert (config["epochs"], config["latent_dim"]) == (1, 2)
    assert json.loads(capsys.readouterr().out)["scores"]["base_measure"]["binarize"] == "none"


def test_runs_are_numbered(digits: Path, fails: Fails) -> None:
    config = ["--config", str(digits / "config.yaml"), "--json"]
    Path("runs").mkdir()
    Path("runs/digits").write_text("not a run")
    assert main(["fit", *config]) == 0
    assert {path.name for path in Path("runs").iterdir()} == {"digits", "digits-2"}
    assert "`--out`: expected a path that does not exist" in fails(
        "fit", *config, "--out", "runs/digits-2"
    )


def test_without_json_a_table_says_what_the_scores_are_of(
    digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(digits), "--num-samples", "30"]) == 0
    printed = capsys.readouterr().out
    for words in ("360 test observations of digits", "threshold", "30 importance samples", "nats"):
        assert words in printed


def test_evaluate_gives_the_scores_of_the_fit(
    digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["evaluate", str(digits), "--num-samples", "20", "--json"]
    assert main(argv) == 0
    fitted = read_json(digits / "scores.json")
    assert json.loads(capsys.readouterr().out) == fitted
    assert main([*argv, "--split", "validation"]) == 0
    validation = json.loads(capsys.readouterr().out)
    assert validation["base_measure"]["split"] == "validation"
    assert validation["log_marginal"] != fitted["log_marginal"]


def test_data_that_moved_are_found_and_others_are_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fails: Fails
) -> None:
    values = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    np.save("values.npy", values)
    argv = ["fit", "values.npy", "--likelihood", "Normal", "--out", "run", "--json", *_SMALL]
    assert main(argv) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert "bits_per_dim" not in scores, "these are densities"
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert config["data"] == str(tmp_path / "values.npy"), "a replay works from anywhere"

    Path("values.npy").rename("moved.npy")
    evaluate = ["evaluate", "run", "--num-samples", "20", "--json"]
    assert "expected an existing file" in fails(*evaluate)
    assert main([*evaluate, "--data", "moved.npy"]) == 0
    assert json.loads(capsys.readouterr().out)["log_marginal"] == scores["log_marginal"]
    np.save("values.npy", values + 1)
    assert "expected the test data of the run, fingerprint" in fails(*evaluate)
    assert main([*evaluate, "--data", "values.npy"]) == 0
    said = capsys.readouterr()
    assert "values.npy: 50 observations, all of a file that is not the run's" in said.err
    new = pv.evaluate(pv.load("run"), values + 1, num_samples=20).summary()
    assert json.loads(said.out)["log_marginal"] == new["log_marginal"]
    Path("run/data.json").unlink()
    assert "a file data.json in it" in fails(*evaluate)


def test_sample_writes_arrays_and_pictures(
    digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(digits, "run")
    assert main(["sample", "run", "-n", "5", "--out", "x/draws.npy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": "x/draws.npy", "shape": [5, 1, 8, 8]}
    drawn = np.load("x/draws.npy")
    assert drawn.shape == (5, 1, 8, 8)
    assert set(np.unique(drawn)) == {0.0, 1.0}, "draws of x, not their probabilities"
    assert main(["sample", "run", "-n", "5", "--seed", "1", "--out", "other.npy"]) == 0
    assert not np.array_equal(np.load("other.npy"), drawn)
    for name in ("draws.png", "draws-2.png"):
        assert main(["sample", "run"]) == 0
        assert Path(run, name).read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Built:
    """What `fit digits` is about to fit: the model, the objective, the options."""
    seen: list[tuple[pv.VAE, Any, Any]] = []

    def stop(vae: pv.VAE, objective: Any, data: object, options: Any, *_: object) -> None:
        seen.append((vae, objective, options))
        raise KeyboardInterrupt

    monkeypatch.setattr(fit_verb, "_fit", stop)

    def build(argv: str) -> tuple[pv.VAE, Any, Any]:
        assert main(["fit", "digits", *argv.split()]) == 130
        assert list(Path.cwd().iterdir()) == [], "an interrupted fit leaves nothing"
        return seen.pop()

    return build


@pytest.mark.parametrize(
    ("argv", "part", "expected", "arguments"),
    [
        ("", "prior", pv.priors.Normal, {"dim": 16}),
        ("--latent-dim 5", "guide_family", pv.guides.Normal, {"dim": 5}),
        ("--latent_dim=5", "prior", pv.priors.Normal, {"dim": 5}),
        (
            "--likelihood Normal --likelihood.scale 0.3",
            "likelihood",
            pv.likelihoods.Normal,
            {"event_shape": [1, 8, 8], "scale": 0.3},
        ),
        ("--likelihood=Poisson", "likelihood", pv.likelihoods.Poisson, {"event_shape": [1, 8, 8]}),
        (
            "--encoder ConvEncoder --encoder.channels [4]",
            "encoder",
            pv.networks.ConvEncoder,
            {"channels": [4]},
        ),
        (
            "--decoder.hidden [7,5] --decoder.activation tanh",
            "decoder",
            pv.networks.MLP,
            {"hidden": [7, 5], "activation": "tanh"},
        ),
        (
            "--prior=Categorical --prior.groups=3 --prior.classes=4 --guide.min-temperature 0.2",
            "guide_family",
            pv.guides.GumbelSoftmax,
            {"groups": 3, "classes": 4, "min_temperature": 0.2},
        ),
    ],
)
def test_options_reach_the_parts(
    argv: str, part: str, expected: type, arguments: dict[str, object], built: Built
) -> None:
    chosen = getattr(built(argv)[0], part)
    assert type(chosen) is expected
    assert chosen.spec()["args"].items() >= arguments.items()


def test_the_guides_of_a_product_follow_its_priors(built: Built) -> None:
    """On the space of each and of its size, unless they are set."""
    wanted = [
        {"class": "Normal", "dim": 3},
        {"class": "Hyperspherical", "dim": 4},
        {"class": "Categorical", "groups": 2, "classes": 5},
    ]
    parts = json.dumps(wanted, separators=(",", ":"))
    guide = built(f"--prior Product --prior.parts {parts}")[0].guide_family
    shapes = {name: tuple(site.shape) for name, site in guide.space.items()}
    assert shapes == {"z1": (3,), "z2": (4,), "z3": (2, 5)}
    families = [type(part).__name__ for part in guide.parts]
    assert families == ["Normal", "Hyperspherical", "GumbelSoftmax"]


def test_options_reach_the_objective_and_the_fit(built: Built) -> None:
    _, objective, options = built(
        "--objective.beta 4 --objective.num-particles 2 --lr 0.1 --patience 3 --compile true"
    )
    assert isinstance(objective, pv.objectives.ELBO)
    assert (objective.beta, objective.num_particles) == (4.0, 2)
    assert (options.lr, options.patience, options.compile) == (0.1, 3, True)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyboardInterrupt(), "interrupted; run is written"),
        (Interrupted("terminated", signal.SIGTERM), "terminated; run is written"),
    ],
    ids=["interrupted", "terminated"],
)
def test_an_interrupt_after_all_is_written_says_so(
    error: KeyboardInterrupt,
    message: str,
    digits: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """While the table is drawn. Fails when it reports that nothing is written, or nothing of it."""

    def stop(*_: object) -> None:
        raise error

    monkeypatch.setattr(fit_verb, "scores_table", stop)
    argv = ["fit", "--config", str(digits / "config.yaml"), "--out", "run"]
    assert main(argv) == (130 if type(error) is KeyboardInterrupt else 143)
    assert capsys.readouterr().err.splitlines()[-1] == message
    assert is_finished(Path("run"))


def test_an_interrupt_is_one_line_and_resume_goes_on(
    digits: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fails: Fails
) -> None:
    """Stopped after the fit, while evaluating: what is done is not done again."""

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    argv = ["fit", "--config", str(digits / "config.yaml"), "--out", "run", "--json"]
    with monkeypatch.context() as patched:
        patched.setattr(fit_verb, "evaluate", stop)
        assert main(argv) == 130
    printed = capsys.readouterr().err.splitlines()[-1]
    command = shlex.join(["pyro-vae", *argv[:3], "--json", "--out", "run", "--resume"])
    assert printed == f"interrupted; this goes on with it: {command}"
    assert {path.name for path in Path("run").iterdir()} == {"checkpoints", "config.yaml"}
    assert "a finished run (fit --resume goes on with this one), got 'run'" in fails(
        "evaluate", "run"
    )
    assert "does not exist yet, got 'run'; --resume goes on with it" in fails(*argv)
    assert "got epochs was 1, is 2; lr was 0.002, is 0.1" in " ".join(
        fails(*argv, "--resume", "--epochs", "2", "--lr", "0.1").split()
    )
    for printed in ("", "run is finished: these are its scores\n"):
        assert main([*argv, "--resume"]) == 0
        shown = capsys.readouterr()
        assert json.loads(shown.out)["scores"] == read_json(digits / "scores.json")
        assert shown.err.endswith(printed)
        assert {path.name for path in Path("run").iterdir()} == _FILES
        same = ("model.safetensors", "last.safetensors", "engine.json", "model.json")
        assert all((digits / name).read_bytes() == Path("run", name).read_bytes() for name in same)


def test_a_report_of_the_data_goes_before_the_fit(
    built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    built("--data-report")
    assert capsys.readouterr().err.startswith(
        "digits: 1 × 8 × 8, support Boolean()\n  train: 1,257"
    )


def test_terminated_is_143(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(fit_verb, "load_data", stop)
    assert main(["fit", "digits"]) == 143
    assert capsys.readouterr().err == "terminated\n"
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("fitt", "did you mean 'fit'?"),
        ("fit", "`data`: expected a value"),
        ("fit digts", "did you mean 'digits'?"),
        ("fit nothing.npy", "expected an existing file, got 'nothing.npy'"),
        ("fit digits more", "unrecognized arguments: more"),
        ("fit digits --latnt-dim 3", "`--latnt-dim`: no such option, did you mean '--latent-dim'?"),
        ("fit digits --latent-dim three", "`--latent-dim`: expected an integer, got 'three'"),
        ("fit digits --latent-dim 0", "expected a positive integer, got 0"),
        ("fit digits --epochs", "`--epochs`: expected a value, got nothing"),
        ("fit digits --epochs 0", "`epochs`: expected a positive integer, got 0"),
        ("fit digits --seed -1", "`--seed`: expected an integer >= 0 and below 2**32, got -1"),
        ("fit digits --seed 4294967296", "`--seed`: expected an integer >= 0 and below 2**32"),
        (f"fit digits --latent-dim {10**25}", "`--latent-dim`: expected an integer below 2**53"),
        (f"fit digits --latent-dim {10**15}", "out of memory: "),
        ("fit digits --lr 1e300", "`lr`: expected a positive number below 1e30, got 1e+300"),
        ("fit digits --weight-decay 1e400", "`weight_decay`: expected a finite number >= 0"),
        ("fit digits --resume=last", "expected true or false or previous, got 'last'"),
        ("fit digits --resume --out taken", "`--out`: expected a run folder to resume"),
        ("fit digits --checkpoint-every 0", "`checkpoint_every`: expected a positive integer"),
        ("fit digits --num-samples 0", "`--num-samples`: expected a positive integer"),
        ("fit digits --device abacus", "`--device`: expected one of this machine, got 'abacus'"),
        ("fit digits --compile maybe", "`--compile`: expected true or false or auto, got 'maybe'"),
        ("fit digits --schedule cosin", "did you mean 'cosine'?"),
        ("fit digits --binarize treshold", "did you mean 'threshold'?"),
        ("fit digits --binarize none", "support of Bernoulli"),
        ("fit digits --likelihood Bernouli", "did you mean 'Bernoulli'?"),
        ("fit digits --likelihood os.getcwd", "`--likelihood`: expected one of Autoregressive"),
        ("fit digits --likelihood Likelihood", "`--likelihood`: expected one of Autoregressive"),
        ("fit digits --objective Terms", "`--objective`: expected one of ELBO"),
        ("fit digits --likelihood Normal --likelihood.scal 1", "did you mean '--likelihood.scale'"),
        ("fit digits --likelihood Normal --likelihood.scale red", "per-dimension or predicted"),
        ("fit digits --likelihood.scale shared", "`likelihood Bernoulli`: expected"),
        ("fit digits --encoder.hidden 20", "`--encoder.hidden`: expected a list"),
        ("fit digits --encoder.hidden [2,x]", "`--encoder.hidden`: expected an integer, got 'x'"),
        ("fit digits --prior Categorical", "`--prior.groups`: expected a value"),
        (
            "fit digits --prior Categorical --prior.groups 2 --prior.classes 2 --guide Normal",
            "space of the prior Categorical: GumbelSoftmax, got 'Normal'",
        ),
        ("fit digits --likelihood.help Nrmal", "did you mean 'Normal'?"),
        ("fit digits --out taken", "`--out`: expected a path that does not exist yet"),
        ("fit digits --out taken.yaml/run", "`--out`: expected a path that can be written to"),
        ("fit --config nowhere.yaml", "`--config`: expected an existing YAML file"),
        ("fit --config taken", "`--config`: expected a readable YAML file"),
        ("fit --config misspelt.yaml", "? expected one of data, config, out, "),
        ("fit --config misspelt.yaml", "did you mean 'latent_dim'?"),
        ("fit --config misspelt_part.yaml", "did you mean 'likelihood.scale'?"),
        ("fit --config wrong_type.yaml", "`--epochs`: expected an integer, got 'many'"),
        ("fit --config wrong_class.yaml", "did you mean 'Normal'?"),
        ("fit --config wrong_part.yaml", "`prior`: expected a class and its options"),
        ("fit --config no_yaml.yaml", "a readable YAML file, got 'no_yaml.yaml, line 2'"),
        ("fit --config deep.yaml", "a readable YAML file, got 'deep.yaml"),
        ("fit --config no_mapping.yaml", "`--config`: expected options, key by key"),
        ("fit nan.csv", "`data`: expected"),
        ("fit empty.csv", "at least one observation"),
        ("evaluate nowhere", "expected an existing run folder, got 'nowhere'"),
        ("evaluate taken", "model.json"),
        ("evaluate", "`run`: expected a value (see --help), got nothing"),
        ("sample nowhere", "expected an existing run folder, got 'nowhere'"),
    ],
)
def test_a_mistake_is_one_line(argv: str, words: str, fails: Fails) -> None:
    Path("taken").mkdir()
    Path("taken/file").write_text("not to be touched")
    Path("taken.yaml").write_text("")
    Path("misspelt.yaml").write_text("data: digits\nlatnt_dim: 3\n")
    Path("misspelt_part.yaml").write_text("data: digits\nlikelihood: {class: Normal, scal: 1}\n")
    Path("wrong_type.yaml").write_text("data: digits\nepochs: many\n")
    Path("wrong_class.yaml").write_text("data: digits\nprior: Nrmal\n")
    Path("wrong_part.yaml").write_text("data: digits\nprior: 3\n")
    Path("no_yaml.yaml").write_text("data: [digits\n")
    Path("deep.yaml").write_text("[" * 5000)
    Path("no_mapping.yaml").write_text("- digits\n")
    Path("nan.csv").write_text("a,b\n1,2\nnan,3\n")
    Path("empty.csv").write_text("a,b\n")
    assert words in fails(*argv.split())


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("evaluate RUN --split tset", "did you mean 'test'?"),
        ("evaluate RUN --num-samples 0", "`num_samples`: expected a positive integer, got 0"),
        ("evaluate RUN --data nothing.npy", "expected an existing file"),
        ("sample RUN --out draws.gif", "expected a file that ends in .png or .npy"),
        ("sample RUN --out taken.npy", "`--out`: expected a path that does not exist yet"),
        ("sample RUN -n 0", "`--num-samples`: expected a positive integer, got 0"),
        ("sample RUN -n many", "`--num-samples`: expected an integer, got 'many'"),
    ],
)
def test_a_mistake_about_a_run_is_one_line(
    argv: str, words: str, digits: Path, fails: Fails
) -> None:
    Path("taken.npy").write_text("not to be touched")
    before = {path: path.stat().st_mtime_ns for path in digits.iterdir()}
    assert words in fails(*argv.replace("RUN", str(digits)).split())
    assert {path: path.stat().st_mtime_ns for path in digits.iterdir()} == before


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--help", ["pyro-vae COMMAND", "fit", "evaluate", "sample"]),
        ("", ["pyro-vae COMMAND"]),
        ("fit --help-all", ["--objective.num-particles", "normal prior, standard or"]),
        ("fit --help-all", ["Widths of the hidden layers", "Passes over the training data"]),
        ("fit --prior Categorical --help-all", ["--prior.groups", "--guide.temperature", "soft"]),
        ("fit --likelihood.help Normal", ["independent normal variables", "Calibrated Decoders"]),
        ("fit --guide.help GumbelSoftmax", ["--guide.min-temperature", "arxiv.org/abs/1611.01144"]),
        ("evaluate --help", ["RUN", "--split", "--data-root"]),
        ("sample --help", ["RUN", ".npy"]),
    ],
)
def test_help_is_made_of_docstrings(
    argv: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv.split()) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for word in words:
        assert word in printed
    assert "``" not in printed
    assert ":class:" not in printed
    assert "_dim" not in printed, "options are hyphenated"


def test_the_console_script(digits: Path) -> None:
    """In a process of its own, standard output is JSON alone and no figure window is needed."""
    script = Path(sys.executable).with_name("pyro-vae")
    argv = [script, "fit", "--config", digits / "config.yaml", "--out", "run", "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DISPLAY": ""}
    done = subprocess.run(
        argv, capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    expected = read_json(digits / "scores.json")["log_marginal"]
    assert result["scores"]["log_marginal"] == pytest.approx(expected, rel=1e-4)
    assert "ELBO" in done.stderr
    assert "Traceback" not in done.stderr
    failed = subprocess.run([script, "fit", "digts"], capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.count("\n") == 1


_FIRST = ["verdict", "size", "effect", "p"]


@pytest.mark.long
def test_check_prints_a_verdict(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(digits), "--strict", "--json"]) == 1, "one epoch is not enough"
    result = json.loads(capsys.readouterr().out)
    assert result["num_failed"] == sum(row["failed"] for row in result["rows"]) > 0
    assert (result["num_data"], result["base_measure"]["split"]) == (360, "test")
    shown = ["check", str(digits), "--split", "validation", "--all"]
    assert main(shown) == 0, "only --strict fails"
    shown = capsys.readouterr().out
    assert "180 validation observations of digits" in shown
    assert "z ~ p(z)" in shown
    lines = shown.splitlines()
    assert all(len(line) <= 80 for line in lines)
    head = next(i for i, line in enumerate(lines) if line.split()[:4] == _FIRST)
    end = next(i for i, line in enumerate(lines) if "guide: ranks of" in line)
    cells = [line.split() for line in lines[head:end] if line.strip().startswith("failed")]
    assert cells
    for cell in cells:  # what matters is never cut
        assert cell[1] in ("negligible", "small", "moderate", "large")
        assert re.fullmatch(r"[+-]\d+\.\d\d", cell[2])
        assert re.fullmatch(r"(≤0\.\d{4}|<\.001|0\.\d{3})", cell[3])
    assert re.search(r"A classifier tells draws from data: AUC \d\.\d\d \[0\.\d\d, ", shown)


@pytest.mark.long
def test_check_refits_a_run_to_as_many_as_it_was_fitted_to(
    digits: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refits are the run's own; here they return what they are to start from."""
    sizes: list[int] = []

    def refit(self: pv.Run[pv.VAE], rows: Rows, seed: int) -> pv.VAE:
        sizes.append(len(rows))
        return self.vae

    monkeypatch.setattr(pv.Run, "refit", refit)
    assert main(["check", str(digits), "--refits", "5", "--max-data", "100"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert sizes == [1257] * 5
    assert "failures of the model are beyond what 5 refits err" in shown


@pytest.mark.long
@pytest.mark.parametrize("spread", [1.0, 2.0])
@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_check_tells_a_poor_guide_from_a_bad_model(
    factor: float,
    spread: float,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Data of the model or wider ones, with its posterior for a guide or half the scale of it."""
    vae = LinearGaussian(dim=6, latent=2, factor=factor).vae
    x = vae.sample(100) * spread
    held = SimpleNamespace(name="made up", rows=lambda name: Rows(x))
    monkeypatch.setattr("pyro_vae.cli.check.load_run", lambda *_, **__: vae)
    monkeypatch.setattr("pyro_vae.cli.check.data_of", lambda *_: (held, True))
    assert main(["check", "run"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert ("✓ model: 0 of" in shown) == (spread == 1)
    assert ("✓ guide: 0 of 6 checks failed" in shown) == (factor == 1)
    assert ("the scale of the guide is too small in z[0], z[1]" in shown) == (factor < 1)
    assert shown.count("swap guides.Normal for guides.LowRankNormal") == (factor < 1)
    assert ("nothing is held against the model" in shown) == (factor < 1 and spread == 1)
    assert main(["check", "--strict", "run", "--json"]) == int(spread > 1)
    result = json.loads(capsys.readouterr().out)
    for strict, code in (("guide", factor < 1), ("all", factor < 1 or spread > 1)):
        assert main(["check", "run", f"--strict={strict}", "--json"]) == int(code)
        capsys.readouterr()
    assert (result["num_failed"] > 0) == (spread > 1)
    assert (result["calibration"]["num_failed"] > 0) == (factor < 1)
    assert len(result["calibration"]["rows"]) == result["calibration"]["num_quantities"] == 6
    assert result == result | check(vae, x).summary(), "the verdict on the model is its own"
